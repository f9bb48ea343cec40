"""The tensors of a file coded piece by piece: planned by the thread that asks, coded by all, written in order.

Plans are Python for the most part, so threads that plan would wait for each other; what codes chunks are loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from mc import blob
from mc.checkpoint import Layout, Source, Tensor
from mc.codec.choose import Coded, code, raw_code
from mc.codec.codings import word_width
from mc.codec.floats import NO_ROOM
from mc.codec.planes import GEOMETRIES
from mc.codec.typing import Bytes
from mc.heading import WHOLE, coded_from, few_below, most_packed
from mc.manifest import SAME
from mc.memory import Room
from mc.parallel import BATCH, Workers

ROOMY = 3  # times a chunk's bytes: what coding may touch, but for rare chunks
# Bytes of the original in memory that may be planned before they are coded. The sha256 keeps a thread busy at first;
# what is planned meanwhile is coded by all then.
AHEAD = 1 << 26

Part = memoryview | bytes | int  # an int: so many bytes that stand where they belong already
InPlace = Callable[[int, tuple[int, int]], Bytes]  # room for the chunk of a span, so many bytes behind what is written


class Target(Protocol):
    """What a packed file is written to."""

    def write(self, data: bytes | memoryview, /) -> int: ...

    def seek(self, position: int, /) -> int: ...

    def tell(self) -> int: ...


class PackedTensor(NamedTuple):
    """What became of a tensor."""

    coding: str
    why: str
    size: int  # bytes of its blob
    head: int = 0  # of these, what stands before the first chunk


class _Piece(NamedTuple):
    """Chunks of a tensor that are coded together: all of a small one, or one of a large one."""

    number: int  # of the tensor
    tensor: Tensor
    coded: Coded | None  # None: there is nothing to code
    coding: str
    why: str
    first: int = 0  # of these chunks
    last: int = 0  # exclusive
    whole: Bytes = NO_ROOM  # of a small tensor

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First and last byte (exclusive) of each chunk."""
        return self.coded.spans[self.first : self.last] if self.coded is not None else []

    @property
    def nbytes(self) -> int:
        """Bytes of the original."""
        return sum(stop - start for start, stop in self.spans)


class _Done(NamedTuple):
    """What stands for a piece in the file. It doesn't hold the piece: the memory of one plan serves the next."""

    tensor: Tensor
    coding: str
    why: str
    ends: bool  # the last of the tensor
    head: int  # bytes before the first chunk, where that is among these
    parts: list[Part]
    sizes: list[int]  # coded bytes of each chunk


def pack_tensors(
    source: Source, layout: Layout, twins: Mapping[str, str], states: Mapping[str, int], level: str, work: Workers,
    target: Target,
) -> Iterator[tuple[Tensor, PackedTensor]]:  # fmt: skip
    """Code every tensor and write it to `target`, in data order. What is written doesn't depend on who codes what.
    twins: by name, an earlier tensor with the same bytes; states: of the trellis whose integers a tensor holds."""
    memory = target if isinstance(target, Room) else None

    def in_place(piece: _Piece) -> _Done:
        """In memory, a piece whose turn it is can be coded where it will stand: what is before it has been written."""
        if memory is None:
            return _code(source, piece)
        return _code(source, piece, lambda skip, span: memory.ahead(skip, ROOMY * (span[1] - span[0])))

    planned, more = _planned(source, layout, twins, states, level, work), AHEAD // BATCH if source.in_memory else 1
    sizes: list[int] = []
    head, written = 0, 0
    for done in work.each(lambda piece: _code(source, piece), planned, lambda piece: piece.nbytes, in_place, more):
        sizes += done.sizes
        if sizes and done.ends:
            done.parts.append(blob.write_directory(sizes))
        for part in done.parts:
            if isinstance(part, int):
                target.seek(target.tell() + part)
                written += part
            else:
                target.write(part)
                written += len(part)
        head += done.head
        if done.ends:
            yield done.tensor, PackedTensor(done.coding, done.why, written, head)
            sizes, head, written = [], 0, 0


