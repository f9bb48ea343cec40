"""Unaligned 64-bit words in byte arrays, the ground on which both entropy coders stand.

Bits fill bytes from the lowest upwards (FORMAT.md, section 6). Eight byte accesses written side by side look slow
and are not: LLVM merges them into one instruction, which is what makes plain Python fast enough here.
"""

import numpy as np

from mc.codec.compiled import inlined

U8, U64 = np.uint8, np.uint64
BYTE = U64(255)
BITS_IN_BYTE = U64(7)
WHOLE_BYTES = U64(56)  # of a bit count below 64: the part that fills whole bytes, in bits

# A load at byte p reads bytes p to p + 7, a store writes as many: buffers keep this many bytes to spare.
SPARE_BYTES = 8


@inlined
def load(data, p):
    """The 64 bits at byte `p` of `data`; the caller has made sure that p + 8 <= len(data)."""
    return (
        U64(data[p])
        | U64(data[p + U64(1)]) << U64(8)
        | U64(data[p + U64(2)]) << U64(16)
        | U64(data[p + U64(3)]) << U64(24)
        | U64(data[p + U64(4)]) << U64(32)
        | U64(data[p + U64(5)]) << U64(40)
        | U64(data[p + U64(6)]) << U64(48)
        | U64(data[p + U64(7)]) << U64(56)
    )


@inlined
def load_near_end(data, p, end):
    """Like `load`, with zeros for the bytes at `end` and beyond; safe for every p."""
    bits = U64(0)
    for k in range(8):
        at = p + U64(k)
        if at < end:
            bits |= U64(data[at]) << U64(8 * k)
    return bits


@inlined
def store(data, p, bits):
    """Write the 64 bits at byte `p`; the caller has made sure that p + 8 <= len(data)."""
    data[p] = U8(bits & BYTE)
    data[p + U64(1)] = U8((bits >> U64(8)) & BYTE)
    data[p + U64(2)] = U8((bits >> U64(16)) & BYTE)
    data[p + U64(3)] = U8((bits >> U64(24)) & BYTE)
    data[p + U64(4)] = U8((bits >> U64(32)) & BYTE)
    data[p + U64(5)] = U8((bits >> U64(40)) & BYTE)
    data[p + U64(6)] = U8((bits >> U64(48)) & BYTE)
    data[p + U64(7)] = U8((bits >> U64(56)) & BYTE)


@inlined
def store32(data, p, bits):
    """Write the low 32 bits at byte `p`; the caller has made sure that p + 4 <= len(data)."""
    data[p] = U8(bits & BYTE)
    data[p + U64(1)] = U8((bits >> U64(8)) & BYTE)
    data[p + U64(2)] = U8((bits >> U64(16)) & BYTE)
    data[p + U64(3)] = U8((bits >> U64(24)) & BYTE)


@inlined
def read32(data, p):
    """The 32 bits at byte `p` as an unsigned 64-bit number; the caller has made sure that p + 4 <= len(data)."""
    return (
        U64(data[p])
        | U64(data[p + U64(1)]) << U64(8)
        | U64(data[p + U64(2)]) << U64(16)
        | U64(data[p + U64(3)]) << U64(24)
    )
