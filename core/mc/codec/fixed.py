"""How the head of a float tensor begins: what is as long in all of them, read and checked (FORMAT.md, section 5)."""

from typing import NamedTuple

import numpy as np

from mc.codec import entropy
from mc.codec.compiled import inlined
from mc.codec.fields import Reader
from mc.codec.planes import MOST_FIELD_BITS, Geometry
from mc.codec.segments import TABLES
from mc.errors import DamagedError

CHUNK = 1 << 18  # words in a chunk, at most, unless a single row has more
NARROWEST, WIDEST = 64, 1 << 20  # columns of a matrix
ALONE, ROWS, BOTH = 0, 1, 2  # which scales give the contexts: one for the whole tensor, of rows, of rows and columns
CONTEXTS = ("alone", "rows", "both")

FIXED, FIXED_BYTES = "BBBBIhB", 11  # mantissa, flags, context, coder, cols, base, frequent
SIGN = 1 << 15  # bit of `base`
UNSIGNED = 1  # flag of a float tensor
MOST_FREQUENT = 8  # frequent words
WIDEST_ORDERED = 0xFFFF  # columns that can be told apart by u16
CODERS = len(entropy.CODERS)
WIDE = entropy.CODERS.index(entropy.ANS)  # number of the coder whose tables are listed in bytes

UNKNOWN, NO_MATRIX, TOO_LONG, NO_FLOATS = 1, 2, 3, 4  # faults


class Fixed(NamedTuple):
    """What it says, and how many rows there are."""

    fault: int  # or 0
    mantissa: int
    flags: int
    context: int
    coder: int  # its number
    cols: int
    base: int  # row scale that the others are counted from
    frequent: int  # words
    rows: int


@inlined
def tables_of(context: int) -> int:
    """Tables, one for each segment of a chunk."""
    return 1 if context == ALONE else TABLES


@inlined
def rows_in_chunk(cols: int) -> int:
    """Whole rows that make a chunk."""
    return max(1, CHUNK // cols)


@inlined
def scaled_columns(of):
    """Columns that have scales."""
    return of.cols if of.context == BOTH else 0


@inlined
def _whole_number(data, at, size):
    """The `size` bytes from byte `at` on."""
    number = np.int64(0)
    for k in range(size):
        number |= np.int64(data[at + k]) << (8 * k)
    return number


@inlined
def fixed_at(data, at, mantissa, words, most_chunks):
    """What the FIXED_BYTES from byte `at` of `data` u8 on say of a tensor of so many words, in as many chunks at most,
    whose dtype has so many mantissa bits; with a fault for what can't have been written."""
    of, flags = np.int64(data[at]), np.int64(data[at + 1])
    context, coder = np.int64(data[at + 2]), np.int64(data[at + 3])
    cols, frequent = _whole_number(data, at + 4, 4), np.int64(data[at + 10])
    base = (_whole_number(data, at + 8, 2) ^ SIGN) - SIGN
    fault, rows = 0, np.int64(0)
    fits = of <= mantissa < of + MOST_FIELD_BITS
    matrix = min(NARROWEST, words) <= cols <= min(words, WIDEST)
    if not fits or flags > UNSIGNED or frequent > MOST_FREQUENT or context > BOTH or coder >= CODERS:
        fault = UNKNOWN
    elif not matrix or (context == BOTH and (words % cols or cols > WIDEST_ORDERED)):
        fault = NO_MATRIX
    else:
        rows = -(-words // cols)
        if -(-rows // rows_in_chunk(cols)) > most_chunks:
            fault = TOO_LONG
    return Fixed(np.int64(fault), of, flags, context, coder, cols, base, frequent, rows)


def read_fixed(reader: Reader, geometry: Geometry, words: int, most_chunks: int) -> Fixed:
    """The front of the head of a tensor of that many words, in as many chunks at most; DamagedError for anything that
    can't have been written."""
    # In Python, which takes microseconds: a loop for it would have to be compiled at first.
    of = Fixed(*map(int, fixed_at(reader.bytes(FIXED_BYTES), 0, geometry.mantissa, words, most_chunks)))
    if of.fault == UNKNOWN:
        raise DamagedError(
            f"its head asks for {of.mantissa} mantissa bits, flags {of.flags}, context {of.context}, coder {of.coder}"
        )
    if of.fault == NO_MATRIX:
        raise DamagedError(f"its head says {of.cols} columns, which doesn't fit {words} words")
    if of.fault == TOO_LONG:
        raise DamagedError(f"it has room for {most_chunks} chunks, too few for its {of.rows} rows")
    return of
