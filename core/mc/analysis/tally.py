"""One tensor counted: two streaming passes over its rows, in chunks, and what they leave behind.

The first counts words, sums moments and finds the scale of each row and column; the second, which needs those, counts
symbols given the scales. Memory is bounded by the chunk, not the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from math import prod
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from mc.analysis.kinds import NONE, PACKED, STEPS, Floats, Kind, bins_of, kind_of, known, numbers_of
from mc.analysis.sums import NOTHING, Sums, merged, sums_of_counts, sums_of_numbers
from mc.codec.typing import Bytes, Counts, Ints
from mc.dtypes import numpy_dtype

Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
Read = Callable[[int, int], Bytes]  # bytes from start to stop of a tensor
Pieces = tuple[tuple[int, int], ...]  # runs of words that are read as one

CHUNK = 1 << 18  # words, as the codec's chunks; a packed tensor is decoded in these
CHUNKS = 4  # of them in a piece of work
MOST_COLUMNS = 1 << 18  # of a matrix; a longer row is a tensor without rows
BLOCK = 4096  # words read at each place of a sample
GRID = 24  # rows and columns of the map of scales
MAPPED = 8 * GRID  # rows that it is made of, at most
SIGMAS = 6

NARROWER = {
    "F64": ("F32", "BF16", "F16"), "F32": ("BF16", "F16"), "BF16": ("F8_E4M3", "F8_E5M2"),
    "F16": ("F8_E4M3", "F8_E5M2"), "I64": ("I32", "I16", "I8"), "I32": ("I16", "I8"), "I16": ("I8",),
    "U64": ("U32", "U16", "U8"), "U32": ("U16", "U8"), "U16": ("U8",),
}  # fmt: skip


@dataclass(frozen=True)
class Tally:
    """What was counted of a tensor, or of a seeded sample of its rows."""

    kind: Kind
    shape: tuple[int, ...]  # complex numbers have a last dimension of 2
    words: int  # counted
    sampled: bool
    counts: Counts  # [bins]
    here: Ints  # the finite bins that occur, by value
    halves: Counts  # [pieces - 1, 65536]: 16-bit pieces of wide words, low ones first, but the uppermost
    upper: Counts  # [65536] of F64, the uppermost piece; else empty
    sums: Sums
    beyond: int  # numbers farther than six standard deviations from the mean
    rows: Floats  # [rows counted] octaves, NaN without magnitudes; empty if it is no matrix
    columns: Floats  # [columns] octaves, relative to the rows
    given: Counts  # [CLASSES, SPAN] symbols given scales; empty if it is no matrix
    grid: Floats  # [<= GRID, <= GRID] mean octaves of blocks; empty if it is no matrix
    narrower: dict[str, tuple[int, int]]  # dtype -> rows that fit it exactly, words in them
    digest: str  # of all bytes counted


def matrix_of(dtype: str, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Rows and columns of what has them: the first dimension, and all others."""
    if len(shape) < 2:
        return None
    rows, cols = shape[0], prod(shape[1:])
    whole = dtype not in PACKED or cols * PACKED[dtype][1] % 8 == 0
    return (rows, cols) if rows > 1 and 1 < cols <= MOST_COLUMNS and whole else None


