"""Tensors whose bytes an earlier one has too, of whatever dtype and shape; within a file, pack stores them once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from mc.analysis.reading import Item

COMPARED = 1 << 20  # bytes compared at once
FIRST = 64  # bytes that two tensors must share to be compared
MOST_COMPARED = 4  # tensors that begin alike that another one is compared with, as pack does


class Earlier:
    """The different tensors seen so far, in each file and in all; `items` are all that will be asked for."""

    def __init__(self, items: Sequence[Item]) -> None:
        kinds: dict[int, set[tuple[str, tuple[int, ...]]]] = {}
        for item in items:
            kinds.setdefault(item.nbytes, set()).add((item.dtype, item.shape))
        self._mixed = {nbytes for nbytes, of_size in kinds.items() if len(of_size) > 1}
        self._same: dict[tuple[str | None, str, tuple[int, ...], str], Item] = {}
        self._alike: dict[tuple[str | None, int, bytes], list[Item]] = {}

    def twin(self, item: Item, digest: str) -> Item | None:
        """The first tensor with the bytes of `item`, of its own file if there is one there; else None.

        A digest tells equal tensors of one dtype and shape, since it is taken of chunks that depend on these; others
        of the same size are compared."""
        if not item.nbytes:
            return None
        start = item.read(0, min(FIRST, item.nbytes)).tobytes() if item.nbytes in self._mixed else b""
        return self._found(item.file, item, digest, start) or self._found(None, item, digest, start)

    def _found(self, file: str | None, item: Item, digest: str, start: bytes) -> Item | None:
        """The first with these bytes in a file, or in any; if there is none, `item` is remembered."""
        key = (file, item.dtype, item.shape, digest)
        if key in self._same:
            return self._same[key]
        if start:
            alike = self._alike.setdefault((file, item.nbytes, start), [])
            for other in alike[:MOST_COMPARED]:
                if _equal(item, other):
                    return other
            alike.append(item)
        self._same[key] = item
        return None


def _equal(one: Item, other: Item) -> bool:
    steps = [*range(0, one.nbytes, COMPARED), one.nbytes]
    return all(np.array_equal(one.read(*step), other.read(*step)) for step in pairwise(steps))
