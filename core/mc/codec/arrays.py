"""Arrays of bytes in the head of a tensor, read in one call: a head has up to three, and a model many heads
(FORMAT.md, section 5.2)."""

import numpy as np

from mc.codec import huffman, tables
from mc.codec.bitstream import U64, read32
from mc.codec.compiled import compiled, inlined

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


@inlined
def _coded(data, at, out):
    """Undo a Huffman-coded array that begins at byte `at`."""
    numbers, lone = np.empty((1, 256), np.uint8), np.empty(1, np.int64)
    used = tables.read(data[at:], NIBBLES, numbers, lone)
    if used < 0:
        return CUT if used == tables.TOO_SHORT else NO_TABLE
    at += used
    lookup, sizes = np.empty((1, huffman.LOOKUP), np.uint64), np.empty(1, np.int64)
    sizes[0] = len(out)
    if huffman.decoder(numbers, lone, huffman.FEWEST, lookup) >= 0:
        return NO_CODE
    if at + 4 > len(data):
        return CUT
    end = at + 4 + np.int64(read32(data, U64(at)))
    if end > len(data):
        return CUT
    return end if huffman.decode(data[at + 4 : end], sizes, lookup, lone, out) else UNSOUND


@compiled
def read(data, at, out):
    """Fill `out` u8 with the array that begins at byte `at` of `data`; returns the byte behind it, or a fault."""
    if at >= len(data):
        return CUT
    method = data[at]
    at += 1
    if method == CODED:
        return _coded(data, at, out)
    if method > CODED:
        return NO_WAY
    step = 1 - np.int64(method)  # PLAIN: from byte to byte; SAME: always the first
    end = at + (len(out) if method == PLAIN else 1)
    if end > len(data):
        return CUT
    for i in range(len(out)):
        out[i] = data[at + i * step]
    return end
