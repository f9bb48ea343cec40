"""What of a packed file is decoded together, in data order: chunks of a large tensor, or many small tensors.

A file or memory is read where the blobs are; a pipe front to back, and what a later tensor equals is kept of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from mc import blob
from mc.checkpoint import Source, Tensor
from mc.codec.planes import GEOMETRIES
from mc.errors import DamagedError, quote
from mc.heading import WHOLE, most_packed
from mc.manifest import SAME, Entry
from mc.opening import Opening
from mc.parallel import BATCH, TOGETHER
from mc.streams import FromMemory, FromPipe, FromSource
from mc.together import Run

Place = tuple[Tensor, int, Tensor]  # a tensor, the number of its blob, and that


class Unit(NamedTuple):
    """Chunks of one tensor that are found and decoded together."""

    tensor: Tensor
    size: int  # bytes when decoded
    chunks: Iterable[blob.Chunk | blob.Stretch]  # raises DamagedError where the blob can't be followed any further


def named(error: DamagedError, where: str, tensor: Tensor) -> DamagedError:
    """The error with the file and the tensor that it is about."""
    return DamagedError(f"{where}: tensor {quote(tensor.name)}: {error}. The file is damaged; fetch it again.")


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


def alone(source: Source, opening: Opening, index: int, tensor: Tensor) -> Unit:
    """A small tensor as a unit, of which nothing is read before its first chunk is asked for."""

    def chunks() -> Iterator[blob.Chunk | blob.Stretch]:
        for unit in units(FromSource(source, opening.packed.blobs[index].start), opening, index, tensor):
            yield from unit.chunks

    return Unit(tensor, tensor.stop - tensor.start, chunks())


def found(
    stream: FromSource | FromPipe, opening: Opening, wanted: Sequence[Tensor], spool: BinaryIO
) -> Iterator[Unit | Run]:
    """The wanted tensors in data order, each when it is asked for. `spool` is for what has to be kept of a pipe. Raises
    DamagedError where a blob can't be followed any further."""
    names = {tensor.name for tensor in wanted}
    if isinstance(stream, FromSource):
        return _found_at_random(stream, opening, names)
    return _found_in_order(stream, opening, names, spool)


def _found_at_random(stream: FromSource, opening: Opening, names: set[str]) -> Iterator[Unit | Run]:
    entries = opening.packed.manifest.entries
    numbers = {name: number for number, name in enumerate(entries)}
    run: list[Place] = []
    size = 0  # bytes of its tensors
    places = zip(opening.original.tensors, opening.packed.blobs, entries.values(), strict=True)
    for number, (tensor, stored, entry) in enumerate(places):
        if tensor.name not in names or tensor.stop == tensor.start:
            continue
        usual = _is_usual(tensor, stored, entry)
        if run and (not usual or size >= BATCH or len(run) == TOGETHER or stored.start != run[-1][2].stop):
            yield _run(run, size)
            run, size = [], 0
        if usual:
            run.append((tensor, number, stored))
            size += tensor.stop - tensor.start
            continue
        index = numbers[entry.why] if entry.coding == SAME else number
        if tensor.stop - tensor.start <= WHOLE:
            yield alone(stream.source, opening, index, tensor)
            continue
        stream.at = opening.packed.blobs[index].start
        try:
            yield from units(stream, opening, index, tensor)
        except DamagedError as error:
            raise named(error, stream.where, tensor) from error
    if run:
        yield _run(run, size)


def _is_usual(tensor: Tensor, stored: Tensor, entry: Entry) -> bool:
    """Whether it may be decoded with others: small floats, and neither more bytes than any sound blob of them has nor
    another tensor's."""
    size = tensor.stop - tensor.start
    few = size <= WHOLE and tensor.dtype in GEOMETRIES and entry.coding != SAME
    return few and stored.stop - stored.start <= most_packed(size)


def _run(places: Sequence[Place], size: int) -> Run:
    tensors, numbers, blobs = zip(*places, strict=True)
    return Run(tensors, numbers, [*(stored.start for stored in blobs), blobs[-1].stop], size)


def _found_in_order(stream: FromPipe, opening: Opening, names: set[str], spool: BinaryIO) -> Iterator[Unit]:
    entries = opening.packed.manifest.entries
    again = {entry.why for entry in entries.values() if entry.coding == SAME}  # tensors that others equal
    kept: dict[str, tuple[int, int]] = {}  # the numbers of their blobs, and where these begin in the spool
    for number, tensor in enumerate(opening.original.tensors):
        entry, stored = entries[tensor.name], opening.packed.blobs[number]
        try:
            if entry.coding == SAME:
                if tensor.name in names:
                    yield from _kept(stream, opening, *kept[entry.why], tensor, spool)
                continue
            if tensor.name in again:
                kept[tensor.name] = number, spool.tell()
                stream.copy_to(spool)
            if tensor.name in names:
                yield from units(stream, opening, number, tensor)
            else:
                for at in range(stored.start, stored.stop, 1 << 20):
                    stream.take(min(1 << 20, stored.stop - at))
            stream.copy_to(None)
        except DamagedError as error:
            raise named(error, stream.where, tensor) from error


def _kept(stream: FromPipe, opening: Opening, number: int, at: int, tensor: Tensor, spool: BinaryIO) -> Iterator[Unit]:
    """The chunks of a tensor from what was kept of a pipe, which holds its blob from byte `at` on."""
    end = spool.tell()
    spool.flush()
    yield from units(FromSource(Source.of(spool, stream.where), at), opening, number, tensor)
    spool.seek(end)
