"""Goals met: choices and steps are moved until what is measured, not what was expected, is just within the limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, log2, sqrt

from mc.checkpoint import Source
from mc.errors import LimitError
from mc.lossy.requests import Request
from mc.parallel import Workers
from mc.plan.allocate import (
    Choice,
    Priced,
    bracket,
    choices,
    expected_bytes,
    expected_loss,
    picks,
    priced,
    scaled,
    uniform,
)  # fmt: skip
from mc.plan.goals import Goal
from mc.plan.learnt import Learnt
from mc.plan.plans import Plan
from mc.plan.reasons import explained
from mc.plan.survey import Asked, Survey
from mc.plan.trial import Latest, Trial, try_plan, with_plan
from mc.plan.ways import Combined, spelled

CLOSE = 0.9955  # of a limit: near enough
AIM = 0.998  # of a limit, where something is only expected
LEARNT = 3  # rounds in which kinds may change; then only steps do
SURPRISE = 0.97  # of what was measured: where less is expected of other choices, they are tried too
ROUNDS = 16
STUCK = 5  # trials in a row without a difference, after which no more are made
SAME = 0.2  # of what is missing to the limit: no difference
HOPELESS = 1.1  # by how much worse an alternative may be expected to be, and still is tried


@dataclass(frozen=True)
class Bench:
    """Where plans are tried."""

    sources: Sequence[Source]
    asked: Asked
    found: Survey
    work: Workers
    note: Callable[[str], None]
    latest: Latest


def meet(bench: Bench, goal: Goal) -> Trial:
    """The best plan that meets the goal, tried. LimitError where none does."""
    whole = sum(source.size for source in bench.sources)
    if not bench.found.menus:
        return _without_menus(bench, goal, whole)
    learnt = Learnt({}, 0.0)
    best = _allocated(bench, goal, learnt, whole)
    if goal.kind == "alpha":
        return best
    # Sampling may err by a little, and one step for all is never far off: it is tried as well.
    for request in _stepped(bench.found):
        other = _common(bench, goal, request, learnt, whole, best)
        if other is not None and _better(other, best, goal):
            bench.note(f"one step of {spelled(request)} for all tensors is better than what was expected to be best")
            best = other
    return best


def _without_menus(bench: Bench, goal: Goal, whole: int) -> Trial:
    trial = try_plan(bench.sources, plan_of(bench.asked, {}), bench.work, bench.latest)
    limit = _limit(goal, bench.found, whole)
    if goal.kind in ("size", "ratio") and trial.size > limit:
        raise LimitError(
            f"{bench.sources[0].where} takes at least {trial.size} bytes, and {int(limit)} are allowed: every tensor "
            "in it stays as it is. Name those that may change with --set."
        )
    return trial


def plan_of(asked: Asked, picked: dict[str, Choice]) -> Plan:
    """The plan of some choices."""
    return Plan(asked.objective, asked.seed, asked.level, picked)


def _allocated(bench: Bench, goal: Goal, learnt: Learnt, whole: int) -> Trial:
    """Kinds and steps by one multiplier, tried and corrected."""
    if goal.kind == "alpha":
        points = priced(bench.found, learnt.known)
        return try_choices(bench, choices(points, picks(points, goal.value, bench.found.weights)), goal, learnt)
    trials: list[Trial] = []
    met: list[Trial] = []
    picked: dict[str, Choice] = {}
    for _ in range(LEARNT):
        points = priced(bench.found, learnt.known)
        alpha = _multiplier(points, goal, bench, learnt, whole)
        again = _trimmed(bench, choices(points, picks(points, alpha, bench.found.weights)), goal, learnt, whole)
        if met and _worth(again, goal, learnt) > SURPRISE * _worth_of(bench, _best(met, goal), goal):
            break  # what was measured is about what can be expected
        picked = again
        trials.append(try_choices(bench, picked, goal, learnt))
        if _near(_value(bench, trials[-1], goal), goal, bench, whole):
            met.append(trials[-1])
    return _best(met, goal) if met else _narrowed(bench, picked, trials, goal, learnt, whole)


def _best(trials: Sequence[Trial], goal: Goal) -> Trial:
    return min(trials, key=lambda one: one.size if goal.kind == "error" else one.loss)


def _worth(picked: dict[str, Choice], goal: Goal, learnt: Learnt) -> float:
    """What is to be small, as expected: bytes under an error, else the loss."""
    if goal.kind == "error":
        return sum(one.bytes for one in picked.values()) + learnt.rest
    return sum(one.loss for one in picked.values())


def _worth_of(bench: Bench, trial: Trial, goal: Goal) -> float:
    """The same as measured."""
    return float(trial.size) if goal.kind == "error" else trial.loss / (bench.found.most or 1.0)


def _common(bench: Bench, goal: Goal, request: Request, learnt: Learnt, whole: int, best: Trial) -> Trial | None:
    """One step for all; None where the goal can't be met with it, or nothing is to be hoped from it."""
    found = bench.found

    def fits(step: float) -> bool:
        return _expected(uniform(found, request, step, learnt.known), goal, learnt) <= AIM * _limit(goal, found, whole)

    usual = sorted(curve.steps[len(curve.steps) // 2] for menu in found.menus for curve in menu.curves
                   if curve.request == request)  # fmt: skip
    unit = float(usual[len(usual) // 2])
    rising = goal.kind == "error"
    low, high = log2(unit) - 30, log2(unit) + 30
    for _ in range(48):
        middle = (low + high) / 2
        if fits(2.0**middle) == rising:
            low = middle
        else:
            high = middle
    picked = uniform(found, request, 2.0 ** (low if rising else high), learnt.known)
    if _worth(picked, goal, learnt) > HOPELESS * _worth_of(bench, best, goal):
        return None
    try:
        trials = [try_choices(bench, picked, goal, learnt)]
        if _near(_value(bench, trials[-1], goal), goal, bench, whole):
            return trials[-1]
        return _narrowed(bench, picked, trials, goal, learnt, whole)
    except LimitError:
        return None


def _narrowed(
    bench: Bench, picked: dict[str, Choice], trials: list[Trial], goal: Goal, learnt: Learnt, whole: int
) -> Trial:
    """The same kinds, with all steps times a factor that is moved until the goal is just met."""
    limit = _limit(goal, bench.found, whole)
    rising = goal.kind == "error"  # whether the value grows with steps
    low, high = 0.0, inf  # factors known as too small and too large a value's side
    factor, value = 1.0, _value(bench, trials[-1], goal)
    for _ in range(ROUNDS):
        if (value <= limit) == rising:
            low = factor
        else:
            high = factor
        if value > 0:
            aimed = factor * (
                sqrt(AIM * limit / value) if rising else _wider(bench, picked, factor, value - AIM * limit)
            )
        else:
            aimed = 2 * factor
        inside = low < aimed < high
        factor = aimed if inside else sqrt(low * high) if low and high < inf else factor * (2 if low else 0.5)
        if (low and high < inf and high / low < 1 + 2e-5) or not _has_steps(bench, picked):
            break
        trials.append(try_choices(bench, scaled(bench.found, picked, factor, learnt.known), goal, learnt))
        value = _value(bench, trials[-1], goal)
        if _near(value, goal, bench, whole) or _stuck([_value(bench, one, goal) - limit for one in trials[-STUCK:]]):
            break
    fitting = [one for one in trials if _value(bench, one, goal) <= limit]
    if not fitting:
        least = min(_value(bench, one, goal) for one in trials)
        raise LimitError(_missed(bench, goal, least, limit))
    return _best(fitting, goal)


def _stuck(beyond: list[float]) -> bool:
    """Whether other steps have made no difference for a while, as those of weights of a few values don't: by how much
    a limit is missed, of the last trials."""
    return len(beyond) == STUCK and max(beyond) - min(beyond) <= SAME * min(map(abs, beyond))


def _wider(bench: Bench, picked: dict[str, Choice], factor: float, over: float) -> float:
    """By how much to widen steps to save `over` bytes: an octave saves a bit a weight, less where the rate is low."""
    free = sum(menu.weights for menu in bench.found.menus if picked[menu.name].step)
    size = sum(one.bytes for one in picked.values() if one.step)
    change = 8 * over / max(free, 1) * (1 if size > free / 8 else 2)
    return float(2.0 ** min(max(change, -4.0), 4.0))


def _has_steps(bench: Bench, picked: dict[str, Choice]) -> bool:
    return any(picked[menu.name].step for menu in bench.found.menus)


def _trimmed(bench: Bench, picked: dict[str, Choice], goal: Goal, learnt: Learnt, whole: int) -> dict[str, Choice]:
    """Steps a little finer (coarser, for an error), so that what is allowed is used: points of menus are not dense."""
    best = scaled(bench.found, picked, 1.0, learnt.known)
    if goal.kind == "alpha":
        return best
    limit = AIM * _limit(goal, bench.found, whole)
    low, high = (1.0, 1.5) if goal.kind == "error" else (1.0, 1 / 1.5)
    for _ in range(24):
        middle = sqrt(low * high)
        moved = scaled(bench.found, picked, middle, learnt.known)
        if _expected(moved, goal, learnt) <= limit:
            low, best = middle, moved
        else:
            high = middle
    return best


def try_choices(bench: Bench, picked: dict[str, Choice], goal: Goal, learnt: Learnt) -> Trial:
    """Carry out and measure; the plan then says what was measured, and explains it, and sizes are those with it."""
    trial = try_plan(bench.sources, plan_of(bench.asked, picked), bench.work, bench.latest)
    whole = bench.found.most or 1.0
    measured = {
        name: replace(one, bytes=float(trial.bytes[name]), loss=trial.losses[name] / whole)
        for name, one in trial.plan.choices.items()
    }
    learnt.take(bench.found, trial)
    final = with_plan(trial, explained(bench.found, goal, replace(trial, plan=plan_of(bench.asked, measured))))
    learnt.take(bench.found, final)
    bench.note(f"tried {final.size} bytes: loss {final.loss / whole:.4g}")
    return final


def _limit(goal: Goal, found: Survey, whole: int) -> float:
    if goal.kind == "ratio":
        return whole / goal.value
    return goal.value * found.weights / 8 if goal.kind == "bits" else goal.value


def _expected(picked: dict[str, Choice], goal: Goal, learnt: Learnt) -> float:
    if goal.kind == "error":
        return sum(one.loss for one in picked.values())
    return sum(one.bytes for one in picked.values()) + (0 if goal.kind == "bits" else learnt.rest)


def _value(bench: Bench, trial: Trial, goal: Goal) -> float:
    """What the goal limits, measured."""
    if goal.kind == "error":
        return trial.loss / (bench.found.most or 1.0)
    return float(sum(trial.bytes.values()) if goal.kind == "bits" else trial.size)


def _multiplier(points: list[Priced], goal: Goal, bench: Bench, learnt: Learnt, whole: int) -> float:
    """The alpha with which the goal is expected to be just met."""
    limit = AIM * _limit(goal, bench.found, whole)
    if goal.kind == "error":
        return bracket(points, bench.found.weights, lambda at: expected_loss(points, at) > limit)[0]
    rest = 0.0 if goal.kind == "bits" else learnt.rest
    return bracket(points, bench.found.weights, lambda at: expected_bytes(points, at) + rest <= limit)[1]


def _near(value: float, goal: Goal, bench: Bench, whole: int) -> bool:
    limit = _limit(goal, bench.found, whole)
    return CLOSE * limit <= value <= limit


def _better(one: Trial, other: Trial, goal: Goal) -> bool:
    return one.size < other.size if goal.kind == "error" else one.loss < other.loss


def _stepped(found: Survey) -> list[Request]:
    """The kinds with steps that any tensor has; what is pruned first is of single tensors."""
    curves = (curve for menu in found.menus for curve in menu.curves if len(curve.steps) > 1)
    return list(dict.fromkeys(c.request for c in curves if c.request and not isinstance(c.request, Combined)))


def _missed(bench: Bench, goal: Goal, least: float, limit: float) -> str:
    where = bench.sources[0].where
    if goal.kind == "error":
        return (
            f"The least loss of {where} that was found is {least:.3g}, and the limit is {limit:g}. Allow more, or keep "
            "other tensors."
        )
    return (
        f"The least that {where} was found to take is {int(least)} bytes, and the goal allows {int(limit)}. Ask for "
        "more, or keep fewer tensors."
    )
