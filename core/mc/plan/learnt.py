"""What trials of plans have shown of single candidates: measured over expected."""

from __future__ import annotations

from dataclasses import dataclass

from mc.lossy.requests import Request, framed
from mc.plan.allocate import Factors, curve_of
from mc.plan.survey import Survey
from mc.plan.trial import Trial
from mc.plan.ways import Combined

FARTHEST = 2.0  # that an expectation is corrected


@dataclass
class Learnt:
    """What trials have shown: the one thing here that changes."""

    known: dict[tuple[str, Request | None], Factors]
    rest: float  # bytes that no menu can change: headers, and tensors that stay

    def take(self, survey: Survey, trial: Trial) -> None:
        """Correct what is expected by what a trial measured."""
        whole = survey.most or 1.0
        for menu in survey.menus:
            one = trial.plan.choices[menu.name]
            curve = curve_of(menu, one.request)
            if curve is None:
                continue
            size, lost = curve.at(one.step)
            found = trial.losses[menu.name]
            floor = max(found - FARTHEST * lost, 0.0)
            self.known[menu.name, one.request] = Factors(
                min(max(trial.bytes[menu.name] / size, 1 / FARTHEST), FARTHEST) if size > 0 else 1.0,
                min(max(found / lost, 1 / FARTHEST), FARTHEST) if lost > 1e-12 * whole else 1.0,
                floor,
            )
            if framed(one.request):  # all these have the same scales, and single ones cost about the same
                size_of = self.known[menu.name, one.request].bytes
                for other in menu.curves:
                    if framed(other.request):
                        alike = not isinstance(one.request, Combined) and not isinstance(other.request, Combined)
                        factors = Factors(size_of if alike else 1.0, floor=floor)
                        self.known.setdefault((menu.name, other.request), factors)
        self.rest = trial.size - sum(trial.bytes[menu.name] for menu in survey.menus)
