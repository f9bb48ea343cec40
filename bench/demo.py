"""`make demo`: pack, verify and restore a real BERT encoder with the command, then compare with other tools.

Two things are measured, and not mixed: first the command as a person runs it (file to file, start-up and all,
all cores), then the coding alone beside other tools (buffer to buffer, one thread), by bench/lossless.py.
"""

from __future__ import annotations

import filecmp
import lzma
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import models

HERE: Final = Path(__file__).resolve().parent
SHOWN: Final = ("minilm-bf16", "minilm-f32")
PEERS: Final = "mc,openzl,lmz,zstd-3"  # none of them needs torch
XZ_SLICE: Final = 8_000_000  # bytes for xz, which would take minutes for the whole files
CORE: Final = os.pathsep.join(str(HERE.parent / name) for name in ("core", "cli"))  # without an install too


def main() -> None:
    """Run the demo and print it."""
    print(f"MiniLM, a BERT encoder: f32 as shipped ({models.PACKAGE}), and cast to bf16, as it is often kept.")
    paths = [path for path in models.paths() if path.stem in SHOWN]
    print(
        "\nThe command: file to file, start-up included, all cores; in brackets, seconds by the clock.",
        flush=True,
    )
    command("warm")
    for path in sorted(paths):
        there_and_back(path)
    print("\nThe coding alone: buffer to buffer, one thread, interleaved rounds.", flush=True)
    comparison = [sys.executable, str(HERE / "lossless.py"), "--only", PEERS, "--rounds", "3"]
    subprocess.run([*comparison, *map(str, sorted(paths))], env=environment(), check=True)
    print(f"\nxz -6, once, on {XZ_SLICE // 10**6} MB from the middle of each file:")
    for path in sorted(paths):
        by_xz(path)


def by_xz(model: Path) -> None:
    """Compress and restore a slice of one file with xz; show size and speeds."""
    data = model.read_bytes()
    start = (len(data) - XZ_SLICE) // 2
    data = data[start : start + XZ_SLICE]
    began = time.perf_counter()
    packed = lzma.compress(data, preset=6)
    middle = time.perf_counter()
    if lzma.decompress(packed) != data:
        sys.exit("xz did not restore what it was given.")
    ended = time.perf_counter()
    speeds = [len(data) / 1e6 / seconds for seconds in (middle - began, ended - middle)]
    print(
        f"  {model.stem}: packed / original {len(packed) / len(data):.4f}, "
        f"{speeds[0]:.1f} MB/s compressing, {speeds[1]:.1f} MB/s decompressing"
    )


def there_and_back(model: Path) -> None:
    """Pack, verify and restore one file as a shell would, and compare the bytes."""
    packed, again = model.with_suffix(".mc.safetensors"), model.with_suffix(".again.safetensors")
    try:
        command("pack", model.name, "--force")
        command("verify", packed.name)
        command("unpack", packed.name, "--check", "--force", "-o", again.name)
        if not filecmp.cmp(model, again, shallow=False):
            sys.exit(f"{again} differs from {model}, which must never happen.")
        print(f"  {again.name} and {model.name} are equal, byte for byte.", flush=True)
    finally:
        packed.unlink(missing_ok=True)
        again.unlink(missing_ok=True)


def command(*arguments: str) -> None:
    """Run `mc` where the models are; show the line, the last thing it says, and the time it took."""
    line = [sys.executable, "-m", "mc_cli", *arguments]
    began = time.perf_counter()
    done = subprocess.run(
        line,
        cwd=models.FOLDER,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"mc {' '.join(arguments)} ended with exit code {done.returncode}:\n{done.stdout}")
    last = (done.stdout.strip().splitlines() or [""])[-1]
    print(f"  $ mc {' '.join(arguments)}\n    {last}   [{seconds:.2f} s]", flush=True)


def environment() -> dict[str, str]:
    """This process's environment with this checkout on Python's path."""
    return {**os.environ, "PYTHONPATH": CORE}


if __name__ == "__main__":
    main()
