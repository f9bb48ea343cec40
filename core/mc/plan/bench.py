"""Where plans are tried: choices carried out and measured, and what a goal limits of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from mc.checkpoint import Source
from mc.parallel import Workers
from mc.plan.allocate import Choice
from mc.plan.goals import Goal
from mc.plan.learnt import Learnt
from mc.plan.plans import Plan
from mc.plan.reasons import explained
from mc.plan.survey import Asked, Survey
from mc.plan.trial import Latest, Trial, try_plan, with_plan

CLOSE = 0.9955  # of a limit: near enough


@dataclass(frozen=True)
class Bench:
    """Where plans are tried."""

    sources: Sequence[Source]
    asked: Asked
    found: Survey
    work: Workers
    note: Callable[[str], None]
    latest: Latest

    @property
    def whole(self) -> int:
        """Bytes of all files."""
        return sum(source.size for source in self.sources)


@dataclass(frozen=True)
class Quota:
    """A limit as a number, and what is to be small under it: the loss under one of bytes, bytes under one of loss."""

    bench: Bench
    goal: Goal

    @property
    def of_loss(self) -> bool:
        """Whether the limit is one of loss, which wider steps raise; else of bytes, which they lower."""
        return self.goal.kind == "error"

    @property
    def limit(self) -> float:
        """The loss or the bytes that are allowed."""
        if self.goal.kind == "ratio":
            return self.bench.whole / self.goal.value
        return self.goal.value * self.bench.found.weights / 8 if self.goal.kind == "bits" else self.goal.value

    def value(self, trial: Trial) -> float:
        """What is limited, measured."""
        if self.of_loss:
            return trial.loss / (self.bench.found.most or 1.0)
        return float(sum(trial.bytes.values()) if self.goal.kind == "bits" else trial.size)

    def rest(self, learnt: Learnt) -> float:
        """Bytes under the limit besides those of the tensors that may change."""
        return 0.0 if self.goal.kind == "bits" else learnt.rest

    def expected(self, picked: Mapping[str, Choice], learnt: Learnt) -> float:
        """What is limited, before it is tried."""
        if self.of_loss:
            return sum(one.loss for one in picked.values())
        return sum(one.bytes for one in picked.values()) + self.rest(learnt)

    def worth(self, trial: Trial) -> float:
        """What is to be small, measured."""
        return float(trial.size) if self.of_loss else trial.loss / (self.bench.found.most or 1.0)

    def hoped(self, picked: Mapping[str, Choice], learnt: Learnt) -> float:
        """What is to be small, before it is tried."""
        if self.of_loss:
            return sum(one.bytes for one in picked.values()) + learnt.rest
        return sum(one.loss for one in picked.values())

    def cost(self, trial: Trial) -> float:
        """Loss and bytes together, where the goal is a multiplier."""
        bits = 8 * trial.size / max(self.bench.found.weights, 1)
        return trial.loss / (self.bench.found.most or 1.0) + self.goal.value * bits

    def fits(self, trial: Trial) -> bool:
        """Whether the limit is met."""
        return self.value(trial) <= self.limit

    def near(self, trial: Trial) -> bool:
        """Whether it is met, and used."""
        return CLOSE * self.limit <= self.value(trial) <= self.limit

    def best(self, trials: Sequence[Trial]) -> Trial | None:
        """The best of those that meet the limit; None if none does."""
        return min(filter(self.fits, trials), key=self.worth, default=None)


def plan_of(asked: Asked, picked: dict[str, Choice]) -> Plan:
    """The plan of some choices."""
    return Plan(asked.objective, asked.seed, asked.level, picked)


def lossless(bench: Bench) -> dict[str, Choice]:
    """Every tensor as it is."""
    return {menu.name: Choice(None, 0.0, 0.0, 0.0) for menu in bench.found.menus}


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
