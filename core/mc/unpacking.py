"""Unpack: a packed file in, front to back, the original out, byte for byte; every checksum looked at on the way."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import BinaryIO

from mc import blob
from mc.checkpoint import Layout, Tensor, write_prefix
from mc.codec.typing import Bytes
from mc.errors import DamagedError, McError, quote
from mc.manifest import RECIPE_KEY
from mc.memory import Room
from mc.opening import Opening, open_packed
from mc.packing import recipe_of
from mc.parallel import Workers
from mc.recipe import restricted, write_recipe
from mc.scratch import scratch
from mc.streams import FromPipe, FromSource
from mc.together import Run, restored
from mc.units import Unit, alone, found, named

# Bytes that the system is given at once. It looks for a place in memory as large as that, and of a megabyte it took a
# quarter longer to write a file of 1 GB.
PIECE = 1 << 17


@dataclass(frozen=True)
class Restored:
    """What came out of a packed file."""

    sha256: str  # of the original, as the manifest says
    size: int  # bytes written
    packed_size: int


def chosen(layout: Layout, globs: Sequence[str], where: str) -> list[Tensor]:
    """The tensors whose names match any of the globs; McError for a glob without a match."""
    for glob in globs:
        if not any(_matches(tensor.name, glob) for tensor in layout.tensors):
            names = ", ".join(quote(tensor.name) for tensor in layout.tensors[:3])
            raise McError(f"{where} has no tensor that matches {quote(glob)}. Its first ones are {names}.")
    return [tensor for tensor in layout.tensors if any(_matches(tensor.name, glob) for glob in globs)]


def _matches(name: str, glob: str) -> bool:
    """Whether a glob stands for the name, or is the name: brackets are common in names."""
    return name == glob or fnmatchcase(name, glob)


def subset_header(layout: Layout, tensors: Sequence[Tensor]) -> bytes:
    """Length and header of a safetensors file with these tensors and the original's metadata, of the recipe what is
    about them."""
    listed: dict[str, object] = {}
    at = 0
    for tensor in tensors:
        size = tensor.stop - tensor.start
        listed[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + size],
        }
        at += size
    metadata = dict(layout.metadata)
    if recipe := recipe_of(layout, ""):
        left = restricted(recipe, {tensor.name: (tensor.dtype, tensor.shape) for tensor in tensors})
        del metadata[RECIPE_KEY]
        metadata |= {RECIPE_KEY: write_recipe(left)} if left else {}
    return write_prefix(metadata, listed)


def decoded(
    units: Iterable[Unit | Run], opening: Opening, stream: FromSource | FromPipe, work: Workers,
    room: Room | None = None, put: Callable[[Tensor, int, Bytes], None] | None = None,
) -> Generator[Bytes, None, None]:  # fmt: skip
    """The decoded bytes of all units of the packed file `stream`, in order, chunk by chunk. `put` may be given each
    tensor's bytes from a place on, by the thread that decoded them; or they are put into `room`, as long as the
    original: then none come back, as a thread may hold what it returned for longer than its caller does. Once it is
    closed no thread puts anything."""

    def pieces(unit: Unit | Run) -> Iterator[tuple[Tensor, int, Bytes]]:
        if isinstance(unit, Unit):
            yield from _decoded(unit, stream.where, room)
        elif isinstance(stream, FromSource):  # no run comes from a pipe
            ready = restored(stream.source, unit, room)
            for tensor, number, raw in zip(unit.tensors, unit.numbers, ready, strict=True):
                if raw is not None:
                    yield tensor, 0, raw
                else:
                    yield from _decoded(alone(stream.source, opening, number, tensor), stream.where, room)

    def all_of(batch: list[Unit | Run]) -> list[Bytes]:
        results = []
        for unit in batch:
            for tensor, start, raw in pieces(unit):
                if put is not None:
                    put(tensor, start, raw)
                if room is None:
                    results.append(raw)
        return results

    yield from work.each_of(all_of, units, lambda unit: unit.size, more=work.width + 1)


def restore(
    stream: FromSource | FromPipe,
    target: BinaryIO,
    work: Workers,
    check: bool,
    globs: Sequence[str] | None,
    step: Callable[[int, int], None],
    own: bool,
) -> Restored:
    """Write the original of the packed file in `stream` to `target`, or with `globs` a file of the tensors that
    match. `own`: `target` is a new file, which may be written in any order. Raises DamagedError where anything is
    wrong; what has been written by then is not to be kept."""
    opening = open_packed(stream, None if isinstance(stream, FromPipe) else stream.source.size)
    original, manifest = opening.original, opening.packed.manifest
    wanted = list(original.tensors) if globs is None else chosen(original, globs, stream.where)
    head = original.prefix if globs is None else subset_header(original, wanted)
    whole = len(head) + sum(tensor.stop - tensor.start for tensor in wanted)
    sha256 = hashlib.sha256(head) if check and globs is None else None
    target.write(head)
    size = len(head)
    put = _writer(target, size, wanted) if own else None
    with scratch() if isinstance(stream, FromPipe) else nullcontext(io.BytesIO()) as spool:
        units = found(stream, opening, wanted, spool)
        # Closed before the target is, also where `step` raises: until then threads may write to it.
        with closing(decoded(units, opening, stream, work, put=put)) as chunks:
            for raw in chunks:
                if put is None:
                    target.write(raw.data)
                if sha256 is not None:
                    sha256.update(raw.data)
                size += len(raw)
                step(size, whole)
    if isinstance(stream, FromPipe) and not stream.at_end():
        raise DamagedError(f"{stream.where} goes on after its last tensor. The file is damaged; fetch it again.")
    if sha256 is not None and sha256.hexdigest() != manifest.sha256:
        raise DamagedError(
            f"{stream.where}: the restored file has sha256 {sha256.hexdigest()}, and the manifest says "
            f"{manifest.sha256}. The file is damaged; fetch it again."
        )
    packed_size = opening.packed.blobs[-1].stop if opening.packed.blobs else opening.packed.reserved.stop
    return Restored(manifest.sha256, size, packed_size)


def _writer(target: BinaryIO, start: int, tensors: Sequence[Tensor]) -> Callable[[Tensor, int, Bytes], None]:
    """A function that writes bytes of these tensors, which follow each other from byte `start` of a file on, where
    they belong: threads that decode then also write, which takes half as long as decoding."""
    descriptor = target.fileno()
    places: dict[str, int] = {}
    for tensor in tensors:
        places[tensor.name] = start
        start += tensor.stop - tensor.start

    def put(tensor: Tensor, at: int, raw: Bytes) -> None:
        rest, place = raw.data, places[tensor.name] + at
        while len(rest):
            written = os.pwrite(descriptor, rest[:PIECE], place)
            rest, place = rest[written:], place + written

    return put


def _decoded(unit: Unit, where: str, room: Room | None) -> Iterator[tuple[Tensor, int, Bytes]]:
    """The bytes of a unit, each piece with its place in the tensor: in `room`, if there is one. A header of odd length
    puts words there where no machine can load them as words."""
    tensor = unit.tensor
    try:
        for chunk in unit.chunks:
            start, stop = tensor.start + chunk.start, tensor.start + chunk.stop
            if room is None:
                raw = blob.decoded(chunk)
            elif room.aligned(start):
                raw = room.part(start, stop)
                chunk.decode(raw)
            else:
                raw = room.part(start, stop)
                raw[:] = blob.decoded(chunk)
            yield tensor, chunk.start, raw
    except DamagedError as error:
        raise named(error, where, tensor) from error
