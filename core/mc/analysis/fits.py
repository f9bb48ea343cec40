"""How well models fit a tensor's counts, and what coding with each would lose.

The counts stand for all words (or the sample): fits see at most 1,024 points, neighbouring bins taken together; what
is stated of a fit is computed over all bins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite, log

import numpy as np

from mc.analysis.bits import entropy
from mc.analysis.kinds import Floats
from mc.analysis.models import CONTINUOUS, DISCRETE, Model, Parameters, Points, WholeModel
from mc.analysis.tally import Tally

POINTS = 1024
ESCAPE = 64.0  # bits at most for what a model holds to be all but impossible


@dataclass(frozen=True)
class Fit:
    """A fitted model."""

    model: str
    parameters: Parameters
    log_likelihood: float  # nats; of densities, for integer dtypes of probabilities
    ks: float  # largest distance between the two cumulative distributions, at the bins' edges
    lost_bits: float  # per word: cross entropy of the model - empirical entropy of the counts
    density: tuple[float, ...] | None = None  # at the middles of the histogram's columns, for drawing


def fit_all(tally: Tally, middles: Floats | None = None) -> tuple[Fit, ...]:
    """Every model that applies, the one that loses fewest bits first; none for fewer than two different numbers.

    `middles` are places at which densities are wanted."""
    kind, here = tally.kind, tally.here
    if len(here) < 2 or tally.sums.least == tally.sums.most or not isfinite(tally.sums.m4):
        return ()
    x, n = kind.values[here], tally.counts[here].astype(np.float64)
    if x[0] == x[-1]:  # numbers so small that one bin holds them
        return ()
    scale = max(abs(tally.sums.least), abs(tally.sums.most))
    if not 1e-140 < scale < 1e140:
        return ()
    low, high = kind.low[here], kind.high[here]
    at = int(np.searchsorted(np.cumsum(n), n.sum() / 2))
    every = Points(x, n, float(n.sum()), float(low[0]), float(high[-1]), float(high[at] - low[at]))
    few = _grouped(every)
    found = [_judged(tally, every, low, high, fit(few), middles) for fit in CONTINUOUS]
    if not kind.is_float:
        wanted = DISCRETE if tally.sums.least >= 0 else DISCRETE[-1:]
        found += [_judged_whole(tally, every, fit(few), middles) for fit in wanted]
    return tuple(sorted(found, key=lambda one: one.lost_bits))


def _grouped(every: Points) -> Points:
    step = -(-len(every.x) // POINTS)
    starts = np.arange(0, len(every.x), step)
    sizes = np.add.reduceat(every.n, starts)
    return replace(every, x=np.add.reduceat(every.x * every.n, starts) / sizes, n=sizes)


def _judged(tally: Tally, every: Points, low: Floats, high: Floats, model: Model, middles: Floats | None) -> Fit:
    """What a continuous model says of the counts: the probability of each bin's cell."""
    right = every.x > every.median()  # from above, so that small probabilities aren't differences of numbers near one
    mass = np.where(right, model.above(low) - model.above(high), model.below(high) - model.below(low))
    density = model.density(every.x)
    mass = np.where(mass > 1e-12, mass, density * (high - low))
    bits = np.minimum(ESCAPE, -np.log2(np.maximum(mass, 2.0**-200)))
    with np.errstate(divide="ignore"):
        logs = np.maximum(np.log(density if tally.kind.is_float else mass), -ESCAPE * 8)
    below = np.cumsum(every.n) / every.total
    ks = max(
        float(np.abs(below - model.below(high)).max()),
        float(np.abs(below - every.n / every.total - model.below(low)).max()),
    )
    lost = every.mean(bits) - entropy(tally.counts[tally.here])
    drawn = tuple(float(y) for y in model.density(middles)) if middles is not None else None
    return Fit(model.name, model.parameters, float((logs * every.n).sum()), ks, lost, drawn)


def _judged_whole(tally: Tally, every: Points, model: WholeModel, middles: Floats | None) -> Fit:
    """What a model of whole numbers says of the counts; of bins that hold several, what it says of the middle one."""
    widths = tally.kind.high[tally.here] - tally.kind.low[tally.here]
    logs = model.log_probability(np.round(every.x)) + np.log(np.maximum(widths, 1))
    bits = np.minimum(ESCAPE, -logs / log(2))
    ks = float(np.abs(np.cumsum(every.n) / every.total - _whole_below(model, every.x)).max())
    lost = every.mean(bits) - entropy(tally.counts[tally.here])
    drawn = tuple(float(y) for y in np.exp(model.log_probability(np.round(middles)))) if middles is not None else None
    return Fit(model.name, model.parameters, float((logs * every.n).sum()), min(ks, 1.0), lost, drawn)


def _whole_below(model: WholeModel, x: Floats) -> Floats:
    """The probability of at most x, for sorted x; of what lies farther apart than can be summed, summed over x."""
    least = 0.0 if model.name != "two-sided geometric" else x[0] - 64 * (1 + x[-1] - x[0])
    grid = np.arange(least, x[-1] + 1) if x[-1] - least < 1 << 20 else np.round(x)
    below: Floats = np.interp(x, grid, np.cumsum(np.exp(model.log_probability(grid))))
    return below
