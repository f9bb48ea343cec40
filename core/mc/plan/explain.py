"""A plan in sentences that need no other knowledge than what a weight is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WORDS = {
    "grid": "weights rounded to multiples of a step",
    "trellis": "the same with two interleaved sets of multiples, which takes fewer bits",
    "bf16": "floats of 16 bits, with the range of 32",
    "fp16": "floats of 16 bits, with more digits and less range",
    "magnitude": "the smallest weights set to zero first",
    "wanda": "the weights that matter least for the layer's inputs set to zero first",
    "low-rank": "a matrix replaced by the product of two thin ones",
}
MANY_TIMES = 100.0  # as dear: beyond, a share says nothing
LARGEST = 3  # tensors that are told of one by one


def sentences(plan: Mapping[str, Any]) -> list[str]:
    """What a plan, as it is stored, does and why; what another size would change. Unknown or missing parts, which an
    edited plan may have, are passed over."""
    tensors = {name: one for name, one in _dict(plan.get("tensors")).items() if isinstance(one, dict)}
    return [
        *_whole(tensors),
        *_tensors(tensors),
        *_slope(plan, tensors),
        *_nearby(plan.get("nearby")),
        *_scores(plan.get("scores")),
    ]


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(tensors: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not tensors:
        return ["Every tensor is stored without loss: unpacking gives the same bytes again."]
    kinds: dict[str, int] = {}
    for one in tensors.values():
        kinds[str(one.get("as"))] = kinds.get(str(one.get("as")), 0) + 1
    shares = ", ".join(f"{count} as {kind}" for kind, count in sorted(kinds.items(), key=lambda item: -item[1]))
    size = sum(_number(one.get("bytes")) or 0 for one in tensors.values())
    lost = sum(_number(one.get("loss")) or 0 for one in tensors.values())
    words = [f"{kind}: {text}" for kind, text in WORDS.items() if any(kind in part for part in kinds)]
    return [
        f"{len(tensors)} tensors could change, and take {_amount(size)} together: {shares}. All others are stored "
        "without loss.",
        *([f"What these are: {'; '.join(words)}."] if words else []),
        f"{lost:.3g} of what these weights amount to is lost (squared differences, relative to storing nothing).",
    ]


def _tensors(tensors: Mapping[str, Mapping[str, Any]]) -> list[str]:
    said = []
    largest = sorted(tensors.items(), key=lambda item: -(_number(item[1].get("bytes")) or 0))[:LARGEST]
    for name, one in largest:
        size, lost = _number(one.get("bytes")), _number(one.get("loss"))
        following = _dict(one.get("next"))
        other, cost = _number(following.get("bytes")), _number(following.get("cost"))
        text = f"{name}: {one.get('as')}, {_amount(size or 0)}, loss {lost or 0:.3g}."
        bits, bound = _number(one.get("bits")), _number(one.get("bound"))
        if bits is not None and bound is not None:
            text += (
                f" It takes {bits:.3g} bits a weight; no code takes less than {bound:.3g} at this loss, were weights "
                "Gaussian with the scales of their rows and columns."
            )
        if other is not None and cost is not None:
            text += f" Second came {following.get('as')} with {_amount(other)} and loss {following.get('loss')}: "
            if cost >= MANY_TIMES:
                text += "it would lose something, and this loses nothing."
            elif cost >= 0:
                text += f"loss and bytes together, it would cost {cost:.0%} more."
            else:
                text += "a bargain by itself, but with it the whole would miss its goal."
        said.append(text)
    return said


def _slope(plan: Mapping[str, Any], tensors: Mapping[str, Any]) -> list[str]:
    alpha = _number(plan.get("alpha"))
    if not alpha or not tensors:
        return []
    weights = _number(plan.get("weights"))
    each = f" ({8000 * alpha / weights:.3g} for a thousand bytes)" if weights else ""
    return [
        f"At this size one bit a weight more or less is worth {alpha:.3g} of loss{each}, for every tensor alike: "
        "no byte would save more in another place."
    ]


def _nearby(found: object) -> list[str]:
    match found:
        case [
            [int() | float() as small, int() | float() as more],
            [_, int() | float() as here],
            [int() | float() as large, int() | float() as less],
        ] if here:
            return [
                f"A tenth smaller ({_amount(small)}) it would lose {more:.3g} instead of {here:.3g}; a tenth larger "
                f"({_amount(large)}), {less:.3g}."
            ]
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
        said[0] += f" The smallest file within the limit has {_amount(best[0])} and scores {best[1]:g}."
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
