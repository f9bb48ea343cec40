"""A plan as a packed file holds it: a line of words for each tensor, without what the file says elsewhere.

    "encoder.0.weight": "trellis8 .98227 .0733 1.47 .00214 grid 43517 .0789 .0842"

Bytes and bits a weight follow from the lengths of blobs, the level stands in the manifest, and what has its usual
value is left out. Where even so a file were larger than one of the same numbers that `mc quantize` and `mc pack` make,
what explains is left out too: the goal, what came second, then more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mc.errors import UsageError
from mc.plan.plans import TIED, VERSION, short
from mc.plan.ways import LOSSLESS, parse_way, spelled

WORDS = "as", "step", "loss", "bound", "per_kB"  # of a line, then those of what came second
SECOND = "as", "bytes", "loss", "cost"
NONE = "-"
USUAL = {"plan": VERSION, "objective": "row", "seed": 0}
# What of a plan may be left out to save bytes, step by step: words at the end of a line; then keys above the lines.
ALL = len(WORDS) + len(SECOND)
LEFT_OUT: tuple[tuple[int, tuple[str, ...]], ...] = (
    (ALL, ()), (ALL, ("goal",)), (len(WORDS), ("goal",)), (WORDS.index("loss") + 1, ("goal",)),
    (WORDS.index("loss") + 1, ("goal", "alpha", "nearby", "weights")),
)  # fmt: skip
TRELLIS = "trellis,effort=", "trellis"  # of so many states: a word of half the length


@dataclass(frozen=True)
class Facts:
    """What a packed file says of itself besides its plan."""

    level: str  # that it was packed at
    size: int  # bytes of the file
    bytes: Mapping[str, int]  # packed, of every tensor, with all that belongs to it
    weights: Mapping[str, int]  # of every tensor
    alike: Mapping[str, str] = field(default_factory=dict)  # tensors that the file gives back from another's blobs


def brief(plan: Mapping[str, Any], weights: Mapping[str, int], alone: bool, step: int = 0) -> dict[str, Any]:
    """What a file stores of a plan, whose tensors (all in this file) have so many weights. `alone`: whether the file is
    all of the checkpoint; `step` says what may be left out (LEFT_OUT)."""
    words, dropped = LEFT_OUT[step]
    tensors = plan["tensors"]
    found = {
        key: value
        for key, value in plan.items()
        if key not in ("level", "tensors", TIED, *dropped) and not (key in USUAL and value == USUAL[key])
    }
    if found.get("weights") == sum(weights.get(name, 0) for name in tensors):
        del found["weights"]
    match found.get("nearby"):
        case [list(smaller), list(), list(larger)] if alone:
            found["nearby"] = [*smaller, *larger]
    match found.get("scores"):
        case list(rows):
            found["scores"] = [_score(row) for row in rows]
    if tensors:
        found["tensors"] = {name: _line(entry, words, weights.get(name, 0)) for name, entry in tensors.items()}
    return found


def expanded(stored: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """The plan that `brief` was given, but for what it left out; one of an earlier version of mc as it is."""
    found = dict(stored)
    listed = found.pop("tensors", {})
    tensors = {name: _entry(name, one, facts) for name, one in listed.items()} if isinstance(listed, dict) else listed
    head = {**USUAL, "level": facts.level, **found}
    if "alpha" in head and isinstance(tensors, dict):
        head.setdefault("weights", sum(facts.weights.get(name, 0) for name in tensors))
    match found.get("nearby"):
        case [int() | float() as smaller, more, int() | float() as larger, less]:
            lost = sum(one["loss"] for one in tensors.values() if isinstance(one, dict) and _is_number(one.get("loss")))
            head["nearby"] = [[smaller, more], [facts.size, short(lost)], [larger, less]]
    match found.get("scores"):
        case list(rows):
            head["scores"] = [
                [row[0], row[1], len(row) == 2] if isinstance(row, list) and len(row) in (2, 3) and row[2:] in ([], [0])
                else row for row in rows
            ]  # fmt: skip
    if isinstance(tensors, dict):
        tied = {name: first for name, first in facts.alike.items() if first in tensors and name not in tensors}
        head |= {TIED: tied} if tied else {}
    return {**head, "tensors": tensors}


def _score(row: Any) -> Any:
    match row:
        case [size, score, bool(passed)]:
            return [size, score] if passed else [size, score, 0]
    return row


def _line(entry: Any, words: int, weights: int) -> Any:
    """The line of a tensor's entry; the entry itself where people have written something else into it."""
    if not isinstance(entry, dict):
        return entry
    told = [_word(entry.get(key), key) for key in WORDS]
    following = entry.get("next")
    if isinstance(following, dict):
        told += [_word(following.get(key), key) for key in SECOND]
    line = " ".join(told)
    if _read(line, entry.get("bytes"), weights) != entry:
        return entry
    told = told[:words]
    while told[-1] == NONE:
        told.pop()
    return " ".join(told)


def _word(value: Any, key: str) -> str:
    if value is None or (key == "loss" and value == 0.0):
        return NONE
    text = str(value).replace("e-0", "e-").replace("e+0", "e+").removesuffix(".0")
    if key == "as":
        return text.replace(*TRELLIS)
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def _entry(name: str, found: Any, facts: Facts) -> Any:
    if not isinstance(found, str):
        return found
    return _read(found, facts.bytes.get(name, 0), facts.weights.get(name, 0)) or found


def _read(line: str, size: Any, weights: int) -> dict[str, Any] | None:
    """The entry of a tensor of `size` bytes that a line stands for; None for one that nothing stands for."""
    words = line.split(" ")
    try:
        told = dict(zip(WORDS, words, strict=False))
        entry: dict[str, Any] = {"as": _way(told["as"])}
        if told.get("step", NONE) != NONE:
            entry["step"] = float(told["step"])
        entry |= {"bytes": size, "loss": _number(told.get("loss", NONE))}
        if told.get("bound", NONE) != NONE:
            entry |= {"bits": short(8 * size / weights), "bound": float(told["bound"])}
        if told.get("per_kB", NONE) != NONE:
            entry["per_kB"] = float(told["per_kB"])
        if len(words) > len(WORDS):
            way, other, loss, cost = words[len(WORDS) :]
            entry["next"] = {"as": _way(way), "bytes": int(other), "loss": _number(loss), "cost": float(cost)}
    except (ValueError, TypeError, ZeroDivisionError, KeyError, OverflowError, UsageError):
        return None
    return entry


def _way(text: str) -> str:
    scheme, word = TRELLIS
    if text.startswith(word) and text[len(word) :][:1].isdecimal():
        text = scheme + text.removeprefix(word)
    return text if text == LOSSLESS else spelled(parse_way(text))


def _number(text: str) -> float:
    return 0.0 if text == NONE else float(text)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
