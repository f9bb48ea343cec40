"""Moments, quantiles and the histogram of a tensor, a group of tensors or a whole checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt

import numpy as np

from mc.analysis.kinds import Floats, Kind, kind_of
from mc.analysis.sums import Sums, merged
from mc.analysis.tally import Tally
from mc.codec.typing import Counts, Ints

QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
COLUMNS = 96  # of a histogram
SMALLEST = 1e-150  # width of a distribution whose squares are still normal numbers
REACH = 4.5  # standard deviations from the mean that a histogram shows at most


@dataclass(frozen=True)
class Histogram:
    """How many numbers lie in each of equally wide columns; a number's rounding cell is spread over those it spans."""

    low: float
    high: float
    counts: tuple[float, ...]
    below: float  # numbers left of it
    above: float


@dataclass(frozen=True)
class Moments:
    """The distribution of the finite numbers. None where a figure can't be computed, as for an empty tensor."""

    count: int  # finite numbers
    nan: int
    infinite: int
    zeros: int
    subnormals: int
    min: float | None
    max: float | None
    mean: float | None
    std: float | None  # of the population: divided by the count
    skewness: float | None
    excess_kurtosis: float | None
    quantiles: dict[str, float] | None
    beyond_6_sigma: float | None  # share of the finite numbers
    peak_to_rms: float | None  # largest magnitude / root mean square
    rms: float | None
    row_spread: float | None  # standard deviation of the rows' mean binary logarithms of magnitude: octaves
    column_spread: float | None
    histogram: Histogram | None


@dataclass(frozen=True)
class Pool:
    """Several tensors taken together, counted in the bins of wide numbers. Only those that occur are held: there may be
    as many pools as tensors."""

    bins: Ints  # rising, of 65536
    counts: Counts  # of each
    sums: Sums
    beyond: int  # their sum: each tensor by its own standard deviation


def pooled(tally: Tally) -> Pool:
    """A tensor as a pool by itself."""
    wide = kind_of("F32")
    counts = tally.counts
    if tally.kind.width <= 2 and tally.kind.name != "BF16":
        with np.errstate(over="ignore", invalid="ignore"):
            heads = tally.kind.values.astype("<f4").view("<u4") >> 16
        counts = np.bincount(heads, weights=counts, minlength=wide.bins).astype(np.int64)
    return _pool(counts, tally.sums, tally.beyond)


def joined(one: Pool, other: Pool) -> Pool:
    """Both together."""
    counts = _every_bin(one)
    counts[other.bins] += other.counts
    return _pool(counts, merged(one.sums, other.sums), one.beyond + other.beyond)


def _pool(counts: Counts, sums: Sums, beyond: int) -> Pool:
    bins = np.flatnonzero(counts)
    return Pool(bins, counts[bins], sums, beyond)


def _every_bin(pool: Pool) -> Counts:
    """Counts of all bins, those that don't occur too."""
    counts = np.zeros(kind_of("F32").bins, np.int64)
    counts[pool.bins] = pool.counts
    return counts


def moments(tally: Tally) -> Moments:
    """The figures of a tensor."""
    rows, columns = _spread(tally.rows), _spread(tally.columns)
    return _moments(tally.sums, tally.kind, tally.counts, tally.here, tally.beyond, rows, columns)


def pool_moments(pool: Pool) -> Moments:
    """The figures of several tensors: quantiles to one of 65,536 ordered bins, the share beyond six standard
    deviations by each tensor's own."""
    wide, counts = kind_of("F32"), _every_bin(pool)
    return _moments(pool.sums, wide, counts, wide.ordered(counts), pool.beyond, None, None)


def _moments(
    sums: Sums, kind: Kind, counts: Counts, here: Ints, beyond: int, rows: float | None, columns: float | None
) -> Moments:
    n = sums.count
    std = skewness = kurtosis = mean = rms = peak = None
    if n and isfinite(sums.m2) and not 0 < sums.most - sums.least < SMALLEST:
        mean, std = sums.mean, sqrt(sums.m2 / n)
        rms = sqrt(sums.m2 / n + mean * mean) if abs(mean) < 1e150 else None
        if rms:
            peak = max(abs(sums.least), abs(sums.most)) / rms
        if sums.m2 / n > 1e-150 and isfinite(sums.m4):  # below, its square is no normal number
            skewness, kurtosis = sums.m3 / n / std**3, sums.m4 / n / std**4 - 3
    return Moments(
        n, sums.nan, sums.above + sums.below, sums.zeros, sums.subnormals,
        sums.least if n else None, sums.most if n else None, mean, std, skewness, kurtosis,
        quantiles(kind, counts, here, sums) if n else None, beyond / n if n and std is not None else None, peak, rms,
        rows, columns, histogram(kind, counts, here, sums) if n else None,
    )  # fmt: skip


def _spread(scales: Floats) -> float | None:
    there = scales[np.isfinite(scales)]
    return float(there.std()) if len(there) > 1 else None


def quantiles(kind: Kind, counts: Counts, here: Ints, sums: Sums) -> dict[str, float]:
    """The smallest number with at least a share q of the others not above it (numpy's 'inverted_cdf'); of wide
    numbers, one from its bin."""
    c = counts[here]
    ends = np.cumsum(c)
    ranks = np.ceil(np.array(QUANTILES) * ends[-1]).clip(1, ends[-1])
    at = np.searchsorted(ends, ranks)
    found = kind.values[here][at]
    if not kind.exact:
        margin = 0 if kind.is_float else 0.5
        low, high = kind.low[here][at] + margin, kind.high[here][at] - margin
        inside = low + (ranks - (ends[at] - c[at]) - 0.5) / c[at] * (high - low)
        found = np.where(found == 0, 0.0, inside if kind.is_float else np.round(inside)).clip(sums.least, sums.most)
    return {f"{q:g}": float(x) for q, x in zip(QUANTILES, found, strict=True)}


def histogram(kind: Kind, counts: Counts, here: Ints, sums: Sums) -> Histogram | None:
    """Columns over the middle of the distribution; None where it has no finite width."""
    deviation = sqrt(sums.m2 / sums.count) if isfinite(sums.m2) else 0.0
    low = max(float(kind.low[here[0]]), sums.mean - REACH * deviation)
    high = min(float(kind.high[here[-1]]), sums.mean + REACH * deviation)
    if not deviation:
        low, high = float(kind.low[here[0]]), float(kind.high[here[-1]])
    if not (low < high and isfinite(high - low)):
        return None
    below = cumulated(kind, counts, here, np.linspace(low, high, COLUMNS + 1))
    columns = tuple(np.round(np.diff(below), 3).tolist())
    return Histogram(low, high, columns, float(below[0]), float(counts[here].sum() - below[-1]))


def cumulated(kind: Kind, counts: Counts, here: Ints, points: Floats) -> Floats:
    """How many numbers lie left of each point, every bin's spread evenly over its cell."""
    edges = np.stack([kind.low[here], kind.high[here]], axis=1).reshape(-1)
    sums = np.cumsum(counts[here])
    heights = np.stack([sums - counts[here], sums], axis=1).reshape(-1).astype(np.float64)
    found: Floats = np.interp(points, edges, heights)
    return found
