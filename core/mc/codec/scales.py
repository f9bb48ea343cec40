"""Row and column scales, and the symbols that they give to float words.

A weight's magnitude is told well by the scale of its row (an output channel) and of its column (an input channel).
Scales are mean binary logarithms in eighths of an octave, integers throughout. With s = row + column, whole octaves of
s are taken off the symbol, so that one alphabet serves all magnitudes, and its quarter of an octave picks the table.
Both are side information: known before the first symbol is decoded, so that symbols may be sorted by table into
segments, and each segment decoded at full speed.
"""

import numpy as np

from mc.codec.compiled import compiled, inlined
from mc.codec.planes import head_of, put_head
from mc.codec.prefetch import AHEAD, LINE, prefetch
from mc.codec.typing import Counts, Scales, Words

U8, U16, I16, I32 = np.uint8, np.uint16, np.int16, np.int32

OCTAVE = 8  # steps of a scale in an octave
TABLES = 4  # one for each quarter of an octave
CENTRE = 192  # the symbol of a magnitude that equals the scale (FORMAT.md, section 5.1)
ZERO, ESCAPE = 0, 255
NEAR_BELOW, NEAR_ABOVE = 3, 16  # halves of an octave: what is farther from the mean doesn't tell of the scale
STRETCH = 1024  # words between two rounds of prefetching
UNKNOWN = -32768  # the scale of a row without a number other than zero


