"""How fast weights are rounded at a step that is given, and how fast they come back, on one thread.

`python bench/rounding.py [SCHEME...]` prints a table in Markdown (bench/README.md holds one): millions of weights in a
second of CPU time, over MiniLM's 25 largest matrices. Other work on the machine slows CPU time too, through the caches
and the memory: measure alone.

`rounding` is what a scheme makes of a matrix: powers and scales, code lengths from a sample, integers of the narrowest
type. The rest is what the command does besides: `error` reads them back and sums, `pack` codes them. `whole command` is
`mc.quantize` into a packed file, with the search for the step that has the error .0161; `back` decodes and dequantizes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

import mc
from lossy import read
from mc.lossy import arrays, casts, grids, integers, trellises
from mc.lossy.requests import STEPPED, Target, parse_request
from mc.schemes import Fp8, Int
from models import NAMES, paths

Array = np.ndarray
ERROR = 0.0161
STEP = (12 * ERROR) ** 0.5  # in deviations: where a grid has about this error
ROUNDS = 2
LARGEST = 25  # matrices


def grid(w: Array) -> Array:
    frame = grids.frame(w, "tensor", False)
    return grids.quantize(w, frame, STEP * frame.unit)


def trellis(w: Array) -> Array:
    frame = grids.frame(w, "tensor", False)
    return trellises.quantize(w, frame, STEP * frame.unit * trellises.AS_GRID, 8)


SCHEMES: dict[str, Callable[[Array], object]] = {
    "fp8": lambda w: casts.quantize(w, Fp8("F8_E4M3", "channel"), "F32"),
    "int8": lambda w: integers.quantize(w, Int(8, 0, True), "F32", False),
    "int4,group=128": lambda w: integers.quantize(w, Int(4, 128, True), "F32", False),
    "int4,group=128,scales=mse": lambda w: integers.quantize(w, Int(4, 128, True), "F32", True),
    "grid": grid,
    "trellis": trellis,
}


def seconds(work: Callable[[], object]) -> float:
    """CPU time of the fastest of some rounds."""
    found = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


def rates(matrices: dict[str, Array], text: str) -> dict[str, float]:
    """Millions of weights a second of each stage of a scheme."""
    scheme, request = SCHEMES[text], parse_request(text)
    weights = sum(w.size for w in matrices.values())
    scheme(min(matrices.values(), key=lambda w: w.size))  # what is compiled at first use isn't timed
    spent = {"rounding": seconds(lambda: [scheme(w) for w in matrices.values()])}
    spent["rounding, error"] = seconds(
        lambda: [arrays.quantize(name, w, "F32", w.shape, request, 0, STEP, "tensor") for name, w in matrices.items()]
    )
    limit = Target("error", ERROR, True) if request.kind in STEPPED else None
    with tempfile.TemporaryDirectory() as place:
        plain, quantized, packed = (Path(place) / name for name in ("f", "q.safetensors", "p.mc.safetensors"))
        _save(plain, matrices)

        def whole() -> None:
            mc.quantize(plain, quantized, scheme=text, limit=limit, objective="tensor", threads=1)
            mc.pack(quantized, packed, threads=1)

        began = time.process_time()
        whole()
        spent["whole command"] = time.process_time() - began
        spent["pack"] = seconds(lambda: mc.pack(quantized, packed, threads=1))

        def back() -> None:
            with mc.open(packed, dequantize=True) as floats:
                for name in matrices:
                    floats.tensor(name)

        spent["back"] = seconds(back)
    return {stage: weights / found / 1e6 for stage, found in spent.items()}


def _save(path: Path, matrices: dict[str, Array]) -> None:
    from safetensors.numpy import save_file

    save_file(matrices, path)


def main() -> None:
    """Print the table, a line as soon as it is known."""
    found = read(paths()[NAMES.index("minilm-f32")])
    largest = sorted(found, key=lambda name: -found[name].size)[:LARGEST]
    matrices = {name: found[name] for name in largest}
    stages = ("rounding", "rounding, error", "pack", "whole command", "back")
    print(f"| M weights/s | {' | '.join(stages)} |\n| --- |{' ---: |' * len(stages)}")
    with threadpool_limits(1):
        for text in sys.argv[1:] or SCHEMES:
            made = rates(matrices, text)
            print(f"| {text} | {' | '.join(f'{made[stage]:.3g}' for stage in stages)} |", flush=True)


if __name__ == "__main__":
    main()
