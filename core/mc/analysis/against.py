"""How one checkpoint differs from another, tensor by tensor, and how small it would be if the other were known."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import reduce
from math import log10, sqrt
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mc import blob
from mc.analysis.bits import corrected
from mc.analysis.kinds import FLOATS, PACKED, bins_of, kind_of, known, numbers_of
from mc.analysis.predict import tensor_bytes
from mc.analysis.reading import STDIN, Item, chosen, opened
from mc.analysis.tally import CHUNK
from mc.codec.typing import Bytes, Counts
from mc.errors import McError, quote
from mc.parallel import Workers, workers

LEADING = 8  # bits of a difference, from its highest one on, that are coded; those below are raw


@dataclass(frozen=True)
class TensorDifference:
    """A tensor of B beside that of A. None stands for what can't be computed: nothing finite, other shapes."""

    name: str
    dtype: str
    dtype_of_a: str
    shape: tuple[int, ...]
    shape_of_a: tuple[int, ...]
    bytes: int
    relative_squared_error: float | None  # sum (b - a) ** 2 / sum a ** 2
    snr_db: float | None  # -10 log10 of that; None also if nothing differs
    cosine: float | None
    max_difference: float | None
    identical: float | None  # share of the words that are the same: bits, where both have one dtype, else numbers
    not_finite: int  # places where either is NaN or infinite, left out of the figures above but the last
    given_a_bits: float | None  # bits per word: entropy of the difference of ordered integers; None for other dtypes
    given_a_bytes: int | None  # all of them, with what a packed tensor costs anyway
    alone_bytes: int | None  # after mc pack, predicted


@dataclass(frozen=True)
class Difference:
    """B beside A."""

    path: str
    against: str
    tensors: tuple[TensorDifference, ...]  # in both
    missing: tuple[str, ...]  # in A alone
    extra: tuple[str, ...]  # in B alone


@dataclass(frozen=True)
class _Sums:
    words: int
    finite: int
    error: float
    a: float
    b: float
    product: float
    largest: float
    same: int
    counts: Counts
    raw_bits: int


def compare(
    source: str | os.PathLike[str] | BinaryIO, against: str | os.PathLike[str] | BinaryIO, *,
    tensors: Sequence[str] = (), threads: int | None = None, executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Difference:  # fmt: skip
    """How `source`, B, differs from `against`, A; each a file, a folder, plain or packed, an array file or a stream.

    Raises DamagedError and McError as `analyze` does."""
    path, other = (os.fspath(one) if isinstance(one, str | os.PathLike) else STDIN for one in (source, against))
    with opened(source) as files, opened(against) as files_of_a, workers(threads, executor) as work:
        ours = chosen(files, tensors, path)
        theirs = {item.name: item for item in chosen(files_of_a, (), other)}
        if ours and not any(item.name in theirs for item in ours):
            raise McError(f"{path} and {other} share no tensor: the first of one is {quote(ours[0].name)}.")
        total, done = sum(item.nbytes for item in ours), 0
        found = []
        for item in ours:
            if item.name in theirs:
                found.append(_difference(item, theirs[item.name], work))
            done += item.nbytes
            if progress is not None:
                progress(done, total)
        names = {item.name for item in ours}
        missing = tuple(name for name in theirs if name not in names) if not tensors else ()
        extra = tuple(item.name for item in ours if item.name not in theirs)
    return Difference(path, other, tuple(found), missing, extra)


def _difference(b: Item, a: Item, work: Workers) -> TensorDifference:
    alone = tensor_bytes(b.dtype, b.shape, b.nbytes, b.read, "default")
    facts = (b.name, b.dtype, a.dtype, b.shape, a.shape, b.nbytes)
    words = _words(b)
    if b.shape != a.shape or words != _words(a) or not words:
        return TensorDifference(*facts, None, None, None, None, None, 0, None, None, alone)
    parts = [(at, min(at + CHUNK, words)) for at in range(0, words, CHUNK)]
    sums = reduce(_joined, work.each(lambda part: _compared(b, a, *part), parts))
    relative = snr = cosine = largest = None
    if sums.finite:
        largest = sums.largest
        relative = sums.error / sums.a if sums.a > 0 else None
        snr = -10 * log10(relative) if relative else None
        cosine = sums.product / sqrt(sums.a) / sqrt(sums.b) if sums.a > 0 and sums.b > 0 else None
    bits = given = None
    if b.dtype == a.dtype:
        bits = corrected(sums.counts, 16) + sums.raw_bits / words
        given = -(-round(bits * words) // 8) + blob.overhead(len(parts))
    return TensorDifference(
        *facts, relative, snr, cosine, largest, sums.same / words, words - sums.finite, bits, given, alone
    )  # fmt: skip


def _words(item: Item) -> int:
    name = known(item.dtype)
    return item.nbytes * 8 // (PACKED[name][1] if name in PACKED else 8 * kind_of(name).width)


def _read(item: Item, start: int, stop: int) -> Bytes:
    name = known(item.dtype)
    bits = PACKED[name][1] if name in PACKED else 8 * kind_of(name).width
    return item.read(start * bits // 8, stop * bits // 8)


def _compared(b: Item, a: Item, start: int, stop: int) -> _Sums:
    raw_b, raw_a = _read(b, start, stop), _read(a, start, stop)
    with np.errstate(all="ignore"):
        y, x = (numbers_of(known(i.dtype), raw).astype(np.float64) for i, raw in ((b, raw_b), (a, raw_a)))
        finite = np.isfinite(x) & np.isfinite(y)
        if b.dtype == a.dtype:
            ordered_b, ordered_a = ordered(known(b.dtype), raw_b), ordered(known(a.dtype), raw_a)
            step = ordered_b - ordered_a
            same = int((step == 0).sum())
            heads = bins_of("I64", step.view(np.uint8))
            lengths = np.frexp(np.abs(step.astype(np.float64)))[1]
            counts = np.bincount(heads, minlength=1 << 16)
            raw_bits = int(np.maximum(0, lengths - LEADING).sum())
        else:
            same, counts, raw_bits = int((x == y).sum()), np.zeros(1 << 16, np.int64), 0
        x, y = x[finite], y[finite]
        d = y - x
        largest = float(np.abs(d).max()) if len(d) else 0.0
        return _Sums(
            stop - start, len(d), float(d @ d), float(x @ x), float(y @ y), float(x @ y), largest, same, counts,
            raw_bits,
        )  # fmt: skip


def _joined(one: _Sums, other: _Sums) -> _Sums:
    return _Sums(
        one.words + other.words, one.finite + other.finite, one.error + other.error, one.a + other.a, one.b + other.b,
        one.product + other.product, max(one.largest, other.largest), one.same + other.same, one.counts + other.counts,
        one.raw_bits + other.raw_bits,
    )  # fmt: skip


def ordered(dtype: str, raw: Bytes) -> NDArray[np.int64]:
    """Words as integers that are ordered as their numbers are: of floats, the negative ones mirrored. Differences of
    64-bit words wrap around, which loses nothing."""
    if dtype in PACKED:
        bins: NDArray[Any] = bins_of(dtype, raw).astype(np.int64)
        return bins
    width = kind_of(dtype).width
    if dtype not in FLOATS:
        signed = "i" if dtype.startswith("I") else "u"
        return raw.view(f"<{signed}{width}").astype(np.int64)
    words = raw.view(f"<i{width}").astype(np.int64)
    lowest = -(1 << (8 * width - 1))
    return np.where(words < 0, lowest - words - 1, words) if dtype != "F8_E8M0" else words & 0xFF
