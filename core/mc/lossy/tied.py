"""What is done to tensors that are tied: the same to all of them, so that they stay tied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from mc.errors import UsageError, quote
from mc.lossy.requests import matches

Wish = TypeVar("Wish")  # how a tensor is to be quantized, or pruned


@dataclass(frozen=True)
class Tied(Generic[Wish]):
    """What is done to a checkpoint, by tensor."""

    wanted: dict[str, Wish]
    stay: dict[str, str]  # tensors that stay although something was meant for them, and the one that they stay for
    masked: dict[str, str]  # tensors that take the mask of another, and that other


def groups(twins: Mapping[str, str]) -> list[list[str]]:
    """Tensors that are tied, the first of each group first. `twins`: tensors that are an earlier one once more, and
    that one."""
    found: dict[str, list[str]] = {}
    for name, first in twins.items():
        found.setdefault(first, [first]).append(name)
    return list(found.values())


def parted(twins: Mapping[str, str], said: Mapping[str, object], keep: Sequence[str]) -> dict[str, str]:
    """Those that stay tied: not the ones of which something else was `said`, by name, than of one before them. Where a
    pattern of `keep` fits one of them, all stay tied to it."""
    found = dict(twins)
    for names in groups(twins):
        heard = speaker(names, said)
        if heard is None or any(matches(pattern, name) for pattern in keep for name in names):
            continue
        for name in names:
            if name in said and said[name] != said[heard]:
                found.pop(name, None)
    return found


def speaker(names: Sequence[str], said: Mapping[str, object]) -> str | None:
    """Of tensors that are tied, the first of which something was `said`, by name; None if nothing was."""
    return next((name for name in names if name in said), None)


def together(
    twins: Mapping[str, str], wanted: Mapping[str, Wish], said: Mapping[str, Wish], keep: Sequence[str],
    masks: Iterable[str] = (),
) -> Tied[Wish]:  # fmt: skip
    """What is done so that tensors that are tied stay tied: nothing where a pattern of `keep` fits one of them, else
    the mask that is listed for any, else what is `said` of any by name, else what the first is to get."""
    found: Tied[Wish] = Tied(dict(wanted), {}, {})
    listed = set(masks)
    for names in groups(twins):
        kept = [name for name in names if any(matches(pattern, name) for pattern in keep)]
        with_mask = [name for name in names if name in listed]
        heard = None if kept or with_mask else speaker(names, said)
        leader = (with_mask or [heard or names[0]])[0]
        wish = None if kept else wanted.get(leader)
        for name in names:
            if wish is not None:
                found.wanted[name] = wish
                if with_mask and name not in with_mask:
                    found.masked[name] = leader
            elif found.wanted.pop(name, None) is not None:
                found.stay[name] = (kept or names)[0]
    return found


def refuse_held(plans: Iterable[tuple[Mapping[str, object], Mapping[str, str]]], where: str, nothing: str) -> None:
    """UsageError if nothing is wanted of any file, as all stays tied to what stays. `plans`: what is wanted by tensor,
    and tensors that stay for another."""
    stay: dict[str, str] = {}
    for wanted, tied in plans:
        if wanted:
            return
        stay |= tied
    name, first = next(iter(stay.items()), ("", ""))
    raise UsageError(f"{where} has {nothing} {quote(name)} stays, tied to {quote(first)}.")
