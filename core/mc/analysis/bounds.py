"""How few bits per weight a given squared error needs: rate-distortion bounds.

The error is relative: the sum of squared differences over the sum of squares; 20 dB is 0.01.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import e, log2, pi, sqrt

import numpy as np

from mc.analysis.bits import Bits, conditional, entropy, scale_histogram
from mc.analysis.kinds import NONE, Floats
from mc.analysis.tally import Tally
from mc.codec.typing import Counts

TINY, HUGE = 1e-280, 1e280  # sums of squares between which figures are sound
DECIBELS = (20, 30, 40)
Rate = Callable[[float], float]  # relative squared error -> bits per weight


@dataclass(frozen=True)
class Bounds:
    """Bits per weight at 20, 30 and 40 dB."""

    gaussian: dict[str, float]  # of a Gaussian of this variance
    laplace: dict[str, float]  # Shannon's lower bound for a Laplace distribution
    empirical: dict[str, float]  # for the weights' own distribution, row and column scales known


def bounds(tally: Tally, where: Bits) -> Bounds | None:
    """The bounds for a tensor of floats; None for others, and where nothing varies."""
    rate = rate_of(tally, where)
    if rate is None or tally.sums.least == tally.sums.most:
        return None
    errors = {str(db): 10 ** (-db / 10) for db in DECIBELS}
    # h(Laplace of variance 1) = log2(2 e b), b = 1 / sqrt(2)
    more = log2(2 * e / sqrt(2)) - log2(2 * pi * e) / 2
    kept = tally.sums.m2 / tally.sums.squares  # a mean costs nothing to code
    gaussian = {db: max(0.0, log2(max(kept / d, TINY)) / 2) for db, d in errors.items()}
    laplace = {db: max(0.0, log2(max(kept / d, TINY)) / 2 + more) for db, d in errors.items()}
    return Bounds(gaussian, laplace, {db: rate(d) for db, d in errors.items()})


def rate_of(tally: Tally, where: Bits) -> Rate | None:
    """Shannon's lower bound for the empirical distribution, filled by water level over the scales of rows and columns
    (Cover and Thomas, sections 10.3 and 13.3.3), and never above the lossless entropy. Zeros are told apart first."""
    kind, n = tally.kind, int(tally.sums.count)
    squares = tally.sums.squares
    if not kind.is_float or not n or not TINY < squares < HUGE or where.joint is None:
        return None
    magnitudes = kind.symbols[tally.here] != NONE
    here = tally.here[magnitudes]
    weights = tally.counts[here]
    there = int(weights.sum())
    if not there:  # all so small that one bin holds them
        return None
    power = squares / there
    symbols = kind.symbols[here].astype(np.int64)
    widths = np.floor(symbols / 4) - 2  # binary logarithm of a quarter octave's width
    negative = int(weights[kind.values[here] < 0].sum())
    spread = _entropy_of_symbols(tally, symbols, weights) + _binary(negative / there)
    differential = spread + float((widths * weights).sum() / there)
    scales, shares = (np.zeros(1), np.ones(1)) if not tally.given.size else scale_histogram(tally)
    differential_at = differential + scales - float((scales * shares).sum())
    variances = np.exp2(2 * (scales - scales.max()))
    variances *= power / float((variances * shares).sum())
    zero = _binary(there / n)
    most = min(where.joint, where.given_scales if where.given_scales is not None else where.joint)

    def rate(error: float) -> float:
        level = _water_level(variances, shares, error * power)
        each = np.where(level < variances, differential_at - log2(2 * pi * e * level) / 2, 0)
        return min(most, zero + there / n * float((np.maximum(each, 0) * shares).sum()))

    return rate


def _entropy_of_symbols(tally: Tally, symbols: np.ndarray, weights: Counts) -> float:
    if tally.given.size:
        return conditional(tally.given[:, 1:])
    return entropy(np.bincount(symbols - symbols.min(), weights=weights))


def _water_level(variances: Floats, shares: Floats, distortion: float) -> float:
    """The level whose mean with the variances, the lesser of the two counting, is the distortion."""
    order = np.argsort(variances)
    rising, parts = variances[order], shares[order]
    drowned = np.concatenate([[0.0], np.cumsum(rising * parts)])  # mean of those below the k-th
    above = np.cumsum(parts[::-1])[::-1]
    k = int(np.searchsorted(drowned[:-1] + rising * above, distortion))
    level = float(rising[-1]) if k == len(rising) else (distortion - float(drowned[k])) / float(above[k])
    return max(level, np.finfo(float).tiny)


def _binary(p: float) -> float:
    return entropy(np.array([p, 1 - p]))
