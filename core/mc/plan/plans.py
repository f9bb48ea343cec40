"""A plan as a file: what each tensor gets, readable, to be edited and carried out again.

Tensors that aren't listed stay as they are. Of an entry only `as` and `step` count when a plan is carried out; all
else in it explains.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mc.errors import DamagedError, UsageError, quote
from mc.packing import LEVELS
from mc.plan.allocate import Choice
from mc.plan.ways import LOSSLESS, parse_way, spelled, stepped
from mc.recipe import OBJECTIVES
from mc.strict_json import describe, parse_json

VERSION = 1
FINEST, MOST = 2.0**-120, 2.0**120  # steps that a plan may ask for: no weights are so close or so far apart
TIED = "tied"  # the key under which a plan tells of tensors that go the way of another, and of that


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
    if not isinstance(found, dict):
        raise DamagedError(f"{where} is {describe(found)}, where a plan as --plan-out writes it was expected.")
    about = dict(found)

    def taken(key: str, fits: Callable[[Any], bool], expected: str) -> Any:
        if key not in about:
            raise DamagedError(f"{where} is no plan of `mc auto`: it has no {key}, which is {expected}.")
        value = about.pop(key)
        if not fits(value):
            raise DamagedError(f"{where}: {key} is {describe(value)}, where {expected} was expected.")
        return value

    taken("plan", lambda one: type(one) is int and one == VERSION, f"{VERSION}, the version of this mc,")
    objective = taken("objective", lambda one: one in OBJECTIVES, f"one of {', '.join(OBJECTIVES)}")
    seed = taken("seed", lambda one: type(one) is int and 0 <= one < 2**63, "a whole number from 0 to 2^63 - 1")
    level = taken("level", lambda one: one in LEVELS, f"one of {', '.join(LEVELS)}")
    tensors = taken("tensors", lambda one: isinstance(one, dict), "an object with an entry for each tensor")
    entries = {name: _entry(f"{where}: tensor {quote(name)}", entry) for name, entry in tensors.items()}
    choices = {name: one for name, (one, _) in entries.items()}
    why = {name: more for name, (_, more) in entries.items() if more}
    return Plan(objective, seed, level, choices, why, about)


def _entry(at: str, found: object) -> tuple[Choice, dict[str, Any]]:
    """What is done to the tensor that messages call `at`, and what else is said of it."""
    if not isinstance(found, dict):
        raise DamagedError(f'{at} is {describe(found)}, where an object such as {{"as": "bf16"}} was expected.')
    more = dict(found)
    text = more.pop("as", None)
    if not isinstance(text, str):
        has = f"has {describe(text)} for `as`" if "as" in found else "has no `as`"
        raise DamagedError(f'{at} {has}, where the text of a scheme was expected, such as "bf16" or "{LOSSLESS}".')
    try:
        request = None if text == LOSSLESS else parse_way(text)
    except UsageError as error:
        raise DamagedError(f"{at}: {error}") from error
    wants = request is not None and stepped(request)
    if wants != ("step" in more):
        raise DamagedError(f"{at} is to be {quote(text)}, which {'needs a step' if wants else 'takes no step'}.")
    step = _figure(at, "step", more.pop("step"), FINEST) if wants else 0.0
    size, lost = (_figure(at, key, more.pop(key, 0.0), 0.0) for key in ("bytes", "loss"))
    return Choice(request, step, size, lost), more


def _figure(at: str, key: str, found: object, least: float) -> float:
    if type(found) not in (int, float) or not least <= float(str(found)) <= MOST:
        raise DamagedError(
            f"{at} has {describe(found)} for `{key}`, where a number from {least:.3g} to {MOST:.3g} was expected."
        )
    return float(str(found))