def _planned(
    source: Source, layout: Layout, twins: Mapping[str, str], states: Mapping[str, int], level: str, work: Workers
) -> Iterator[_Piece]:
    sizes = [tensor.stop - tensor.start for tensor in layout.tensors]
    smallest, few = coded_from(sizes, layout.size, level), few_below(sizes, layout.size, level)

    def each(function: Callable[[Any], Any], parts: Iterable[tuple[int, int]]) -> Iterator[Any]:
        return work.each(function, parts, lambda part: part[1] - part[0])  # words or bytes: looking is quick

    def plan(number: int, tensor: Tensor) -> list[_Piece]:
        nbytes, walks = tensor.stop - tensor.start, states.get(tensor.name, 0)
        if tensor.name in twins:
            return [_Piece(number, tensor, None, SAME, twins[tensor.name])]
        if nbytes == 0:
            return [_Piece(number, tensor, None, "empty", "")]
        if nbytes > WHOLE:
            read = partial(_read_part, source, tensor)
            coded = code(tensor.dtype, tensor.shape, nbytes, read, level, each, walks)
            return [_Piece(number, tensor, coded, coded.name, coded.why, k, k + 1) for k in range(len(coded.spans))]
        whole = _read(source, tensor.start, tensor.stop)
        if nbytes < smallest:
            coded = raw_code(nbytes, word_width(tensor.dtype, nbytes), "")
        else:
            effort = "default" if nbytes < few and tensor.dtype in GEOMETRIES else level
            coded = code(tensor.dtype, tensor.shape, nbytes, partial(_part_of, whole), effort, map, walks)
        return [_Piece(number, tensor, coded, coded.name, coded.why, 0, len(coded.spans), whole)]

    for number, tensor in enumerate(layout.tensors):
        yield from plan(number, tensor)


def _code(source: Source, piece: _Piece, room: InPlace | None = None) -> _Done:
    """Code the chunks of a piece, in that room or elsewhere, and the head before the first."""
    number, tensor, coded, whole = piece.number, piece.tensor, piece.coded, piece.whole
    if coded is None:
        return _Done(tensor, piece.coding, piece.why, True, 0, [], [])
    first = blob.write_head(coded.head, number) if piece.first == 0 else b""
    parts: list[Part] = [first] if first else []
    head = at = len(first)
    sizes = []
    for chunk, span in enumerate(piece.spans, piece.first):
        raw = _part_of(whole, *span) if len(whole) else _read_part(source, tensor, *span)
        at += blob.FRAME.size
        sealed = blob.frame(coded, number, chunk, raw, room(at, span) if room is not None else NO_ROOM)
        parts.extend(blob.write_frame(sealed))
        at += len(sealed.coded)
        sizes.append(len(sealed.coded))
    nbytes, size = len(whole), at + blob.ENTRY.size * len(sizes)
    if nbytes and size > most_packed(nbytes):  # what was expected to pay didn't
        as_it_is = raw_code(nbytes, word_width(tensor.dtype, nbytes), f"coded {8 * size / nbytes:.2f} bits a byte")
        chunks = len(as_it_is.spans)
        return _code(source, _Piece(number, tensor, as_it_is, as_it_is.name, as_it_is.why, 0, chunks, whole), room)
    return _Done(tensor, piece.coding, piece.why, piece.last == len(coded.spans), head, parts, sizes)


def _part_of(whole: Bytes, start: int, stop: int) -> Bytes:
    return whole[start:stop]


def _read_part(source: Source, tensor: Tensor, start: int, stop: int) -> Bytes:
    return _read(source, tensor.start + start, tensor.start + stop)


def _read(source: Source, start: int, stop: int) -> Bytes:
    """Bytes of the source, aligned for words of eight bytes, read-only: one kind of array, so that every loop is
    compiled once."""
    if source.in_memory:
        raw = np.frombuffer(source.read(start, stop), np.uint8)
        if not source.aligned(start):
            raw = raw.copy()
    else:
        raw = np.empty(stop - start, np.uint8)
        source.read_into(start, raw)
    raw.flags.writeable = False
    return raw
