"""Goals met: choices and steps are moved until what is measured, not what was expected, is just within the limit."""

from __future__ import annotations

import sys
from math import ceil, inf, log2, sqrt

import numpy as np

from mc.errors import LimitError
from mc.lossy.requests import Request, framed
from mc.plan.allocate import (
    Choice,
    acts,
    choices,
    cost,
    curve_of,
    picks,
    priced,
    scaled,
    shared,
    uniform,
)
from mc.plan.bench import Bench, lossless, plan_of, try_choices
from mc.plan.goals import Goal
from mc.plan.learnt import Learnt
from mc.plan.mixing import mixed
from mc.plan.narrow import AIM, has_steps, narrowed
from mc.plan.quota import Quota
from mc.plan.survey import Survey
from mc.plan.trial import Trial, try_plan
from mc.plan.ways import Combined, spelled

LEARNT, MOST_LEARNT = 3, 6  # rounds in which kinds may change; more only after a disappointment
DISAPPOINTED = 1.5  # times as much loss, or bytes, as were expected
SURPRISE = 0.97  # of what was measured: where less is expected of other choices, they are tried too
MOST_ALPHA = sys.float_info.max  # with which bytes alone count
HOPELESS = 1.1  # by how much worse an alternative may be expected to be, and still is tried
# What is left of the limit in the end: with few weights trials take no time, and half a per cent of bytes that single
# schemes may use is more than a choice by tensor may save.
FULL, FULL_AIM = 0.9995, 0.9998
FULL_ROUNDS = (1 << 20, 8), (1 << 22, 3)  # for so many weights at most


def meet(bench: Bench, goal: Goal) -> Trial:
    """The best plan that meets the goal, tried. LimitError where none does."""
    quota = Quota(bench, goal)
    if not bench.found.menus:
        return _without_menus(quota)
    learnt = Learnt({}, 0.0)
    # First what all else takes, which no menu knows, and what each tensor takes as it is.
    exact = try_choices(bench, lossless(bench), goal, learnt)
    free = all(curve_of(menu, None) is not None for menu in bench.found.menus)
    if goal.kind == "alpha":
        return min([*cheapest(bench, goal, goal.value), *([exact] if free else [])], key=quota.cost)
    if free and not quota.of_loss and quota.fits(exact):
        return exact
    trials = _allocated(quota, learnt)
    # Sampling may err by a little, and one step for all is never far off: it is tried as well.
    for request in _stepped(bench.found):
        before, others = quota.best(trials), _common(quota, request, learnt, trials)
        after = quota.best(others)
        if after is not None and (before is None or quota.worth(after) < quota.worth(before)):
            bench.note(f"one step of {spelled(request)} for all tensors is better than what was expected to be best")
        trials += others
    best = quota.best([*trials, exact] if free else trials)
    return _topped(quota, best, learnt) if best is not None else _least(quota, trials, learnt)


def _without_menus(quota: Quota) -> Trial:
    bench = quota.bench
    trial = try_plan(bench.sources, plan_of(bench.asked, {}), bench.work, bench.latest)
    if quota.goal.kind in ("size", "ratio") and not quota.fits(trial):
        raise LimitError(
            f"{bench.sources[0].where} takes at least {trial.size} bytes, and {int(quota.limit)} are allowed: every "
            "tensor in it stays as it is. Name those that may change with --set."
        )
    return trial


def _allocated(quota: Quota, learnt: Learnt) -> list[Trial]:
    """Kinds and steps by one multiplier, tried and corrected."""
    bench = quota.bench
    trials: list[Trial] = []
    picked: dict[str, Choice] = {}
    disappointed = True
    for number in range(MOST_LEARNT):
        if number >= LEARNT and not disappointed:
            break
        again = _allotted(quota, learnt)
        met = quota.best([one for one in trials if quota.near(one)])
        if met is not None and quota.hoped(again, learnt) > SURPRISE * quota.worth(met):
            break  # what was measured is about what can be expected
        if met is None and (mixture := mixed(quota, trials)) is not None:
            again = mixture
        if trials and acts(again) == acts(picked):
            break
        hoped, picked = quota.hoped(again, learnt), again
        trials.append(try_choices(bench, picked, quota.goal, learnt))
        disappointed = quota.worth(trials[-1]) > DISAPPOINTED * hoped
    if not any(map(quota.near, trials)):
        trials += narrowed(quota, picked, trials[-1], learnt)
    return trials


def _allotted(quota: Quota, learnt: Learnt) -> dict[str, Choice]:
    """What is expected to be best under the limit."""
    found, limit = quota.bench.found, AIM * quota.limit
    points = priced(found, learnt.known)
    allowed = limit if quota.of_loss else limit - quota.rest(learnt)
    return _trimmed(quota, choices(points, shared(points, found.weights, allowed, quota.of_loss)), learnt)


