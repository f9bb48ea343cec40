"""Masks in which a fixed number of every so many neighbours is there: n of m.

A block's bit is coded in the context of how many of its group are still to come, and how many of these are expected to
be there. Where exactly n are, in any order, that costs the logarithm of their choices, log2 C(m, n), and where some
are missing next to nothing more (FORMAT.md, 7.8).
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from math import lgamma, log

import numpy as np
from numpy.typing import NDArray

from mc.codec import entropy
from mc.codec.compiled import inlined, released
from mc.codec.contexts import LANE, LANES_FROM
from mc.codec.entropy import Plan
from mc.codec.fields import Reader
from mc.codec.tables import SEVERAL, Tables
from mc.codec.typing import Bytes, Counts, Ints
from mc.errors import DamagedError

LEAST, WIDEST = 2, 64  # blocks of a group
SEEN = 1 << 15  # blocks of a mask on which groups are looked for
MOST_TABLES, TABLES_A_BLOCK = 64, 4  # enough to tell the shares of small groups apart
FEWER = (32, 16, 8)  # tables that are tried as well
COUNT = 3  # bytes of the count of a table in a chunk
FULL, NONE = 1, 0  # tables of blocks all of which, or none of which, are expected


@dataclass(frozen=True)
class GroupCode:
    """What the bits of a mask are coded with."""

    group: int  # blocks, side by side
    expected: int  # of these
    blocks: int  # of a row of the mask
    tables: Tables  # of ANS


@inlined
def context_of(left, due, tables):
    """The table of a block that is the first of so many `left` in its group, of which so many are `due`."""
    if due <= 0:
        return np.int64(NONE)
    if due >= left:
        return np.int64(FULL)
    return 2 + due * (tables - 2) // left


@released
def count_bits(lines, group, expected, counts):
    """Add to `counts` i64 [tables, 256] the bits of lines u8 [rows, blocks] in their contexts."""
    tables, blocks = len(counts), lines.shape[1]
    for r in range(len(lines)):
        for start in range(0, blocks, group):
            stop, due = min(start + group, blocks), expected
            for c in range(start, stop):
                bit = np.int64(lines[r, c])
                counts[context_of(stop - c, due, tables), bit] += 1
                due -= bit


@released
def gather(lines, group, expected, sizes, symbols):
    """Put the bits of lines u8 [rows, blocks] into `symbols` u8, sorted by context, as many each as `sizes` says."""
    tables, blocks = len(sizes), lines.shape[1]
    places = np.cumsum(sizes) - sizes
    for r in range(len(lines)):
        for start in range(0, blocks, group):
            stop, due = min(start + group, blocks), expected
            for c in range(start, stop):
                t = context_of(stop - c, due, tables)
                symbols[places[t]] = lines[r, c]
                places[t] += 1
                due -= np.int64(lines[r, c])


@released
def scatter(symbols, group, expected, sizes, lone, lines):
    """Undo `gather`, where `sizes` are those of tables with several symbols alone, `lone` has that of the others; False
    unless all symbols are used up, and none is asked for that isn't there."""
    tables, blocks = len(sizes), lines.shape[1]
    places = np.cumsum(sizes) - sizes
    ends = np.cumsum(sizes)
    for r in range(len(lines)):
        for start in range(0, blocks, group):
            stop, due = min(start + group, blocks), expected
            for c in range(start, stop):
                t = context_of(stop - c, due, tables)
                bit = lone[t]
                if bit == SEVERAL:
                    if places[t] == ends[t]:
                        return False
                    bit = np.int64(symbols[places[t]])
                    places[t] += 1
                if bit < 0 or bit > 1:
                    return False
                lines[r, c] = np.uint8(bit)
                due -= bit
    unused = np.int64(0)
    for t in range(tables):
        unused += ends[t] - places[t]
    return unused == 0


