"""Asymmetric numeral systems, table-driven (tANS): as close to the entropy as 4096 states allow, without division.

Segments, tables and lanes are those of `huffman`; each lane holds two states that take turns, so that eight chains of
look-ups run side by side. The encoder runs backwards over the symbols and writes downwards, the decoder reads upwards.

Source: Duda, "Asymmetric numeral systems: entropy coding combining speed of Huffman coding with compression rate of
arithmetic coding" (2013); the spread of symbols over states is that of Collet's FSE.
"""

import numpy as np

from mc.codec.bitstream import BITS_IN_BYTE, SPARE_BYTES, U8, U64, load, load_near_end, read32, store, store32
from mc.codec.compiled import compiled, inlined, released
from mc.codec.frequencies import LOG_STATES, STATES, spread
from mc.codec.tables import EMPTY

LANES = 4  # of a segment, at most, with either coder
LANED = 4096  # a segment with fewer symbols is one lane
LANE_HEAD = 8  # bytes: u32 size, u32 of both first states and the offset of the first bit

# A decoder entry: symbol | bits << 8 | next state << 16.
NEXT_SHIFT = U64(16)
BITS_SHIFT = U64(8)
ONE = U64(1)
TOP = U64(64)


@compiled
def encoder(frequency, states, bits_from, offset):
    """Fill the encoder's tables for sound `frequency` [tables, 256]: next states [tables, 4096] u16, and for each
    symbol what gives its number of bits, (state + bits_from) >> 16, and its offset into the states, both i64."""
    symbol_at = np.empty(STATES, np.uint8)
    place = np.empty(256, np.int64)
    for t in range(frequency.shape[0]):
        before = 0
        for s in range(256):
            f = frequency[t, s]
            place[s] = before
            if f > 0:
                most = 0
                while f << most < STATES:
                    most += 1
                bits_from[t, s] = (most << 16) - (f << most)
                offset[t, s] = before - f
            before += f
        if before == 0:
            continue
        spread(frequency[t], symbol_at)
        for x in range(STATES):
            s = symbol_at[x]
            states[t, place[s]] = STATES + x
            place[s] += 1


@compiled
def decoder(frequency, entries):
    """Fill `entries` [tables, 4096] u32 for sound `frequency` [tables, 256]."""
    symbol_at = np.empty(STATES, np.uint8)
    seen = np.empty(256, np.int64)
    for t in range(frequency.shape[0]):
        total = 0
        for s in range(256):
            seen[s] = frequency[t, s]
            total += seen[s]
        if total == 0:
            continue
        spread(frequency[t], symbol_at)
        for x in range(STATES):
            s = symbol_at[x]
            bits = 0
            while seen[s] << bits < STATES:
                bits += 1
            entries[t, x] = np.int64(s) | bits << 8 | ((seen[s] << bits) - STATES) << 16
            seen[s] += 1


@inlined
def _push(acc, filled, state, symbol, states, bits_from, offset):
    """One step of the encoder: the low bits of `state` go in front of `acc`; the next state comes back."""
    bits = U64(bits_from[symbol] + np.int64(state)) >> U64(16)
    acc = acc << bits | (state & ((ONE << bits) - ONE))
    return acc, filled + bits, U64(states[U64(np.int64(state >> bits) + offset[symbol])])


@inlined
def _flush(acc, filled, out, p):
    """Write the whole bytes of the low `filled` bits, 0 to 63, of `acc` in front of byte `p`."""
    store(out, p - U64(SPARE_BYTES), acc << (TOP - ONE - filled) << ONE)
    return p - (filled >> U64(3)), filled & BITS_IN_BYTE


@inlined
def _encode_tail(symbols, start, stop, states, bits_from, offset, out, p):
    """Code what lies behind a multiple of four symbols, last one first; the state of the encoder comes back."""
    even, odd = U64(STATES), U64(STATES)
    acc, filled, i = U64(0), U64(0), stop
    while (i - start) & U64(3):
        i -= ONE
        if (i - start) & ONE:
            acc, filled, odd = _push(acc, filled, odd, symbols[i], states, bits_from, offset)
        else:
            acc, filled, even = _push(acc, filled, even, symbols[i], states, bits_from, offset)
    p, filled = _flush(acc, filled, out, p)
    return i, even, odd, acc, filled, p


