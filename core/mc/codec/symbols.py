"""Float words as symbols in the contexts of row and column scale, and back.

With s = row + column scale, whole octaves of s are taken off a word's magnitude, so that one alphabet serves all
magnitudes, and the quarter of an octave of s picks the table. As scales are known before the first symbol is decoded,
the symbols of a chunk may be sorted by table into segments, and each segment decoded at full speed (FORMAT.md, 5.1).
"""

import numpy as np

from mc.codec.compiled import by_rows, compiled, inlined, lent
from mc.codec.narrow import shift_left, shift_right
from mc.codec.planes import head_of, heads_of, put_head
from mc.codec.prefetch import ask_for_next
from mc.codec.scales import COLUMN, OCTAVE
from mc.codec.segments import TABLES, segment_sizes, slice_of, to_begin
from mc.codec.tails import put_whole_tails
from mc.codec.typing import Counts, Ints, Scales, Words

U8, U16 = np.uint8, np.uint16

CENTRE = 192  # the symbol of a magnitude that equals the scale
ZERO, ESCAPE = 0, 255


@inlined
def magnitude_of(word, shift):
    """The head of a word without its sign and the `shift` bits below the symbol."""
    return shift_right(U16(head_of(word) & U16(0x7FFF)), shift)


@inlined
def symbol_of(word, shift, base, lowest, span, zero):
    """Symbol of a word given `base`, the magnitude that symbol 0 would have. Those from `lowest` to `lowest` + `span`
    have codes; what lies outside is an escape. The magnitude zero has the symbol `zero`."""
    v = magnitude_of(word, shift)
    d = U16(v - base)
    found = U8(d) if U16(d - lowest) <= span else U8(ESCAPE)
    return found if v != U16(0) else zero


@inlined
def base_of(scale, mantissa):
    """The magnitude that symbol 0 would have at this scale."""
    return U16(((scale >> 3) << mantissa) - CENTRE)


@inlined
def _base_at(part, column, mantissa):
    """`base_of` the scales of a row and a column, from what `_octaves_of` says of the row: never beyond 16 bits."""
    base, rest = part
    return U16(base + shift_left(shift_right(U16(U16(column) + rest), U16(3)), U16(mantissa)))


@inlined
def _octaves_of(row_scale, mantissa):
    """The whole octaves of a row's scale as a base, and the rest, both moved so that with any column's scale the rest
    is no less than 0."""
    return base_of(np.int64(row_scale) - COLUMN, mantissa), U16((np.int64(row_scale) & (OCTAVE - 1)) + COLUMN)


@inlined
def _field(head, low, under, padding):
    """The sign and the `low` mantissa bits above the padding, as a number of low + 1 bits."""
    return U8(shift_left(shift_right(head, U16(15)), low) | U16(shift_right(head, padding) & under))


@by_rows
def _line_of(part, heads, shift, mantissa, frequent, window, row_scale, columns, line):
    """The symbols of one row, given its `heads` too, into `line`. With frequent words, these are symbols by themselves,
    magnitudes have the symbols above them, and zero is an escape unless it is a frequent word."""
    lowest, span = window[0], U16(window[1] - window[0])
    zero = U8(ZERO) if frequent is None else U8(ESCAPE)
    if len(columns) == 0:
        base = base_of(np.int64(row_scale), mantissa)
        for i in range(len(part)):
            line[i] = symbol_of(heads[i], shift, base, lowest, span, zero)
    else:
        of_row = _octaves_of(row_scale, mantissa)
        for i in range(len(part)):
            line[i] = symbol_of(heads[i], shift, _base_at(of_row, columns[i], mantissa), lowest, span, zero)
    if frequent is not None:
        for k in range(len(frequent)):
            for i in range(len(part)):
                if part[i] == frequent[k]:
                    line[i] = k


@by_rows
def _escapes_in(line):
    """How many symbols are escapes, the highest symbol there is."""
    most, some = U8(0), 0
    for i in range(len(line)):
        most = max(most, line[i])
    if most == U8(ESCAPE):
        for i in range(len(line)):
            some += line[i] == U8(ESCAPE)
    return some


