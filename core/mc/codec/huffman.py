"""Canonical Huffman codes, at most 12 bits long, in four interleaved lanes.

A chunk's symbols arrive as segments, one for each table: all symbols of a segment share a code. A segment is cut into
four lanes that are decoded side by side, so that the latency of one lane's table look-up is hidden behind the others;
one look-up of 12 bits yields up to five symbols. Codes are read lowest bit first.
"""

import numpy as np

from mc.codec.bitstream import (
    BITS_IN_BYTE,
    BYTE,
    SPARE_BYTES,
    U8,
    U64,
    WHOLE_BYTES,
    byte_of,
    leading_zeros,
    load,
    load_near_end,
    read32,
    store,
    store32,
)
from mc.codec.compiled import by_rows, lent, released
from mc.codec.huffman_tables import (
    BITS_AT,
    CODE_SHIFT,
    COUNT_SHIFT,
    FIRST_SHIFT,
    LOOKUP,
    MOST,
    PAIRS,
)
from mc.codec.tables import EMPTY

LANES = 4
LANED = 4096  # a segment with fewer symbols is one lane: four would cost more than they speed up

PAIR = U64(PAIRS - 1)
SHIFT_MASK = U64(63)  # what a shift of 64 bits looks at of its number
LOOKUP_MASK = U64(LOOKUP - 1)
MARK = U64(1 << 63)  # stands above the bits that were loaded, and tells how far they have been shifted
LOOKUPS = 4  # in a lane between two loads
ROUND_BYTES, ROUND_SYMBOLS = U64(6), U64(LOOKUPS * MOST)  # that these take and give, at most


@by_rows
def _encode_lane(symbols, start, stop, singles, pairs, out, p):
    """Code symbols[start:stop] from byte `p` of `out` on; return the byte after the last."""
    acc, filled = U64(0), U64(0)
    i, by_pairs = start, stop if len(pairs) > 0 else start
    while i + U64(8) <= by_pairs:
        eight = load(symbols, i)
        e0, e1 = U64(pairs[eight & PAIR]), U64(pairs[(eight >> U64(16)) & PAIR])
        e2, e3 = U64(pairs[(eight >> U64(32)) & PAIR]), U64(pairs[eight >> U64(48)])
        first, second = (e0 + e1) & SHIFT_MASK, (e2 + e3) & SHIFT_MASK  # bits of four codes each, at most 48
        acc |= ((e0 >> CODE_SHIFT) | (e1 >> CODE_SHIFT) << (e0 & SHIFT_MASK)) << filled
        filled += first
        if filled + second >= U64(64):  # hardly ever
            store(out, p, acc)
            p += filled >> U64(3)
            acc >>= filled & WHOLE_BYTES
            filled &= BITS_IN_BYTE
        acc |= ((e2 >> CODE_SHIFT) | (e3 >> CODE_SHIFT) << (e2 & SHIFT_MASK)) << filled
        filled += second
        store(out, p, acc)
        p += filled >> U64(3)
        acc >>= filled & WHOLE_BYTES
        filled &= BITS_IN_BYTE
        i += U64(8)
    while i < stop:
        entry = U64(singles[symbols[i]])
        acc |= (entry >> CODE_SHIFT) << filled
        filled += entry & SHIFT_MASK
        store(out, p, acc)
        p += filled >> U64(3)
        acc >>= filled & WHOLE_BYTES
        filled &= BITS_IN_BYTE
        i += U64(1)
    store(out, p, acc)
    return p + ((filled + U64(7)) >> U64(3))


@lent
def encode(symbols, counts, singles, pairs, lone, out, at):
    """Code segments of `symbols` u8, counts[t] symbols with table t of `singles` and `pairs`, into `out` from byte
    `at` on; return the byte after the last. `out` holds at least `entropy.capacity` bytes from there."""
    p = U64(at)
    begin = U64(0)
    for t in range(len(counts)):
        n = U64(counts[t])
        if n == U64(0):
            continue
        if lone[t] >= 0:
            begin += n
            continue
        lanes = LANES if n >= U64(LANED) else 1
        sizes = p
        p += U64(4 * lanes)
        quarter = n // U64(lanes)
        for lane in range(lanes):
            start = begin + quarter * U64(lane)
            stop = begin + n if lane == lanes - 1 else start + quarter
            after = _encode_lane(symbols, start, stop, singles[t], pairs[t], out, p)
            store32(out, sizes + U64(4 * lane), after - p)
            p = after
        begin += n
    return p


@by_rows
def _decode_end(data, p, end, lookup, out, o, stop):
    """Decode a lane from bit `p` up to out[stop], with care; return the bit after its last one,
    which lies beyond end * 8 if the lane was too short."""
    while o + U64(8) <= stop and (p >> U64(3)) + U64(SPARE_BYTES) <= end:
        at = (load(data, p >> U64(3)) >> (p & BITS_IN_BYTE)) & LOOKUP_MASK
        store(out, o, lookup[at])
        o += lookup[at] >> COUNT_SHIFT
        p += byte_of(lookup, BITS_AT + at)
    while o < stop:
        if p > end << U64(3):
            return p
        entry = lookup[(load_near_end(data, p >> U64(3), end) >> (p & BITS_IN_BYTE)) & LOOKUP_MASK]
        out[o] = U8(entry & BYTE)
        o += U64(1)
        p += (entry >> FIRST_SHIFT) & BYTE
    return p


