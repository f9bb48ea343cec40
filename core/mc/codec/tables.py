"""Code tables as bytes: one small number a symbol, a window of symbols a table (FORMAT.md, section 5.2).

Huffman and ANS describe a table alike, by a number from 1 upwards for every symbol that occurs: the length of its
code, or the step of its frequency. Symbols 0 (zero) and 255 (escape) stand outside the window.
"""

from dataclasses import dataclass

import numpy as np

from mc.codec.compiled import compiled, inlined, released
from mc.codec.typing import Bytes, Counts
from mc.errors import DamagedError

SEVERAL, EMPTY = -1, -2  # in place of a table's lone symbol
TOO_SHORT, NO_TABLE = -1, -2  # in place of the size of tables that can't be read
NO_WINDOW = 255  # as first byte of a table: it has one symbol, which follows, or none


@dataclass(frozen=True)
class Tables:
    """What an entropy coder knows of its tables: the numbers [tables, 256] u8, and lone symbols [tables] i64."""

    numbers: Bytes
    lone: Counts


@released
def _histogram(symbols, sizes, counts):
    four = np.empty((4, 256), np.int64)  # neighbours are often equal, and must not wait for each other's counts
    begin = 0
    for t in range(len(sizes)):
        n = sizes[t]
        four[:] = 0
        for i in range(begin, begin + n - 3, 4):
            four[0, symbols[i]] += 1
            four[1, symbols[i + 1]] += 1
            four[2, symbols[i + 2]] += 1
            four[3, symbols[i + 3]] += 1
        for i in range(begin + n - n % 4, begin + n):
            four[0, symbols[i]] += 1
        for s in range(256):
            counts[t, s] = four[0, s] + four[1, s] + four[2, s] + four[3, s]
        begin += n


def histogram(symbols: Bytes, sizes: Counts) -> Counts:
    """How often each symbol stands in each of the segments of `sizes` symbols, [segments, 256]."""
    counts = np.empty((len(sizes), 256), np.int64)
    _histogram(symbols, sizes, counts)
    return counts


def counted(symbols: Bytes) -> Counts:
    """How often each symbol stands in one segment, i64 [256]."""
    counts: Counts = histogram(symbols, np.array([len(symbols)]))[0]
    return counts


@inlined
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
def narrow(numbers, lone, window):
    """Narrow the `window` u16 of a lowest and a highest symbol to those in it that stand in one of the tables, or to
    its lowest if none does."""
    low, high = np.int64(window[0]), np.int64(window[1])
    first, last = high + 1, low
    for t in range(len(lone)):
        for s in range(low, high + 1):
            if numbers[t, s] > 0 or lone[t] == s:
                first, last = min(first, s), max(last, s)
    window[0], window[1] = min(first, last), last


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


@compiled
def write(numbers, lone, wide, out):
    """Fill `out` with the described tables, `tables_size` bytes."""
    at = 0
    for t in range(len(lone)):
        if lone[t] != SEVERAL:
            out[at] = NO_WINDOW
            out[at + 1] = 0 if lone[t] >= 0 else 1
            out[at + 2] = max(lone[t], 0)
            at += 3
            continue
        low, high = 1, 0
        for s in range(1, 255):
            if numbers[t, s] > 0:
                low = s if high == 0 else low
                high = s
        out[at], out[at + 1] = low, high
        at += 2
        for k in range(high - low + 3):
            number = numbers[t, 0 if k == 0 else 255 if k == 1 else low + k - 2]
            if wide:
                out[at + k] = number
            elif k % 2 == 0:
                out[at + k // 2] = number
            else:
                out[at + k // 2] |= number << 4
        listed = high - low + 3
        at += listed if wide else (listed + 1) // 2


@compiled
def read(data, wide, numbers, lone):
    """Undo `write`; returns the bytes taken, or what is wrong: TOO_SHORT or NO_TABLE."""
    at = 0
    numbers[:], lone[:] = 0, SEVERAL
    for t in range(len(lone)):
        if at + 2 > len(data):
            return TOO_SHORT
        low, high = np.int64(data[at]), np.int64(data[at + 1])
        at += 2
        if low == NO_WINDOW:
            if high > 1:
                return NO_TABLE
            if at >= len(data):
                return TOO_SHORT
            lone[t] = data[at] if high == 0 else EMPTY
            at += 1
            continue
        listed = max(high - low, -1) + 3
        size = listed if wide else (listed + 1) // 2
        if low < 1 or high > 254:
            return NO_TABLE
        if at + size > len(data):
            return TOO_SHORT
        for k in range(listed):
            number = data[at + k] if wide else (data[at + k // 2] >> (4 * (k % 2))) & 15
            numbers[t, 0 if k == 0 else 255 if k == 1 else low + k - 2] = number
        at += size
    return at


def write_tables(tables: Tables, wide: bool) -> bytes:
    """Each table as its window and its numbers, a nibble each (`wide`: a byte each)."""
    out = np.empty(tables_size(tables.numbers, tables.lone, wide), np.uint8)
    write(tables.numbers, tables.lone, wide, out)
    return out.tobytes()


def read_tables(data: Bytes, count: int, wide: bool) -> tuple[Tables, int]:
    """Undo `write_tables`; also returns how many bytes it took. DamagedError where the bytes are no tables."""
    numbers, lone = np.empty((count, 256), np.uint8), np.empty(count, np.int64)
    used = int(read(data, wide, numbers, lone))
    if used == TOO_SHORT:
        raise DamagedError("its code tables end too early")
    if used == NO_TABLE:
        raise DamagedError("a code table is neither a window of symbols 1 to 254 nor a lone symbol")
    return Tables(numbers, lone), used
