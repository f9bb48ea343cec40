"""Integers of two to eight bits that lie packed in words: to the coder of sparse tensors each is a byte.

So compressed-tensors stores them: q + 2^(bits - 1), the first in the lowest bits, rows filled up to whole words
(FORMAT.md, 7.8).
"""

import numpy as np

from mc.codec.compiled import released
from mc.codec.tables import counted
from mc.codec.typing import Bytes
from mc.errors import DamagedError

WIDTHS = (4, 8)  # bits of those that planes of nibbles and bytes see too
ODD = (2, 3, 5, 6, 7)  # of those that lie across bytes, or are too many in one
SEEN = 1 << 16  # bytes in which such are looked for
MOSTLY = 64  # one row in so many may have bits behind its integers
NEAR = 1.05  # times what the cheapest takes: a mask in patterns may save more than that


@released
def unpack(raw, bits, cols, out):
    """Fill `out` u8 with signed integers, i8 seen as u8, from rows of `cols` each."""
    line, ones, half = (cols * bits + 7) // 8, (1 << bits) - 1, 1 << (bits - 1)
    for r in range(len(out) // cols):
        for c in range(cols):
            at = c * bits
            k = r * line + (at >> 3)
            word = np.int64(raw[k])
            if (at & 7) + bits > 8:
                word |= np.int64(raw[k + 1]) << 8
            out[r * cols + c] = np.uint8((((word >> (at & 7)) & ones) - half) & 255)


@released
def pack(values, bits, cols, raw):
    """Undo `unpack` into `raw` u8, which is zero; False if an integer doesn't fit."""
    line, half = (cols * bits + 7) // 8, 1 << (bits - 1)
    for r in range(len(values) // cols):
        for c in range(cols):
            at = c * bits
            k = r * line + (at >> 3)
            number = ((np.int64(values[r * cols + c]) ^ 128) - 128) + half
            if number < 0 or number >> bits:
                return False
            word = number << (at & 7)
            raw[k] |= np.uint8(word & 255)
            if word >> 8:
                raw[k + 1] |= np.uint8(word >> 8)
    return True


def line_of(cols: int, bits: int) -> int:
    """Bytes of a row of so many integers."""
    return -(-cols * bits // 8)


def split(raw: Bytes, bits: int, cols: int) -> Bytes:
    """Rows of `cols` packed integers as signed ones, i8 seen as u8."""
    out = np.empty(len(raw) // line_of(cols, bits) * cols, np.uint8)
    unpack(raw, bits, cols, out)
    return out


def join(values: Bytes, bits: int, cols: int, raw: Bytes) -> None:
    """Undo `split` into `raw`, with zeros for bits that are left over; DamagedError for integers that don't fit."""
    raw[:] = 0
    if not pack(values, bits, cols, raw):
        raise DamagedError(f"a chunk has integers that don't fit into {bits} bits")


def likely(rows: Bytes, cost: float) -> list[int]:
    """The bits of integers that rows u8 [rows, bytes] may be made of, of the ODD ones: those that make a byte take
    about as little as the best of them, and about `cost` bytes or fewer; with six bits also what they may be pairs or
    triples of, which see more of a pattern."""
    found: dict[int, float] = {}
    for bits in ODD:
        cols = 8 * rows.shape[1] // bits
        behind = (
            8 * rows.shape[1] - cols * bits
        )  # bits left over, zero if these are such integers; else chunks stay raw
        if int(np.count_nonzero(rows[:, -1] >> (8 - behind))) * MOSTLY > len(rows):
            continue
        counts = counted(split(rows.reshape(-1), bits, cols))
        shares = counts[counts > 0] / counts.sum()
        found[bits] = float(-(shares * np.log2(shares)).sum()) * cols / (8 * rows.shape[1])
    least = min([cost, *found.values()])
    near = {bits for bits, taken in found.items() if taken < NEAR * least}
    return sorted(near | ({2, 3} if 6 in near else set()))