@inlined
def _end_lane(even, odd, acc, filled, out, p):
    """Write what is left; returns the first byte of the lane and the word that the decoder starts from."""
    unused = (U64(8) - filled) & BITS_IN_BYTE
    if filled > U64(0):
        store(out, p - U64(SPARE_BYTES), acc << (TOP - filled))
        p -= ONE
    return p, (even - U64(STATES)) | (odd - U64(STATES)) << U64(12) | unused << U64(24)


@inlined
def _encode_lane(symbols, start, stop, states, bits_from, offset, out, end):
    """Code symbols[start:stop], last one first, downwards from byte `end` of `out`. Returns the first byte
    written and the word that the decoder starts from."""
    i, even, odd, acc, filled, p = _encode_tail(symbols, start, stop, states, bits_from, offset, out, end)
    while i > start:
        for k in range(1, 5, 2):
            acc, filled, odd = _push(acc, filled, odd, symbols[i - U64(k)], states, bits_from, offset)
            acc, filled, even = _push(acc, filled, even, symbols[i - U64(k + 1)], states, bits_from, offset)
        i -= U64(4)
        p, filled = _flush(acc, filled, out, p)  # at most 7 + 48 bits
    return _end_lane(even, odd, acc, filled, out, p)


@inlined
def _encode_two(symbols, first, second, stop, states, bits_from, offset, out, first_end, second_end):
    """Two lanes like `_encode_lane`, side by side: symbols[first:second], and symbols[second:stop], which are as many
    and at most three more."""
    i, e0, d0, a0, f0, p0 = _encode_tail(symbols, first, second, states, bits_from, offset, out, first_end)
    j, e1, d1, a1, f1, p1 = _encode_tail(symbols, second, stop, states, bits_from, offset, out, second_end)
    if j - second > i - first:  # the longer one has four more
        for k in range(1, 5, 2):
            a1, f1, d1 = _push(a1, f1, d1, symbols[j - U64(k)], states, bits_from, offset)
            a1, f1, e1 = _push(a1, f1, e1, symbols[j - U64(k + 1)], states, bits_from, offset)
        j -= U64(4)
        p1, f1 = _flush(a1, f1, out, p1)
    while i > first:
        for k in range(1, 5, 2):
            a0, f0, d0 = _push(a0, f0, d0, symbols[i - U64(k)], states, bits_from, offset)
            a1, f1, d1 = _push(a1, f1, d1, symbols[j - U64(k)], states, bits_from, offset)
            a0, f0, e0 = _push(a0, f0, e0, symbols[i - U64(k + 1)], states, bits_from, offset)
            a1, f1, e1 = _push(a1, f1, e1, symbols[j - U64(k + 1)], states, bits_from, offset)
        i -= U64(4)
        j -= U64(4)
        p0, f0 = _flush(a0, f0, out, p0)
        p1, f1 = _flush(a1, f1, out, p1)
    begin0, word0 = _end_lane(e0, d0, a0, f0, out, p0)
    begin1, word1 = _end_lane(e1, d1, a1, f1, out, p1)
    return begin0, word0, begin1, word1


@inlined
def _place(out, first, end, p):
    """Move out[first:end] down to byte `p`; return the byte after it."""
    for k in range(end - first):
        out[p + U64(k)] = out[first + U64(k)]
    return p + (end - first)