@by_rows
def _rounds(p, o, stop, size):
    """How many rounds of LOOKUPS a lane can take unchecked. They read and write eight bytes at once, so up to eight
    beyond what they use and give."""
    if o + U64(8) > stop or (p >> U64(3)) + U64(SPARE_BYTES) > size:
        return U64(0)
    return min((stop - o - U64(8)) // ROUND_SYMBOLS, (size - U64(SPARE_BYTES) - (p >> U64(3))) // ROUND_BYTES)


@by_rows
def _decode_lanes(data, ends, lookup, out, begin, n):
    """Decode four lanes side by side; lane k lies in data[ends[k]:ends[k + 1]]. True if each was used up exactly."""
    size = U64(len(data))
    quarter = n // U64(LANES)
    o0 = begin
    o1 = stop0 = begin + quarter
    o2 = stop1 = stop0 + quarter
    o3 = stop2 = stop1 + quarter
    stop3 = begin + n
    p0, p1, p2, p3 = ends[0] << U64(3), ends[1] << U64(3), ends[2] << U64(3), ends[3] << U64(3)
    while True:
        rounds = min(
            min(_rounds(p0, o0, stop0, size), _rounds(p1, o1, stop1, size)),
            min(_rounds(p2, o2, stop2, size), _rounds(p3, o3, stop3, size)),
        )
        if rounds == U64(0):
            break
        for _ in range(rounds):
            x0 = load(data, p0 >> U64(3)) >> (p0 & BITS_IN_BYTE) | MARK
            x1 = load(data, p1 >> U64(3)) >> (p1 & BITS_IN_BYTE) | MARK
            x2 = load(data, p2 >> U64(3)) >> (p2 & BITS_IN_BYTE) | MARK
            x3 = load(data, p3 >> U64(3)) >> (p3 & BITS_IN_BYTE) | MARK
            # One lane after the other, so that what they need stays in registers. The next look-up waits for nothing
            # but how many bits this one used.
            for _ in range(LOOKUPS):
                at = x0 & LOOKUP_MASK
                x0 >>= byte_of(lookup, BITS_AT + at) & SHIFT_MASK
                store(out, o0, lookup[at])
                o0 += lookup[at] >> COUNT_SHIFT
                at = x1 & LOOKUP_MASK
                x1 >>= byte_of(lookup, BITS_AT + at) & SHIFT_MASK
                store(out, o1, lookup[at])
                o1 += lookup[at] >> COUNT_SHIFT
                at = x2 & LOOKUP_MASK
                x2 >>= byte_of(lookup, BITS_AT + at) & SHIFT_MASK
                store(out, o2, lookup[at])
                o2 += lookup[at] >> COUNT_SHIFT
                at = x3 & LOOKUP_MASK
                x3 >>= byte_of(lookup, BITS_AT + at) & SHIFT_MASK
                store(out, o3, lookup[at])
                o3 += lookup[at] >> COUNT_SHIFT
            p0 += leading_zeros(x0)
            p1 += leading_zeros(x1)
            p2 += leading_zeros(x2)
            p3 += leading_zeros(x3)
    p0 = _decode_end(data, p0, ends[1], lookup, out, o0, stop0)
    p1 = _decode_end(data, p1, ends[2], lookup, out, o1, stop1)
    p2 = _decode_end(data, p2, ends[3], lookup, out, o2, stop2)
    p3 = _decode_end(data, p3, ends[4], lookup, out, o3, stop3)
    return (
        (p0 + U64(7)) >> U64(3) == ends[1]
        and (p1 + U64(7)) >> U64(3) == ends[2]
        and (p2 + U64(7)) >> U64(3) == ends[3]
        and (p3 + U64(7)) >> U64(3) == ends[4]
    )


@released
def decode(data, counts, lookups, lone, out):
    """Undo `encode`: fill `out` u8 with sum(counts) symbols. True if `data` was used up exactly and made sense.
    Never reads outside `data` nor writes outside `out`, whatever the bytes say."""
    size = U64(len(data))
    p = U64(0)
    begin = U64(0)
    ends = np.empty(LANES + 1, np.uint64)
    for t in range(len(counts)):
        n = U64(counts[t])
        if n == U64(0):
            continue
        if lone[t] >= 0:
            out[begin : begin + n] = U8(lone[t])
            begin += n
            continue
        if lone[t] == EMPTY:
            return False  # symbols of a table that has none
        lanes = LANES if n >= U64(LANED) else 1
        if p + U64(4 * lanes) > size:
            return False
        ends[0] = p + U64(4 * lanes)
        for lane in range(lanes):
            ends[lane + 1] = ends[lane] + read32(data, p + U64(4 * lane))
        p = ends[lanes]
        if p > size:
            return False
        if lanes == LANES:
            sound = _decode_lanes(data, ends, lookups[t], out, begin, n)
        else:
            after = _decode_end(data, ends[0] << U64(3), ends[1], lookups[t], out, begin, begin + n)
            sound = (after + U64(7)) >> U64(3) == ends[1]
        if not sound:
            return False
        begin += n
    return p == size
