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

U16, I16, I32, I64, U64 = np.uint16, np.int16, np.int32, np.int64, np.uint64

OCTAVE = 8  # steps of a scale in an octave
NEAR_BELOW, NEAR_ABOVE = 3, 16  # halves of an octave: what is farther from the mean doesn't tell of the scale
UNKNOWN = -32768  # the scale of a row without a number other than zero
# Of a row, pieces of PIECE words are measured, as many as make MEASURED words or more. The mean of 192 logarithms has a
# standard error of .06 octaves, which costs .002 bits a word; pieces are whole cache lines of the narrowest words.
PIECE, MEASURED = 64, 192
ROWS_AHEAD = 8  # rows that are measured before the one whose pieces are asked for
COLUMN = 128  # no column's scale lies further below zero
COLUMN_ROWS = 256  # rows on which columns are measured, likewise


@by_rows
def _magnitude(words, at, shift):
    return shift_right(U16(head_of(words[at]) & U16(0x7FFF)), shift)


@by_rows
def _sum_up(words, start, count, shift):
    """The sum of so many magnitudes, and the least of them."""
    total, least = I32(0), U16(0xFFFF)
    for i in range(count):
        v = _magnitude(words, start + U64(i), shift)
        total = I32(total + I32(v))
        least = min(least, v)
    return total, least


@by_rows
def _sum_above(words, start, count, shift, low, span):
    """How far so many magnitudes lie above `low`, each at most `span`: up to 10 << mantissa, so that those of a piece
    add up to 16 bits."""
    total = U16(0)
    for i in range(count):
        total = U16(total + min(U16(max(_magnitude(words, start + U64(i), shift), low) - low), span))
    return I64(total)


@by_rows
def _scale(words, begin, end, step, shift, mantissa):
    """The scale of a row, words[begin:end], by a piece every `step` words, and how far its mean lies from zero: the
    mean of those that aren't zero, refined by leaving out how far the far ones are."""
    total, least, some = I32(0), U16(0xFFFF), 0
    for start in range(begin, end, step):
        # Whole pieces are loops of a constant length, which take a third of the time of others.
        count = min(PIECE, end - start)
        whole = count == PIECE
        added, lowest = _sum_up(words, U64(start), PIECE, shift) if whole else _sum_up(words, U64(start), count, shift)
        total = I32(total + added)
        least = min(least, lowest)
        some += count
    if least == 0:
        some = 0
        for start in range(begin, end, step):
            for i in range(start, min(start + PIECE, end)):
                some += _magnitude(words, U64(i), shift) != U16(0)
    if some == 0:
        return I16(UNKNOWN), 0
    mean = I64(total) // some
    low = U16(max(mean - ((NEAR_BELOW << mantissa) >> 1), 0))  # so that zeros add nothing
    span = U16(U16(mean + ((NEAR_ABOVE << mantissa) >> 1)) - low)
    above = 0
    for start in range(begin, end, step):
        count = min(PIECE, end - start)
        if count == PIECE:
            above += _sum_above(words, U64(start), PIECE, shift, low, span)
        else:
            above += _sum_above(words, U64(start), count, shift, low, span)
    return I16(((I64(low) * some + above) * OCTAVE) // (some << mantissa)), mean


@by_rows
def _add_columns(words, begin, mean, shift, mantissa, columns):
    """Add to each column how far its magnitude in the row from `begin` on lies from the row's mean, at most NEAR_*
    away."""
    middle = I32(mean)
    low = I32(mean - ((NEAR_BELOW << mantissa) >> 1))
    high = I32(mean + ((NEAR_ABOVE << mantissa) >> 1))
    for i in range(len(columns)):
        v = I32(_magnitude(words, U64(begin) + U64(i), shift))
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
    words, cols, first, step_shift, mantissa, every, stride, apart, column_stride, rows, columns, classes, sample
):  # fmt: skip
    """Measure the rows of `cols` words each (the last may be shorter), of which the first has the number `first`.

    The magnitude of a word is v = (head & 0x7FFF) >> step_shift, with 2 ** mantissa steps an octave. Fills
    - `rows` i16 with the scales of the rows whose number is a multiple of `every`;
    - `sample` with every `apart`-th piece of the rows whose number is a multiple of `stride`;
    - `classes` u8 [tails, rows] as `tails.zero_runs` does;
    and adds to `columns` i32 (len 0: don't) how far each column lies from the means of the rows whose number is a
    multiple of `column_stride`, in steps. Returns how many rows these are, the words sampled, and whether no word is
    negative."""
    n, shift = len(words), U16(step_shift)
    step = PIECE * max(1, cols // MEASURED)
    measured, sampled, columned = 0, 0, 0
    # The next row that is due: to divide takes as long as to measure a piece.
    of_rows, of_sample, of_columns = -first % every, -first % stride, -first % column_stride
    for row in range(-(-n // cols)):
        begin, end = row * cols, min((row + 1) * cols, n)
        if row == of_rows:
            of_rows += every
            whole = len(columns) > 0 and row == of_columns and end - begin == cols
            step_here, ahead = PIECE if whole else step, (row + ROWS_AHEAD * every) * cols - begin
            for start in range(begin, end, step_here):
                ask_for(words, ahead + start, PIECE)
            rows[measured], mean = _scale(words, begin, end, step_here, shift, mantissa)
            measured += 1
            if whole:
                columned += 1
                if rows[measured - 1] != UNKNOWN:
                    _add_columns(words, begin, mean, shift, mantissa, columns)
        if row == of_columns:
            of_columns += column_stride
        if row == of_sample:
            of_sample += stride
            for start in range(begin, end, PIECE * apart):
                piece = words[start : min(start + PIECE, end)]
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
