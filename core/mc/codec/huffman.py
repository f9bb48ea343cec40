"""Canonical Huffman codes, at most 12 bits long, in four interleaved lanes.

A chunk's symbols arrive as segments, one for each table: all symbols of a segment share a code. A segment is cut into
four lanes that are decoded side by side, so that the latency of one lane's table look-up is hidden behind the others;
one look-up of 12 bits yields up to four symbols. Codes are read lowest bit first.
"""

import numpy as np

from mc.codec.bitstream import (
    BITS_IN_BYTE,
    BYTE,
    SPARE_BYTES,
    U8,
    U64,
    WHOLE_BYTES,
    load,
    load_near_end,
    read32,
    store,
    store32,
    upper_byte,
)
from mc.codec.compiled import by_rows, compiled, inlined, released
from mc.codec.lengths import LONGEST
from mc.codec.narrow import shift_left
from mc.codec.tables import EMPTY, SEVERAL

LANES = 4
LANED = 4096  # a segment with fewer symbols is one lane: four would cost more than they speed up
LOOKUP = 1 << LONGEST
FEWEST, MOST = 1, 4  # symbols in an entry of the decoder's table

U32 = np.uint32

PAIRS = 1 << 16  # of symbols
PAIR = U64(PAIRS - 1)
LENGTH_SHIFT = U64(24)  # in an encoder entry: codes | length << 24
CODE_MASK = U64((1 << 24) - 1)
LENGTH, CODE = U32(LENGTH_SHIFT), U32(CODE_MASK)
LOOKUP_MASK = U64(LOOKUP - 1)

# A decoder entry: up to four symbols | (bits of all | bits of the first << 8 | how many << 24) << 32. The upper half is
# what a shift takes as its number; summed up, it counts the bits of a round and moves a position above PLACE_SHIFT.
COUNTS_SHIFT = U64(32)
USED_MASK = U64(63)
FIRST_SHIFT = U64(8)
PLACE_SHIFT = U64(24)
PLACE_MASK = U64((1 << 64) - (1 << 24))
SYMBOLS_MASK = U64((1 << 32) - 1)
ADDED_MASK = U64(0xFF0000FF << 32)  # of an entry that follows another: bits of all and how many


@inlined
def _canonical(lengths, codes):
    """Codes of one table, numbered by length, then by symbol, and turned round so that the first bit is the lowest."""
    many, following = np.zeros(LONGEST + 1, np.int64), np.zeros(LONGEST + 1, np.int64)
    for s in range(256):
        many[lengths[s]] += lengths[s] > 0
    for length in range(1, LONGEST + 1):
        following[length] = (following[length - 1] + many[length - 1]) << 1
    for s in range(256):
        length = lengths[s]
        if length > 0:
            turned = 0
            for k in range(length):
                turned = turned << 1 | ((following[length] >> k) & 1)
            codes[s] = turned
            following[length] += 1


@compiled
def encoder(lengths, singles, pairs):
    """Fill `singles` [tables, 256] u32 with code | length << 24 of each symbol of `lengths` [tables, 256], and `pairs`
    [tables, 65536] u32 likewise for first | second << 8, unless these have no room: few symbols are coded sooner than
    pairs are made. Entries of symbols without a code say nothing: a table of pairs is large, but few of its cache lines
    are ever used."""
    codes, entries = np.zeros(256, np.int64), np.empty(256, np.uint32)
    for t in range(lengths.shape[0]):
        _canonical(lengths[t], codes)
        low, high = 255, 0
        for s in range(256):
            entries[s] = codes[s] | np.int64(lengths[t, s]) << 24
            singles[t, s] = entries[s]
            if lengths[t, s] > 0 and 0 < s < 255:
                low, high = min(low, s), s
        for second in range(256):
            if lengths[t, second] > 0 and pairs.shape[1] > 0:
                _pairs_with(entries, second, low, high + 1, pairs[t, second << 8 : (second + 1) << 8])


