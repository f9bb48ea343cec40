"""Code tables as bytes: one small number a symbol, a window of symbols a table (FORMAT.md, section 5.2).

Huffman and ANS describe a table alike, by a number from 1 upwards for every symbol that occurs: the length of its
code, or the step of its frequency. Symbols 0 (zero) and 255 (escape) stand outside the window.
"""

from dataclasses import dataclass

import numpy as np

from mc.codec.compiled import compiled
from mc.codec.typing import Bytes, Counts
from mc.errors import DamagedError

SEVERAL, EMPTY = -1, -2  # in place of a table's lone symbol
NO_WINDOW = 255  # as first byte of a table: it has one symbol, which follows, or none


@dataclass(frozen=True)
class Tables:
    """What an entropy coder knows of its tables: the numbers [tables, 256] u8, and lone symbols [tables] i64."""

    numbers: Bytes
    lone: Counts


def write_tables(tables: Tables, wide: bool) -> bytes:
    """Each table as its window and its numbers, a nibble each (`wide`: a byte each)."""
    parts = []
    for numbers, lone in zip(tables.numbers, tables.lone, strict=True):
        if lone != SEVERAL:
            parts.append(bytes([NO_WINDOW, 0, lone] if lone >= 0 else [NO_WINDOW, 1, 0]))
            continue
        inside = np.flatnonzero(numbers[1:255]) + 1
        low, high = (int(inside[0]), int(inside[-1])) if len(inside) else (1, 0)
        listed = np.concatenate([numbers[[0, 255]], numbers[low : high + 1]])
        parts.append(bytes([low, high]) + (listed.tobytes() if wide else pack_nibbles(listed)))
    return b"".join(parts)


@compiled
def summary(counts, lone):
    """Fill `lone` [tables] i64 with the only symbol of each table of counts [tables, 256], or SEVERAL, or EMPTY."""
    for t in range(counts.shape[0]):
        used, last = 0, 0
        for s in range(256):
            if counts[t, s] > 0:
                used += 1
                last = s
        lone[t] = last if used == 1 else EMPTY if used == 0 else SEVERAL


@compiled
def tables_size(numbers, lone, wide):
    """How many bytes `write_tables` makes of tables with these numbers [tables, 256] and lone symbols [tables]."""
    size = 0
    for t in range(len(lone)):
        if lone[t] != SEVERAL:
            size += 3
            continue
        low, high = 255, 254
        for s in range(1, 255):
            if numbers[t, s] > 0:
                low = min(low, s)
                high = s
        listed = max(high - low + 1, 0) + 2
        size += 2 + (listed if wide else (listed + 1) // 2)
    return size


def read_tables(data: memoryview, count: int, wide: bool) -> tuple[Tables, int]:
    """Undo `write_tables`; also returns how many bytes it took. DamagedError where the bytes are no tables."""
    numbers = np.zeros((count, 256), np.uint8)
    lone = np.full(count, SEVERAL, np.int64)
    at = 0
    for t in range(count):
        if len(data) < at + 2:
            raise DamagedError("its code tables end too early")
        low, high = data[at], data[at + 1]
        at += 2
        if low == NO_WINDOW:
            if high > 1 or len(data) < at + 1:
                raise DamagedError("a code table is neither a window nor a lone symbol")
            lone[t] = data[at] if high == 0 else EMPTY
            at += 1
            continue
        listed = max(high - low + 1, 0) + 2
        size = listed if wide else (listed + 1) // 2
        if low < 1 or high > 254 or len(data) < at + size:
            raise DamagedError("a code table has a window outside 1..254, or ends too early")
        raw = np.frombuffer(data[at : at + size], np.uint8)
        values = raw if wide else unpack_nibbles(raw, listed)
        numbers[t, [0, 255]] = values[:2]
        numbers[t, low : low + listed - 2] = values[2:]
        at += size
    return Tables(numbers, lone), at


def pack_nibbles(values: Bytes) -> bytes:
    """Two numbers below 16 a byte, the first in the low half."""
    even = np.append(values, np.uint8(0)) if len(values) % 2 else values
    return bytes((even[0::2] | even[1::2] << 4).astype(np.uint8))


def unpack_nibbles(packed: Bytes, count: int) -> Bytes:
    """Undo `pack_nibbles` for `count` numbers."""
    both = np.empty(2 * len(packed), np.uint8)
    both[0::2] = packed & 15
    both[1::2] = packed >> 4
    return both[:count]
