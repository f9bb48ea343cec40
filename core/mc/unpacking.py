"""Unpack: a packed file in, front to back, the original out, byte for byte; every checksum looked at on the way."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import BinaryIO, NamedTuple

from mc import blob
from mc.checkpoint import Layout, Source, Tensor, write_prefix
from mc.codec.planes import GEOMETRIES
from mc.codec.typing import Bytes
from mc.errors import DamagedError, McError, quote
from mc.heading import WHOLE, most_packed
from mc.manifest import RECIPE_KEY, SAME
from mc.memory import Room
from mc.opening import Opening, open_packed
from mc.packing import recipe_of
from mc.parallel import BATCH, Workers
from mc.recipe import restricted, write_recipe
from mc.scratch import scratch
from mc.streams import FromMemory, FromPipe, FromSource
from mc.together import Whole, restored

# Bytes that the system is given at once. It looks for a place in memory as large as that, and of a megabyte it took a
# quarter longer to write a file of 1 GB.
PIECE = 1 << 17


class Unit(NamedTuple):
    """Chunks of one tensor that are found and decoded together."""

    tensor: Tensor
    size: int  # bytes when decoded
    chunks: Iterable[blob.Chunk | blob.Stretch]  # raises DamagedError where the blob can't be followed any further
    whole: Whole | None = None  # what may be decoded with others of its kind at once, in place of these chunks


def units(
    stream: FromSource | FromPipe, opening: Opening, index: int, tensor: Tensor, apart: bool = False
) -> Iterable[Unit]:
    """The chunks of the tensor `tensor` from the blob of number `index`, at whose start `stream` stands. A small tensor
    is one unit, opened by whoever decodes it; raises DamagedError where a large one can't be followed. `apart`: each
    chunk is decoded by itself, so that the damage of one doesn't hide the others."""
    stored = opening.packed.blobs[index]
    # The blob may be another tensor's with the same bytes: it was coded as words of that one's dtype.
    dtype, nbytes, size = opening.original.tensors[index].dtype, tensor.stop - tensor.start, stored.stop - stored.start
    if size == 0:
        return ()
    whole = FromMemory(stream.take(size), stream.where) if nbytes <= WHOLE else stream
    found = _chunks(whole, size, index, dtype, nbytes, apart)
    if nbytes <= WHOLE:
        return (Unit(tensor, nbytes, found),)
    return (Unit(tensor, chunk.stop - chunk.start, (chunk,)) for chunk in found)


def _chunks(
    stream: FromSource | FromPipe | FromMemory, size: int, index: int, dtype: str, nbytes: int, apart: bool
) -> Iterator[blob.Chunk | blob.Stretch]:
    """The chunks of a blob, which is opened when the first is asked for."""
    reader = blob.BlobReader(stream, size, index, dtype, nbytes)
    yield from reader.chunks() if apart or isinstance(stream, FromPipe) else reader.stretches(stream, BATCH)


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

    def units(self, number: int, tensor: Tensor, take: bool) -> Iterable[Unit]:
        """The chunks of a tensor, the next in order; none if it isn't to be taken."""
        entry = self._opening.packed.manifest.entries[tensor.name]
        if isinstance(self._stream, FromSource):
            index = self._numbers[entry.why] if entry.coding == SAME else number
            stored, size = self._opening.packed.blobs[index], tensor.stop - tensor.start
            if not take or size == 0:
                return ()
            if size <= WHOLE and self._source is not None:
                whole = Whole(tensor, index, stored.start, stored.stop)
                # Not together with others: a blob with more bytes than any sound one, and one that is another's.
                usual = stored.stop - stored.start <= most_packed(size) and entry.coding != SAME
                together = whole if usual and tensor.dtype in GEOMETRIES else None
                return (Unit(tensor, size, self._apart(self._source, whole), together),)
            self._stream.at = stored.start
            return units(self._stream, self._opening, index, tensor)
        if entry.coding == SAME:
            return self._again(self._numbers[entry.why], tensor) if take else ()
        return self._next(self._stream, number, tensor, take)

    def _apart(self, source: Source, whole: Whole) -> Iterator[blob.Chunk | blob.Stretch]:
        """The chunks of a tensor, of which nothing is read before the first is asked for."""
        for unit in units(FromSource(source, whole.start), self._opening, whole.number, whole.tensor):
            yield from unit.chunks

    def _next(self, stream: FromPipe, number: int, tensor: Tensor, take: bool) -> Iterator[Unit]:
        """From a pipe, which may have to be kept for a tensor to come."""
        stored = self._opening.packed.blobs[number]
        if tensor.name in self._wanted:
            self._spooled[number] = self._spool.tell()
            stream.copy_to(self._spool)
        if take:
            yield from units(stream, self._opening, number, tensor)
        else:
            for at in range(stored.start, stored.stop, 1 << 20):
                stream.take(min(1 << 20, stored.stop - at))
        stream.copy_to(None)

    def _again(self, number: int, tensor: Tensor) -> Iterator[Unit]:
        """What was kept of a pipe."""
        end = self._spool.tell()
        self._spool.flush()
        spooled = Source.of(self._spool, self._stream.where)
        yield from units(FromSource(spooled, self._spooled[number]), self._opening, number, tensor)
        self._spool.seek(end)


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


