"""The plan of `mc auto` as a table: what each tensor got, what came second, and by how much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = (
    "tensor", "as", "step", "bytes", "loss", "bits", "bound", "loss per kB", "second", "its bytes", "its loss",
    "dearer by",
)  # fmt: skip
FEW = "tensor", "as", "bytes", "loss", "second", "dearer by"  # in a narrow terminal
MANY_TIMES = 100  # as dear: a share says nothing


def rows(plan: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """One row a tensor of a stored plan, with the names of COLUMNS; what an edited plan lacks is `-`."""
    tensors, tied = (found if isinstance(found, dict) else {} for found in (plan.get("tensors"), plan.get("tied")))
    listed = [_row(name, one) for name, one in tensors.items()]
    return listed + [_row(name, {"as": f"tied to {first}"}) for name, first in tied.items()]


def _row(name: str, found: object) -> tuple[object, ...]:
    one = found if isinstance(found, dict) else {}
    following = one.get("next")
    following = following if isinstance(following, dict) else {}
    own = (one.get(key, "-") for key in ("as", "step", "bytes", "loss", "bits", "bound", "per_kB"))
    second = (following.get(key, "-") for key in ("as", "bytes", "loss"))
    match following.get("cost"):
        case int() | float() as cost if not isinstance(cost, bool):
            dearer = f"{cost:.1%}" if cost < MANY_TIMES else "far"
        case _:
            dearer = "-"
    return (name, *own, *second, dearer)
