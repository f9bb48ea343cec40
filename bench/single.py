"""Whether a plan of `mc auto` is ever worse than one scheme for all tensors, at the same bytes, by its own objective.

For each objective and number of bits a weight: `mc quantize` with a grid and with a trellis, both packed, and `mc auto`
with the bytes of the smaller of the two for its limit. Losses are computed from the restored floats, relative to
storing nothing.

    python bench/single.py [--bits 2 2.5 3 4 5] [--objectives row plain] [FILE]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import mc
from mc.lossy.requests import Target
from mc.plan.goals import Goal
from mc.plan.losses import measure_of
from mc.schemes import matrix
from models import NAMES, paths

SCHEMES = "grid", "trellis"


def lost(original: Path, packed: Path, names: list[str], objective: str) -> float:
    """Of these tensors, relative to storing nothing."""
    found = whole = 0.0
    with mc.open(original) as before, mc.open(packed, dequantize=True) as after:
        for name in names:
            w = before.tensor(name).astype(np.float32)
            w = np.ascontiguousarray(w.reshape(matrix(w.shape)))
            measure = measure_of(name, w.shape, objective, None, {})
            found += measure.lost(w, after.tensor(name).astype(np.float32).reshape(w.shape))
            whole += measure.most(w)
    return found / whole


def main() -> None:
    """Print a line for each point."""
    parser = argparse.ArgumentParser(description="Plans against single schemes at the same bytes.")
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help="MiniLM by default")
    parser.add_argument("--bits", type=float, nargs="+", default=[2, 2.5, 3, 4, 5])
    parser.add_argument("--objectives", nargs="+", default=["row", "plain"])
    given = parser.parse_args()
    source = given.file or paths()[NAMES.index("minilm-f32")]
    print("objective\tbits\tscheme\tbytes\tloss", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for objective in given.objectives:
            for bits in given.bits:
                made = {scheme: folder / f"{scheme}.mc.safetensors" for scheme in (*SCHEMES, "auto")}
                for scheme in SCHEMES:
                    limit = Target("bits", bits)
                    mc.quantize(source, folder / "q.safetensors", scheme=scheme, limit=limit, objective=objective)
                    mc.pack(folder / "q.safetensors", made[scheme])
                smallest = min(made[scheme].stat().st_size for scheme in SCHEMES)
                report = mc.auto(source, made["auto"], goal=Goal("size", smallest), objective=objective)
                names = list(report.plan["tensors"])
                for scheme, path in made.items():
                    figure = f"{lost(source, path, names, objective):.5g}"
                    print(objective, bits, scheme, path.stat().st_size, figure, sep="\t", flush=True)


if __name__ == "__main__":
    main()
