"""What was asked for: a scheme as text, which tensors it is for, and the limit that it is to meet."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import inf
from typing import TypeVar

from mc.checkpoint import Tensor
from mc.errors import UsageError, quote
from mc.schemes import EFFORTS, FLOATS, MOST_CODES, NF4_GROUP

KEYS = {
    "bf16": (), "fp16": (), "fp8": ("format", "per"), "int": ("group", "symmetric", "scales"),
    "codebook": ("codes", "rows"), "nf4": ("group",), "grid": ("columns",), "trellis": ("effort", "columns"),
    "mantissa": (),
}  # fmt: skip
SCHEMES = "bf16, fp16, fp8, int2 to int8, codebook, nf4, grid, trellis or mantissa"
Asked = TypeVar("Asked")  # how a tensor is to be quantized, or pruned
YES_NO = {"yes": True, "no": False}
MOST_GROUPED = 2**31 - 1  # columns or rows that share something
FORMATS = {"e4m3": "F8_E4M3", "e5m2": "F8_E5M2"}


@dataclass(frozen=True)
class Request:
    """A scheme as the user asks for it."""

    kind: str  # a key of KEYS
    bits: int = 0  # of int
    group: int = 0  # columns of int; numbers of nf4
    symmetric: bool = True
    least_error: bool = False  # scales of int by least squared error
    to: str = "F8_E4M3"  # of fp8
    per: str = "channel"
    codes: int = 16
    rows: int = 0  # that share a codebook; 0: all
    columns: bool = False  # whether columns of a grid or trellis have scales
    effort: int = 8  # states of a trellis
    standard: bool = False  # whether readers of compressed-tensors must load it: a grid as bytes, linear layers alone


FRAMED = ("grid", "trellis")  # kinds whose steps are those of rows and columns
STEPPED = (*FRAMED, "mantissa")  # kinds whose step a target settles


def framed(request: Request | None) -> bool:
    """Whether it is a grid or a trellis, behind whatever method."""
    return request is not None and request.kind in FRAMED


@dataclass(frozen=True)
class Target:
    """The limit to meet. UsageError for one that is no number above 0."""

    kind: str  # error, bits (a weight) or size (bytes of the packed file)
    value: float
    overall: bool = False  # error: pooled over all tensors; else in each

    def __post_init__(self) -> None:
        if not 0 < self.value < inf:
            raise UsageError(f"The limit {self.kind} is {self.value}, where a number above 0 belongs.")


def parse_request(text: str, **defaults: int | str) -> Request:
    """`int4,group=128`, `fp8,format=e5m2`, `codebook,codes=8`: a scheme and its keys; `defaults` are for keys that
    aren't given and that the scheme has. UsageError says what was expected."""
    name, *given = text.split(",")
    whole = re.fullmatch(r"int([2-8])", name)
    kind = "int" if whole else name
    if kind not in KEYS or name == "int":
        raise UsageError(f"The scheme {quote(name)} isn't one of {SCHEMES}.")
    request = Request(kind, bits=int(whole[1]) if whole else 0, group=NF4_GROUP if kind == "nf4" else 0)
    settings = {key: str(value) for key, value in defaults.items() if key in KEYS[kind]}
    seen: set[str] = set()
    for setting in given:
        key, equals, value = setting.partition("=")
        if not equals or key not in KEYS[kind]:
            known = f"it has {' and '.join(KEYS[kind])}" if KEYS[kind] else "it has no keys"
            raise UsageError(f"The scheme {quote(text)} has {quote(setting)}; {known}, each as key=value.")
        if key in seen:
            raise UsageError(f"The scheme {quote(text)} has {key} twice.")
        seen.add(key)
        settings[key] = value
    for key, value in settings.items():
        request = _set(request, key, value)
    return request


def _set(request: Request, key: str, value: str) -> Request:
    match key, value:
        case "format", ("e4m3" | "e5m2"):
            return replace(request, to=FORMATS[value])
        case "per", ("channel" | "tensor"):
            return replace(request, per=value)
        case "symmetric", ("yes" | "no"):
            return replace(request, symmetric=YES_NO[value])
        case "columns", ("yes" | "no"):
            return replace(request, columns=YES_NO[value])
        case "scales", ("absmax" | "mse"):
            return replace(request, least_error=value == "mse")
        case "group", _ if _between(1, value, MOST_GROUPED):
            return replace(request, group=int(value))
        case "effort", _ if _between(1, value, MOST_GROUPED) and int(value) in EFFORTS:
            return replace(request, effort=int(value))
        case "codes", _ if _between(2, value, MOST_CODES):
            return replace(request, codes=int(value))
        case "rows", _ if _between(1, value, MOST_GROUPED):
            return replace(request, rows=int(value))
    expected = {
        "format": "e4m3 or e5m2", "per": "channel or tensor", "scales": "absmax or mse",
        "codes": f"a number from 2 to {MOST_CODES}", "group": f"a number from 1 to {MOST_GROUPED}",
        "rows": f"a number from 1 to {MOST_GROUPED}",
        "effort": "4, 8, 64 or 256",
    }  # fmt: skip
    raise UsageError(f"{key}={value} was given, where {key} is {expected.get(key, 'yes or no')}.")


def _between(least: int, value: str, most: int) -> bool:
    """Whether this is a number from `least` to `most`; thousands of digits aren't read."""
    return value.isdecimal() and len(value) <= len(str(most)) and least <= int(value) <= most


def spelled(request: Request) -> str:
    """The scheme in short, for people."""
    return f"int{request.bits}" if request.kind == "int" else request.kind


def matches(pattern: str, name: str) -> bool:
    """Whether a glob, or a regular expression behind `re:`, fits the whole name."""
    if pattern.startswith("re:"):
        try:
            return re.fullmatch(pattern[3:], name) is not None
        except re.error as error:
            raise UsageError(f"{quote(pattern)} is no regular expression: {error}.") from error
    return fnmatchcase(name, pattern)


def assign(
    tensors: Iterable[Tensor], default: Asked | None, sets: Sequence[tuple[str, Asked]], keeps: Sequence[str]
) -> tuple[dict[str, Asked], set[str]]:
    """The request for each tensor that is to be quantized or pruned; and the patterns that fit any, those of `sets`
    any of floats. The last of `sets` that fits counts; what `keeps` names stays. Without being asked for, tensors of
    fewer than two dimensions stay, norms and biases among them."""
    wanted: dict[str, Asked] = {}
    used: set[str] = set()
    for tensor in tensors:
        kept = [pattern for pattern in keeps if matches(pattern, tensor.name)]
        asked = [(pattern, request) for pattern, request in sets if matches(pattern, tensor.name)]
        used.update(kept)
        if tensor.dtype not in FLOATS or tensor.start == tensor.stop:
            continue
        used.update(pattern for pattern, _ in asked)
        if kept:
            continue
        last = tensor.name.rpartition(".")[2]
        if asked:
            wanted[tensor.name] = asked[-1][1]
        elif default is not None and len(tensor.shape) > 1 and last != "bias":
            wanted[tensor.name] = default
    return wanted, used
