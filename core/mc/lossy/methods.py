"""How to prune, as text and as plain data: the method, its keys, and the limit that it is to meet."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from mc.errors import UsageError, quote
from mc.schemes import Shape, matrix

BLOCKED = ("sparsity", "scope")
RANKS = ("rank", "energy", "share")  # of which one says it all
KEYS = {
    "magnitude": BLOCKED, "pattern": (), "wanda": (*BLOCKED, "pattern"), "obs": ("sparsity", "pattern"),
    "block": (*BLOCKED, "size"), "rows": BLOCKED, "columns": BLOCKED, "heads": (*BLOCKED, "size", "axis"),
    "channels": BLOCKED, "low-rank": ("rank", "energy", "share", "residual"), "mask": (),
}  # fmt: skip
METHODS = "magnitude, N:M, wanda, obs, block, rows, columns, heads, channels or low-rank"
SCOPES = ("global", "tensor", "row")
WIDEST_PATTERN = 64  # M of N:M
NEED_STATS = ("wanda", "obs")


@dataclass(frozen=True)
class Method:
    """A way to prune a tensor, as it was asked for."""

    kind: str  # a key of KEYS
    sparsity: float | None = None  # share of weights that are to be zero
    scope: str = "global"  # in which it holds and scores are compared
    keep: int = 0  # N of N:M; 0: no pattern
    of: int = 0
    size: tuple[int, int] = (0, 0)  # rows and columns of a block; of heads, the first
    axis: str = "rows"  # along which heads lie
    rank: int | None = None
    energy: float | None = None  # share of the squares that a low rank keeps
    share: float | None = None  # of the parameters that it has
    residual: float = 0.0  # share of weights that stand beside it


def parse_method(text: str, **defaults: object) -> Method:
    """`magnitude,sparsity=0.5,scope=row`, `2:4`, `block,size=4x4`: a method and its keys; `defaults` are for keys that
    aren't given and that the method has. UsageError says what was expected."""
    name, *given = text.split(",")
    method = _pattern(Method("pattern"), name) if ":" in name else Method(name)
    if name in ("pattern", "mask") or method.kind not in KEYS:
        raise UsageError(f"The method {quote(name)} isn't one of {METHODS}.")
    if method.kind in NEED_STATS:
        method = replace(method, scope="row")  # as both are defined
    known = KEYS[method.kind]
    settings = {key: str(value) for key, value in defaults.items() if key in known and value is not None}
    for setting in given:
        key, equals, value = setting.partition("=")
        if not equals or key not in known:
            listed = f"it has {' and '.join(known)}, each as key=value" if known else "it has no keys"
            raise UsageError(f"The method {quote(text)} has {quote(setting)}; {listed}.")
        settings[key] = value
    if any(setting.partition("=")[0] in RANKS for setting in given):  # one that is given excludes the defaults
        settings = {k: v for k, v in settings.items() if k not in RANKS or f"{k}={v}" in given}
    for key, value in settings.items():
        method = _set(method, key, value)
    if method.kind in ("block", "heads") and not method.size[0]:
        raise UsageError(
            f"The method {method.kind} needs its size: {'size=4x4' if method.kind == 'block' else 'size=64'}."
        )
    if method.kind == "low-rank" and sum(one is not None for one in (method.rank, method.energy, method.share)) > 1:
        raise UsageError("Only one of rank, energy and share can be met at once.")
    return method


def _set(method: Method, key: str, value: str) -> Method:
    number = _number(value)
    match key:
        case "sparsity" if _is_share(number):
            return replace(method, sparsity=number)
        case "energy" if _is_share(number):
            return replace(method, energy=number)
        case "share" if _is_share(number):
            return replace(method, share=number)
        case "residual" if number is not None and _is_share(number):
            return replace(method, residual=number)
        case "scope" if value in SCOPES:
            return replace(method, scope=value)
        case "axis" if value in ("rows", "columns"):
            return replace(method, axis=value)
        case "rank" if value.isdecimal() and len(value) < 11 and 1 <= int(value) < 2**31:
            return replace(method, rank=int(value))
        case "pattern":
            return _pattern(method, value)
        case "size":
            found = re.fullmatch(r"(\d{1,9})(?:x(\d{1,9}))?", value)
            size = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
            if min(size) >= 1 and (method.kind == "block" or (found and not found[2])):
                return replace(method, size=size)
    expected = {
        "scope": "global, tensor or row", "axis": "rows or columns", "rank": "a number from 1",
        "size": "a number of rows and of columns, such as 4x4" if method.kind == "block" else "a number from 1",
    }  # fmt: skip
    raise UsageError(f"{key}={value} was given, where {key} is {expected.get(key, 'a number from 0 to 1')}.")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _is_share(number: float | None) -> bool:
    return number is not None and 0 <= number <= 1


def _pattern(method: Method, text: str) -> Method:
    found = re.fullmatch(r"(\d{1,3}):(\d{1,3})", text)
    if not found or not 1 <= int(found[1]) < int(found[2]) <= WIDEST_PATTERN:
        raise UsageError(f"{quote(text)} isn't N:M with 1 <= N < M <= {WIDEST_PATTERN}, such as 2:4: N of M remain.")
    return replace(method, keep=int(found[1]), of=int(found[2]))


def spelled(method: Method) -> str:
    """The method in short, for people."""
    pattern = f"{method.keep}:{method.of}" if method.keep else ""
    if method.kind == "pattern":
        return pattern
    if method.kind == "block":
        return f"block {method.size[0]}x{method.size[1]}"
    return f"{method.kind} {pattern}".strip()


def unit_of(method: Method, shape: Shape) -> tuple[int, int]:
    """Rows and columns of what is pruned as one, in the tensor as a matrix."""
    rows, cols = matrix(shape)
    match method.kind:
        case "block":
            return min(method.size[0], rows), min(method.size[1], cols)
        case "rows":
            return 1, cols
        case "columns":
            return rows, 1
        case "heads":
            return (min(method.size[0], rows), cols) if method.axis == "rows" else (rows, min(method.size[0], cols))
        case "channels":
            return rows, cols // shape[1] if len(shape) > 1 else 1
    return 1, 1


def is_free(method: Method) -> bool:
    """Whether it is left to an allocation how much goes: no pattern decides, nor a number that was given."""
    given = (method.sparsity, method.rank, method.energy, method.share)
    return method.kind != "mask" and not method.keep and all(one is None for one in given)
