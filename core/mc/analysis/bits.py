"""Where the bits of a tensor are: the order-0 entropy of its parts, and what row and column scales tell."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np

from mc.analysis.kinds import Floats
from mc.analysis.tally import Tally, eighths
from mc.codec.typing import Counts, Ints

EXACT_WHOLE = 256  # up to which wide whole numbers have a bin each


@dataclass(frozen=True)
class Narrower:
    """A dtype that holds rows of a tensor bit for bit."""

    dtype: str
    rows: int  # 1 or 0 for each chunk of what has no rows
    share: float  # of the words


@dataclass(frozen=True)
class Bits:
    """Entropies in bits per word, of the counts as they are (plug-in). None where there is no such part, or no word.

    Words wider than 16 bits are counted in pieces of 16: `joint` and `mantissa` are the sums of their entropies. Whole
    numbers up to 256 have a bin each, which is counted instead."""

    word: float  # bits of a word as it is stored
    sign: float | None
    exponent: float | None
    mantissa: float | None
    joint: float | None
    joint_corrected: float | None  # with Miller and Madow's (1955) correction for few words
    given_scales: float | None  # joint, where row and column scales are known; without their cost
    scale_cost: float | None  # bits per word of those scales, in eighths of an octave
    distinct: int  # values; of wide words, bins of 65,536 that occur
    distinct_exact: bool
    constant: bool
    narrower: tuple[Narrower, ...]
    duplicate_of: str | None


def entropy(counts: Ints) -> float:
    """Bits per symbol of a memoryless source with these counts."""
    c = counts[counts != 0].astype(np.float64)
    if not len(c):
        return 0.0
    p = c / c.sum()
    return max(0.0, float(-(p * np.log2(p)).sum()))


def corrected(counts: Ints, width: float) -> float:
    """The entropy of the source that these counts are a sample of, not above `width` (Miller and Madow 1955)."""
    n = int(counts.sum())
    more = ((counts > 0).sum() - 1) / (2 * n * log(2)) if n else 0.0
    return min(entropy(counts) + float(more), width)


def bits(tally: Tally, duplicate_of: str | None = None) -> Bits:
    """Where the bits of a tensor are."""
    kind, n = tally.kind, tally.words
    word = {"F4": 4.0, "F6_E2M3": 6.0, "F6_E3M2": 6.0}.get(kind.name, 8.0 * kind.width)
    upper = tally.upper if len(tally.upper) else tally.counts
    pieces = [upper, *tally.halves] if kind.name in ("F32", "F64") or kind.exact else [*tally.halves, tally.counts]
    if not kind.is_float and max(abs(tally.sums.least), abs(tally.sums.most)) <= EXACT_WHOLE:
        pieces = [tally.counts]
    joint = sum(map(entropy, pieces))
    better = sum(corrected(piece, min(16.0, word)) for piece in pieces)
    sign = exponent = mantissa = given = cost = None
    if n and kind.mantissa is not None:
        sign, exponent, mantissa = fields(tally, upper)
    if n and tally.given.size:
        # What a symbol leaves open costs as much as before: only the symbol is told by the scales.
        here = np.flatnonzero(tally.counts != 0)
        symbols = kind.symbols[here].astype(np.int64)
        alone = entropy(_summed(symbols - symbols.min(), tally.counts[here]))
        given = min(joint, max(0.0, joint - alone + conditional(tally.given)))
        scales = (tally.rows, tally.columns)
        cost = sum(len(s) * entropy(np.unique_counts(eighths(s)).counts) for s in scales) / n
    here = tally.here
    there = np.flatnonzero(tally.counts != 0)
    others = len(np.unique(kind.values[there[kind.ranks[there] < 0]]))  # NaN, infinities
    distinct = len(here) - max(0, int((kind.values[here] == 0).sum()) - 1) + others  # 0 and -0 are one
    constant = n > 0 and tally.sums.least == tally.sums.most and tally.sums.count == n
    narrower = tuple(Narrower(name, rows, words / n) for name, (rows, words) in tally.narrower.items() if n and rows)
    return Bits(
        word, sign, exponent, mantissa, joint if n else None, better if n else None, given, cost, distinct,
        kind.exact or constant, constant, narrower, duplicate_of,
    )  # fmt: skip


def fields(tally: Tally, upper: Counts) -> tuple[float, float, float]:
    """Entropy of sign, exponent and mantissa, from the counts of the words' uppermost pieces."""
    kind = tally.kind
    width = len(upper).bit_length() - 1
    top = width - kind.exponent - kind.signed  # mantissa bits among them
    here = np.flatnonzero(upper != 0)
    c = upper[here]
    sign = entropy(_summed(here >> (width - kind.signed), c))
    exponent = entropy(_summed(here >> top & ((1 << kind.exponent) - 1), c))
    mantissa = entropy(_summed(here & ((1 << top) - 1), c)) + sum(entropy(piece) for piece in tally.halves)
    return sign, exponent, mantissa


def _summed(symbols: Ints, counts: Counts) -> Floats:
    """Counts of equal symbols, summed."""
    sums: Floats = np.bincount(symbols, weights=counts).astype(np.float64)
    return sums


def conditional(given: Counts) -> float:
    """Bits per symbol where the table is known: given [tables, symbols]."""
    sizes = given.sum(axis=1)
    return sum(int(size) * entropy(row) for size, row in zip(sizes, given, strict=True)) / max(1, int(sizes.sum()))


def scale_histogram(tally: Tally) -> tuple[Floats, Floats]:
    """Scales of words in octaves, and the share of words that have each: every row meets every column."""
    rows, columns = eighths(tally.rows), eighths(tally.columns)
    shares = np.convolve(np.bincount(rows - rows.min()), np.bincount(columns - columns.min())).astype(np.float64)
    octaves = (np.arange(len(shares)) + int(rows.min()) + int(columns.min())) / 8
    return octaves[shares > 0], shares[shares > 0] / shares.sum()


def largest_gain(found: Bits) -> float:
    """Bits per word that scales save over the joint entropy, their cost charged; 0 where there are none."""
    if found.joint is None or found.given_scales is None or found.scale_cost is None:
        return 0.0
    return max(0.0, found.joint - found.given_scales - found.scale_cost)
