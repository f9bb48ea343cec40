"""Compares mc with other lossless compressors on safetensors files: size and speed on one thread.

    python bench/lossless.py [FILE ...] [--rounds 5] [--slow 1] [--only mc,zipnn] [--pin] [--json F] [--svg F]

Without files it takes the models of bench/models.py, and makes them first if they are not there.

How it measures
- Whole files count: ratio and MB/s are in bytes of the original file, and every tool has to restore all of
  them exactly, in every round, or the run ends with an error.
- Tools take turns: a round gives one to each of them, in another order each time, so that a machine that slows down
  slows all of them. A turn is a process of its own (turns.py says why), which compresses and decompresses once to warm
  up and then three times, of which the best counts; slow tools do it once, in the first rounds only (`--slow`). A
  figure is the median of its rounds; a comparison with mc is the median of the quotients within a round.
- Only the calls that compress and decompress are timed, from buffer to buffer. What comes before and after
  (copies for tools that change their input, views as arrays) is not, which is in favour of the peers.
- Peers that know arrays of a single dtype get the bytes of the file's most frequent dtype, joined. The rest
  (header and other tensors) is kept as it is and counted in the size; taking the file apart costs no time.
- lmz takes no buffers: it goes from file to file, in memory (/dev/shm) where the system has that.
- Checksums are those that each tool has by default.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import os
import platform
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import models
import scatter
from peers import OURS, TOOLS, Tool, Unsupported
from turns import Failed, Model, able, load, turn

# ---------------------------------------------------------------- measuring


@dataclass
class Result:
    """What a tool did with a model; a time per round, in seconds."""

    tool: Tool
    model: Model
    packed: int = 0
    compress: list[float] = field(default_factory=list)
    decompress: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Packed over original: the smaller, the better."""
        return self.packed / self.model.size

    def speed(self, times: Sequence[float]) -> float:
        return self.model.size / median(times) / 1e6


def chosen(only: str | None) -> list[Tool]:
    """The tools whose names begin with one of the given words."""
    words = only.split(",") if only else [""]
    for word in words:
        if not any(tool.name.startswith(word) for tool in TOOLS):
            names = ", ".join(tool.name for tool in TOOLS)
            raise SystemExit(f"No tool is called {word}. There are: {names}.")
    return [tool for tool in TOOLS if tool.name.startswith(tuple(words))]


def measure(tools: Sequence[Tool], model: Model, rounds: int, slow: int) -> list[Result]:
    """The results of all tools that can code the model, in the order of the tools."""
    results = [Result(tool, model) for tool in tools if usable(tool, model)]
    for number in range(max(rounds, slow)):
        # In another order each time: who comes after a tool that gave back much memory finds it sooner.
        for result in random.Random(number).sample(results, len(results)):
            if number < (slow if result.tool.slow else rounds):
                one = turn(result.tool, model)
                result.packed = one.packed
                result.compress.append(one.compress)
                result.decompress.append(one.decompress)
    return [result for result in results if result.compress]


def usable(tool: Tool, model: Model) -> bool:
    try:
        able(tool, model)
    except Unsupported:
        note(f"{tool.name} has no coder for {model.dtype}: left out on {model.name}.")
    except ImportError as error:
        note(f"{tool.name} is left out: {error}.")
    else:
        return True
    return False


