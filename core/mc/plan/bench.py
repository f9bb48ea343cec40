"""Where plans are tried: choices carried out, and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mc.checkpoint import Source
from mc.parallel import Workers
from mc.plan.allocate import Choice
from mc.plan.asked import Asked
from mc.plan.goals import Goal
from mc.plan.learnt import Learnt
from mc.plan.plans import Plan
from mc.plan.reasons import explained
from mc.plan.survey import Survey
from mc.plan.trial import Latest, Trial, try_plan, with_plan


@dataclass(frozen=True)
class Bench:
    """What it takes to try plans of a checkpoint."""

    sources: Sequence[Source]  # its files
    asked: Asked
    found: Survey
    work: Workers
    note: Callable[[str], None]  # is told of every trial
    latest: Latest

    @property
    def whole(self) -> int:
        """Bytes of all files."""
        return sum(source.size for source in self.sources)


def plan_of(asked: Asked, picked: dict[str, Choice]) -> Plan:
    """The plan of some choices."""
    return Plan(asked.objective, asked.seed, asked.level, picked)


def lossless(bench: Bench) -> dict[str, Choice]:
    """Every tensor as it is."""
    return {menu.name: Choice(None, 0.0, 0.0, 0.0) for menu in bench.found.menus}


def try_choices(bench: Bench, picked: dict[str, Choice], goal: Goal, learnt: Learnt) -> Trial:
    """Carry out and measure; `learnt` takes it in. The plan then says what was measured, and explains it, and sizes are
    those with it."""
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
