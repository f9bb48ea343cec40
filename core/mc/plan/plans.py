"""A plan as a file: what each tensor gets, readable, to be edited and carried out again.

Tensors that aren't listed stay as they are. Of an entry only `as` and `step` count when a plan is carried out; all
else in it explains.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mc.errors import DamagedError, UsageError, quote
from mc.lossy.recipe import OBJECTIVES
from mc.packing import LEVELS
from mc.plan.allocate import Choice
from mc.plan.ways import LOSSLESS, parse_way, spelled, stepped
from mc.strict_json import describe, parse_json

VERSION = 1


@dataclass(frozen=True)
class Plan:
    """What is done to a checkpoint."""

    objective: str
    seed: int
    level: str
    choices: dict[str, Choice]  # by tensor
    why: dict[str, dict[str, Any]] = field(default_factory=dict)  # by tensor, for people: what came second, say
    about: dict[str, Any] = field(default_factory=dict)  # for people: the goal, what another size would cost


def written(plan: Plan) -> dict[str, Any]:
    """The plan as JSON, in the order of the file's tensors."""
    tensors: dict[str, Any] = {}
    for name, one in plan.choices.items():
        entry: dict[str, Any] = {"as": spelled(one.request)}
        if one.step:
            entry["step"] = one.step
        entry |= {"bytes": round(one.bytes), "loss": short(one.loss), **plan.why.get(name, {})}
        tensors[name] = entry
    head = {"plan": VERSION, "objective": plan.objective, "seed": plan.seed, "level": plan.level}
    return {**head, **plan.about, "tensors": tensors}


def dumped(plan: Mapping[str, Any]) -> str:
    """The text of a plan file, of what `written` gave: one line a tensor."""
    found = dict(plan)
    tensors = found.pop("tensors")
    lines = [f"  {_json(key)}: {_json(value)}," for key, value in found.items()]
    listed = [f"    {_json(name)}: {_json(entry)}" for name, entry in tensors.items()]
    return "\n".join(["{", *lines, '  "tensors": {', *filter(None, [",\n".join(listed)]), "  }", "}", ""])


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def short(value: float) -> float:
    """Three digits: what people read."""
    return float(f"{value:.3g}")


def loaded(data: bytes, where: str) -> Plan:
    """A plan from its file. DamagedError, naming what is wrong, for anything else."""
    found = parse_json(data, where)
    match found:
        case {
            "plan": int(version), "objective": str(objective), "seed": int(seed), "level": str(level),
            "tensors": dict(tensors), **about,
        } if version == VERSION and objective in OBJECTIVES and level in LEVELS and seed >= 0:  # fmt: skip
            entries = {name: _entry(name, entry, where) for name, entry in tensors.items()}
            choices = {name: one for name, (one, _) in entries.items()}
            why = {name: more for name, (_, more) in entries.items() if more}
            return Plan(objective, seed, level, choices, why, {str(key): value for key, value in about.items()})
    raise DamagedError(
        f"{where} is no plan of `mc auto`: it needs plan (1), objective, seed, level and tensors as --plan-out writes "
        "them. Write it again."
    )


def _entry(name: str, found: object, where: str) -> tuple[Choice, dict[str, Any]]:
    match found:
        case {"as": str(text), **more}:
            step, size, lost = (_figure(more.pop(key, 0.0), name, where) for key in ("step", "bytes", "loss"))
            try:
                request = None if text == LOSSLESS else parse_way(text)
            except UsageError as error:
                raise DamagedError(f"{where}: tensor {quote(name)}: {error}") from error
            if request is not None and stepped(request) != (step > 0):
                wanted = "needs a step above 0" if stepped(request) else "takes no step"
                raise DamagedError(f"{where}: tensor {quote(name)} is to be {quote(text)}, which {wanted}.")
            return Choice(request, step, size, lost), {str(key): one for key, one in more.items()}
    raise DamagedError(f"{where}: tensor {quote(name)} is {describe(found)}, where an object with `as` belongs.")


def _figure(found: object, name: str, where: str) -> float:
    if type(found) not in (int, float) or not 0 <= float(str(found)) < 2.0**120:
        raise DamagedError(f"{where}: tensor {quote(name)} has {describe(found)}, where a number belongs.")
    return float(str(found))
