"""Tensors whose bytes an earlier one has too, of whatever dtype and shape; within a file, pack stores them once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from mc.analysis.reading import Item

COMPARED = 1 << 20  # bytes compared at once
FIRST = 1 << 12  # before all others: nearly all that differ do so there


class Earlier:
    """The different tensors seen so far."""

    def __init__(self) -> None:
        self._of_size: dict[int, list[tuple[Item, str]]] = {}

    def twin(self, item: Item, digest: str) -> Item | None:
        """The first tensor with the bytes of `item`, of its own file if there is one there; else None, and `item` is
        remembered.

        A digest tells equal tensors of one dtype and shape, since it is taken of chunks that depend on these; others
        of the same size are compared."""
        if not item.nbytes:
            return None
        others = self._of_size.setdefault(item.nbytes, [])
        own_first = sorted(others, key=lambda other: other[0].file != item.file)  # stable: the earliest of each
        found = next((other for other, of_other in own_first if _equal(item, digest, other, of_other)), None)
        if found is None or found.file != item.file:
            others.append((item, digest))
        return found


def _equal(one: Item, digest: str, other: Item, of_other: str) -> bool:
    if (one.dtype, one.shape) == (other.dtype, other.shape):
        return digest == of_other
    steps = [0, *range(min(FIRST, one.nbytes), one.nbytes, COMPARED), one.nbytes]
    return all(
        np.array_equal(one.read(start, stop), other.read(start, stop))
        for start, stop in pairwise(steps)
        if start < stop
    )