def quotient(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """How many times as fast ours is: the median over the rounds that both took part in."""
    return median(their / our for their, our in zip(theirs, ours, strict=False))


# ---------------------------------------------------------------- telling


@functools.cache  # once is enough, also of many files
def note(message: str) -> None:
    print(message, file=sys.stderr)


def machine(tools: Sequence[Tool]) -> dict[str, Any]:
    """What the speeds depend on."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": dict(versions(tools)),
    }


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions(tools: Sequence[Tool]) -> Iterator[tuple[str, str]]:
    names = [tool.package for tool in tools if tool.package]
    names += [needed for name, needed in ((OURS, "numba"), ("zipnn", "torch")) if name in names]
    for name in dict.fromkeys([*names, "numpy"]):
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, "of this checkout" if name == OURS else "not installed"
    if any(tool.name == "lmz" for tool in tools):
        try:
            import lmz
        except ImportError:
            return
        yield "lmz kernel", lmz.backends()["kernel"]  # compiled at its first use if there is a C compiler


def table(model: Model, results: Sequence[Result]) -> str:
    ours = [result for result in results if result.tool.ours]
    share = 100 * model.dtype_bytes / model.size
    lines = [
        f"{model.name}: {model.size:,} bytes, {share:.2f} % {model.dtype}, sha256 {model.sha256[:16]}",
        f"{'tool':<15}{'packed bytes':>14}{'ratio':>8}{'compress':>10}{'decompress':>12}  rounds"
        + "".join(f"{result.tool.name:>16}" for result in ours),
        f"{'':<37}{'MB/s':>10}{'MB/s':>12}  {'':<6}" + f"{'times as fast':>16}" * len(ours),
    ]
    for result in results:
        rates = f"{result.speed(result.compress):>10.1f}{result.speed(result.decompress):>12.1f}"
        line = f"{result.tool.name:<15}{result.packed:>14,}{result.ratio:>8.4f}{rates}{len(result.compress):>8}"
        for our in ours:
            packing = quotient(result.compress, our.compress)
            unpacking = quotient(result.decompress, our.decompress)
            line += f"{f'{packing:.2f} / {unpacking:.2f}':>16}"
        lines.append(line)
    return "\n".join(line.rstrip() for line in lines)


def report(model: Model, results: Sequence[Result]) -> dict[str, Any]:
    ours = [result for result in results if result.tool.ours]
    return {
        "model": model.name,
        "bytes": model.size,
        "sha256": model.sha256,
        "dtype": model.dtype,
        "dtype_bytes": model.dtype_bytes,
        "tools": [
            {
                "tool": result.tool.name,
                "packed_bytes": result.packed,
                "ratio": result.ratio,
                "compress_mb_s": result.speed(result.compress),
                "decompress_mb_s": result.speed(result.decompress),
                "compress_seconds": result.compress,
                "decompress_seconds": result.decompress,
                "times_as_fast": {
                    our.tool.name: {
                        "compress": quotient(result.compress, our.compress),
                        "decompress": quotient(result.decompress, our.decompress),
                    }
                    for our in ours
                },
            }
            for result in results
        ],
    }


def picture(everything: Sequence[Sequence[Result]], caption: str) -> str:
    panels = []
    for results in everything:
        for verb in ("compress", "decompress"):
            points = [
                scatter.Point(one.tool.name, one.speed(getattr(one, verb)), one.ratio, one.tool.ours) for one in results
            ]
            title = f"{results[0].model.name}: {verb}"
            panels.append(scatter.Panel(title, "MB/s of original bytes, one thread", points))
    return scatter.draw(panels, caption)


def pin() -> None:
    """Keep the process on one CPU, the last it may use, so that helper threads of a tool gain it nothing."""
    if not hasattr(os, "sched_setaffinity"):
        raise SystemExit("This system cannot pin a process to a CPU. Leave --pin out.")
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare mc with other lossless compressors.")
    add = parser.add_argument
    add("files", nargs="*", type=Path, metavar="FILE", help="safetensors; default: those of bench/models.py")
    add("--rounds", type=int, default=5, help="of every tool that is not slow (default: 5)")
    add("--slow", type=int, default=1, metavar="ROUNDS", help="of slow tools; 0: none (default: 1)")
    add("--only", metavar="NAMES", help="tools whose names begin so, with commas: mc,zipnn")
    add("--pin", action="store_true", help="keep to one CPU, so that helper threads count")
    add("--json", type=Path, metavar="FILE", help="write all times there")
    add("--svg", type=Path, metavar="FILE", help="draw ratio against speed there")
    options = parser.parse_args()
    if options.rounds < 1 or options.slow < 0:
        parser.error("--rounds must be at least 1 and --slow at least 0")
    return options


def main() -> None:
    options = arguments()
    tools = chosen(options.only)
    if options.pin:
        pin()
    about = machine(tools)
    about["pinned"] = options.pin
    heading = f"{about['cpu']}, {about['cores']} cores{', pinned to one' if options.pin else ''}"
    heading += f"; Python {about['python']}"
    print(f"{heading}\n{', '.join(f'{name} {version}' for name, version in about['versions'].items())}")
    everything = []
    for path in options.files or models.paths():
        try:
            results = measure(tools, load(path), options.rounds, options.slow)
        except Failed as error:
            raise SystemExit(str(error)) from None
        if not results:
            continue
        everything.append(results)
        print(f"\n{table(results[0].model, results)}", flush=True)
    if any(result.tool.ours for results in everything for result in results):
        print("\nTimes as fast: how often mc compresses / decompresses while the tool of the row does once.")
    if options.json:
        reports = [report(results[0].model, results) for results in everything]
        options.json.write_text(json.dumps({"machine": about, "models": reports}, indent=1) + "\n")
    if options.svg and everything:
        caption = f"{heading}; medians; rounds: {options.rounds}, of slow tools {options.slow}"
        options.svg.write_text(picture(everything, caption))


if __name__ == "__main__":
    main()
