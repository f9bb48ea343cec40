"""Which weights go: scores of weights and of blocks, and what is left above a rank, a threshold or in a pattern.

For a squared error L and a number Omega of weights that remain, the least of L + lambda x Omega is known weight by
weight: what has a square below lambda goes (hard thresholding: Donoho and Johnstone, 1994; Blumensath and Davies,
2008). So the scores here are magnitudes, scaled by what an objective or a layer's inputs make of them, and a rank among
them stands for a lambda.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from mc.errors import DamagedError
from mc.lossy.cuts import (
    LEADING,
    MAGNITUDE,
    SHIFT,
    TRAILING,
    block_sums,
    count_leading,
    count_trailing,
    cut,
    keep_largest,
    scale_weights,
)  # fmt: skip
from mc.lossy.methods import Method, unit_of
from mc.schemes import Shape

Array = np.ndarray[Any, Any]
AT_ONCE = 1 << 22  # weights whose rows are ranked together


@dataclass(frozen=True)
class Units:
    """What is kept or goes as one: single weights, or blocks of a tensor as a matrix."""

    bits: Array  # of the scores >= 0 in f32; u32 [units down, units across], the highest bit to be ignored
    heights: Array  # i64 [units down]: rows of each
    widths: Array  # i64 [units across]

    @property
    def weights(self) -> int:
        """In all units."""
        return int(self.heights.sum()) * int(self.widths.sum())


@dataclass(frozen=True)
class Threshold:
    """Units with scores below go, and of those at it the first ones, as long as less than `ties` weights are gone."""

    least: int  # the bits of a score
    ties: int


def units(w: Array, method: Method, shape: Shape, rows: Array | None, columns: Array | None) -> Units:
    """The units of the matrix w f32 [rows, cols], the tensor being of this shape. `rows` and `columns`, f32, scale the
    scores: that of a weight is its magnitude, of a block the root of its mean square."""
    height, width = unit_of(method, shape)
    if rows is not None or columns is not None:
        scaled = np.empty_like(w)
        ones = [
            np.ones(count, np.float32) if of is None else of for of, count in zip((rows, columns), w.shape, strict=True)
        ]
        scale_weights(w, *ones, scaled)
        w = scaled
    heights, widths = _lengths(w.shape[0], height), _lengths(w.shape[1], width)
    if (height, width) == (1, 1):
        return Units(w.view(np.uint32), heights, widths)
    sums = np.zeros((len(heights), len(widths)))
    block_sums(w, height, width, sums)
    scores = np.sqrt(sums / (heights[:, None] * widths)).astype(np.float32)
    return Units(scores.view(np.uint32), heights, widths)


def _lengths(whole: int, part: int) -> Array:
    lengths = np.full(-(-whole // part), part, np.int64)
    lengths[-1:] -= len(lengths) * part - whole
    return lengths


def wanted(sparsity: float, weights: int) -> int:
    """How many of so many weights go, at least."""
    return min(ceil(sparsity * weights - 1e-9 * weights), weights)


def leading(of: Units) -> Array:
    """Weights by the leading bits of their scores, i64."""
    counts = np.zeros(LEADING, np.int64)
    count_leading(of.bits, of.heights, of.widths, counts)
    return counts


def ranked(counts: Array, every: Iterable[Units], count: int) -> Threshold:
    """The threshold below which `count` weights of all units lie, given what `leading` counted of them."""
    if count <= 0:
        return Threshold(0, 0)
    first = int(np.searchsorted(np.cumsum(counts), count))
    below = int(counts[:first].sum())
    rest = np.zeros(TRAILING, np.int64)
    for of in every:
        count_trailing(of.bits, of.heights, of.widths, np.uint32(first), rest)
    last = int(np.searchsorted(np.cumsum(rest), count - below))
    return Threshold(first << int(SHIFT) | last, count - below - int(rest[:last].sum()))


def above(of: Units, threshold: Threshold) -> tuple[Array, int]:
    """Which units stay, u8; and how many ties are left over for further tensors."""
    kept, ties = np.empty(of.bits.shape, np.uint8), np.array([threshold.ties], np.int64)
    cut(of.bits, of.heights, of.widths, np.full(len(kept), threshold.least, np.uint32), ties, kept)
    return kept, max(int(ties[0]), 0)


def of_rows(of: Units, sparsity: float) -> Array:
    """The same with a rank in each row of units."""
    kept = np.empty(of.bits.shape, np.uint8)
    across = int(of.widths.sum())
    count = wanted(sparsity, across)
    if count == 0:
        return np.ones_like(kept)
    # Units but the last are of one width: so many of them hold `count` weights.
    place = min(-(-count // int(of.widths[0])), len(of.widths)) - 1
    step = max(1, AT_ONCE // len(of.widths))
    for at in range(0, len(kept), step):
        part = slice(at, at + step)
        scores = of.bits[part] & MAGNITUDE
        least = np.partition(scores, place, axis=1)[:, place]
        gone = (scores < least[:, None]) @ of.widths
        ties = (count - gone) * of.heights[part]
        cut(of.bits[part], of.heights[part], of.widths, np.ascontiguousarray(least), ties, kept[part])
    return kept


def patterned(of: Units, keep: int, every: int) -> Array:
    """Which weights stay if `keep` of `every` columns do."""
    kept = np.empty(of.bits.shape, np.uint8)
    keep_largest(of.bits, keep, every, kept)
    return kept


def whole(kept: Array, of: Units) -> Array:
    """The mask of all weights, u8 [rows, cols], from that of units."""
    if kept.shape == (int(of.heights.sum()), int(of.widths.sum())):
        return kept
    return np.repeat(np.repeat(kept, of.heights, axis=0), of.widths, axis=1)


def put_back(left: Array, places: Array, shape: Shape, axis: int) -> Array:
    """The tensor of this shape with the entries `left` at these places of a dimension, and zeros. DamagedError for
    places that don't rise or lie outside."""
    found = places.astype(np.int64)
    if axis >= len(shape) or (len(found) and (found[0] < 0 or found[-1] >= shape[axis] or (np.diff(found) <= 0).any())):
        raise DamagedError("has entries that don't rise or lie outside its shape")
    full = np.zeros(shape, left.dtype)
    np.moveaxis(full, axis, 0)[found] = np.moveaxis(left, axis, 0)
    return full


def entries(mask: Array, shape: Shape, axis: int) -> Array:
    """Which entries of a dimension are kept, i32, rising, where the mask [rows, cols] keeps whole ones."""
    alive = np.moveaxis(mask.reshape(shape), axis, 0).reshape(shape[axis], -1).any(axis=1)
    return np.flatnonzero(alive).astype("<i4")


def axis_of(method: Method) -> int:
    """The dimension whose entries a structured method prunes; columns and channels are entries of the second."""
    return 0 if method.kind == "rows" or (method.kind == "heads" and method.axis == "rows") else 1


def shrinks(method: Method, shape: Shape) -> bool:
    """Whether what the method prunes can be taken out of a tensor of this shape."""
    if method.kind in ("columns", "heads"):
        return len(shape) == 2 or axis_of(method) == 0
    return method.kind in ("rows", "channels")