def parts_of(words: int, cols: int | None, sample: int | None, seed: int) -> list[Pieces]:
    """The pieces of work of a tensor: all of it, or about `sample` words in whole rows, where `seed` picks them."""
    unit = cols or 1
    if sample is None or sample >= words:
        step = max(1, CHUNK // unit) * unit * CHUNKS
        return [((at, min(at + step, words)),) for at in range(0, words, step)]
    size = max(1, BLOCK // unit) * unit
    blocks = -(-words // size)
    picked = np.random.default_rng(seed).choice(blocks, min(blocks, max(1, -(-sample // size))), replace=False)
    pieces = [(int(k) * size, min((int(k) + 1) * size, words)) for k in np.sort(picked)]
    step = max(1, CHUNK * CHUNKS // size)
    return [tuple(pieces[at : at + step]) for at in range(0, len(pieces), step)]


def tally(
    dtype: str, shape: tuple[int, ...], nbytes: int, read: Read, each: Each, sample: int | None = None, seed: int = 0
) -> Tally:
    """Count a tensor of `nbytes` that `read` reads; `each` maps over its chunks, in order."""
    name = known(dtype)
    kind = kind_of(name)
    shape = (*shape, 2) if dtype == "C64" else shape if name == dtype else (nbytes,)
    bits = PACKED[name][1] if name in PACKED else 8 * kind.width
    words = nbytes * 8 // bits
    matrix = matrix_of(name, shape)
    cols = matrix[1] if matrix else None
    parts = parts_of(words, cols, sample, seed)
    counted = sum(stop - start for pieces in parts for start, stop in pieces)

    def fetched(pieces: Pieces) -> Bytes:
        runs = [read(start * bits // 8, stop * bits // 8) for start, stop in pieces]
        return runs[0] if len(runs) == 1 else np.concatenate(runs)

    stride = max(1, counted // (cols or 1) // MAPPED)
    found = each(lambda p: _first(name, cols, stride, fetched(p)), parts)
    whole = reduce(_joined, found) if parts else _blank(kind, cols)
    here = kind.ordered(whole.counts)
    sums = whole.sums if kind.width > 2 else sums_of_counts(kind, whole.counts, here)
    if sums.least == sums.most:
        sums = replace(sums, mean=sums.least, m2=0.0, m3=0.0, m4=0.0)
    rows = np.concatenate([np.empty(0), *whole.rows]) / STEPS if matrix else np.empty(0)
    columns = whole.away / np.maximum(whole.some, 1) / STEPS
    deviation = np.sqrt(sums.m2 / sums.count) if sums.count else 0.0

    at_row = np.cumsum([0, *(sum(b - a for a, b in pieces) // (cols or 1) for pieces in parts)])

    def second(numbered: tuple[int, Pieces]) -> tuple[Counts, int]:
        number, pieces = numbered
        scales = rows[at_row[number] : at_row[number + 1]] if matrix else rows
        return _second(name, cols, fetched(pieces), scales, columns, sums.mean, deviation)

    given, beyond = np.zeros((0, 0), np.int64), 0
    if matrix or kind.width > 2:
        for table, far in each(second, list(enumerate(parts))):
            given = table if not given.size else given + table
            beyond += far
    if kind.width <= 2:
        beyond = int(whole.counts[here][np.abs(kind.values[here] - sums.mean) > SIGMAS * deviation].sum())
    return Tally(
        kind, shape, counted, counted < words, whole.counts, here, whole.halves, whole.upper, sums, beyond, rows,
        columns, given, _grid(whole.lines), whole.narrower, xxhash.xxh3_128_hexdigest(b"".join(whole.digests)),
    )  # fmt: skip


@dataclass(frozen=True)
class _Part:
    """What the first pass leaves of a chunk, or of several."""

    counts: Counts
    halves: Counts
    upper: Counts
    sums: Sums
    rows: tuple[Floats, ...]
    away: Counts
    some: Counts
    lines: tuple[Floats, ...]
    narrower: dict[str, tuple[int, int]]
    digests: tuple[bytes, ...]


def _blank(kind: Kind, cols: int | None) -> _Part:
    pieces = kind.width // 2 - 1 if kind.width > 2 else 0
    upper = np.zeros(1 << 16 if kind.name == "F64" else 0, np.int64)
    away, some = np.zeros(cols or 0, np.int64), np.zeros(cols or 0, np.int64)
    halves = np.zeros((pieces, 1 << 16), np.int64)
    narrower = dict.fromkeys(NARROWER.get(kind.name, ()), (0, 0))
    return _Part(np.zeros(kind.bins, np.int64), halves, upper, NOTHING, (), away, some, (), narrower, ())


def _joined(one: _Part, other: _Part) -> _Part:
    narrower = {
        name: (rows + other.narrower[name][0], words + other.narrower[name][1])
        for name, (rows, words) in one.narrower.items()
    }
    return _Part(
        one.counts + other.counts, one.halves + other.halves, one.upper + other.upper, merged(one.sums, other.sums),
        one.rows + other.rows, one.away + other.away, one.some + other.some, one.lines + other.lines, narrower,
        one.digests + other.digests,
    )  # fmt: skip


def _first(name: str, cols: int | None, stride: int, raw: Bytes) -> _Part:
    from mc.analysis import loops

    kind = kind_of(name)
    bins = bins_of(name, raw)
    part = _blank(kind, cols)
    width = cols or max(1, len(bins))
    counts = np.zeros((4 if kind.width == 1 else 1, kind.bins), np.uint32)  # equal neighbours wait for each other
    rows = np.empty(len(bins) // width)
    loops.count(bins, width, kind.octaves, counts, rows, part.away, part.some)
    sums = NOTHING
    if kind.width > 2:
        loops.halves(raw.view("<u2").reshape(-1, kind.width // 2), part.halves)
        part.upper[:] += _counted(raw.view("<u2")[3::4]) if len(part.upper) else 0
        sums = sums_of_numbers(name, numbers_of(name, raw))
    lines = _lines(kind, bins.reshape(-1, cols)[::stride]) if cols else ()
    return replace(
        part, counts=counts.sum(axis=0, dtype=np.int64), sums=sums, rows=(rows,), lines=lines,
        narrower=_narrower(name, raw, width), digests=(xxhash.xxh3_128_digest(raw.data),),
    )  # fmt: skip


def _counted(words: NDArray[np.uint16]) -> Counts:
    counts: Counts = np.bincount(words, minlength=1 << 16)
    return counts


def _second(
    name: str, cols: int | None, raw: Bytes, rows: Floats, columns: Floats, mean: float, deviation: float
) -> tuple[Counts, int]:
    from mc.analysis import loops

    kind = kind_of(name)
    given = np.zeros((loops.CLASSES, loops.SPAN) if cols else (0, 0), np.int64)
    if cols:
        loops.given(bins_of(name, raw), cols, kind.symbols, eighths(rows), eighths(columns), given)
    far = 0
    if kind.width > 2:
        far = int(loops.beyond(numbers_of(name, raw), mean, SIGMAS * deviation))
    return given, far


def eighths(octaves: Floats) -> NDArray[np.int32]:
    """Scales in whole eighths of an octave; 0 for those that there are none of."""
    return np.round(8 * np.nan_to_num(octaves)).astype(np.int32)


def _narrower(name: str, raw: Bytes, cols: int) -> dict[str, tuple[int, int]]:
    """Rows that a narrower dtype holds bit for bit. The first words of a row say no for nearly all that it doesn't."""
    found = {}
    for narrow in NARROWER.get(name, ()):
        words = raw.view(numpy_dtype(name)).reshape(-1, cols)
        kept = words[_fit(words[:, :4], narrow)]
        rows = int(_fit(kept, narrow).sum()) if kept.size else 0
        found[narrow] = rows, rows * cols
    return found


def _fit(words: NDArray[Any], narrow: str) -> NDArray[np.bool_]:
    bits = f"<u{words.dtype.itemsize}"
    with np.errstate(over="ignore", invalid="ignore"):
        back = words.astype(numpy_dtype(narrow)).astype(words.dtype)
    fits: NDArray[np.bool_] = (back.view(bits) == np.ascontiguousarray(words).view(bits)).all(axis=1)
    return fits


def _lines(kind: Kind, bins: NDArray[Any]) -> tuple[Floats, ...]:
    """Mean logarithms of the blocks of some rows, at most GRID a row."""
    steps = kind.octaves[bins].astype(np.float64)
    steps[steps == NONE] = np.nan
    return (_mean(steps, 1) / STEPS,)


def _grid(lines: tuple[Floats, ...]) -> Floats:
    """The map of scales: blocks of rows by blocks of columns."""
    if not lines:
        return np.zeros((0, 0))
    return _mean(np.concatenate(lines), 0)


def _mean(steps: Floats, axis: int) -> Floats:
    """The means of at most GRID blocks along an axis, of what is there; NaN where nothing is."""
    starts = np.linspace(0, steps.shape[axis], min(GRID, steps.shape[axis]), endpoint=False).astype(int)
    there = np.isfinite(steps)
    total = np.add.reduceat(np.where(there, steps, 0), starts, axis=axis)
    n = np.add.reduceat(there, starts, axis=axis, dtype=np.int64)
    mean: Floats = np.where(n > 0, total / np.maximum(n, 1), np.nan)
    return mean