@released
def encode(symbols, counts, states, bits_from, offset, lone, out, at):
    """Code segments of `symbols` u8, counts[t] symbols with table t, into `out` from byte `at` on; return the byte
    after the last. `out` holds at least `entropy.capacity` bytes from there."""
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
        head = p
        p += U64(LANE_HEAD * lanes)
        if lanes == 1:
            end = p + _most(n)
            first, word = _encode_lane(symbols, begin, begin + n, states[t], bits_from[t], offset[t], out, end)
            store32(out, head, end - first)
            store32(out, head + U64(4), word)
            p = _place(out, first, end, p)
            begin += n
            continue
        quarter = n // U64(lanes)
        for lane in range(0, lanes, 2):
            start = begin + quarter * U64(lane)
            middle = start + quarter
            stop = begin + n if lane == lanes - 2 else middle + quarter
            end0 = p + _most(quarter)
            end1 = end0 + _most(stop - middle)
            first0, word0, first1, word1 = _encode_two(
                symbols, start, middle, stop, states[t], bits_from[t], offset[t], out, end0, end1
            )
            at_head = head + U64(LANE_HEAD * lane)
            store32(out, at_head, end0 - first0)
            store32(out, at_head + U64(4), word0)
            store32(out, at_head + U64(LANE_HEAD), end1 - first1)
            store32(out, at_head + U64(LANE_HEAD + 4), word1)
            p = _place(out, first0, end0, p)
            p = _place(out, first1, end1, p)
        begin += n
    return p


@inlined
def _most(n):
    """Room for a lane of n symbols, with what a store may touch in front of it."""
    return (n * U64(LOG_STATES) >> U64(3)) + U64(2 * SPARE_BYTES)


@inlined
def _decode_end(data, p, end, even, odd, entries, out, o, stop, turn):
    """Decode a lane from bit `p` up to out[stop], with care. Returns the bit after its last, beyond end * 8 if
    the lane was too short, and both states."""
    while o < stop:
        if p > end << U64(3):
            break
        bits = load_near_end(data, p >> U64(3), end) >> (p & BITS_IN_BYTE)
        e = U64(entries[odd if turn else even])
        out[o] = U8(e & U64(255))
        n = (e >> BITS_SHIFT) & U64(255)
        following = (e >> NEXT_SHIFT) + (bits & ((ONE << n) - ONE))
        if turn:
            odd = following
        else:
            even = following
        turn = not turn
        p += n
        o += ONE
    return p, even, odd


@inlined
def _ended(p, end, even, odd):
    """A lane ends with both states where the encoder began, and with its last bit."""
    return p == end << U64(3) and even == U64(0) and odd == U64(0)


