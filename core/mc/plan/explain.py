"""A plan in sentences that need no other knowledge than what a weight is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WORDS = {
    "grid": "weights rounded to multiples of a step",
    "trellis": "weights rounded to one of two interleaved sets of multiples, which takes fewer bits",
    "mantissa": "floats of their own type with fewer bits of mantissa",
    "bf16": "floats of 16 bits, with the range of 32",
    "fp16": "floats of 16 bits, with more digits and less range",
    "magnitude": "the smallest weights set to zero first",
    "wanda": "the weights that matter least for the layer's inputs set to zero first",
    "low-rank": "a matrix replaced by the product of two thin ones",
}
MANY_TIMES = 100.0  # as dear: beyond, a share says nothing
LARGEST = 3  # tensors that are told of one by one
CLOSE = 0.01  # of the cost: another choice would have been as good
ALIKE = 1.5  # times the least worth of a byte: what menus and measured sizes leave between tensors
FAR = 0.85  # of the size, or a size of which this is so much: where bytes leap, no tenth less or more was expected
LITTLE = 0.97  # of the size: where less can't be had, a tenth less isn't spoken of


def sentences(plan: Mapping[str, Any]) -> list[str]:
    """What a plan, as it is stored, does and why; what another size would change. Unknown or missing parts, which an
    edited plan may have, are passed over."""
    tensors = {name: one for name, one in _dict(plan.get("tensors")).items() if isinstance(one, dict)}
    return [
        *_whole(tensors, _dict(plan.get("tied"))),
        *_largest(tensors),
        *_slope(plan, tensors),
        *_nearby(plan.get("nearby")),
        *_scores(plan.get("scores")),
    ]


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def spoken(kind: object) -> str:
    """What a plan calls a candidate (`magnitude,sparsity=0.9+grid`), as people would say it; what isn't known, as it
    stands."""
    text = str(kind)
    before, _, scheme = text.rpartition("+")
    name, *keys = (before or scheme).split(",")
    given = dict(key.partition("=")[::2] for key in keys)
    if before and name in ("magnitude", "wanda"):
        share = _number_in(given.get("sparsity"))
        return text if share is None else f"{scheme} behind {100 * share:g} % zeros ({name})"
    if before and name == "low-rank":
        return f"{scheme} of two thin matrices, rank {given.get('rank')}"
    return f"{name} of {given['effort']} states" if name == "trellis" and "effort" in given else text


def _number_in(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _whole(tensors: Mapping[str, Mapping[str, Any]], tied: Mapping[str, Any]) -> list[str]:
    if not tensors:
        return ["Every tensor is stored without loss: unpacking gives the same bytes again."]
    kinds: dict[str, int] = {}
    for one in tensors.values():
        kind = spoken(one.get("as"))
        kinds[kind] = kinds.get(kind, 0) + 1
    shares = ", ".join(f"{count} as {kind}" for kind, count in sorted(kinds.items(), key=lambda item: -item[1]))
    size = sum(_number(one.get("bytes")) or 0 for one in tensors.values())
    lost = sum(_number(one.get("loss")) or 0 for one in tensors.values())
    words = [
        f"{kind}: {text}" for kind, text in WORDS.items() if any(kind in str(one.get("as")) for one in tensors.values())
    ]
    return [
        f"{_tensors(len(tensors))} could change, and {'takes' if len(tensors) == 1 else 'take'} {_amount(size)} "
        f"together: {shares}. {_tied(tied)}All others are stored without loss.",
        *([f"What these are: {'; '.join(words)}."] if words else []),
        f"{lost:.3g} of what these weights amount to is lost (squared differences, relative to storing nothing).",
        *_distance(tensors),
        *_close(tensors),
    ]


def _tied(tied: Mapping[str, Any]) -> str:
    """Which tensors are others once more."""
    if not tied:
        return ""
    named = ", ".join(f"{name} that of {first}" for name, first in list(tied.items())[:LARGEST])
    more = f", and {len(tied) - LARGEST} more" if len(tied) > LARGEST else ""
    goes = "goes" if len(tied) == 1 else "go"
    return f"{_tensors(len(tied))} with the same bytes {goes} the way of one of these: {named}{more}. "


def _tensors(count: int) -> str:
    return f"{count} tensor{'s' * (count != 1)}"


def _distance(tensors: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How far all of them together are from what no code beats."""
    known = [tuple(map(_number, (one.get("bytes"), one.get("bits"), one.get("bound")))) for one in tensors.values()]
    counted = [(8 * size / bits, bits, bound) for size, bits, bound in known if size and bits and bound is not None]
    if len(counted) < 2:
        return []
    weights = sum(one[0] for one in counted)
    bits, bound = (sum(one[0] * one[part] for one in counted) / weights for part in (1, 2))
    return [
        f"Those that lose anything take {bits:.3g} bits a weight; no code takes less than {bound:.3g} at the same "
        "loss, were weights Gaussian with the scales of their rows and columns."
    ]


