"""Of each tensor what it was given in one of several trials, so that all together meet the limit: bytes and losses of
single tensors don't depend on each other, and add up exactly. So where sizes leap, as where integers need another type,
two trials on both sides of a limit are enough to use it, and no search among steps is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mc.plan.allocate import Choice, Priced, expected_bytes, expected_loss, shared
from mc.plan.quota import CLOSE, Quota
from mc.plan.trial import Trial

AIM = 0.9995  # of a limit: the header alone may differ from what is expected


def mixed(quota: Quota, trials: Sequence[Trial]) -> dict[str, Choice] | None:
    """The best choices among those of the trials, as they were measured. None where they don't meet the limit, or
    don't use it."""
    if len(trials) < 2:
        return None
    found = quota.bench.found
    points = []
    for menu in found.menus:
        given = [trial.plan.choices[menu.name] for trial in trials]
        steps, sizes, losses = np.array([(one.step, one.bytes, one.loss) for one in given]).T
        points.append(Priced(menu, np.arange(len(trials)), steps, sizes, losses))
    last = trials[-1]
    rest = 0.0 if quota.of_loss else quota.value(last) - sum(last.bytes[menu.name] for menu in found.menus)
    at = shared(points, found.weights, AIM * quota.limit - rest, quota.of_loss)
    value = rest + (expected_loss(points, at) if quota.of_loss else expected_bytes(points, at))
    if not CLOSE * quota.limit <= value <= AIM * quota.limit:
        return None
    return {menu.name: trials[number].plan.choices[menu.name] for menu, number in zip(found.menus, at, strict=True)}
