"""Integers that lie packed in words, four or eight bits each: to the coder of sparse tensors each is a byte.

So compressed-tensors stores them: q + 2^(bits - 1), the first in the lowest bits (FORMAT.md, 7.8).
"""

import numpy as np

from mc.codec.typing import Bytes
from mc.errors import DamagedError

WIDTHS = (4, 8)  # bits
FLIP = 0x80


def split(raw: Bytes, bits: int) -> Bytes:
    """Bytes as signed integers, i8 seen as u8, 8 / bits of each byte."""
    if bits == 8:
        return raw ^ np.uint8(FLIP)
    out = np.empty(2 * len(raw), np.uint8)
    np.bitwise_and(raw, 15, out=out[::2])
    np.right_shift(raw, 4, out=out[1::2])
    return out - np.uint8(8)


def join(values: Bytes, bits: int, raw: Bytes) -> None:
    """Undo `split` into `raw`; DamagedError for integers that four bits don't hold."""
    if bits == 8:
        np.bitwise_xor(values, np.uint8(FLIP), out=raw)
        return
    fields = values + np.uint8(8)
    if fields.size and int(fields.max()) > 15:
        raise DamagedError("a chunk has integers that don't fit into four bits")
    np.bitwise_or(fields[::2], fields[1::2] << np.uint8(4), out=raw)
