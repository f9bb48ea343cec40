"""The command beside zstd, file to file: both read what lies in memory already, and both are followed by a sync.

`python bench/files.py` makes a file of 1 GB of distinct weights in the current folder, which should lie on a disk, and
removes what it made. `--dtype F32`, `--level fast`, or a file of your own. All rounds are printed, as disks are uneven.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mc.checkpoint import write_prefix

SIDE = 4096
WIDTHS = {"BF16": 2, "F32": 4}
BACK = "back"  # what mc restores
MC = [sys.executable, "-m", "mc_cli"]


def make(path: Path, dtype: str, size: int) -> None:
    """Gaussian matrices whose rows differ in scale, `size` bytes of them, about."""
    rng, each = np.random.default_rng(0), SIDE * SIDE * WIDTHS[dtype]
    places = {
        f"layers.{i}.weight": {"dtype": dtype, "shape": [SIDE, SIDE], "data_offsets": [i * each, (i + 1) * each]}
        for i in range(max(size // each, 1))
    }
    with path.open("wb") as file:
        file.write(write_prefix({}, places))
        for _ in places:
            weights = rng.standard_normal((SIDE, SIDE), np.float32)
            weights *= 0.02 * np.exp(0.3 * rng.standard_normal((SIDE, 1), np.float32))
            file.write((weights if dtype == "F32" else (weights.view("<u4") >> 16).astype("<u2")).tobytes())


def commands(original: Path, folder: Path, level: str) -> dict[str, tuple[list[str], Path]]:
    """What is run, and the file that it writes."""
    packed, coded, back, plain = (folder / name for name in ("o.mc.safetensors", "o.zst", BACK, "plain"))
    pack, unpack = ["pack", str(original), "-qT2", "--level", level], ["unpack", str(packed), "-qT2"]
    return {
        "mc pack": ([*MC, *pack, "-o", str(packed)], packed),
        "zstd -3 -T2": (["zstd", "-q3T2", str(original), "-o", str(coded)], coded),
        "mc unpack": ([*MC, *unpack, "-o", str(back)], back),
        "zstd -d": (["zstd", "-qd", str(coded), "-o", str(plain)], plain),
    }


def seconds(command: list[str], written: Path) -> float:
    """What a command and a sync after it take."""
    written.unlink(missing_ok=True)
    os.sync()
    began = time.perf_counter()
    subprocess.run(command, check=True)
    os.sync()
    return time.perf_counter() - began


def main() -> None:
    """Make the file, run all in turns, print the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--dtype", choices=WIDTHS, default="BF16")
    parser.add_argument("--size", type=int, default=10**9, help="bytes of the file that is made")
    parser.add_argument("--level", default="default")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as made:
        folder = Path(made)
        original = given.file or folder / "o.safetensors"
        if given.file is None:
            make(original, given.dtype, given.size)
        runs = commands(original, folder, given.level)
        for command, written in runs.values():  # loops are compiled, and the file is in memory
            seconds(command, written)
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(given.rounds):
            for name in list(runs)[:: 1 if turn % 2 == 0 else -1]:
                taken[name].append(seconds(*runs[name]))
        if not filecmp.cmp(folder / BACK, original, shallow=False):
            raise SystemExit("what came back isn't what was packed")
        for name, rounds in taken.items():
            print(f"{name:12} {statistics.median(rounds):.2f} s:", *(f"{one:.2f}" for one in rounds))


if __name__ == "__main__":
    main()
