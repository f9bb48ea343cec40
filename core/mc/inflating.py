"""Unpack in memory: a packed file's bytes in, the original's out, each decoded where it belongs."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from mc.checkpoint import Source
from mc.codec.pages import touch
from mc.errors import McError
from mc.manifest import CLAIMED, claimed_size
from mc.memory import Room
from mc.opening import Opening, open_packed
from mc.parallel import Task, Workers
from mc.streams import FromSource
from mc.together import Run
from mc.units import Unit, found
from mc.unpacking import decoded

EARLY_FROM = 1 << 23  # bytes of an original from which its headers may be read by another thread
EARLY = 1 << 25  # bytes of it at most whose pages are had meanwhile
EARLY_RATIO = 16  # of a packed file: no more memory is taken for what its header claims and nobody has checked


def restore_bytes(source: Source, work: Workers) -> bytes:
    """The original of the packed file in `source`. Raises DamagedError where anything is wrong."""
    stream = FromSource(source)
    opening, out = _opened(stream, source, work)
    out.write(opening.original.prefix)
    for _ in decoded(_with_pages(opening, out, stream), opening, stream, work, out):
        pass
    return out.result(opening.original.size)


def _opened(stream: FromSource, source: Source, work: Workers) -> tuple[Opening, Room]:
    """Both headers, and room for the original. Where another thread can read the headers, this one has the first pages
    of that room meanwhile, if it isn't small: that keeps a processor as busy, and needs no lock."""
    claimed = claimed_size(source.read(0, min(CLAIMED, source.size)))
    if not work.helps or claimed is None or not EARLY_FROM <= claimed <= EARLY_RATIO * source.size:
        opening = open_packed(stream, source.size)
        return opening, Room(opening.original.size)
    told = np.zeros(1, np.uint8)

    def read(size: int) -> Opening:
        try:
            return open_packed(stream, size)
        finally:
            told[0] = 1

    reading = Task(read, source.size)
    out: Room | None = None
    with suppress(McError):  # not so much memory: it may be a false claim
        out = Room(claimed, early=True)
    work.begin(reading)
    if out is not None:
        out.early(lambda place: touch(place[:EARLY], told))
    reading.run()  # where the other thread has something else to do
    opening = reading.result()
    if out is None or opening.original.size != claimed:
        out = None  # before there is another
        out = Room(opening.original.size)
    return opening, out


def _with_pages(opening: Opening, out: Room, stream: FromSource) -> Iterator[Unit | Run]:
    """What is to be decoded, each with pages asked for where it belongs."""
    end = len(opening.original.prefix)
    for unit in found(stream, opening, opening.original.tensors, io.BytesIO()):
        end += unit.size
        out.ask(end)
        yield unit