@inlined
def _ask_for_next(words, start, length):
    """Prefetch as many words as are worked on now, some rows ahead."""
    for i in range(0, length, LINE // words.itemsize):
        prefetch(words, start + i + AHEAD // words.itemsize)


@compiled
def scan(words, cols, step_shift, mantissa, rows, columns, facts):
    """Mean magnitudes of rows of `cols` words: fill `rows` i16 with their scales, and add to `columns` i32 how far
    each column lies from its row's mean, in symbols, at most NEAR_* away (len(columns) == 0: don't).

    The magnitude is v = (head & 0x7FFF) >> step_shift, with 2 ** mantissa steps an octave. Adds to `facts` i64 how
    many words are negative, and how many have magnitude zero."""
    n = len(words)
    shift = U16(step_shift)
    for row in range(len(rows)):
        line = words[row * cols : min((row + 1) * cols, n)]
        _ask_for_next(words, row * cols, len(line))
        total, some, negative = I32(0), I32(0), I32(0)
        for i in range(len(line)):
            v = I32(U16(head_of(line[i]) & U16(0x7FFF)) >> shift)
            total = I32(total + v)
            some = I32(some + I32(v != 0))
            negative = I32(negative + I32(head_of(line[i]) >> U16(15)))
        facts[0] += negative
        facts[1] += len(line) - some
        if some == 0:
            rows[row] = UNKNOWN
            continue
        mean = I32(total // some)
        low = mean - I32((NEAR_BELOW << mantissa) >> 1)
        high = mean + I32((NEAR_ABOVE << mantissa) >> 1)
        near = I32(0)
        for i in range(len(line)):
            v = I32(U16(head_of(line[i]) & U16(0x7FFF)) >> shift)
            near = I32(near + (I32(min(max(v, low), high) - mean) if v != 0 else I32(0)))
        many = np.int64(some)
        rows[row] = I16(((np.int64(mean) * many + near) * OCTAVE) // (many << mantissa))
        if len(columns) > 0:
            for i in range(len(line)):
                v = I32(U16(head_of(line[i]) & U16(0x7FFF)) >> shift)
                columns[i] = I32(columns[i] + (I32(min(max(v, low), high) - mean) if v != 0 else I32(0)))


@compiled
def take_stock(words, step_shift, facts):
    """The facts that `scan` adds up, alone."""
    shift = U16(step_shift)
    for start in range(0, len(words), STRETCH):
        part = words[start : start + STRETCH]
        _ask_for_next(words, start, len(part))
        negative, tiny = I32(0), I32(0)
        for i in range(len(part)):
            negative = I32(negative + I32(head_of(part[i]) >> U16(15)))
            tiny = I32(tiny + I32(U16(U16(head_of(part[i]) & U16(0x7FFF)) >> shift) == U16(0)))
        facts[0] += negative
        facts[1] += tiny


def column_scales(columns: Counts, rows: int, mantissa: int) -> Scales:
    """Scales of the columns about their mean, from the sums of `scan` over `rows` rows."""
    scales = (columns * OCTAVE) // (rows << mantissa)
    scales -= int(scales.sum()) // max(len(scales), 1)
    return np.clip(scales, -128, 127).astype(np.int16)


def known_rows(rows: Scales) -> Scales:
    """The scales with those of empty rows, and outliers more than a byte's range up, drawn to the others."""
    known = rows[rows != UNKNOWN]
    if len(known) == 0:
        return np.zeros_like(rows)
    middle = int(np.partition(known, len(known) // 2)[len(known) // 2])
    filled = np.where(rows == UNKNOWN, middle, rows)
    low = max(int(filled.min()), middle - 127)
    return np.clip(filled, low, low + 255).astype(np.int16)


def column_order(columns: Scales) -> tuple[Words, Counts]:
    """Columns sorted by scale modulo an octave, listed twice (so that every table's columns are one slice, whatever
    the row's scale), and where each residue begins in the first list, [9] i64."""
    residue = columns.astype(np.int64) % OCTAVE
    order = np.argsort(residue, kind="stable").astype(np.uint16)
    starts = np.searchsorted(residue[order.astype(np.int64)], np.arange(OCTAVE + 1)).astype(np.int64)
    return np.concatenate([order, order]), starts


@inlined
def _slice_of(starts, row, table):
    """Where the columns of a table lie in the doubled order, for a row with scale `row`."""
    first = (2 * table - row) & (OCTAVE - 1)
    second = (first + 1) & (OCTAVE - 1)
    return starts[first], starts[first + 1] - starts[first] + starts[second + 1] - starts[second]


@compiled
def segment_sizes(n, cols, rows, starts, counts):
    """Fill `counts` [tables] i64 with the symbols that each table gets from n words in rows of `cols`.
    starts has 9 entries if there are column scales, else none."""
    counts[:] = 0
    if len(counts) == 1:
        counts[0] = n
        return
    for row in range(len(rows)):
        if len(starts) == 0:
            counts[(rows[row] >> 1) & (TABLES - 1)] += min(cols, n - row * cols)
        else:
            for table in range(TABLES):
                counts[table] += _slice_of(starts, rows[row], table)[1]


@inlined
def _symbol(word, shift, base, first, lowest, highest):
    """Symbol of a word given `base`, the magnitude that symbol 0 would have. With frequent words, magnitudes begin at
    symbol `first`, and zero is an escape as long as the word hasn't turned out to be a frequent one; without, `first`
    is 0 and the magnitude zero has the symbol ZERO. What lies outside lowest..highest, the symbols that have codes,
    is an escape."""
    v = U16(U16(head_of(word) & U16(0x7FFF)) >> shift)
    d = U16(v - base)
    inside = U16(d - lowest) <= U16(highest - lowest)
    zero = U8(ZERO) if first == 0 else U8(ESCAPE)
    return zero if v == U16(0) else (U8(d) if inside else U8(ESCAPE))


@inlined
def _magnitude(symbol, base, begin):
    """Undo `_symbol` for symbols from `begin` on; of the others and of an escape, zero bits, to be filled in."""
    return U16(0) if symbol < begin or symbol == U8(ESCAPE) else U16(U16(symbol) + base)


@inlined
def _base(scale, mantissa):
    return U16(((scale >> 3) << mantissa) - CENTRE)


@inlined
def _field(head, low, padding):
    """The sign and the `low` mantissa bits above the padding, as a number of low + 1 bits."""
    mantissa = U16(U16(head >> padding) & U16(U16(U16(1) << low) - U16(1)))
    return U8(U16(U16(head >> U16(15)) << low) | mantissa)


@inlined
def _mark(words, frequent, symbols):
    """Give the frequent words their own symbols; return how many were escapes before."""
    were = 0
    for k in range(len(frequent)):
        for i in range(len(words)):
            if words[i] == frequent[k]:
                were += symbols[i] == U8(ESCAPE)
                symbols[i] = k
    return I32(were)


@inlined
def _cursors(counts):
    """Where each table's segment begins."""
    cursor = np.zeros(TABLES, np.int64)
    for t in range(1, len(counts)):
        cursor[t] = cursor[t - 1] + counts[t - 1]
    return cursor


@compiled
def symbols_of(
    words, cols, low, padding, mantissa, frequent, window, rows, columns, order, starts, counts, out, fields, escaping
):  # fmt: skip
    """Fill `out` u8 with the symbols of `words`, sorted into segments of counts[t] symbols, and `fields` u8 with the
    fields in the order of the words (len(fields) == 0: don't), and `escaping` i32 with the escapes of each row; return
    how many there are.

    rows: i16 scales of rows of `cols` words (the last may be shorter, unless there are column scales);
    columns, order, starts: as from `column_order`, or empty; frequent: words that are symbols by themselves;
    window: the lowest and the highest symbol that have codes, u16."""
    n = len(words)
    low, padding = U16(low), U16(padding)
    shift = U16(low + padding)
    lowest, highest = window[0], window[1]
    first_symbol = len(frequent)
    cursor = _cursors(counts)
    line = np.empty(cols if len(columns) > 0 else 0, np.uint8)
    escapes = 0
    for row in range(len(rows)):
        start, stop = row * cols, min((row + 1) * cols, n)
        part = words[start:stop]
        _ask_for_next(words, start, len(part))
        some = I32(0)
        if len(columns) == 0:
            base = _base(np.int64(rows[row]), mantissa)
            t = (rows[row] >> 1) & (len(counts) - 1)
            segment = out[cursor[t] : cursor[t] + len(part)]
            for i in range(len(part)):
                symbol = _symbol(part[i], shift, base, first_symbol, lowest, highest)
                segment[i] = symbol
                some = I32(some + I32(symbol == U8(ESCAPE)))
            some -= _mark(part, frequent, segment)
            cursor[t] += len(part)
        else:
            scale = I32(rows[row])
            for i in range(len(part)):
                base = _base(scale + I32(columns[i]), mantissa)
                symbol = _symbol(part[i], shift, base, first_symbol, lowest, highest)
                line[i] = symbol
                some = I32(some + I32(symbol == U8(ESCAPE)))
            some -= _mark(part, frequent, line)
            for t in range(TABLES):
                first, count = _slice_of(starts, rows[row], t)
                segment = out[cursor[t] : cursor[t] + count]
                picked = order[first : first + count]
                for k in range(count):
                    segment[k] = line[picked[k]]
                cursor[t] += count
        if len(fields) > 0:
            place = fields[start:stop]
            for i in range(len(part)):
                place[i] = _field(head_of(part[i]), low, padding)
        escaping[row] = some
        escapes += some
    return escapes


@inlined
def _head(symbol, field, base, begin, shift, low, under, padding):
    """Undo `_symbol` and `_field`; every step is cut to 16 bits, or the compiler would work on 64."""
    magnitude = U16(U16(_magnitude(symbol, base, begin) << shift) & U16(0x7FFF))
    sign = U16(U16(U16(field) >> low) << U16(15))
    mantissa = U16(U16(U16(field) & under) << padding)
    return U16(U16(magnitude | sign) | mantissa)


@compiled
def put_together(symbols, fields, cols, low, padding, mantissa, frequent, rows, columns, order, starts, counts, words):
    """Undo `symbols_of`: complete `words`, which hold their tails. The magnitudes of escapes stay zero, and so do
    those of the first `frequent` symbols, which stand for whole words."""
    n = len(words)
    begin = U8(max(frequent, 1))
    low, padding = U16(low), U16(padding)
    shift, under = U16(low + padding), U16(U16(U16(1) << low) - U16(1))
    cursor = _cursors(counts)
    line = np.empty(cols if len(columns) > 0 else 0, np.uint8)
    for row in range(len(rows)):
        start, stop = row * cols, min((row + 1) * cols, n)
        part, place = words[start:stop], fields[start:stop]
        if len(columns) == 0:
            base = _base(np.int64(rows[row]), mantissa)
            t = (rows[row] >> 1) & (len(counts) - 1)
            segment = symbols[cursor[t] : cursor[t] + len(part)]
            for i in range(len(part)):
                put_head(part, i, _head(segment[i], place[i], base, begin, shift, low, under, padding))
            cursor[t] += len(part)
            continue
        for t in range(TABLES):
            first, count = _slice_of(starts, rows[row], t)
            segment = symbols[cursor[t] : cursor[t] + count]
            picked = order[first : first + count]
            for k in range(count):
                line[picked[k]] = segment[k]
            cursor[t] += count
        scale = I32(rows[row])
        for i in range(len(part)):
            base = _base(scale + I32(columns[i]), mantissa)
            put_head(part, i, _head(line[i], place[i], base, begin, shift, low, under, padding))


@compiled
def unsorted(symbols, n, cols, rows, order, starts, counts, out):
    """Fill `out` u8 with the symbols in the order of the n words."""
    cursor = _cursors(counts)
    for row in range(len(rows)):
        line = out[row * cols : min((row + 1) * cols, n)]
        if len(starts) == 0:
            t = (rows[row] >> 1) & (len(counts) - 1)
            line[:] = symbols[cursor[t] : cursor[t] + len(line)]
            cursor[t] += len(line)
            continue
        for t in range(TABLES):
            first, count = _slice_of(starts, rows[row], t)
            for k in range(count):
                line[order[first + k]] = symbols[cursor[t] + k]
            cursor[t] += count


@compiled
def escaped(words, cols, step_shift, mantissa, frequent, window, rows, columns, escaping, where, magnitudes):
    """Fill `where` u32 and `magnitudes` u16 with the words whose symbol is an escape, in order; `escaping` as from
    `symbols_of` tells which rows have any."""
    at = 0
    for row in range(len(rows)):
        if escaping[row] == 0:
            continue
        for i in range(row * cols, min((row + 1) * cols, len(words))):
            scale = I32(rows[row]) + (I32(columns[i - row * cols]) if len(columns) > 0 else I32(0))
            base = _base(scale, mantissa)
            symbol = _symbol(words[i], U16(step_shift), base, len(frequent), window[0], window[1])
            escapes = symbol == U8(ESCAPE)
            for k in range(len(frequent)):
                escapes = escapes and words[i] != frequent[k]
            if escapes:
                where[at] = i
                magnitudes[at] = U16(U16(head_of(words[i]) & U16(0x7FFF)) >> U16(step_shift))
                at += 1


@compiled
def add_escapes(where, magnitudes, step_shift, words):
    """Complete the words that stand at `where` (all within), whose magnitudes were left zero."""
    for k in range(len(where)):
        head = head_of(words[where[k]]) | U16(U16(magnitudes[k] << U16(step_shift)) & U16(0x7FFF))
        put_head(words, where[k], U16(head))


@compiled
def histogram(symbols, counts, out):
    """Add to `out` [tables, 256] i64 how often each symbol stands in each segment."""
    four = np.zeros((4, 256), np.int64)  # neighbours are often equal, and must not wait for each other's counts
    begin = 0
    for t in range(len(counts)):
        n = counts[t]
        four[:] = 0
        for i in range(begin, begin + n - 3, 4):
            four[0, symbols[i]] += 1
            four[1, symbols[i + 1]] += 1
            four[2, symbols[i + 2]] += 1
            four[3, symbols[i + 3]] += 1
        for i in range(begin + n - n % 4, begin + n):
            four[0, symbols[i]] += 1
        for s in range(256):
            out[t, s] += four[0, s] + four[1, s] + four[2, s] + four[3, s]
        begin += n


EMPTY_WORDS: Words = np.empty(0, np.uint16)
EMPTY_SCALES: Scales = np.empty(0, np.int16)
EMPTY_COUNTS: Counts = np.empty(0, np.int64)