def _close(tensors: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Where another candidate would have been as good."""
    costs = [_number(_dict(one.get("next")).get("cost")) for one in tensors.values()]
    known = [cost for cost in costs if cost is not None]
    close = sum(-CLOSE <= cost < CLOSE for cost in known)
    if not known:
        return []
    middle = sorted(known)[len(known) // 2]
    usual = "less" if middle < 0 else f"{middle:.0%} more" if middle < MANY_TIMES else "far more"
    return [
        f"For {close} of {_tensors(len(known))} the runner-up would cost within {CLOSE:.0%} as much, loss and bytes "
        f"together, so that the choice hardly matters; the median would cost {usual}."
    ]


def _largest(tensors: Mapping[str, Mapping[str, Any]]) -> list[str]:
    said = []
    largest = sorted(tensors.items(), key=lambda item: -(_number(item[1].get("bytes")) or 0))[:LARGEST]
    for name, one in largest:
        size, lost = _number(one.get("bytes")), _number(one.get("loss"))
        text = f"{name}: {spoken(one.get('as'))}, {_amount(size or 0)}, loss {lost or 0:.3g}."
        bits, bound = _number(one.get("bits")), _number(one.get("bound"))
        if bits is not None and bound is not None:
            text += f" It takes {bits:.3g} bits a weight, "
            text += (
                f"{bits - bound:.2g} above what no code beats."
                if bits >= bound
                else f"where weights that tell nothing of each other would need {bound:.3g}."
            )
        margin = _number(one.get("per_kB"))
        if margin is not None:
            text += f" A thousand bytes more would save {margin:.3g} of loss."
        said.append(text + _runner_up(_dict(one.get("next"))))
    if len(tensors) > LARGEST:
        said.append(
            f"These are the {LARGEST} largest; all {len(tensors)} stand in the table (`mc analyze -v`, --html, --json)."
        )
    return said


def _runner_up(one: Mapping[str, Any]) -> str:
    size, cost = _number(one.get("bytes")), _number(one.get("cost"))
    if size is None or cost is None:
        return ""
    said = f" Second came {spoken(one.get('as'))} with {_amount(size)} and loss {one.get('loss')}: "
    if cost >= MANY_TIMES:
        return said + "it would lose something, and this loses nothing."
    if cost >= 0:
        return said + f"loss and bytes together, it would cost {cost:.1%} more."
    return said + f"by itself it would cost {-cost:.1%} less, but the whole was measured to be better so."


def _slope(plan: Mapping[str, Any], tensors: Mapping[str, Any]) -> list[str]:
    alpha = _number(plan.get("alpha"))
    if not alpha or not tensors:
        return []
    weights = _number(plan.get("weights"))
    each = f" ({8000 * alpha / weights:.3g} for a thousand bytes)" if weights else ""
    margins = [one for one in (_number(_dict(tensor).get("per_kB")) for tensor in tensors.values()) if one]
    alike = not margins or max(margins) < ALIKE * min(margins)
    return [
        f"At this size one bit a weight more or less is worth {alpha:.3g} of loss{each}, "
        + (
            "for every tensor about alike: no byte would save much more in another place."
            if alike
            else f"all tensors together; of single ones, a thousand bytes {min(margins):.3g} to {max(margins):.3g}."
        )
    ]


def _nearby(found: object) -> list[str]:
    match found:
        case [
            [int() | float() as small, int() | float() as more],
            [int() | float() as size, int() | float() as here],
            [int() | float() as large, int() | float() as less],
        ] if here:
            fewer = f"({_amount(small)}) it would lose {more:.3g}" if small > FAR * size and more >= here else ""
            further = f"({_amount(large)})" if large * FAR < size < large * LITTLE and less <= here else ""
            if size and small > LITTLE * size:
                told = "It could hardly be smaller."
                return [f"{told} A tenth larger {further} it would lose {less:.3g}." if further else told]
            if fewer and further:
                return [f"A tenth smaller {fewer} instead of {here:.3g}; a tenth larger {further}, {less:.3g}."]
            if fewer:
                return [f"A tenth smaller {fewer} instead of {here:.3g}."]
            if further:
                return [f"A tenth larger {further} it would lose {less:.3g} instead of {here:.3g}."]
    return []


def _scores(found: object) -> list[str]:
    if not isinstance(found, list) or not found:
        return []
    rows = [
        one
        for one in found
        if isinstance(one, list) and len(one) == 3 and _number(one[0]) and _number(one[1]) is not None
    ]
    if not rows:
        return []
    original, *tried = rows
    passed = [one for one in tried if one[2] is True]
    best = min(passed, key=lambda one: one[0], default=None)
    said = [f"The original ({_amount(original[0])}) scores {original[1]:g}."]
    if best is not None:
        said[0] += f" The smallest candidate that passed scores {best[1]:g} and has {_amount(best[0])}, scores aside."
    failed = [one for one in tried if one[2] is not True]
    if failed:
        near = max(failed, key=lambda one: one[0])
        said.append(
            f"Of {len(tried)} candidates {len(failed)} fell short, the largest with {_amount(near[0])} at {near[1]:g}."
        )
    if tried:
        curve = ", ".join(f"{_amount(size)} {score:g}" for size, score, _ in sorted(rows, key=lambda one: -one[0]))
        said.append(f"Score by size, from large to small: {curve}.")
    return said


def _amount(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"
