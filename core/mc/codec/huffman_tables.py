"""The tables that Huffman coding looks up: codes of pairs of symbols, and symbols of the next 12 bits.

Codes are canonical: numbered by length, then by symbol (FORMAT.md, 6.1). Both kinds of table are made from the lengths.
"""

import numpy as np

from mc.codec.bitstream import U64, put_byte
from mc.codec.compiled import by_rows, compiled, inlined, released
from mc.codec.lengths import LONGEST
from mc.codec.narrow import shift_left
from mc.codec.tables import SEVERAL

U32 = np.uint32
ONE = U64(1)

LOOKUP = 1 << LONGEST  # entries of a decoder's table
# Behind them, as bytes, how many bits each uses, once more: the next look-up waits for these alone, and they stay in
# the first-level cache, which all of the table fills.
WITH_BITS = LOOKUP + LOOKUP // 8  # u64
BITS_AT = U64(8 * LOOKUP)  # byte where they begin
FEWEST, MOST = 1, 5  # symbols in one of them
FEW, MANY = 3 << 12, 1 << 16  # symbols from which more than one, and MOST, pay

PAIRS = 1 << 16  # of symbols
# An encoder's entry: bits of all codes | codes << 8. A shift takes the lowest bits as its number as they are.
CODE_SHIFT = U64(8)
LENGTH = U32((1 << CODE_SHIFT) - 1)
BLOCK = 16  # symbols that are paired at once: whole vectors take a third of the time that single symbols do

# A decoder's entry: up to five symbols | bits of the first << 40 | bits of all << 48 | how many << 56.
FIRST_SHIFT, USED_SHIFT, COUNT_SHIFT = U64(40), U64(48), U64(56)
SYMBOLS_MASK = U64((1 << FIRST_SHIFT) - 1)
ADDED_MASK = U64(0xFFFF << USED_SHIFT)  # of an entry that follows another: bits of all and how many


@inlined
def _canonical(lengths, codes):
    """Codes of one table, numbered by length, then by symbol, and turned round so that the first bit is the lowest; 0
    for symbols without one."""
    many, following = np.empty(LONGEST + 1, np.int64), np.empty(LONGEST + 1, np.int64)
    many[:], following[0] = 0, 0
    for s in range(256):
        many[lengths[s]] += lengths[s] > 0
    for length in range(1, LONGEST + 1):
        following[length] = (following[length - 1] + many[length - 1]) << 1
    for s in range(256):
        length, turned = lengths[s], 0
        for k in range(length):
            turned = turned << 1 | ((following[length] >> k) & 1)
        codes[s] = turned
        following[length] += 1


@compiled
def encoder(lengths, singles, pairs):
    """Fill `singles` [tables, 256] u32 with length | code << 8 of each symbol of `lengths` [tables, 256], and `pairs`
    [tables, 65536] u32 likewise for first | second << 8, unless these have no room: few symbols are coded sooner than
    pairs are made. Entries of symbols without a code say nothing: a table of pairs is large, but few of its cache lines
    are ever used."""
    codes, used = np.empty(256, np.int64), np.empty(256 // BLOCK, np.bool_)
    for t in range(lengths.shape[0]):
        _canonical(lengths[t], codes)
        entries = singles[t]
        used[:] = False
        for s in range(256):
            entries[s] = np.int64(lengths[t, s]) | codes[s] << 8
            used[s // BLOCK] |= lengths[t, s] > 0
        for second in range(256):
            if lengths[t, second] > 0 and pairs.shape[1] > 0:
                with_second = pairs[t, second << 8 : (second + 1) << 8]
                for block in range(256 // BLOCK):
                    if used[block]:
                        _pair_up(entries, entries[second], U64(block * BLOCK), BLOCK, with_second)


@by_rows
def _pair_up(entries, second, start, count, pairs):
    """Fill `pairs` with the entries of `count` symbols from `start` on, each before the one whose entry is `second`."""
    length = U32(second & LENGTH)
    code = U32(second - length)
    for k in range(count):
        entry = entries[start + U64(k)]
        pairs[start + U64(k)] = U32(entry + length) | shift_left(code, U32(entry & LENGTH))


@inlined
def room(tables):
    """Room for what is looked up to decode with so many tables: of each its entries, then the bits that these use."""
    return np.empty((tables, WITH_BITS), np.uint64)


@inlined
def most_at_once(symbols):
    """How many symbols an entry of the decoder's table should hold, if so many are to be decoded with the table: more
    of them take less time to decode, but the table takes longer to make (6 us for one, 7 to 11 for two, 9 to 24 for
    five, the shorter the codes the more)."""
    return FEWEST if symbols < FEW else 2 if symbols < MANY else MOST


@released
def decoder(lengths, lone, most, lookup):
    """Fill `lookup`, made by `room`, for complete codes; return the first table that is none, or -1. Tables that
    are no code because they have a `lone` symbol i64, or none, are left out.

    An entry holds up to `most` (1 to 5) symbols that fit into 12 bits."""
    codes, symbols, rest = np.empty(256, np.uint64), np.empty(256, np.uint64), np.empty(LOOKUP, np.uint64)
    for t in range(lengths.shape[0]):
        space, shortest, many = 0, LONGEST, 0
        for s in range(256):
            if lengths[t, s] > LONGEST:
                return t
            if lengths[t, s] > 0:
                space += LOOKUP >> lengths[t, s]
                shortest = min(shortest, np.int64(lengths[t, s]))
                symbols[many] = s
                many += 1
        if space == 0 and lone[t] != SEVERAL:
            continue  # nothing is ever looked up
        if space != LOOKUP:
            return t
        _canonical(lengths[t], codes)
        # Of the lowest b bits of a look-up alone, which are `at`, entry 1 << b | at: nothing at first, then with every
        # round one symbol more. Downwards, so that what follows a symbol is of the round before.
        left = LONGEST - shortest
        for at in range(2 << left):
            rest[at] = 0
        for _ in range(1, most):
            for b in range(left, shortest - 1, -1):
                _fill(lengths[t], codes, symbols[:many], U64(b), rest, rest[1 << b : 2 << b])
        table = lookup[t]
        _fill(lengths[t], codes, symbols[:many], U64(LONGEST), rest, table)
        for at in range(LOOKUP):
            put_byte(table, BITS_AT + U64(at), table[at] >> USED_SHIFT)
    return -1


@by_rows
def _fill(lengths, codes, symbols, b, rest, entries):
    """Fill `entries` of b bits with each symbol whose code is no longer, and what follows it in the bits that are left.
    An index shifted by a code's length is that of what follows: one behind the other, for one symbol."""
    for i in range(len(symbols)):
        s = symbols[i]
        length = U64(lengths[s])
        if length <= b:
            one = s | length << FIRST_SHIFT | length << USED_SHIFT | ONE << COUNT_SHIFT
            many = ONE << (b - length)
            for k in range(many):
                following = rest[many + k]
                entries[codes[s] | k << length] = (
                    one + ((following & SYMBOLS_MASK) << U64(8)) + (following & ADDED_MASK)
                )
