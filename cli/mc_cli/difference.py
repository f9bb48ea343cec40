"""What differs between two checkpoints: a line a tensor, then what one of them lacks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mc_cli import show

if TYPE_CHECKING:
    from mc.analysis.against import Difference, TensorDifference

COLUMNS = (
    "tensor", "dtype", "shape", "squared_error", "snr_db", "cosine", "max_difference", "identical", "bytes", "packed",
    "packed_given_a", "note",
)  # fmt: skip


def rows(found: Difference) -> Iterator[tuple[str, ...]]:
    """One row a tensor, with the names of COLUMNS."""
    for tensor in found.tensors:
        cells = (
            tensor.name, tensor.dtype, _shaped(tensor.shape), _figure(tensor.relative_squared_error),
            _figure(tensor.snr_db), _figure(tensor.cosine, 7), _figure(tensor.max_difference),
            _figure(tensor.identical), str(tensor.bytes), _count(tensor.alone_bytes), _count(tensor.given_a_bytes),
            _note(tensor),
        )  # fmt: skip
        yield cells
    blank = ("",) * (len(COLUMNS) - 2)
    for name in found.missing:
        yield (name, *blank, "missing: only A has it")
    for name in found.extra:
        yield (name, *blank, "extra: A has no such tensor")


def summary(found: Difference, seconds: float) -> str:
    """The closing line: how many differ, and what B would take."""
    differ = sum(1 for one in found.tensors if one.identical not in (1, None) or one.shape != one.shape_of_a)
    whole = sum(tensor.bytes for tensor in found.tensors)
    alone = sum(tensor.alone_bytes or 0 for tensor in found.tensors)
    given = sum(
        min(tensor.given_a_bytes if tensor.given_a_bytes is not None else tensor.bytes, tensor.alone_bytes or 0)
        for tensor in found.tensors
    )
    sizes = f", {show.amount(whole)} pack to {alone / whole:.4f} alone, {given / whole:.4f} given A" if whole else ""
    names = f", {len(found.missing)} missing, {len(found.extra)} extra" if found.missing or found.extra else ""
    return f"{differ} of {len(found.tensors)} tensors differ{names}{sizes}, {seconds:.2f} s"


def _note(tensor: TensorDifference) -> str:
    if tensor.shape != tensor.shape_of_a:
        return f"A's shape is {_shaped(tensor.shape_of_a)}"
    notes = [f"A's dtype is {tensor.dtype_of_a}"] if tensor.dtype != tensor.dtype_of_a else []
    notes += [f"{tensor.not_finite} places not finite"] if tensor.not_finite else []
    return ", ".join(notes) or "-"


def _shaped(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _figure(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)
