"""What `chunks.decode` is told of tensors and of their chunks: arrays, since it is told of many at once.

A model has hundreds of small tensors, and each return to Python costs as much as decoding some KiB, all of it under the
interpreter's lock. So the chunks of many tensors are decoded in one call.
"""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mc.codec.scales import OCTAVE
from mc.codec.typing import Bytes, Counts, Ints, Scales, Words

HEAD = 12  # bytes before a head in its blob: its size, its checksum
OF_HEAD = 0xFFFFFFFF  # in place of a chunk's number in the seed of a checksum
FRAME = 20  # bytes before a chunk in its blob: its size, the checksums of the coded and of the decoded bytes
ENTRY = 4  # bytes of a chunk in the directory of its blob: its size
STARTS = OCTAVE + 1  # of the columns of a tensor: see scales.column_order


def _numbers(*names: str) -> np.dtype[Any]:
    return np.dtype([(name, np.int64) for name in names])


def records(rows: Sequence[tuple[int, ...]], kind: np.dtype[Any]) -> NDArray[Any]:
    """Records of numbers of 64 bits; numpy takes ten times as long to make them itself."""
    numbers = [number for row in rows for number in row]
    return np.frombuffer(bytearray(struct.pack(f"={len(numbers)}q", *numbers)), kind)


# Of a tensor: the bytes of a chunk that say how it is stored, 1, or of a raw tensor 0; its rows among those of all, its
# columns, its starts and its tables likewise, the first and how many; and how its words are coded (`cols` in a row,
# `height` rows in a chunk).
FACTS = _numbers(
    "skip", "row", "rows", "column", "columns", "start", "table", "tables",
    "cols", "height", "low", "padding", "mantissa", "width",
)  # fmt: skip

# Chunks of a tensor to be decoded: its number in FACTS, their first row, the seed of the first one's checksums, where
# they begin and end, where their part of the directory begins (FRAMELESS: it is one chunk without a frame, whose
# checksums are somebody else's), and where their decoded bytes belong.
JOB = _numbers("tensor", "row", "seed", "begin", "end", "directory", "place", "nbytes")
FRAMELESS = -1


class Blob(NamedTuple):
    """A whole blob of a tensor, where it is and what it should become; and what its head says, once that was looked
    at."""

    start: int  # where it begins
    stop: int  # behind it
    number: int  # in the file
    place: int  # where its decoded bytes belong
    nbytes: int  # of these
    head: int = 0  # where its head begins
    begin: int = 0  # of its frames; 0 if it has no head that is what was written
    coder: int = 0  # of its floats, or PLAIN if it can't be one of these


BLOB = _numbers(*Blob._fields)
PLAIN = -1


class Heads(NamedTuple):
    """Of several tensors, arrays one behind the other, and what it takes to part them."""

    facts: NDArray[Any]  # of FACTS
    rows: Scales  # i16, scales of all rows
    columns: Scales  # i16, scales of columns, of those tensors that have them
    order: Words  # u16, twice as many: see scales.column_order
    starts: Counts  # i64
    classes: Bytes  # u8 [tails, rows]
    tables: Ints  # [tables, entries]: what is looked up to decode
    lone: Counts  # i64 [tables]
