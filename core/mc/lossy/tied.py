"""What is done to tensors that are tied: the same to all of them, so that they stay tied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mc.lossy.methods import Method
from mc.lossy.requests import matches


@dataclass(frozen=True)
class Tied:
    """How a checkpoint is pruned, by tensor."""

    wanted: dict[str, Method]
    stay: dict[str, str]  # tensors that stay although a method was meant for them, and the one that they stay for
    masked: dict[str, str]  # tensors that take the mask of another, and that other


def together(twins: Mapping[str, str], wanted: Mapping[str, Method], keep: Sequence[str]) -> Tied:
    """The methods with which tensors that are tied stay tied: none where a pattern of `keep` fits one of them, else the
    mask that is listed for any, else that of the first. `twins`: tensors that are an earlier one once more, and that
    one."""
    groups: dict[str, list[str]] = {}
    for name, first in twins.items():
        groups.setdefault(first, [first]).append(name)
    found = Tied(dict(wanted), {}, {})
    for first, names in groups.items():
        kept = [name for name in names if any(matches(pattern, name) for pattern in keep)]
        with_mask = [name for name in names if name in wanted and wanted[name].kind == "mask"]
        method = None if kept else wanted.get((with_mask or names)[0])
        for name in names:
            if method is not None:
                found.wanted[name] = method
                if with_mask and name not in with_mask:
                    found.masked[name] = with_mask[0]
            elif found.wanted.pop(name, None) is not None:
                found.stay[name] = (kept or [first])[0]
    return found