@by_rows
def _pairs_with(entries, second, low, high, pairs):
    """Fill `pairs` with the entries of symbols 0, from `low` up to `high`, and 255, each before the `second` one."""
    code = U32(entries[second] & CODE)
    long = U32(entries[second] - code)
    for first in range(low, high):
        pairs[first] = U32(entries[first] + long) | shift_left(code, U32(entries[first] >> LENGTH))
    for first in (0, 255):
        pairs[first] = U32(entries[first] + long) | shift_left(code, U32(entries[first] >> LENGTH))


def most_at_once(symbols: int) -> int:
    """How many symbols an entry of the decoder's table should hold, if so many are to be decoded with the table: more
    of them take less time to decode, but the table takes longer to make (5, 9, 11 and 12 us)."""
    return FEWEST if symbols < 3 * LANED else 2 if symbols < 1 << 16 else MOST


@released
def decoder(lengths, lone, most, lookup):
    """Fill `lookup` [tables, 4096] u64 for complete codes; return the first table that is none, or -1. Tables that are
    no code because they have a `lone` symbol i64, or none, are left out.

    An entry holds up to `most` (1 to 4) symbols that fit into 12 bits."""
    codes = np.zeros(256, np.int64)
    first, rest = np.empty(LOOKUP, np.uint64), np.empty(LOOKUP, np.uint64)
    for t in range(lengths.shape[0]):
        space, shortest = 0, LONGEST
        for s in range(256):
            if lengths[t, s] > LONGEST:
                return t
            if lengths[t, s] > 0:
                space += LOOKUP >> lengths[t, s]
                shortest = min(shortest, np.int64(lengths[t, s]))
        if space == 0 and lone[t] != SEVERAL:
            continue  # nothing is ever looked up
        if space != LOOKUP:
            return t
        _canonical(lengths[t], codes)
        table = lookup[t]
        for s in range(256):
            length = np.int64(lengths[t, s])
            if length > 0:
                code, counts = codes[s], U64(length) | U64(length) << FIRST_SHIFT | U64(1) << PLACE_SHIFT
                for k in range(LOOKUP >> length):
                    table[code | k << length] = U64(s) | counts << COUNTS_SHIFT
        if most > 1:
            _add_rest(table, most, LONGEST - shortest, first, rest)
    return -1


@inlined
def _add_rest(table, most, left, first, rest):
    """To the entries of one symbol add what follows: at most `most` - 1 symbols, in the `left` bits or fewer.

    What is in the lowest b bits of `at` alone, the other symbols of an entry, is entry 1 << b | at of `first`, with one
    symbol at most, and of `rest`. So an index shifted by a symbol's length is that of what follows it."""
    first[:2] = 0
    for b in range(1, left + 1):
        part = first[1 << b : 2 << b]
        for at in range(len(part)):
            part[at] = table[at] if (table[at] >> COUNTS_SHIFT) & USED_MASK <= U64(b) else U64(0)
    rest[: 2 << left] = first[: 2 << left]
    for _ in range(2, most):
        for at in range((2 << left) - 1, 0, -1):  # downwards: what follows has one symbol less
            rest[at] = _followed(first[at], U64(at), rest)
    for at in range(LOOKUP):
        table[at] = _followed(table[at], U64(at | LOOKUP), rest)


@inlined
def _followed(entry, at, rest):
    """An entry of one symbol, or none, and what follows it."""
    following = rest[at >> ((entry >> COUNTS_SHIFT) & USED_MASK)]
    return entry + ((following & SYMBOLS_MASK) << U64(8)) + (following & ADDED_MASK)


