"""Row and column scales, measured in one pass over the words.

A weight's magnitude is told well by the scale of its row (an output channel) and of its column (an input channel).
Scales are mean binary logarithms in eighths of an octave, integers throughout. They are side information: known before
the first symbol is decoded, so that they can serve as contexts (`mc.codec.symbols`) in whatever order is fastest.
"""

import numpy as np

from mc.codec.compiled import by_rows, compiled, lent
from mc.codec.narrow import shift_right
from mc.codec.planes import head_of
from mc.codec.prefetch import ask_for
from mc.codec.tails import classify
from mc.codec.typing import Counts, Scales, Words

U8, U16, I16, I32, I64 = np.uint8, np.uint16, np.int16, np.int32, np.int64

OCTAVE = 8  # steps of a scale in an octave
NEAR_BELOW, NEAR_ABOVE = 3, 16  # halves of an octave: what is farther from the mean doesn't tell of the scale
UNKNOWN = -32768  # the scale of a row without a number other than zero
# Of a row, pieces of PIECE words are measured, as many as make MEASURED words or more. The mean of 192 logarithms has a
# standard error of .06 octaves, which costs .002 bits a word; pieces are whole cache lines of the narrowest words.
PIECE, MEASURED = 64, 192
ROWS_AHEAD = 8  # rows that are measured before the one whose pieces are asked for
BLOCK = 512  # words whose distances, each at most 10 << mantissa, add up to 16 bits
COLUMN = 128  # no column's scale lies further below zero
COLUMN_ROWS = 256  # rows on which columns are measured, likewise


@by_rows
def _magnitudes(line, first, last, shift, out, at):
    """The magnitudes of line[first:last] into `out` from `at` on."""
    words, place = line[first:last], out[at : at + last - first]
    for i in range(len(place)):
        place[i] = shift_right(U16(head_of(words[i]) & U16(0x7FFF)), shift)


