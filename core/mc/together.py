"""Many small tensors of a packed file decoded at once, in few calls and without the interpreter's lock.

A tensor that isn't coded as most are, or is damaged, is left: it is decoded by itself then, which says what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from mc.checkpoint import Source, Tensor
from mc.codec.heads import Blob
from mc.codec.planes import GEOMETRIES
from mc.codec.typing import Bytes
from mc.codec.whole import decode_many
from mc.memory import Room


class Run(NamedTuple):
    """Small float tensors whose blobs stand side by side in a packed file."""

    tensors: Sequence[Tensor]
    numbers: Sequence[int]  # of their blobs
    bounds: Sequence[int]  # where each blob begins, and the last one ends
    size: int  # bytes of all tensors


def restored(source: Source, run: Run, room: Room | None) -> list[Bytes | None]:
    """The decoded bytes u8 of a run's tensors in the packed file `source`: where they belong in `room`, if there is
    one. None for a tensor that can't be decoded here; its place in the room may hold anything."""
    tensors, found = run.tensors, list[Bytes | None]([None] * len(run.tensors))
    begin, end = tensors[0].start, tensors[-1].stop
    if room is None:  # a multiple of eight for each
        places = [0, *accumulate(-(-(tensor.stop - tensor.start) // 8) * 8 for tensor in tensors)]
        raw = np.empty(places[-1], np.uint8)
    elif room.aligned(begin):
        places = [tensor.start - begin for tensor in tensors]
        raw = room.part(begin, end)
    else:
        return found
    for number in _restore(source, run, raw, places):
        size = tensors[number].stop - tensors[number].start
        found[number] = raw[places[number] : places[number] + size]
    return found


def _restore(source: Source, run: Run, raw: Bytes, places: list[int]) -> Iterator[int]:
    """Decode a run's tensors to their places in `raw`, which begins at a multiple of eight bytes; the numbers of those
    that are what was packed."""
    begin = run.bounds[0]
    data = source.read(begin, run.bounds[-1])
    kinds: dict[str, tuple[list[int], list[Blob]]] = {}
    start = 0
    for number, (tensor, index, stop, place) in enumerate(
        zip(run.tensors, run.numbers, run.bounds[1:], places, strict=False)
    ):
        stop -= begin
        if place % GEOMETRIES[tensor.dtype].width == 0:
            numbers, blobs = kinds.setdefault(tensor.dtype, ([], []))
            numbers.append(number)
            blobs.append(Blob(start, stop, index, place, tensor.stop - tensor.start))
        start = stop
    for dtype, (numbers, blobs) in kinds.items():
        for number in decode_many(data, blobs, GEOMETRIES[dtype], raw):
            yield numbers[number]
