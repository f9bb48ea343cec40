"""Unpack: a packed file in, front to back, the original out, byte for byte; every checksum looked at on the way."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import BinaryIO, NamedTuple

import numpy as np

from mc import blob
from mc.checkpoint import Layout, Source, Tensor, write_prefix
from mc.codec.typing import Bytes
from mc.errors import DamagedError, McError, quote
from mc.heading import WHOLE
from mc.lossy.recipe import restricted, write_recipe
from mc.manifest import RECIPE_KEY, SAME
from mc.memory import Room
from mc.opening import Opening, open_packed
from mc.packing import recipe_of
from mc.parallel import Workers
from mc.scratch import scratch
from mc.streams import FromMemory, FromPipe, FromSource, Sequential


class Job(NamedTuple):
    """A chunk to be decoded."""

    tensor: Tensor  # of the original
    reader: blob.BlobReader
    chunk: int
    sealed: blob.Frame

    @property
    def span(self) -> tuple[int, int]:
        """First and last byte (exclusive) in the tensor."""
        return self.reader.code.spans[self.chunk]


class Unit(NamedTuple):
    """Chunks of one tensor that are found and decoded together: all of a blob that nobody has opened yet, or one."""

    tensor: Tensor
    size: int  # bytes when decoded
    found: Job | Callable[[], blob.BlobReader]

    def jobs(self) -> Iterator[Job]:
        """The chunks; raises DamagedError where the blob can't be followed any further."""
        if isinstance(self.found, Job):
            yield self.found
            return
        reader = self.found()
        for chunk, sealed in reader.frames():
            yield Job(self.tensor, reader, chunk, sealed)


def units(stream: Sequential, opening: Opening, index: int, tensor: Tensor) -> Iterator[Unit]:
    """The chunks of the tensor `tensor` from the blob of number `index`, at whose start `stream` stands. A small tensor
    is one unit, opened by whoever decodes it; raises DamagedError where a large one can't be followed."""
    stored = opening.packed.blobs[index]
    # The blob may be another tensor's with the same bytes: it was coded as words of that one's dtype.
    dtype, nbytes, size = opening.original.tensors[index].dtype, tensor.stop - tensor.start, stored.stop - stored.start
    if size == 0:
        return
    if nbytes <= WHOLE:
        whole = FromMemory(stream.take(size), stream.where)
        yield Unit(tensor, nbytes, partial(blob.BlobReader, whole, size, index, dtype, nbytes))
        return
    reader = blob.BlobReader(stream, size, index, dtype, nbytes)
    for chunk, sealed in reader.frames():
        start, stop = reader.code.spans[chunk]
        yield Unit(tensor, stop - start, Job(tensor, reader, chunk, sealed))


def decode(job: Job, room: Bytes | None = None) -> Bytes:
    """The bytes of a chunk, in `room` if there is any; DamagedError if they aren't what was packed."""
    start, stop = job.span
    raw = room if room is not None else np.empty(stop - start, np.uint8)
    job.reader.decode(job.chunk, job.sealed, raw)
    return raw


@dataclass(frozen=True)
class Restored:
    """What came out of a packed file."""

    sha256: str  # of the original, as the manifest says
    size: int  # bytes written
    packed_size: int


class _Blobs:
    """The blobs of a packed file in data order, and any earlier one once more, for tensors that equal it."""

    def __init__(self, stream: FromSource | FromPipe, source: Source | None, opening: Opening, spool: BinaryIO) -> None:
        self._stream, self._source, self._opening, self._spool = stream, source, opening, spool
        entries = opening.packed.manifest.entries
        self._numbers = {name: number for number, name in enumerate(entries)}
        self._wanted = {entry.why for entry in entries.values() if entry.coding == SAME}
        self._spooled: dict[int, int] = {}

    def units(self, number: int, tensor: Tensor, take: bool) -> Iterator[Unit]:
        """The chunks of a tensor, the next in order; none if it isn't to be taken."""
        entry = self._opening.packed.manifest.entries[tensor.name]
        stored = self._opening.packed.blobs[number]
        if entry.coding == SAME:
            if take:
                yield from self._again(self._numbers[entry.why], tensor)
            return
        if isinstance(self._stream, FromSource):
            self._stream.at = stored.start
            if take:
                yield from self._named(units(self._stream, self._opening, number, tensor), tensor)
            return
        if tensor.name in self._wanted:
            self._spooled[number] = self._spool.tell()
            self._stream.copy_to(self._spool)
        if take:
            yield from self._named(units(self._stream, self._opening, number, tensor), tensor)
        else:
            for at in range(stored.start, stored.stop, 1 << 20):
                self._stream.take(min(1 << 20, stored.stop - at))
        self._stream.copy_to(None)

    def _again(self, number: int, tensor: Tensor) -> Iterator[Unit]:
        if self._source is not None:
            stream = FromSource(self._source, self._opening.packed.blobs[number].start)
            yield from self._named(units(stream, self._opening, number, tensor), tensor)
            return
        end = self._spool.tell()
        self._spool.flush()
        spooled = Source.of(self._spool, self._stream.where)
        again = FromSource(spooled, self._spooled[number])
        yield from self._named(units(again, self._opening, number, tensor), tensor)
        self._spool.seek(end)

    def _named(self, found: Iterator[Unit], tensor: Tensor) -> Iterator[Unit]:
        try:
            yield from found
        except DamagedError as error:
            raise named(error, self._stream.where, tensor) from error


