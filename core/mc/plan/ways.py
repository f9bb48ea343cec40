"""What can be done to a tensor, as a plan spells it: a scheme of `mc quantize`, alone or after a method of `mc prune`.

`grid`, `int4,group=64`; `magnitude,sparsity=0.9+grid`: zeros in place of the least weights, then a grid for those that
stay; `low-rank,rank=8+grid`: two thin matrices, each as a grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from mc.errors import UsageError, quote
from mc.lossy.methods import Method, parse_method
from mc.lossy.requests import STEPPED, Request, parse_request
from mc.schemes import LowRank, Shape, Sparse, parts

THEN = "+"
LOSSLESS = "lossless"
FIRST = ("magnitude", "wanda", "low-rank")  # methods that a grid may follow


@dataclass(frozen=True)
class Combined(Request):
    """A scheme for what a method leaves."""

    method: Method = field(default_factory=lambda: Method("magnitude"))


def parse_way(text: str) -> Request:
    """A scheme, or a method with its share or rank and a grid. UsageError says what was expected."""
    before, then, scheme = text.rpartition(THEN)
    request = parse_request(scheme)
    if not then:
        return request
    method = parse_method(before)
    settled = method.rank is not None if method.kind == "low-rank" else method.sparsity is not None
    known = method.kind in FIRST and settled and parse_method(spelled_method(method)) == method
    if not known or request.kind != "grid":
        raise UsageError(
            f"{quote(text)} isn't a method and a grid: magnitude,sparsity=S+grid, wanda,sparsity=S+grid or "
            "low-rank,rank=K+grid."
        )
    return combined(request, method)


def combined(request: Request, method: Method) -> Combined:
    """The scheme for what the method leaves."""
    return Combined(**{one.name: getattr(request, one.name) for one in fields(Request)}, method=method)


def magnitude(sparsity: float) -> Method:
    """The least magnitudes of one tensor, weighed by the plan's objective, go."""
    return parse_method(f"magnitude,sparsity={sparsity:g}")


def spelled_method(method: Method) -> str:
    """A method as `parse_way` reads it."""
    how = f"rank={method.rank}" if method.kind == "low-rank" else f"sparsity={method.sparsity:g}"
    return f"{method.kind},{how}"


def stepped(request: Request) -> bool:
    """Whether a scheme is given a step."""
    return request.kind in STEPPED


def gridded(name: str, request: Request, dtype: str, shape: Shape) -> tuple[str, ...]:
    """The tensors that get the scheme of a request for the tensor `name`: itself, or its factors."""
    if not isinstance(request, Combined):
        return (name,)
    method = request.method
    left = LowRank(method.rank or 0, False) if method.kind == "low-rank" else Sparse(method.kind)
    return tuple(parts(name, left, dtype, shape))


def spelled(request: Request | None) -> str:
    """A request as `parse_way` reads it; `lossless` without one."""
    if request is None:
        return LOSSLESS
    name = f"int{request.bits}" if request.kind == "int" else request.kind
    keys: Mapping[str, dict[str, str]] = {
        "fp8": {"format": request.to.removeprefix("F8_").lower(), "per": request.per},
        "int": {
            **({"group": str(request.group)} if request.group else {}),
            "symmetric": "yes" if request.symmetric else "no",
            "scales": "mse" if request.least_error else "absmax",
        },
        "codebook": {"codes": str(request.codes), **({"rows": str(request.rows)} if request.rows else {})},
        "nf4": {"group": str(request.group)},
        "grid": {"columns": "yes"} if request.columns else {},
        "trellis": {"effort": str(request.effort), **({"columns": "yes"} if request.columns else {})},
    }
    scheme = ",".join([name, *(f"{key}={value}" for key, value in keys.get(request.kind, {}).items())])
    return f"{spelled_method(request.method)}{THEN}{scheme}" if isinstance(request, Combined) else scheme