def found(
    stream: FromSource | FromPipe, source: Source | None, opening: Opening, wanted: Sequence[Tensor], spool: BinaryIO
) -> Iterator[Unit]:
    """The chunks of the wanted tensors in data order, each when it is asked for. `spool` is for what has to be kept of
    a pipe."""
    names = {tensor.name for tensor in wanted}
    blobs = _Blobs(stream, source, opening, spool)
    for number, tensor in enumerate(opening.original.tensors):
        try:
            yield from blobs.units(number, tensor, tensor.name in names)
        except DamagedError as error:
            raise named(error, stream.where, tensor) from error


def decoded(
    units: Iterable[Unit], source: Source | None, where: str, work: Workers, room: Room | None = None,
    put: Callable[[Tensor, int, Bytes], None] | None = None,
) -> Generator[Bytes, None, None]:  # fmt: skip
    """The decoded bytes of all units, in order, chunk by chunk. `put` may be given each tensor's bytes from a place on,
    by the thread that decoded them; or they are put into `room`, as long as the original: then none come back, as a
    thread may hold what it returned for longer than its caller does. Once it is closed no thread puts anything."""

    def all_of(batch: list[Unit]) -> list[Bytes]:
        wholes = [unit.whole for unit in batch if unit.whole is not None]
        ready = restored(source, wholes, room) if source is not None else {}
        results = []
        tensor = batch[0].tensor
        try:
            for unit in batch:
                tensor = unit.tensor
                for start, raw in [(0, ready[tensor.name])] if tensor.name in ready else _decoded(unit, room):
                    if put is not None:
                        put(tensor, start, raw)
                    if room is None:
                        results.append(raw)
        except DamagedError as error:
            raise named(error, where, tensor) from error
        return results

    yield from work.each_of(all_of, units, lambda unit: unit.size, more=work.width + 1)


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
    with scratch() if source is None else nullcontext(io.BytesIO()) as spool:
        units = found(stream, source, opening, wanted, spool)
        # Closed before the target is, also where `step` raises: until then threads may write to it.
        with closing(decoded(units, source, stream.where, work, put=put)) as chunks:
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


def _decoded(unit: Unit, room: Room | None) -> Iterator[tuple[int, Bytes]]:
    """The bytes of a unit, each piece with its place in the tensor: in `room`, if there is one. A header of odd length
    puts words there where no machine can load them as words."""
    for chunk in unit.chunks:
        start, stop = unit.tensor.start + chunk.start, unit.tensor.start + chunk.stop
        if room is None:
            yield chunk.start, blob.decoded(chunk)
        elif room.aligned(start):
            chunk.decode(room.part(start, stop))
        else:
            room.part(start, stop)[:] = blob.decoded(chunk)
