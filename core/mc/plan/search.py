"""The smallest file whose score stays above a limit, with few evaluations: bracket one multiplier, then refine groups.

What is known of a score is only that it tends to fall as files get smaller. So alpha is moved by octaves until one
candidate passes and the next doesn't, and the gap is halved; where scores prove noisy, it looks on beyond. Another
objective, if any, is tried at fewer bytes. Then each group of tensors gets once the chance to be coarser still: those
that are expected to lose least first, the most sensitive last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite, log2
from typing import Any

from mc.analysis.examine import group_of
from mc.errors import McError
from mc.plan.allocate import Choice, Factors, Priced, acts, bracket, choices, expected_bytes, picks, priced
from mc.plan.bench import Bench, lossless, try_choices
from mc.plan.goals import Goal
from mc.plan.learnt import Learnt
from mc.plan.trial import Trial, with_plan

START = -6.0  # binary logarithm of the first alpha: a loss of about 1 %, three to four bits a weight
OCTAVES = 2.0  # between the candidates of a bracket
CLOSE = 0.15  # octaves between the last that passes and the first that doesn't: about 0.08 bits a weight
FINEST, COARSEST = -40.0, 6.0
CHALLENGES = 0.97, 0.9, 0.82  # of the bytes of the best so far: where another objective passes, it is taken
BEYOND = 1.5, 1.0, 0.5  # octaves: where scores are noisy, looks so far on, each as often as it passes
COARSER = 2.0  # by how much alpha is larger for a group that is refined


@dataclass(frozen=True)
class Limit:
    """How far a score may be from the original's."""

    drop: float
    relative: bool  # a share of the original's score; else absolute
    lower_is_better: bool = False

    def passes(self, score: float, original: float) -> bool:
        """Whether a score is within the drop."""
        allowed = self.drop * abs(original) if self.relative else self.drop
        worse = score - original if self.lower_is_better else original - score
        return worse <= allowed * (1 + 1e-12)


@dataclass(frozen=True)
class Tried:
    """One evaluation."""

    size: int
    score: float
    passed: bool


Score = Callable[[Trial | None], float]  # of a trial, None: of the original


def search(benches: Sequence[Bench], score: Score, limit: Limit, most: int) -> tuple[Bench, Trial, list[Tried]]:
    """The smallest trial that passes, with the bench it was tried on, and all evaluations, the original's first. At
    most `most` of them are made; a checkpoint that can't lose anything is stored without loss. Benches after the first
    differ in the objective: each is taken where a file of its, a little smaller than the best so far, passes. McError
    if the original has no finite score, or none that a drop could be a share of."""
    original = score(None)
    if not isfinite(original):
        raise McError(f"The original's score is {original}, with which nothing can be compared.")
    if limit.relative and limit.drop and not original:
        raise McError("The original's score is 0, of which no share is anything: give the drop as a number, as 0.01.")
    bench = benches[0]
    whole = sum(source.size for source in bench.sources)
    log = [Tried(whole, original, True)]
    learnt = Learnt({}, 0.0)
    best = try_choices(_silent(bench), lossless(bench), Goal("lossless"), learnt)
    owner = bench
    known: dict[tuple[object, ...], bool] = {}
    if not bench.found.menus or most < 2:
        return bench, finished(best, log, limit), log

    def attempt(on: Bench, picked: dict[str, Choice], learnt: Learnt) -> bool:
        nonlocal best, owner
        act = (on.asked.objective, tuple(acts(picked).items()))
        if act in known:  # two multipliers may choose alike
            return known[act]
        trial = try_choices(_silent(on), picked, Goal("score"), learnt)
        found = score(trial)
        passed = known[act] = limit.passes(found, original)
        log.append(Tried(trial.size, found, passed))
        bench.note(f"{trial.size} bytes score {found:g}: {'within' if passed else 'beyond'} the limit")
        if passed and trial.size < best.size:
            best, owner = trial, on
        return passed

    def passes(on: Bench, learnt: Learnt) -> Callable[[float], bool]:
        return lambda at: attempt(on, at_alpha(on, learnt, 2.0**at), learnt)

    place = _bracketed(passes(bench, learnt), START, OCTAVES, most - 1)
    if noisy(log[1:], limit) and best.size < log[0].size:  # what fails by a hair may hide what passes beyond
        for further in BEYOND:
            while len(log) < most and place + further <= COARSEST and passes(bench, learnt)(place + further):
                place += further
    for other in benches[1:]:
        # Coded bytes are off alike; losses are in other units.
        theirs = Learnt({key: Factors(bytes=one.bytes) for key, one in learnt.known.items()}, learnt.rest)
        for share in CHALLENGES:
            if len(log) >= most:
                break
            bench.note(f"the objective {other.asked.objective} instead, at {share:.0%} of the bytes")
            points = priced(other.found, theirs.known)
            start = log2(alpha_of(points, other.found.weights, share * best.size - theirs.rest))
            if passes(other, theirs)(start):
                bench, learnt = other, theirs
                further = most - len(log)
                place = _bracketed(passes(other, theirs), start + OCTAVES / 4, OCTAVES / 4, further, low=start)
                break
    for picked in _refined(bench, learnt, 2.0**place, lambda: best):
        if len(log) >= most:
            break
        attempt(bench, picked, learnt)
    return owner, finished(best, log, limit), log