@released
def tally(lines, there):
    """Add to `there` i64 [WIDEST + 1, WIDEST + 1] how many whole groups of each size, the first index, in lines u8
    [rows, blocks] have how many blocks that are there."""
    sums = np.zeros(lines.shape[1] + 1, np.int64)
    for r in range(len(lines)):
        for c in range(lines.shape[1]):
            sums[c + 1] = sums[c] + np.int64(lines[r, c])
        for group in range(LEAST, min(WIDEST, lines.shape[1] // 2) + 1):
            for start in range(0, lines.shape[1] + 1 - group, group):
                there[group, sums[start + group] - sums[start]] += 1


def likely(lines: Ints) -> tuple[float, int, int]:
    """Bits a block of a mask bool [rows, blocks] by its likeliest groups, their size, and how many of each are there at
    most; 1 bit where rows are too short for any."""
    rows, blocks = min(len(lines), max(SEEN // lines.shape[1], 1)), lines.shape[1]
    there = np.zeros((WIDEST + 1, WIDEST + 1), np.int64)
    tally(np.ascontiguousarray(lines[:: max(len(lines) // rows, 1)][:rows]).view(np.uint8), there)
    n = np.maximum(there.sum(axis=1), 1)
    shares = there / n[:, None]
    coded = (shares * (_choices() - np.log2(np.where(there > 0, shares, 1.0)))).sum(axis=1)
    noise = 0.72 * (np.count_nonzero(there, axis=1) - 1) / n  # half a degree of freedom each (Miller, 1955)
    best = 1.0, 0, 0
    for group in range(LEAST, min(WIDEST, blocks // 2) + 1):
        bits = float(coded[group] + noise[group]) / group
        if bits < 0.995 * best[0]:  # of multiples that are as good, the first
            best = bits, group, int(np.flatnonzero(there[group])[-1])
    return best


@cache
def _choices() -> NDArray[np.float64]:
    """Bits [m, k] that tell which k of m are there, both up to WIDEST; without meaning where k > m."""
    logs = np.array([lgamma(k + 1) for k in range(WIDEST + 1)])
    sizes = np.arange(WIDEST + 1)
    found: NDArray[np.float64] = (logs[:, None] - logs - logs[np.abs(sizes[:, None] - sizes)]) / log(2)
    return found


def fit(pieces: Iterable[Bytes], group: int, expected: int, blocks: int, chunks: int) -> tuple[GroupCode, Plan, int]:
    """The code for lines u8 [rows, blocks] of a mask, piece by piece, and the bytes that it takes in so many chunks,
    tables included. Every table is a segment of every chunk, so that fewer of them may be cheaper."""
    most = min(MOST_TABLES, 2 + TABLES_A_BLOCK * group)
    counted = [np.zeros((tables, 256), np.int64) for tables in (most, *FEWER) if tables <= most]
    for lines in pieces:
        for counts in counted:
            count_bits(lines, group, expected, counts)
    found = []
    for counts in counted:
        plan = entropy.plan(entropy.ANS, counts)
        lanes = np.where(counts.sum(axis=1) >= LANES_FROM * chunks, 4, 1)[plan.tables.lone == SEVERAL]
        fronts = chunks * int((COUNT + LANE * lanes).sum())
        found.append((plan.coded_bits // 8 + plan.table_bytes + fronts, plan))
    size, plan = min(found, key=lambda one: one[0])
    return GroupCode(group, expected, blocks, plan.tables), plan, size


def head_of(code: GroupCode) -> bytes:
    """What stands in the head in place of the contexts of rows and columns."""
    return bytes([code.group, code.expected])


def read_head(reader: Reader, blocks: int, coder: str, tables: int) -> GroupCode:
    """Undo it, and the tables behind; DamagedError for what no mask has."""
    group, expected = reader.byte(), reader.byte()
    if not LEAST <= group <= min(WIDEST, blocks) or expected > group or coder != entropy.ANS or tables < 3:
        raise DamagedError(f"its mask has {expected} of {group} blocks in {tables} tables of {coder}")
    return GroupCode(group, expected, blocks, reader.tables(tables, coder))


def _counted(blocks: int) -> int:
    """Bytes of a count up to `blocks`."""
    return (blocks.bit_length() + 7) // 8


def encode(code: GroupCode, coder: tuple[Ints, ...], lines: Bytes) -> Bytes:
    """Lines u8 [rows, blocks] of the mask, coded."""
    counts = np.zeros((len(code.tables.lone), 256), np.int64)
    count_bits(lines, code.group, code.expected, counts)
    sizes = counts.sum(axis=1)
    symbols = np.empty(lines.size, np.uint8)
    gather(lines, code.group, code.expected, sizes, symbols)
    if entropy.uncoded(symbols, sizes, code.tables):
        raise ValueError("a mask's tables are made of all its bits")
    stream = entropy.encode(symbols, sizes, coder)
    several = code.tables.lone == SEVERAL
    front = b"".join(int(n).to_bytes(_counted(lines.size), "little") for n in sizes[several])
    return np.concatenate([np.frombuffer(front + struct.pack("<I", len(stream)), np.uint8), stream])


def decode(code: GroupCode, coder: tuple[Ints, Counts], coded: memoryview, rows: int) -> Bytes:
    """Undo `encode` for so many rows; DamagedError if `coded` makes no sense."""
    reader, lines = Reader(coded), np.empty((rows, code.blocks), np.uint8)
    sizes = np.zeros(len(code.tables.lone), np.int64)
    for t in np.flatnonzero(code.tables.lone == SEVERAL):
        sizes[t] = int.from_bytes(reader.take(_counted(lines.size)), "little")
    stream = reader.bytes(reader.u32())
    if int(sizes.sum()) > lines.size or reader.left:
        raise DamagedError("a chunk's mask has more bits than it has blocks, or goes on behind its end")
    symbols = entropy.decode(stream, sizes, coder)
    if not scatter(symbols, code.group, code.expected, sizes, code.tables.lone, lines):
        raise DamagedError("a chunk's mask has more or fewer bits in a context than it says")
    return lines
