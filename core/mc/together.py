"""Many small tensors of a packed file decoded at once, in few calls and without the interpreter's lock.

A tensor that isn't coded as most are, or is damaged, is left: it is decoded by itself then, which says what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from mc import blob
from mc.checkpoint import Source, Tensor
from mc.codec.heads import Blob
from mc.codec.planes import GEOMETRIES
from mc.codec.typing import Bytes
from mc.codec.whole import decode_many
from mc.memory import Room


class Whole(NamedTuple):
    """A float tensor that can be decoded as a whole."""

    tensor: Tensor
    number: int  # of its blob
    start: int  # first byte of the blob in the packed file
    stop: int

    @property
    def size(self) -> int:
        """Bytes when decoded."""
        return self.tensor.stop - self.tensor.start


def restored(source: Source, wholes: Sequence[Whole], room: Room | None) -> dict[str, Bytes]:
    """The decoded bytes u8 of tensors of the packed file `source`, by name: where they belong in `room`, if there is
    one. Those that can't be decoded here are left out; their places in the room may hold anything."""
    found: dict[str, Bytes] = {}
    for some in _side_by_side(wholes):
        begin, end = some[0].tensor.start, some[-1].tensor.stop
        if room is not None and not room.aligned(begin):
            continue
        if room is None:  # a multiple of eight for each
            places = [0, *accumulate(-(-one.size // 8) * 8 for one in some)]
            raw = np.empty(places[-1], np.uint8)
        else:
            places = [one.tensor.start - begin for one in some]
            raw = room.part(begin, end)
        for number in _restore(source, some, raw, places):
            found[some[number].tensor.name] = raw[places[number] : places[number] + some[number].size]
    return found


def _side_by_side(wholes: Sequence[Whole]) -> Iterator[list[Whole]]:
    """The same, parted where something else stands between their blobs."""
    some: list[Whole] = []
    for one in wholes:
        if some and one.start != some[-1].stop:
            yield some
            some = []
        some.append(one)
    if some:
        yield some


def _restore(source: Source, wholes: Sequence[Whole], raw: Bytes, places: Sequence[int]) -> Iterator[int]:
    """Decode tensors to their places in `raw`, which begins at a multiple of eight bytes; the numbers of those that are
    what was packed."""
    begin = wholes[0].start
    data = source.read(begin, wholes[-1].stop)
    kinds: dict[str, tuple[list[int], list[Blob]]] = {}
    for number, ((tensor, index, start, stop), place) in enumerate(zip(wholes, places, strict=False)):
        dtype, start, stop = tensor.dtype, start - begin, stop - begin
        end = blob.front(data, start, stop, index)
        if end is not None and place % GEOMETRIES[dtype].width == 0:
            numbers, blobs = kinds.setdefault(dtype, ([], []))
            numbers.append(number)
            head, size = start + blob.HEAD.size, tensor.stop - tensor.start
            blobs.append(Blob(head, end, stop, blob.seed(index, 0), place, size))
    for dtype, (numbers, blobs) in kinds.items():
        for number in decode_many(data, blobs, GEOMETRIES[dtype], raw):
            yield numbers[number]