@by_rows
def take_apart(
    words, cols, low, padding, mantissa, frequent, window, rows, columns, order, starts, counts, cursor, room, line,
    out, fields, escaping,
):  # fmt: skip
    """Fill `counts` i64 [tables] with the sizes of the segments, `out` u8 with the symbols of `words`, sorted into
    segments, `fields` u8 with the fields in the order of the words, and `escaping` i32 with the escapes of each row;
    return how many escapes there are.

    rows: i16 scales of rows of `cols` words (the last may be shorter, unless there are column scales);
    columns, order, starts: as from `scales.column_order`, or empty; frequent: words that are symbols by
    themselves, or None;
    window: the lowest and the highest symbol that have codes, u16; cursor i64 [tables], room u16 [cols] and
    line u8 [cols]: for what is in between."""
    n = len(words)
    low, padding, under = U16(low), U16(padding), U16((1 << low) - 1)
    shift = U16(low + padding)
    segment_sizes(n, cols, rows, starts, counts)
    to_begin(counts, cursor)
    escapes = 0
    for row in range(len(rows)):
        start, stop = row * cols, min((row + 1) * cols, n)
        part, place = words[start:stop], fields[start:stop]
        ask_for_next(words, start, len(part))
        heads = heads_of(part, room)
        if len(columns) == 0:
            t = (rows[row] >> 1) & (len(counts) - 1)
            symbols = out[cursor[t] : cursor[t] + len(part)]
            _line_of(part, heads, shift, mantissa, frequent, window, rows[row], columns, symbols)
            cursor[t] += len(part)
        else:
            symbols = line
            _line_of(part, heads, shift, mantissa, frequent, window, rows[row], columns, symbols)
            for t in range(TABLES):
                first, count = slice_of(starts, rows[row], t)
                segment = out[cursor[t] : cursor[t] + count]
                picked = order[first : first + count]
                for k in range(count):
                    segment[k] = line[picked[k]]
                cursor[t] += count
        for i in range(len(part)):
            place[i] = _field(heads[i], low, under, padding)
        escaping[row] = _escapes_in(symbols)
        escapes += escaping[row]
    return escapes


def tally(
    words: Ints, cols: int, step_shift: int, mantissa: int, frequent: Ints | None, window: Words, rows: Scales,
    columns: Scales, counts: Counts,
) -> None:  # fmt: skip
    """Add to `counts` [tables, 256] how often each symbol stands in each table's segment: what `take_apart` would make
    of these rows, without sorting them."""
    room, line, place = np.empty(cols, np.uint16), np.empty(cols, np.uint8), np.empty(cols, np.uint16)
    four = np.empty((4, counts.size), np.uint32)
    _tally(words, cols, step_shift, mantissa, frequent, window, rows, columns, room, line, place, four, counts)


@lent
def _tally(words, cols, step_shift, mantissa, frequent, window, rows, columns, room, line, place, four, counts):
    """`tally` with what it needs in between: of every count four, since neighbours are often equal, and must not wait
    for each other's."""
    n, tables = len(words), len(counts)
    shift = U16(step_shift)
    a, b, c, d = four[0], four[1], four[2], four[3]
    for k in range(len(a)):
        a[k] = b[k] = c[k] = d[k] = 0
    for row in range(len(rows)):
        part = words[row * cols : min((row + 1) * cols, n)]
        _line_of(part, heads_of(part, room), shift, mantissa, frequent, window, rows[row], columns, line)
        if len(columns) == 0:
            table = U16(((rows[row] >> 1) & (tables - 1)) << 8)
            for i in range(len(part)):
                place[i] = table | U16(line[i])
        else:
            of_row = U16(rows[row])
            for i in range(len(part)):
                place[i] = U16(U16(U16(of_row + U16(columns[i])) & U16(2 * TABLES - 2)) << U16(7)) | U16(line[i])
        rest = len(part) % 4
        for i in range(0, len(part) - rest, 4):
            a[place[i]] += 1
            b[place[i + 1]] += 1
            c[place[i + 2]] += 1
            d[place[i + 3]] += 1
        for i in range(len(part) - rest, len(part)):
            a[place[i]] += 1
    for t in range(tables):
        for s in range(256):
            k = 256 * t + s
            counts[t, s] += np.int64(a[k]) + np.int64(b[k]) + np.int64(c[k]) + np.int64(d[k])