@by_rows
def _scale(values, mantissa):
    """The scale of a row whose magnitudes are `values`, and how far its mean lies from zero: the mean of those that
    aren't zero, refined by leaving out how far the far ones are."""
    total, least = I32(0), U16(0xFFFF)
    for i in range(len(values)):
        total = I32(total + I32(values[i]))
        least = min(least, values[i])
    some = len(values)
    if least == 0:
        some = 0
        for i in range(len(values)):
            some += values[i] != U16(0)
    if some == 0:
        return I16(UNKNOWN), 0
    mean = I64(total) // some
    low = max(mean - ((NEAR_BELOW << mantissa) >> 1), 0)  # so that zeros add nothing
    high = U16(mean + ((NEAR_ABOVE << mantissa) >> 1))
    above = 0
    for start in range(0, len(values), BLOCK):
        part, sum_of = values[start : start + BLOCK], U16(0)
        for i in range(len(part)):
            sum_of = U16(sum_of + U16(min(max(part[i], U16(low)), high) - U16(low)))
        above += I64(sum_of)
    return I16(((low * some + above) * OCTAVE) // (some << mantissa)), mean


@by_rows
def _add_columns(values, mean, mantissa, columns):
    """Add to each column how far its magnitude lies from the row's mean, at most NEAR_* away."""
    middle = I32(mean)
    low = I32(mean - ((NEAR_BELOW << mantissa) >> 1))
    high = I32(mean + ((NEAR_ABOVE << mantissa) >> 1))
    for i in range(len(values)):
        v = I32(values[i])
        columns[i] = I32(columns[i] + (I32(min(max(v, low), high) - middle) if v != 0 else I32(0)))


@by_rows
def _all_positive(words):
    """Whether no word has its sign set; most tensors are done with after the first few."""
    for start in range(0, len(words), 4096):
        part = words[start : start + 4096]
        signs = U16(0)
        for i in range(len(part)):
            signs |= head_of(part[i])
        if signs >> U16(15):
            return False
    return True


@lent
def scan(
    words, cols, first, step_shift, mantissa, every, stride, apart, column_stride, values, rows, columns, classes,
    sample,
):  # fmt: skip
    """Measure the rows of `cols` words each (the last may be shorter), of which the first has the number `first`.

    The magnitude of a word is v = (head & 0x7FFF) >> step_shift, with 2 ** mantissa steps an octave. Fills
    - `rows` i16 with the scales of the rows whose number is a multiple of `every`;
    - `sample` with every `apart`-th piece of the rows whose number is a multiple of `stride`;
    - `classes` u8 [tails, rows] as `tails.zero_runs` does;
    and adds to `columns` i32 (len 0: don't) how far each column lies from the means of the rows whose number is a
    multiple of `column_stride`, in steps; `values` u16 [cols] is for what is in between. Returns how many rows these
    are, the words sampled, and whether no word is negative."""
    n, shift = len(words), U16(step_shift)
    skip = max(1, cols // MEASURED)
    measured, sampled, columned = 0, 0, 0
    for row in range(-(-n // cols)):
        number = first + row
        line = words[row * cols : min((row + 1) * cols, n)]
        if number % every == 0:
            whole = len(columns) > 0 and number % column_stride == 0 and len(line) == cols
            many, ahead = 0, (row + ROWS_AHEAD * every) * cols
            for start in range(0, len(line), PIECE * (1 if whole else skip)):
                stop = min(start + PIECE, len(line))
                ask_for(words, ahead + start, stop - start)
                _magnitudes(line, start, stop, shift, values, many)
                many += stop - start
            rows[measured], mean = _scale(values[:many], mantissa)
            measured += 1
            if whole:
                columned += 1
                if rows[measured - 1] != UNKNOWN:
                    _add_columns(values, mean, mantissa, columns)
        if number % stride == 0:
            for start in range(0, len(line), PIECE * apart):
                piece = line[start : start + PIECE]
                place = sample[sampled : sampled + len(piece)]
                for i in range(len(piece)):
                    place[i] = piece[i]
                sampled += len(piece)
    classify(words, cols, classes)
    return columned, sampled, _all_positive(words)


@compiled
def column_scales(columns, rows, mantissa, scales):
    """Fill `scales` i16 with those of the columns about their mean, from the sums i64 of `scan` over `rows` rows;
    returns their variance, in 1/256 of a square octave."""
    total, squares = 0, 0
    for i in range(len(columns)):
        scales[i] = (columns[i] * OCTAVE) // (rows << mantissa)
        total += scales[i]
    mean = total // len(columns)
    for i in range(len(columns)):
        scales[i] = min(max(scales[i] - mean, -COLUMN), COLUMN - 1)
        squares += np.int64(scales[i]) * scales[i]
    return squares * 4 // len(columns)


@compiled
def _extent(rows):
    """The lowest and the highest of i16 numbers, and their sum."""
    low, high, total = I16(32767), I16(UNKNOWN), I64(0)
    for i in range(len(rows)):
        low, high = min(low, rows[i]), max(high, rows[i])
        total += I64(rows[i])
    return low, high, total


def known_rows(rows: Scales, above: int, below: int) -> tuple[Scales, int, int]:
    """The scales with those of empty rows, and outliers more than a byte's range up, drawn to the others; if it can be,
    so that none lies further `above` or `below` what it is drawn to than symbols reach. With them, their mean, and the
    highest that was measured."""
    low, high, total = _extent(rows)
    if low == UNKNOWN or high - low > 127:
        rows = _drawn(rows, above, below)
        total = rows.sum(dtype=np.int64)
    return rows, int(total) // len(rows), int(high)


def _drawn(rows: Scales, above: int, below: int) -> Scales:
    known = rows[rows != UNKNOWN]
    if len(known) == 0:
        return np.zeros_like(rows)
    middle = int(np.partition(known, len(known) // 2)[len(known) // 2])
    filled = np.where(rows == UNKNOWN, middle, rows)
    least, low = int(filled.min()), middle - 127
    lowest, highest = int(filled.max()) - 255 - above, least + below
    if lowest <= highest:
        low = min(max(low, lowest), highest)
    low = max(low, least)
    return np.clip(filled, low, low + 255).astype(np.int16)


@compiled
def order_columns(columns, order, starts):
    """Fill `order` and `starts` as `column_order` returns them."""
    starts[:] = 0
    for column in range(len(columns)):
        starts[(columns[column] & (OCTAVE - 1)) + 1] += 1
    for residue in range(OCTAVE):
        starts[residue + 1] += starts[residue]
    place = starts.copy()
    for column in range(len(columns)):
        residue = columns[column] & (OCTAVE - 1)
        order[place[residue]] = order[place[residue] + len(columns)] = column
        place[residue] += 1


def column_order(columns: Scales) -> tuple[Words, Counts]:
    """Columns sorted by scale modulo an octave, listed twice (so that every table's columns are one slice, whatever
    the row's scale), and where each residue begins in the first list, [9] i64."""
    order, starts = np.empty(2 * len(columns), np.uint16), np.empty(OCTAVE + 1, np.int64)
    order_columns(columns, order, starts)
    return order, starts
