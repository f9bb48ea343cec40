"""What a grid would lose at the same bytes: the yardstick of every tensor that was pruned.

It is estimated on some rows: integers in one step, their entropy given how large their row is. Above five bits the
error falls by a factor of four with each bit, and is taken so."""

from __future__ import annotations

from typing import Any

import numpy as np

from mc.lossy import grids
from mc.schemes import Grid

Array = np.ndarray[Any, Any]
SAMPLED = 1 << 15  # weights
DEEPEST = 5.0  # bits a weight that are tried
ROUNDS = 12
HALVES = 2  # classes of rows for an octave


def sampled(rows: int, cols: int) -> range:
    """The rows, from all over a matrix, that the estimate looks at."""
    every = max(1, rows * cols // SAMPLED)
    return range(every // 2, rows, every) if rows > every // 2 else range(1)


def grid_error(rows: Array, bits: float) -> float:
    """The relative squared error of a grid that takes so many bits a weight, for weights like those of the sample."""
    power = float(np.einsum("ij,ij->", rows, rows, dtype=np.float64))
    if power == 0 or bits <= 0:
        return 0.0 if power == 0 else 1.0
    frame = grids.frame(rows, "plain", False)
    deviation = float(np.sqrt(power / rows.size))
    low, high = deviation / 256, 64 * deviation
    wanted = min(bits, DEEPEST)
    for _ in range(ROUNDS):
        step = float(np.sqrt(low * high))
        q = grids.quantize(rows, frame, step)
        if _entropy(q, frame.row_power) > wanted:
            low = step
        else:
            high = step
    near = grids.dequantize(q, Grid("I32", step, False, False), None, None)
    error = float(((rows.astype(np.float64) - near) ** 2).sum()) / power
    return error * float(4.0 ** (wanted - bits))


def _entropy(q: Array, row_power: Array) -> float:
    """Bits a number, given the size of its row."""
    classes = np.rint(HALVES / 2 * np.log2(np.maximum(row_power, np.finfo(float).tiny))).astype(np.int64)
    least = int(q.min())
    joint = (classes - classes.min())[:, None] * (int(q.max()) - least + 1) + (q.astype(np.int64) - least)
    _, pairs = np.unique(joint, return_counts=True)
    _, alone = np.unique(classes, return_counts=True)
    alone = alone * q.shape[1]
    return float((alone * np.log2(alone)).sum() - (pairs * np.log2(pairs)).sum()) / q.size
