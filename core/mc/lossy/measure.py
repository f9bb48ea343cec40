"""What quantizing cost and what it could have cost: bits, error, and the least that any code needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import log10
from typing import Any

import numpy as np

from mc.lossy.arrays import Result
from mc.lossy.loops import powers
from mc.recipe import Recipe
from mc.reports import TensorReport
from mc.schemes import Shape, described, parts

Array = np.ndarray[Any, Any]
EIGHTH = 8  # bins of an octave of variance, in which rows and columns are told apart


@dataclass(frozen=True)
class Measured:
    """One quantized tensor."""

    name: str
    scheme: str  # as people call it
    dtype: str  # before
    shape: Shape
    weights: int
    bytes: int  # stored, or packed once that is known
    side_bytes: int  # of them, scales, contexts and tables: what isn't the integers themselves
    bits: float  # a weight
    error: float  # relative squared
    snr: float | None  # dB; None where nothing is lost
    bound: float  # bits a weight that a Gaussian with these row and column scales needs at this error
    squared: float  # sums, for errors over several tensors
    power: float
    zeros_lost: int  # weights that were zero and aren't any more


def measured(name: str, result: Result, stored: int, bound: float) -> Measured:
    """The figures of a result that takes `stored` bytes."""
    about = result.about
    weights = int(np.prod(about.shape, dtype=np.int64))
    snr = -10 * log10(about.error) if about.error > 0 else None
    return Measured(
        name, described(about.scheme), about.dtype, about.shape, weights, stored, 0, 8 * stored / weights, about.error,
        snr, bound, result.error, result.power, result.zeros_lost,
    )  # fmt: skip


def bound(w: Array, squared: float) -> float:
    """Bits a weight that no code beats for squared error `squared` over f32 [rows, cols], were weights Gaussian with
    variances row x column: reverse water-filling (Cover and Thomas, 10.3.3)."""
    rows, columns = np.empty(w.shape[0]), np.empty(w.shape[1])
    powers(w, rows, columns)
    if squared <= 0 or not rows.any():
        return 0.0 if not rows.any() else float(8 * w.itemsize)
    low, counts = 0, np.ones(1)
    for power in (rows, columns):
        live = np.rint(EIGHTH * np.log2(power[power > 0])).astype(np.int64)
        low += int(live.min())
        counts = np.convolve(counts, np.bincount(live - live.min()))
    variances = np.exp2((low + np.arange(len(counts))) / EIGHTH)
    # Squared error with the water as high as each variance: those below are lost, of the others as much as the level
    # each. In between it rises by a straight line.
    below, over = np.cumsum(variances * counts), np.cumsum(counts[::-1])[::-1] - counts
    full = below + variances * over
    k = min(int(np.searchsorted(full, squared)), len(counts) - 1)
    rest = squared - (float(below[k - 1]) if k else 0.0)
    level = min(rest / float(over[k] + counts[k]), float(variances[-1]))
    above = variances > level
    return float((counts[above] * np.log2(variances[above] / level)).sum()) / 2 / w.size if level > 0 else 0.0


def packed_as(one: Measured, recipe: Recipe, sizes: Mapping[str, TensorReport]) -> Measured:
    """The same once it is known how every stored tensor was packed."""
    about = recipe[-1].tensors[one.name]
    first, *others = (sizes[part] for part in parts(one.name, about.scheme, about.dtype, about.shape))
    side = sum(other.packed_bytes for other in others)
    whole = first.packed_bytes + side
    return replace(one, bytes=whole, side_bytes=side + first.head_bytes, bits=8 * whole / one.weights)