@inlined
def _encode_lane(symbols, start, stop, singles, pairs, out, p):
    """Code symbols[start:stop] from byte `p` of `out` on; return the byte after the last."""
    acc, filled = U64(0), U64(0)
    i, by_pairs = start, stop if len(pairs) > 0 else start
    while i + U64(4) <= by_pairs:
        four = read32(symbols, i)
        e0, e1 = U64(pairs[four & PAIR]), U64(pairs[four >> U64(16)])
        first = e0 >> LENGTH_SHIFT
        acc |= ((e0 & CODE_MASK) | (e1 & CODE_MASK) << first) << filled  # at most 7 + 48 bits
        filled += first + (e1 >> LENGTH_SHIFT)
        store(out, p, acc)
        p += filled >> U64(3)
        acc >>= filled & WHOLE_BYTES
        filled &= BITS_IN_BYTE
        i += U64(4)
    while i < stop:
        e0 = U64(singles[symbols[i]])
        acc |= (e0 & CODE_MASK) << filled
        filled += e0 >> LENGTH_SHIFT
        store(out, p, acc)
        p += filled >> U64(3)
        acc >>= filled & WHOLE_BYTES
        filled &= BITS_IN_BYTE
        i += U64(1)
    store(out, p, acc)
    return p + ((filled + U64(7)) >> U64(3))


@released
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


@inlined
def _decode_end(data, p, end, lookup, out, o, stop):
    """Decode a lane from bit `p` up to out[stop], with care; return the bit after its last one,
    which lies beyond end * 8 if the lane was too short."""
    while o < stop:
        if p > end << U64(3):
            return p
        entry = lookup[(load_near_end(data, p >> U64(3), end) >> (p & BITS_IN_BYTE)) & LOOKUP_MASK]
        out[o] = U8(entry & BYTE)
        o += U64(1)
        p += (entry >> (COUNTS_SHIFT + FIRST_SHIFT)) & BYTE
    return p


@inlined
def _rounds(p, o, stop, size):
    """How many rounds of four look-ups a lane can take unchecked: at most 6 bytes in and 16 symbols out each."""
    if o + U64(4) > stop or (p >> U64(3)) + U64(SPARE_BYTES) > size:
        return U64(0)
    return min((stop - o - U64(4)) >> U64(4), (size - U64(SPARE_BYTES) - (p >> U64(3))) // U64(6))


@inlined
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
        a0, a1, a2, a3 = o0 << PLACE_SHIFT, o1 << PLACE_SHIFT, o2 << PLACE_SHIFT, o3 << PLACE_SHIFT
        for _ in range(rounds):
            x0 = load(data, p0 >> U64(3)) >> (p0 & BITS_IN_BYTE)
            x1 = load(data, p1 >> U64(3)) >> (p1 & BITS_IN_BYTE)
            x2 = load(data, p2 >> U64(3)) >> (p2 & BITS_IN_BYTE)
            x3 = load(data, p3 >> U64(3)) >> (p3 & BITS_IN_BYTE)
            # One lane after the other, so that what they need stays in registers. The next look-up waits for nothing
            # but how many bits this one used.
            for _ in range(4):
                at = x0 & LOOKUP_MASK
                x0 >>= upper_byte(lookup, at) & USED_MASK
                e = lookup[at]
                store32(out, a0 >> PLACE_SHIFT, e)
                a0 += e >> COUNTS_SHIFT
                at = x1 & LOOKUP_MASK
                x1 >>= upper_byte(lookup, at) & USED_MASK
                e = lookup[at]
                store32(out, a1 >> PLACE_SHIFT, e)
                a1 += e >> COUNTS_SHIFT
                at = x2 & LOOKUP_MASK
                x2 >>= upper_byte(lookup, at) & USED_MASK
                e = lookup[at]
                store32(out, a2 >> PLACE_SHIFT, e)
                a2 += e >> COUNTS_SHIFT
                at = x3 & LOOKUP_MASK
                x3 >>= upper_byte(lookup, at) & USED_MASK
                e = lookup[at]
                store32(out, a3 >> PLACE_SHIFT, e)
                a3 += e >> COUNTS_SHIFT
            p0 += a0 & USED_MASK
            a0 &= PLACE_MASK
            p1 += a1 & USED_MASK
            a1 &= PLACE_MASK
            p2 += a2 & USED_MASK
            a2 &= PLACE_MASK
            p3 += a3 & USED_MASK
            a3 &= PLACE_MASK
        o0 = a0 >> PLACE_SHIFT
        o1 = a1 >> PLACE_SHIFT
        o2 = a2 >> PLACE_SHIFT
        o3 = a3 >> PLACE_SHIFT
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