def _trimmed(quota: Quota, picked: dict[str, Choice], learnt: Learnt) -> dict[str, Choice]:
    """Steps a little finer (coarser, for an error), so that what is allowed is used: points of menus are not dense."""
    found = quota.bench.found
    best = scaled(found, picked, 1.0, learnt.known)
    low, high = (1.0, 1.5) if quota.of_loss else (1.0, 1 / 1.5)
    for _ in range(24):
        middle = sqrt(low * high)
        moved = scaled(found, picked, middle, learnt.known)
        if quota.expected(moved, learnt) <= AIM * quota.limit:
            low, best = middle, moved
        else:
            high = middle
    return best


def _common(quota: Quota, request: Request, learnt: Learnt, before: list[Trial]) -> list[Trial]:
    """One step for all, tried; nothing where nothing is to be hoped from it."""
    found = quota.bench.found

    def fits(step: float) -> bool:
        return quota.expected(uniform(found, request, step, learnt.known), learnt) <= AIM * quota.limit

    usual = sorted(curve.steps[len(curve.steps) // 2] for menu in found.menus for curve in menu.curves
                   if curve.request == request)  # fmt: skip
    unit = float(usual[len(usual) // 2])
    low, high = log2(unit) - 30, log2(unit) + 30
    for _ in range(48):
        middle = (low + high) / 2
        if fits(2.0**middle) == quota.of_loss:
            low = middle
        else:
            high = middle
    widest = 2.0 ** (low if quota.of_loss else high)
    if not framed(request) and not fits(widest):  # a mantissa takes bytes however few bits it has
        return []
    picked = uniform(found, request, widest, learnt.known)
    best = quota.best(before)
    if quota.hoped(picked, learnt) > HOPELESS * (quota.worth(best) if best is not None else inf):
        return []
    first = try_choices(quota.bench, picked, quota.goal, learnt)
    return [first] if quota.near(first) else narrowed(quota, picked, first, learnt)


def _topped(quota: Quota, best: Trial, learnt: Learnt) -> Trial:
    """The same with steps so that next to nothing of the limit is left, where that takes little time."""
    rounds = next((count for weights, count in FULL_ROUNDS if quota.bench.found.weights <= weights), 0)
    picked = best.plan.choices
    if not rounds or quota.value(best) >= FULL * quota.limit or not has_steps(quota.bench, picked):
        return best
    return quota.best(narrowed(quota, picked, best, learnt, FULL, FULL_AIM, rounds)) or best


def _least(quota: Quota, trials: list[Trial], learnt: Learnt) -> Trial:
    """The smallest there is, or a little more if that is allowed. LimitError, with what is the least, if even that is
    too much."""
    bench, where = quota.bench, quota.bench.sources[0].where
    if quota.of_loss:
        raise LimitError(
            f"The least loss of {where} that was found is {upwards(min(map(quota.value, trials)))}, and the limit is "
            f"{quota.limit:g}. Allow more, or keep other tensors."
        )
    smallest = least(quota)
    if not quota.fits(smallest):
        size, allowed = f"{smallest.size} bytes", f"{int(quota.limit)}"
        if quota.goal.kind == "bits":
            bits = 8 * quota.value(smallest) / bench.found.weights
            size, allowed = f"{upwards(bits)} bits a weight", f"{quota.goal.value:g}"
        raise LimitError(
            f"The least that {where} was found to take is {size}, and the goal allows {allowed}. Ask for more, or keep "
            "fewer tensors."
        )
    return quota.best(narrowed(quota, smallest.plan.choices, smallest, learnt)) or smallest


def least(quota: Quota) -> Trial:
    """The candidates of fewest bytes. What comes out depends on no limit, so that every limit from its size on is
    met."""
    return min(cheapest(quota.bench, Goal("least"), MOST_ALPHA), key=quota.value)


def cheapest(bench: Bench, goal: Goal, alpha: float) -> list[Trial]:
    """Trials of the candidates of least cost: as expected, as corrected by what these were measured to take, and the
    cheaper one of both for each tensor."""
    learnt, weights = Learnt({}, 0.0), bench.found.weights
    trials: list[Trial] = []
    for _ in range(2):
        points = priced(bench.found, learnt.known)
        trials.append(try_choices(bench, choices(points, picks(points, alpha, weights)), goal, learnt))
    each = {
        name: min((one.plan.choices[name] for one in trials), key=lambda one: cost(one.loss, one.bytes, alpha, weights))
        for name in trials[0].bytes
    }
    if all(acts(each) != acts(one.plan.choices) for one in trials):
        trials.append(try_choices(bench, each, goal, learnt))
    return trials


def upwards(figure: float) -> str:
    """Four digits that are no less than the figure."""
    unit = 10.0 ** (np.floor(log2(figure) / log2(10)) - 3) if figure > 0 else 1.0
    return f"{ceil(figure / unit) * unit:.4g}"


def _stepped(found: Survey) -> list[Request]:
    """The kinds with steps that any tensor has; what is pruned first is of single tensors."""
    curves = (curve for menu in found.menus for curve in menu.curves if len(curve.steps) > 1)
    return list(dict.fromkeys(c.request for c in curves if c.request and not isinstance(c.request, Combined)))
