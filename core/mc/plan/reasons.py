"""Why a plan is as it is: what came second for each tensor, what a byte is worth, what another size would change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mc.plan.allocate import Choice, Priced, bracket, expected_bytes, expected_loss, picks, priced, scaled, second
from mc.plan.goals import Goal
from mc.plan.learnt import Learnt
from mc.plan.plans import TIED, Plan, short
from mc.plan.survey import Survey
from mc.plan.trial import Trial
from mc.plan.ways import spelled

LITTLE = 1.1  # by how much steps are moved to see what a byte is worth
SMALLER, LARGER = 0.9, 1.1  # other sizes that are asked about
PER = 1000  # bytes that the loss of the margin is told for


def explained(found: Survey, goal: Goal, trial: Trial) -> Plan:
    """The plan of a trial with what came second, and what another size would change."""
    learnt = Learnt({}, 0.0)
    learnt.take(found, trial)
    around = moved(found, learnt, trial.plan.choices)
    points = priced(found, learnt.known)
    alpha = slope(around, found.weights) or beyond(points, found.weights, sum(trial.bytes.values()))
    why: dict[str, dict[str, Any]] = {}
    weights = found.weights
    for one in points:
        name = one.menu.name
        chosen = trial.plan.choices[name]
        number = next((k for k, curve in enumerate(one.menu.curves) if curve.request == chosen.request), 0)
        near = abs(one.steps - chosen.step) + 1e300 * (one.curve != number)
        runner = second(one, int(near.argmin()), alpha, weights)
        if runner is not None:
            other, margin = runner
            entry: dict[str, Any] = {"as": spelled(other.request), "bytes": round(other.bytes)}
            why[name] = {"next": entry | {"loss": short(other.loss), "cost": short(min(margin, 1e9))}}
        if known := figures(trial, name, chosen.loss, one.menu.weights):
            saved, lost = around[name]
            why[name] = known | ({"per_kB": short(PER * lost / saved)} if saved > 0 else {}) | why.get(name, {})
    about = {
        "goal": str(goal),
        "weights": weights,
        "alpha": short(alpha),
        "nearby": nearby(found, learnt, trial),
        **({TIED: found.twins} if found.twins else {}),
    }
    return replace(trial.plan, why=why, about={**trial.plan.about, **about})


def figures(trial: Trial, name: str, loss: float, weights: int) -> dict[str, Any]:
    """Bits a weight of a tensor of a trial, and those that no code beats at its loss; none where nothing is lost."""
    if name not in trial.bounds or not loss > 0 or not weights:
        return {}
    return {"bits": short(8 * trial.bytes[name] / weights), "bound": short(trial.bounds[name])}


def nearby(found: Survey, learnt: Learnt, trial: Trial) -> list[list[float]]:
    """Bytes and loss a tenth smaller, as expected; as it is, measured; and a tenth larger."""
    points = priced(found, learnt.known)

    def expected(factor: float) -> list[float]:
        limit = trial.size * factor - learnt.rest
        _, alpha = bracket(points, found.weights, lambda at: expected_bytes(points, at) <= limit)
        at = picks(points, alpha, found.weights)
        return [round(expected_bytes(points, at) + learnt.rest), short(expected_loss(points, at))]

    here = [trial.size, short(trial.loss / (found.most or 1.0))]
    return [expected(SMALLER), here, expected(LARGER)]


def moved(found: Survey, learnt: Learnt, picked: dict[str, Choice]) -> dict[str, tuple[float, float]]:
    """The bytes that steps a little wider save of each tensor, against a little finer ones, and the loss they add."""
    finer, wider = (scaled(found, picked, factor, learnt.known) for factor in (1 / LITTLE, LITTLE))
    return {name: (finer[name].bytes - wider[name].bytes, wider[name].loss - finer[name].loss) for name in finer}


def slope(around: dict[str, tuple[float, float]], weights: int) -> float:
    """The multiplier that choices stand for: the relative loss that one bit a weight more would save."""
    saved, lost = (sum(one[part] for one in around.values()) for part in (0, 1))
    return lost / saved * weights / 8 if saved > 0 else 0.0


def beyond(points: list[Priced], weights: int, size: int) -> float:
    """The same where no tensor has steps: the least multiplier with which no more than `size` bytes are expected."""
    return bracket(points, weights, lambda at: expected_bytes(points, at) <= size)[1]
