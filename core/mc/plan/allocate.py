"""One multiplier for all tensors: each takes the candidate of least loss + alpha x rate (Everett, 1963; Shoham and
Gersho, 1988), and alpha is moved until the whole meets its goal.

Loss is relative to that of storing nothing, rate is bits a weight, both of all tensors with a menu together; so alpha
is the relative loss that one bit a weight is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, TypeVar

import numpy as np

from mc.lossy.mantissas import WIDEST
from mc.lossy.requests import Request, framed
from mc.plan.curves import Curve
from mc.plan.survey import Menu, Survey

Array = np.ndarray[Any, Any]
Figures = TypeVar("Figures", float, Array)
LEAST, MOST = -60.0, 20.0  # of alpha's binary logarithm
HALVINGS = 48
TINY = 1e-300  # in place of zero, by which nothing can be divided


@dataclass(frozen=True)
class Choice:
    """What one tensor gets, and what is expected of it."""

    request: Request | None
    step: float
    bytes: float
    loss: float  # relative to that of storing nothing of any tensor


@dataclass(frozen=True)
class Factors:
    """What was measured over what had been expected, of one kind of candidate for one tensor."""

    bytes: float = 1.0
    loss: float = 1.0
    floor: float = 0.0  # loss beyond that, which no step takes away: of rows that scales don't reach, say


Known = Mapping[tuple[str, Request | None], Factors]


@dataclass(frozen=True)
class Priced:
    """The points of a menu as arrays."""

    menu: Menu
    curve: Array  # i64 [points]: which curve of the menu
    steps: Array
    bytes: Array
    losses: Array  # relative


def priced(found: Survey, known: Known) -> list[Priced]:
    """All points of all menus, corrected by what is known."""
    return [_priced(menu, found.most or 1.0, known) for menu in found.menus]


def _priced(menu: Menu, whole: float, known: Known) -> Priced:
    fine = [curve.fine for curve in menu.curves]
    factors = [known.get((menu.name, curve.request), Factors()) for curve in fine]
    losses = [(curve.losses * one.loss + one.floor) / whole for curve, one in zip(fine, factors, strict=True)]
    return Priced(
        menu,
        np.concatenate([np.full(len(curve.steps), number) for number, curve in enumerate(fine)]),
        np.concatenate([curve.steps for curve in fine]),
        np.concatenate([curve.bytes * one.bytes for curve, one in zip(fine, factors, strict=True)]),
        np.concatenate(losses),
    )


def cost(losses: Figures, sizes: Figures, alpha: float, weights: int) -> Figures:
    """Loss + alpha x bits a weight; for an alpha above 1 that over alpha, which would be beyond all numbers else."""
    return losses * min(1.0, 1 / alpha) + sizes * (min(alpha, 1.0) * 8 / max(weights, 1))


def picks(points: list[Priced], alpha: float, weights: int) -> list[int]:
    """The point of least cost of each menu."""
    return [int(np.argmin(cost(one.losses, one.bytes, alpha, weights))) for one in points]


def choices(points: list[Priced], picked: list[int]) -> dict[str, Choice]:
    """What the picked points are, by tensor."""
    return {one.menu.name: choice(one, at) for one, at in zip(points, picked, strict=True)}


def acts(picked: Mapping[str, Choice]) -> dict[str, tuple[Request | None, float]]:
    """What is done, without what is expected of it."""
    return {name: (one.request, one.step) for name, one in picked.items()}


def choice(one: Priced, at: int) -> Choice:
    """One point of a menu."""
    request = one.menu.curves[int(one.curve[at])].request
    return Choice(request, rounded(float(one.steps[at])), float(one.bytes[at]), float(one.losses[at]))


def expected_bytes(points: list[Priced], picked: list[int]) -> float:
    """Of the picked points together."""
    return sum(float(one.bytes[at]) for one, at in zip(points, picked, strict=True))


def expected_loss(points: list[Priced], picked: list[int]) -> float:
    """Of the picked points together."""
    return sum(float(one.losses[at]) for one, at in zip(points, picked, strict=True))


def bracket(points: list[Priced], weights: int, beyond: Callable[[list[int]], bool]) -> tuple[float, float]:
    """The alphas, next to each other, between which `beyond` of the picks becomes true as alpha rises: bytes fall and
    losses rise with it. Both are the least there is if it always holds, the largest if it never does."""
    low, high = LEAST, MOST
    if beyond(picks(points, 2.0**low, weights)):
        return 2.0**low, 2.0**low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if beyond(picks(points, 2.0**middle, weights)):
            high = middle
        else:
            low = middle
    return 2.0**low, 2.0**high


def filled(points: list[Priced], picked: list[int], room: float, of_loss: bool) -> list[int]:
    """The same picks, but for points that save loss for no more than `room` bytes together (`of_loss`: bytes, for no
    more loss than that), those first that save most for what they take. One multiplier leaves such room where all
    points near it are far apart."""
    at = list(picked)
    pairs = [(one.losses, one.bytes) if of_loss else (one.bytes, one.losses) for one in points]
    moves: list[tuple[float, int, int]] = []

    def offer(number: int) -> None:
        taken, left = pairs[number]
        with np.errstate(invalid="ignore"):  # a loss may be infinite: one such is no better than another
            more, saved = taken - taken[at[number]], left[at[number]] - left
        able = np.flatnonzero((more <= room) & (saved > 0))
        if len(able):
            rates = saved[able] / np.maximum(more[able], TINY)
            best = int(np.argmax(rates))
            heappush(moves, (-float(rates[best]), number, int(able[best])))

    for number in range(len(points)):
        offer(number)
    while moves:
        _, number, to = heappop(moves)
        more = float(pairs[number][0][to] - pairs[number][0][at[number]])
        if more <= room:
            at[number] = to
            room -= more
        offer(number)
    return at


def shared(points: list[Priced], weights: int, allowed: float, of_loss: bool) -> list[int]:
    """The picks of one multiplier with which no more than `allowed` bytes are expected (`of_loss`: no more loss), and
    what room they leave filled. With points that all take more, those that take least."""
    taken = expected_loss if of_loss else expected_bytes
    low, high = bracket(points, weights, lambda at: (taken(points, at) <= allowed) != of_loss)
    at = picks(points, low if of_loss else high, weights)
    return filled(points, at, allowed - taken(points, at), of_loss)


def second(one: Priced, at: int, alpha: float, weights: int) -> tuple[Choice, float] | None:
    """The best point of another kind, and by how much its cost is higher, relative to the winner's; None without
    another kind. The winner's cost may be zero: then infinite."""
    costs = cost(one.losses, one.bytes, alpha, weights)
    others = np.flatnonzero(one.curve != one.curve[at])
    if not len(others):
        return None
    best = int(others[np.argmin(costs[others])])
    margin = float(costs[best] / costs[at] - 1) if costs[at] > 0 else float("inf")
    return choice(one, best), margin