@inlined
def _rounds(p, o, stop, size):
    """How many rounds of four symbols a lane can take unchecked: at most 6 bytes in, four symbols out each."""
    if (p >> U64(3)) + U64(SPARE_BYTES) > size:
        return U64(0)
    return min((stop - o) >> U64(2), (size - U64(SPARE_BYTES) - (p >> U64(3))) // U64(6))


@inlined
def _pop(entry, x, p):
    """One step of the decoder: next state, remaining bits, position."""
    n = (entry >> BITS_SHIFT) & U64(255)
    return (entry >> NEXT_SHIFT) + (x & ((ONE << n) - ONE)), x >> n, p + n


@inlined
def _decode_lanes(data, ends, words, entries, out, begin, n):
    """Decode four lanes side by side; lane k lies in data[ends[k]:ends[k + 1]]. True if each ended as it should."""
    size = U64(len(data))
    quarter = n // U64(LANES)
    o0 = begin
    o1 = stop0 = begin + quarter
    o2 = stop1 = stop0 + quarter
    o3 = stop2 = stop1 + quarter
    stop3 = begin + n
    mask = U64(STATES - 1)
    p0, a0, b0 = ends[0] * U64(8) + (words[0] >> U64(24)), words[0] & mask, (words[0] >> U64(12)) & mask
    p1, a1, b1 = ends[1] * U64(8) + (words[1] >> U64(24)), words[1] & mask, (words[1] >> U64(12)) & mask
    p2, a2, b2 = ends[2] * U64(8) + (words[2] >> U64(24)), words[2] & mask, (words[2] >> U64(12)) & mask
    p3, a3, b3 = ends[3] * U64(8) + (words[3] >> U64(24)), words[3] & mask, (words[3] >> U64(12)) & mask
    while True:
        rounds = min(
            min(_rounds(p0, o0, stop0, size), _rounds(p1, o1, stop1, size)),
            min(_rounds(p2, o2, stop2, size), _rounds(p3, o3, stop3, size)),
        )
        if rounds == U64(0):
            break
        for _ in range(rounds):
            x0 = load(data, p0 >> U64(3)) >> (p0 & BITS_IN_BYTE)
            x1 = load(data, p1 >> U64(3)) >> (p1 & BITS_IN_BYTE)
            x2 = load(data, p2 >> U64(3)) >> (p2 & BITS_IN_BYTE)
            x3 = load(data, p3 >> U64(3)) >> (p3 & BITS_IN_BYTE)
            for k in range(0, 4, 2):
                e0, e1, e2, e3 = U64(entries[a0]), U64(entries[a1]), U64(entries[a2]), U64(entries[a3])
                f0, f1, f2, f3 = U64(entries[b0]), U64(entries[b1]), U64(entries[b2]), U64(entries[b3])
                out[o0 + U64(k)] = U8(e0 & U64(255))
                out[o1 + U64(k)] = U8(e1 & U64(255))
                out[o2 + U64(k)] = U8(e2 & U64(255))
                out[o3 + U64(k)] = U8(e3 & U64(255))
                out[o0 + U64(k + 1)] = U8(f0 & U64(255))
                out[o1 + U64(k + 1)] = U8(f1 & U64(255))
                out[o2 + U64(k + 1)] = U8(f2 & U64(255))
                out[o3 + U64(k + 1)] = U8(f3 & U64(255))
                a0, x0, p0 = _pop(e0, x0, p0)
                a1, x1, p1 = _pop(e1, x1, p1)
                a2, x2, p2 = _pop(e2, x2, p2)
                a3, x3, p3 = _pop(e3, x3, p3)
                b0, x0, p0 = _pop(f0, x0, p0)
                b1, x1, p1 = _pop(f1, x1, p1)
                b2, x2, p2 = _pop(f2, x2, p2)
                b3, x3, p3 = _pop(f3, x3, p3)
            o0 += U64(4)
            o1 += U64(4)
            o2 += U64(4)
            o3 += U64(4)
    # Every round took an even number of symbols, so the even state is next in each lane.
    p0, a0, b0 = _decode_end(data, p0, ends[1], a0, b0, entries, out, o0, stop0, False)
    p1, a1, b1 = _decode_end(data, p1, ends[2], a1, b1, entries, out, o1, stop1, False)
    p2, a2, b2 = _decode_end(data, p2, ends[3], a2, b2, entries, out, o2, stop2, False)
    p3, a3, b3 = _decode_end(data, p3, ends[4], a3, b3, entries, out, o3, stop3, False)
    return (
        _ended(p0, ends[1], a0, b0)
        and _ended(p1, ends[2], a1, b1)
        and _ended(p2, ends[3], a2, b2)
        and _ended(p3, ends[4], a3, b3)
    )


@released
def decode(data, counts, entries, lone, out):
    """Undo `encode`: fill `out` u8 with sum(counts) symbols. True if `data` was used up exactly and made sense.
    Never reads outside `data` nor writes outside `out`, whatever the bytes say."""
    size = U64(len(data))
    p = U64(0)
    begin = U64(0)
    ends = np.empty(LANES + 1, np.uint64)
    words = np.empty(LANES, np.uint64)
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
        if p + U64(LANE_HEAD * lanes) > size:
            return False
        ends[0] = p + U64(LANE_HEAD * lanes)
        for lane in range(lanes):
            ends[lane + 1] = ends[lane] + read32(data, p + U64(LANE_HEAD * lane))
            words[lane] = read32(data, p + U64(LANE_HEAD * lane + 4))
            if words[lane] >> U64(27) != U64(0):
                return False
        p = ends[lanes]
        if p > size:
            return False
        if lanes == LANES:
            sound = _decode_lanes(data, ends, words, entries[t], out, begin, n)
        else:
            mask = U64(STATES - 1)
            q, even, odd = _decode_end(
                data,
                ends[0] * U64(8) + (words[0] >> U64(24)),
                ends[1],
                words[0] & mask,
                (words[0] >> U64(12)) & mask,
                entries[t],
                out,
                begin,
                begin + n,
                False,
            )
            sound = _ended(q, ends[1], even, odd)
        if not sound:
            return False
        begin += n
    return p == size