def named(error: DamagedError, where: str, tensor: Tensor) -> DamagedError:
    """The error with the file and the tensor that it is about."""
    return DamagedError(f"{where}: tensor {quote(tensor.name)}: {error}. The file is damaged; fetch it again.")


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


def chunks(
    stream: FromSource | FromPipe,
    source: Source | None,
    opening: Opening,
    wanted: Sequence[Tensor],
    work: Workers,
    room: Room | None = None,
    put: Callable[[Tensor, int, Bytes], None] | None = None,
) -> Iterator[Bytes]:
    """The decoded bytes of the wanted tensors, chunk by chunk in data order. `put` may be given each tensor's bytes
    from a place on, by the thread that decoded them; or they are put into `room`, as long as the original: then none
    come back, as a thread may hold what it returned for longer than its caller does."""
    names = {tensor.name for tensor in wanted}

    def every(spool: BinaryIO) -> Iterator[Unit]:
        blobs = _Blobs(stream, source, opening, spool)
        for number, tensor in enumerate(opening.original.tensors):
            yield from blobs.units(number, tensor, tensor.name in names)

    def decoded(unit: Unit) -> list[Bytes]:
        found = []
        try:
            for job in unit.jobs():
                if room is not None:
                    _decode_into(room, job)
                    continue
                raw = decode(job)
                if put is not None:
                    put(unit.tensor, job.span[0], raw)
                found.append(raw)
        except DamagedError as error:
            raise named(error, stream.where, unit.tensor) from error
        return found

    with scratch() if source is None else nullcontext(io.BytesIO()) as spool:
        for some in work.each(decoded, every(spool), lambda unit: unit.size):
            yield from some


def restore(
    stream: FromSource | FromPipe,
    source: Source | None,
    target: BinaryIO,
    work: Workers,
    check: bool,
    globs: Sequence[str] | None,
    step: Callable[[int, int], None],
    own: bool,
) -> Restored:
    """Write the original of the packed file in `stream` to `target`, or with `globs` a file of the tensors that
    match. `source` is the same file if it can be read at random; `own`: `target` is a new file, which may be written
    in any order. Raises DamagedError where anything is wrong; what has been written by then is not to be kept."""
    opening = open_packed(stream, source.size if source is not None else None)
    original, manifest = opening.original, opening.packed.manifest
    wanted = list(original.tensors) if globs is None else chosen(original, globs, stream.where)
    head = original.prefix if globs is None else subset_header(original, wanted)
    whole = len(head) + sum(tensor.stop - tensor.start for tensor in wanted)
    sha256 = hashlib.sha256(head) if check and globs is None else None
    target.write(head)
    size = len(head)
    put = _writer(target, size, wanted) if own else None
    for raw in chunks(stream, source, opening, wanted, work, put=put):
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
            written = os.pwrite(descriptor, rest, place)
            rest, place = rest[written:], place + written

    return put


def restore_bytes(source: Source, work: Workers) -> bytes:
    """The original of the packed file in `source`, decoded in place into the bytes that are returned."""
    stream = FromSource(source)
    opening = open_packed(stream, source.size)
    out = Room(opening.original.size)
    out.write(opening.original.prefix)
    _fill(out, stream, source, opening, work)
    return out.result(opening.original.size)


def _fill(out: Room, stream: FromSource, source: Source, opening: Opening, work: Workers) -> None:
    """Decode every tensor into its place; on return no view of it is left."""
    for _ in chunks(stream, source, opening, opening.original.tensors, work, out):
        pass


def _decode_into(room: Room, job: Job) -> None:
    """Decode a chunk into its place. Words must lie where a machine can load them as words; a header of odd length
    puts the file's elsewhere."""
    (start, stop), begin = job.span, job.tensor.start
    place = room.part(begin + start, begin + stop)
    if room.aligned(begin + start):
        decode(job, place)
    else:
        place[:] = decode(job)
