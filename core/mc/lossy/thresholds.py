"""The threshold of a multiplier with which a limit is met: by halves over the bits of scores, then by single ranks.

Weights are so many that some threshold comes within half a per cent of any limit; of low ranks each step is a whole
component, which may be more than what is left. Then the components next to the threshold are tried one by one, those of
smaller tensors among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
CLOSE = 0.995  # of a limit: near enough
MOST_TRIED = 12  # single components, at the end


@dataclass(frozen=True)
class Met:
    """Where a search has ended."""

    least: int  # the bits of the score that stays
    reached: float  # what the limit is of


def settled(
    measure: Callable[[int], float], limit: float, good: int, bad: int, live: Callable[[int, int], bool]
) -> Met:
    """Between a threshold that meets the limit and one that doesn't, the one that meets it closest; the search ends
    where it is near enough, or where nothing that is `live` has a score from the lower one on and below the higher.
    Measures are of a threshold's bits."""
    reached = 0.0
    while abs(good - bad) > 1 and reached < CLOSE * limit and live(min(good, bad), max(good, bad)):
        middle = (good + bad) // 2
        found = measure(middle)
        if found <= limit:
            good, reached = middle, found
        else:
            bad = middle
    return Met(good, reached)


def by_components(
    measure: Callable[[Mapping[str, int]], float], limit: float, met: Met, scores: Mapping[str, Array],
    costs: Callable[[str, int], float], fewer: bool,
) -> dict[str, int]:  # fmt: skip
    """The threshold of each low rank, from the one that all have met with: components next to it are let go one by
    one (if `fewer`), or let in, as long as the limit is met. scores: bits of a tensor's components, falling; costs:
    about what the component of a tensor with these bits takes of the limit."""
    cuts = dict.fromkeys(scores, met.least)
    reached, refused = met.reached, set[str]()
    for _ in range(MOST_TRIED):
        if reached >= CLOSE * limit:
            break
        nearest: list[tuple[float, str, int]] = []
        for name, bits in scores.items():
            if name in refused:
                continue
            staying = int((bits >= cuts[name]).sum())
            if fewer and staying:
                score = int(bits[staying - 1])
                nearest.append((costs(name, score), name, score + 1))
            elif not fewer and staying < len(bits) and bits[staying] > 0:
                nearest.append((costs(name, int(bits[staying])), name, int(bits[staying])))
        fitting = [one for one in nearest if one[0] <= limit - reached]
        if not fitting:
            break
        _, name, cut = max(fitting)  # the one that leaves least
        found = measure(cuts | {name: cut})
        if found <= limit:
            cuts[name], reached = cut, max(found, reached)
        else:
            refused.add(name)
    return cuts