def noisy(log: Sequence[Tried], limit: Limit) -> bool:
    """Whether a smaller file scored better than a larger one."""
    sign = -1 if limit.lower_is_better else 1
    scores = [sign * one.score for one in sorted(log, key=lambda one: one.size)]
    return any(one > other for one, other in pairwise(scores))


def _silent(bench: Bench) -> Bench:
    return replace(bench, note=lambda _: None)


def alpha_of(points: list[Priced], weights: int, allowed: float) -> float:
    """The multiplier with which so many bytes are expected."""
    return bracket(points, weights, lambda at: expected_bytes(points, at) <= allowed)[1]


def at_alpha(bench: Bench, learnt: Learnt, alpha: float) -> dict[str, Choice]:
    """The choices of one multiplier."""
    points = priced(bench.found, learnt.known)
    return choices(points, picks(points, alpha, bench.found.weights))


def _bracketed(passes: Callable[[float], bool], start: float, stride: float, most: int, low: float = FINEST) -> float:
    """The largest binary logarithm of alpha, from `start` on by strides, that was seen to pass; `low`, which is known
    to, if none was."""
    high, place = COARSEST, start
    seen_pass, seen_fail = low > FINEST, False
    for _ in range(most):
        if passes(place):
            low, seen_pass = place, True
        else:
            high, seen_fail = place, True
        if high - low <= CLOSE:
            break
        if seen_pass and seen_fail:
            place = (low + high) / 2
        else:
            place += stride if seen_pass else -stride
            if not FINEST < place < COARSEST:
                break
    return low


def _refined(bench: Bench, learnt: Learnt, alpha: float, best: Callable[[], Trial]) -> Iterator[dict[str, Choice]]:
    """Choices that differ from the best so far in one group, which is coarser."""
    points = priced(bench.found, learnt.known)
    groups: dict[str, list[Priced]] = {}
    for one in points:
        groups.setdefault(group_of(one.menu.name), []).append(one)
    coarse = {name: choices(ones, picks(ones, COARSER * alpha, bench.found.weights)) for name, ones in groups.items()}
    near = {name: choices(ones, picks(ones, alpha, bench.found.weights)) for name, ones in groups.items()}

    def added(name: str) -> float:
        return sum(one.loss for one in coarse[name].values()) - sum(one.loss for one in near[name].values())

    for name in sorted(groups, key=added):
        if coarse[name] != near[name]:
            yield {**best().plan.choices, **coarse[name]}


def finished(trial: Trial, log: list[Tried], limit: Limit) -> Trial:
    """The trial whose plan holds the scores too."""
    shown: list[list[Any]] = [[one.size, short_score(one.score), one.passed] for one in log]
    drop = f"{100 * limit.drop:g}%" if limit.relative else f"{limit.drop:g}"
    about = {**trial.plan.about, "goal": f"drop {drop}", "scores": shown}
    return with_plan(trial, replace(trial.plan, about=about))


def short_score(score: float) -> float:
    """Six digits; 0 in place of what no JSON has, NaN and infinity."""
    return float(f"{score:.6g}") if isfinite(score) else 0.0
