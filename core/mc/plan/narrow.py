"""Steps moved, all by one factor, until what is measured is just within the limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, log2, sqrt

from mc.plan.allocate import Choice, scaled
from mc.plan.bench import Bench, try_choices
from mc.plan.learnt import Learnt
from mc.plan.quota import CLOSE, Quota
from mc.plan.trial import Trial

AIM = 0.998  # of a limit, where something is only expected
ROUNDS = 16
MOST = 4.0  # octaves that steps are moved at once
STUCK = 5  # trials in a row without a difference, after which no more are made
SAME = 0.2  # of what is missing to the limit: no difference
BOLDER = 8.0  # times as far, where a step made little difference: the widest all give the same zeros


def narrowed(
    quota: Quota, picked: dict[str, Choice], first: Trial, learnt: Learnt, close: float = CLOSE, aim: float = AIM,
    rounds: int = ROUNDS,
) -> list[Trial]:  # fmt: skip
    """Trials of the same kinds with all steps times a factor that is moved until `close` of the limit is used; `first`
    is that of the choices as they are. Steps aim at `aim` of the limit."""
    bench, limit = quota.bench, quota.limit
    rising = quota.of_loss  # whether the value grows with steps
    low, high = 0.0, inf  # the factor that is sought lies between
    factor, values = 1.0, [quota.value(first)]
    trials, bold = [first], 1.0
    for _ in range(rounds):
        value = values[-1]
        if len(values) > 1:
            before, left = values[-2] - limit, value - limit
            bold = bold * BOLDER if before * left > 0 and abs(left) > abs(before) / 2 else 1.0
        if (value <= limit) == rising:
            low = factor
        else:
            high = factor
        if value > 0:
            octaves = log2(aim * limit / value) / 2 if rising else _octaves(bench, picked, value - aim * limit)
            aimed = factor * 2.0 ** min(max(bold * octaves, -MOST), MOST)
        else:
            aimed = 2 * factor
        inside = low < aimed < high
        factor = aimed if inside else sqrt(low * high) if low and high < inf else factor * (2 if low else 0.5)
        if (low and high < inf and high / low < 1 + 2e-5) or not has_steps(bench, picked):
            break
        trials.append(try_choices(bench, scaled(bench.found, picked, factor, learnt.known), quota.goal, learnt))
        values.append(quota.value(trials[-1]))
        if close * limit <= values[-1] <= limit or _stuck([one - limit for one in values[-STUCK:]]):
            break
    return trials


def _stuck(beyond: Sequence[float]) -> bool:
    """Whether other steps have made no difference for a while, as those of weights of a few values don't: by how much
    a limit is missed, of the last trials."""
    return len(beyond) == STUCK and max(beyond) - min(beyond) <= SAME * min(map(abs, beyond))


def _octaves(bench: Bench, picked: Mapping[str, Choice], over: float) -> float:
    """By how much to widen steps to save `over` bytes: an octave saves a bit a weight, less where the rate is low."""
    free = sum(menu.weights for menu in bench.found.menus if picked[menu.name].step)
    size = sum(one.bytes for one in picked.values() if one.step)
    return 8 * over / max(free, 1) * (1 if size > free / 8 else 2)


def has_steps(bench: Bench, picked: Mapping[str, Choice]) -> bool:
    """Whether any tensor is given steps."""
    return any(picked[menu.name].step for menu in bench.found.menus)