def scaled(found: Survey, picked: Mapping[str, Choice], factor: float, known: Known) -> dict[str, Choice]:
    """The same choices with all steps times `factor`."""
    moved: dict[str, Choice] = {}
    for menu in found.menus:
        one = picked[menu.name]
        curve = curve_of(menu, one.request)
        if curve is None:  # without loss, where that wasn't on the menu
            moved[menu.name] = one
            continue
        step = one.step * factor if len(curve.steps) > 1 else one.step
        moved[menu.name] = at_step(menu, curve, step, known, found.most)
    return moved


def curve_of(menu: Menu, request: Request | None) -> Curve | None:
    """The candidate of a menu that a request stands for."""
    return next((curve for curve in menu.curves if curve.request == request), None)


def at_step(menu: Menu, curve: Curve, step: float, known: Known, whole: float) -> Choice:
    """What is expected of a step that was rounded to the digits that a plan keeps."""
    step = rounded(step if framed(curve.request) else min(step, WIDEST))
    size, lost = curve.at(step)
    one = known.get((menu.name, curve.request), Factors())
    return Choice(curve.request, step, size * one.bytes, (lost * one.loss + one.floor) / (whole or 1.0))


def rounded(step: float) -> float:
    """A step to five digits: fine enough for any size, short enough to read and to edit."""
    return float(f"{step:.5g}")


def uniform(found: Survey, request: Request, step: float, known: Known) -> dict[str, Choice]:
    """One kind and one step for every tensor that has this kind on its menu; the others take what is least lossy."""
    made: dict[str, Choice] = {}
    for menu in found.menus:
        curve = curve_of(menu, request) or menu.curves[0]
        made[menu.name] = at_step(menu, curve, step if len(curve.steps) > 1 else 0.0, known, found.most)
    return made
