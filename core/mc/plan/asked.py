"""What the user asks of single tensors, and which tensors stay as they are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from mc.checkpoint import Tensor
from mc.errors import McError, UsageError, quote
from mc.lossy.requests import Request, matches
from mc.lossy.statistics import Statistics
from mc.lossy.tied import groups, speaker
from mc.plan.ways import spelled
from mc.schemes import FLOATS

SMALLEST = 256  # weights: fewer aren't worth a scheme's own header entries
AS_ASKED, UNFIT = "kept as asked", "no floats of 16 bits or more"  # why tensors stay
NORM = re.compile(r"(?i)(^|[._/])(layer_?norm|batch_?norm|group_?norm|rms_?norm|norm|ln|bn)(\d*|_\w+)($|[._/])|norm")
STATE = re.compile(r"(?i)(^|[._/])(optimizer|optim|exp_avg(_sq)?|momentum(_buffer)?|adam_?[mv]|master)($|[._/])")


@dataclass(frozen=True)
class Asked:
    """What the user wants of single tensors, and how candidates are judged."""

    objective: str
    seed: int
    level: str
    sets: tuple[tuple[str, Request | None], ...] = ()  # None: whatever is best
    keep: tuple[str, ...] = ()
    statistics: Statistics | None = None  # of layer inputs, for the objectives diag and gram


def refuse_twice(names: Sequence[str]) -> None:
    """McError for a name that two shards have: what is said of it could be of either."""
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise McError(f"Two shards have a tensor {quote(twice)}. Give each a name of its own.")


def refuse_unused(tensors: Sequence[Tensor], asked: Asked, where: str) -> None:
    """UsageError for a pattern that fits no tensor, or of `sets` none that could change."""
    every = [one.name for one in tensors]
    floats = [one.name for one in tensors if one.dtype in FLOATS and one.start < one.stop]
    sets = [(pattern, floats, "tensor of floats") for pattern, _ in asked.sets]
    for pattern, names, kind in sets + [(pattern, every, "tensor") for pattern in asked.keep]:
        if not any(matches(pattern, name) for name in names):
            raise UsageError(f"{where} has no {kind} whose name fits {quote(pattern)}. `mc analyze` lists the names.")


def refuse_lossy(tensors: Sequence[Tensor], asked: Asked, where: str) -> None:
    """UsageError where all is to stay as it is, and something else is asked of tensors, or anything of none."""
    refuse_unused(tensors, asked, where)
    for pattern, request in asked.sets:
        if request is not None:
            raise UsageError(f"Nothing is to be lost, and {quote(pattern)} is set to {quote(spelled(request))}.")


def by_name(tensors: Sequence[Tensor], asked: Asked) -> dict[str, Request | None]:
    """What is asked of tensors by name: the last of what fits."""
    wishes = {one.name: [wish for pattern, wish in asked.sets if matches(pattern, one.name)] for one in tensors}
    return {name: found[-1] for name, found in wishes.items() if found}


def settled(
    tensors: Sequence[Tensor], twins: Mapping[str, str], asked: Asked, said: Mapping[str, Request | None], state: bool
) -> tuple[dict[str, str], dict[str, Request | None]]:
    """Tensors that stay, and why; and what is asked of others by name. What is `said` of one goes for all that are tied
    to it, and a pattern that keeps one keeps all."""
    chosen = dict(said)
    kept = {one.name: reason for one in tensors if (reason := why_kept(one, asked, one.name in chosen, state))}
    for names in groups(twins):
        reasons = [kept.get(name) for name in names]
        if UNFIT in reasons:
            continue
        if AS_ASKED in reasons:
            first = names[reasons.index(AS_ASKED)]
            kept |= {name: f"tied to {first}" for name in names if kept.get(name) != AS_ASKED}
            continue
        heard = speaker(names, chosen)
        if heard is not None:
            chosen |= dict.fromkeys(names, chosen[heard])
        for name in names:  # as the first does
            if heard is not None or reasons[0] is None:
                kept.pop(name, None)
            else:
                kept[name] = reasons[0] if name == names[0] else f"tied to {names[0]}"
    return kept, chosen


def why_kept(tensor: Tensor, asked: Asked, chosen: bool, state: bool) -> str:
    """Why a tensor stays as it is, by name, dtype and shape, and by whether something is chosen for it by name; empty
    if it may change."""
    if any(matches(pattern, tensor.name) for pattern in asked.keep):
        return AS_ASKED
    if tensor.start == tensor.stop:
        return "empty"
    if tensor.dtype not in FLOATS:
        return UNFIT
    if chosen:
        return ""
    if state:
        return "part of a training state"
    if tensor.name.rpartition(".")[2] == "bias":
        return "a bias"
    if NORM.search(tensor.name):
        return "part of a norm"
    if len(tensor.shape) < 2:
        return "of fewer than two dimensions"
    return "small" if prod(tensor.shape) < SMALLEST else ""
