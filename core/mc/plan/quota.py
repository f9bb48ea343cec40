"""What a goal limits, as a number, and how near to it a plan comes, expected or measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mc.plan.allocate import Choice, cost
from mc.plan.bench import Bench
from mc.plan.goals import Goal
from mc.plan.learnt import Learnt
from mc.plan.trial import Trial

CLOSE = 0.9955  # of a limit: near enough


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
        found = self.bench.found
        return cost(trial.loss / (found.most or 1.0), float(trial.size), self.goal.value, found.weights)

    def fits(self, trial: Trial) -> bool:
        """Whether the limit is met."""
        return self.value(trial) <= self.limit

    def near(self, trial: Trial) -> bool:
        """Whether it is met, and used."""
        return CLOSE * self.limit <= self.value(trial) <= self.limit

    def best(self, trials: Sequence[Trial]) -> Trial | None:
        """The best of those that meet the limit; None if none does."""
        return min(filter(self.fits, trials), key=self.worth, default=None)
