"""Two threads of one process beside two processes of one thread each, bytes to bytes.

Every round has two new processes, since how fast one is depends on where its memory happened to be. Both work at the
same time, then one of them alone with two threads; each again and again for a while. What is freed is not timed.

    python bench/threads.py [--rounds 7] [--levels fast,default,best] [FILE ...]

Without a file: MiniLM in bf16 and in f32, and files of 256 MB of distinct weights, which hide what a call costs once.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import mc
from files import WIDTHS, make
from models import NAMES, paths

DIRECTIONS = "compressing", "decompressing"
WHILE = 0.5  # seconds that each side works
MADE = 1 << 28  # bytes of a file that is made


def serve(calls: Connection, path: Path, level: mc.Level) -> None:
    """Time `mc` on a file whenever asked: direction, threads, until when; answers with seconds a call."""
    data = path.read_bytes()
    packed = mc.compress(data, level=level, threads=2)
    works: dict[str, Callable[[int], bytes]] = {
        "compressing": lambda threads: mc.compress(data, level=level, threads=threads),
        "decompressing": lambda threads: mc.decompress(packed, threads=threads),
    }
    if works["decompressing"](2) != data:
        raise SystemExit(f"{path} wasn't restored.")
    calls.send(None)
    while (asked := calls.recv()) is not None:
        direction, threads, until = asked
        seconds: list[float] = []
        while len(seconds) < 3 or time.time() < until:  # the clock that all processes share
            began = time.perf_counter()
            result = works[direction](threads)
            seconds.append(time.perf_counter() - began)
            del result
        calls.send(median(seconds[1:]))


def compared(path: Path, level: str) -> dict[str, tuple[float, float]]:
    """For each direction the bytes a second of two processes, and of two threads."""
    spawn, size = multiprocessing.get_context("spawn"), path.stat().st_size
    ends = [spawn.Pipe() for _ in range(2)]
    processes = [spawn.Process(target=serve, args=(far, path, level), daemon=True) for _, far in ends]
    for process, (_, far) in zip(processes, ends, strict=True):
        process.start()
        far.close()  # else whoever waits for an answer doesn't see that the process has ended
    near = [end for end, _ in ends]
    for end in near:
        end.recv()
    found = {}
    for direction in DIRECTIONS:
        rates = []
        for busy, threads in ((near, 1), (near[:1], 2)):
            until = time.time() + WHILE
            for end in busy:
                end.send((direction, threads, until))
            rates.append(sum(size / end.recv() for end in busy))
        found[direction] = rates[0], rates[1]
    for end, process in zip(near, processes, strict=True):
        end.send(None)
        process.join()
    return found


def show(path: Path, levels: list[str], many: int) -> None:
    """Print a line for each level and direction: medians of the rounds, and the quotient of every round."""
    for level in levels:
        rounds = [compared(path, level) for _ in range(many)]
        for direction in DIRECTIONS:
            both = [one[direction] for one in rounds]
            quotients = [threads / processes for processes, threads in both]
            speeds = [f"{median(side) / 1e6:.0f}" for side in zip(*both, strict=True)]
            each = " ".join(f"{quotient:.2f}" for quotient in quotients)
            print(path.stem, level, direction, *speeds, f"{median(quotients):.2f}", each, sep="\t", flush=True)


def main() -> None:
    """Compare on the files that are named, or on our own."""
    parser = argparse.ArgumentParser(description="Two threads beside two processes.")
    parser.add_argument("file", type=Path, nargs="*", metavar="FILE")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--levels", default="fast,default,best", help="with commas")
    given = parser.parse_args()
    levels = given.levels.split(",")
    print("file\tlevel\tdirection\tprocesses MB/s\tthreads MB/s\tquotient\tof each round")
    for path in given.file or [paths()[NAMES.index(name)] for name in ("minilm-bf16", "minilm-f32")]:
        show(path, levels, given.rounds)
    if not given.file:
        with tempfile.TemporaryDirectory() as folder:
            for dtype in WIDTHS:
                path = Path(folder, f"made-{dtype.lower()}.safetensors")
                make(path, dtype, MADE)
                show(path, levels, given.rounds)


if __name__ == "__main__":
    main()
