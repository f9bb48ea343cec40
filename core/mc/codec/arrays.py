"""Arrays of bytes in the head of a tensor, written and read in one call: a head has up to three, and a model many
heads (FORMAT.md, section 5.2)."""

import numpy as np

from mc.codec import huffman, huffman_tables, tables
from mc.codec.bitstream import U64, read32, store32
from mc.codec.compiled import compiled
from mc.codec.lengths import code_lengths

PLAIN, SAME, CODED = 0, 1, 2  # how an array of bytes is stored
NIBBLES = np.bool_(False)  # what tables of Huffman codes are listed in; of this type, as a literal is another to numba

# What is returned in place of where an array ends, negative.
FAULTS = (
    "",
    "its head ends too early",
    "a code table in its head is neither a window of symbols 1 to 254 nor a lone symbol",
    "an array in its head is stored in a way that is none of 0 to 2",
    "the lengths of a Huffman table in its head make no complete code",
    "an array in its head doesn't end where it should",
    "its row scales are beyond their range",
    "its rows have a class above 2",
)
CUT, NO_TABLE, NO_WAY, NO_CODE, UNSOUND, TOO_FAR, NO_CLASS = range(-1, -len(FAULTS), -1)

SPARED = 24  # bytes that a code must save to be tried


@compiled
def write(values, out):
    """Put `values` u8 into `out` in the shortest of three ways: as they are, as one repeated byte, or Huffman-coded.
    Returns the bytes that takes; `out` has 600 more than `entropy.capacity` of so many."""
    n = len(values)
    counts, sizes = np.empty((1, 256), np.int64), np.empty(1, np.int64)
    counts[:], sizes[0] = 0, n
    for i in range(n):
        counts[0, values[i]] += 1
    if n > 0 and counts[0, values[0]] == n:
        out[0], out[1] = SAME, values[0]
        return 2
    numbers, lone = np.empty((1, 256), np.uint8), np.empty(1, np.int64)
    tables.summary(counts, lone)
    bits = code_lengths(counts, numbers)
    begin = 1 + tables.tables_size(numbers, lone, NIBBLES)
    if bits // 8 + begin - 1 + SPARED < n:
        singles, pairs = np.empty((1, 256), np.uint32), np.empty((1, 0), np.uint32)
        huffman_tables.encoder(numbers, singles, pairs)
        end = np.int64(huffman.encode(values, sizes, singles, pairs, lone, out, begin + 4))
        if end - 1 < n:
            out[0] = CODED
            tables.write(numbers, lone, NIBBLES, out[1:])
            store32(out, U64(begin), U64(end - begin - 4))
            return end
    out[0] = PLAIN
    for i in range(n):
        out[1 + i] = values[i]
    return n + 1


@compiled
def read(data, at, out):
    """Fill `out` u8 with the array that begins at byte `at` of `data`; returns the byte behind it, or a fault."""
    if at >= len(data):
        return CUT
    method = data[at]
    at += 1
    if method > CODED:
        return NO_WAY
    if method != CODED:
        step = 1 - np.int64(method)  # PLAIN: from byte to byte; SAME: always the first
        end = at + (len(out) if method == PLAIN else 1)
        if end > len(data):
            return CUT
        for i in range(len(out)):
            out[i] = data[at + i * step]
        return end
    numbers, lone = np.empty((1, 256), np.uint8), np.empty(1, np.int64)
    used = tables.read(data[at:], NIBBLES, numbers, lone)
    if used < 0:
        return CUT if used == tables.TOO_SHORT else NO_TABLE
    at += used
    lookup, sizes = huffman_tables.room(1), np.empty(1, np.int64)
    sizes[0] = len(out)
    if huffman_tables.decoder(numbers, lone, huffman_tables.FEWEST, lookup) >= 0:
        return NO_CODE
    if at + 4 > len(data):
        return CUT
    end = at + 4 + np.int64(read32(data, U64(at)))
    if end > len(data):
        return CUT
    return end if huffman.decode(data[at + 4 : end], sizes, lookup, lone, out) else UNSOUND
