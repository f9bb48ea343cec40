"""Integers that would come back infinite, moved towards zero: of weights near the end of their type, the nearest
multiple of a step may lie beyond it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
LARGEST = {"F16": 65504.0, "BF16": (2 - 2.0**-7) * 2.0**127}
STEP = 2.0**127  # widest step of any row: a number of f32
TRIES = 8  # one is enough but for errors that are fed back, and for steps as wide as the type's largest number


def inwards(q: Array, apart: int, restored: Callable[[Array], Array]) -> Array:
    """The integers [rows, cols] that are nearest to q, `apart` from each other, with which nothing that is `restored`
    is infinite; rows of zeros where that takes long. `apart` is 2 where lowest bits must stay as they are."""
    q = q.copy()
    for _ in range(TRIES):
        beyond = ~np.isfinite(restored(q)).reshape(q.shape)
        if not beyond.any():
            return q
        q[beyond] -= (apart * np.sign(q[beyond])).astype(q.dtype)
    q[beyond.any(axis=1)] = 0
    return q


def largest_of(dtype: str) -> float:
    """The largest finite number of a tensor's dtype; of F64 that of f32, in which we calculate."""
    return LARGEST.get(dtype, (2 - 2.0**-23) * 2.0**127)