@compiled
def smooth(counts, low, high, beside):
    """Make counts [tables, 256] of a sample serve for all words: every symbol from the lowest to the highest one seen
    among low..high, and so many `beside` either, has a code in every table then, and so have those below and the
    escape. Codes for magnitudes that the sample didn't hold would cost all others more than the escapes do."""
    first, last = high, low
    for t in range(counts.shape[0]):
        for s in range(low, high + 1):
            if counts[t, s] > 0:
                first, last = min(first, s), max(last, s)
    first, last = max(min(first, last) - beside, low), min(last + beside, high)
    for t in range(counts.shape[0]):
        for s in range(256):
            counts[t, s] += s < low or first <= s <= last or s == ESCAPE


@compiled
def of_magnitude_zero(words, step_shift):
    """How many words have magnitude zero."""
    found = 0
    for i in range(len(words)):
        found += magnitude_of(words[i], U16(step_shift)) == U16(0)
    return found


@inlined
def _head(symbol, field, base, begin, shift, low, under, padding):
    """Undo `_symbol`, for symbols from `begin` on, and `_field`. For the others and for an escape, the magnitude has
    zero bits, to be filled in."""
    v = U16(U16(symbol) + base) if U8(symbol - begin) < U8(U8(ESCAPE) - begin) else U16(0)
    sign = shift_left(shift_right(U16(field), low), U16(15))
    return U16(U16(shift_left(v, shift) & U16(0x7FFF)) | U16(sign | shift_left(U16(U16(field) & under), padding)))


@by_rows
def put_together(
    symbols, fields, tails, cols, low, padding, mantissa, frequent, rows, columns, order, starts, counts, cursor, line,
    words,
):  # fmt: skip
    """Undo `take_apart`: complete `words`, which hold their tails, unless `tails` has the highest of each word, u16 as
    bytes, which is then put there first. The magnitudes of escapes stay zero, and so do those of the first `frequent`
    symbols, which stand for whole words."""
    n = len(words)
    begin = U8(max(frequent, 1))
    low, padding = U16(low), U16(padding)
    shift, under = U16(low + padding), U16(U16(U16(1) << low) - U16(1))
    to_begin(counts, cursor)
    for row in range(len(rows)):
        start, stop = row * cols, min((row + 1) * cols, n)
        part, place = words[start:stop], fields[start:stop]
        put_whole_tails(tails[2 * start : 2 * stop], part)
        if len(columns) == 0:
            base = base_of(np.int64(rows[row]), mantissa)
            t = (rows[row] >> 1) & (len(counts) - 1)
            segment = symbols[cursor[t] : cursor[t] + len(part)]
            for i in range(len(part)):
                put_head(part, i, _head(segment[i], place[i], base, begin, shift, low, under, padding))
            cursor[t] += len(part)
            continue
        for t in range(TABLES):
            first, count = slice_of(starts, rows[row], t)
            segment = symbols[cursor[t] : cursor[t] + count]
            picked = order[first : first + count]
            for k in range(count):
                line[picked[k]] = segment[k]
            cursor[t] += count
        of_row = _octaves_of(rows[row], mantissa)
        for i in range(len(part)):
            base = _base_at(of_row, columns[i], mantissa)
            put_head(part, i, _head(line[i], place[i], base, begin, shift, low, under, padding))


EMPTY_WORDS: Words = np.empty(0, np.uint16)
EMPTY_SCALES: Scales = np.empty(0, np.int16)
EMPTY_COUNTS: Counts = np.empty(0, np.int64)
