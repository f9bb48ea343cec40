"""Which rows of what a scheme stored give some rows of the tensor that it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mc.recipe import Quantized
from mc.schemes import Cast, Channel, Codebook, Fp8, Grid, Int, Mantissa, Trellis, parts

Array = np.ndarray[Any, Any]


def by_rows(name: str, about: Quantized, start: int, stop: int) -> tuple[Quantized, dict[str, bool]] | None:
    """The tensor that rows `start` to `stop` (exclusive) are by themselves, and the stored tensors for them by name,
    each with whether its rows are to be cut likewise. None where rows don't stand alone: where a tensor has a single
    row, or groups and zero points run across rows."""
    listed = list(parts(name, about.scheme, about.dtype, about.shape))
    if len(about.shape) < 2 or start == stop:
        return None
    match about.scheme:
        case Cast() | Mantissa() | Channel():
            cut = set(listed)
        case Fp8(_, per):
            cut = set(listed) if per == "channel" else {listed[0]}
        case Int(_, _, True):
            cut = set(listed[:2])
        case Codebook(_, 0):
            cut = {listed[0]}
        case Grid(_, _, by_row, _) | Trellis(_, _, _, by_row, _):
            cut = set(listed[: 1 + by_row])
        case _:
            return None
    return replace(about, shape=(stop - start, *about.shape[1:])), {part: part in cut for part in listed}


def as_cut(stored: Array, rows: int, kept: int) -> Array:
    """The stored shape, rows and columns, of a tensor of `rows` of which `kept` stay; what contradicts stays as it is,
    to be refused."""
    return np.array([kept, stored[1]], stored.dtype) if int(stored[0]) == rows else stored
