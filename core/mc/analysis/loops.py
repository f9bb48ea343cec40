"""The compiled passes over words: counts, scales of rows and columns, symbols given scales, moments of wide numbers."""

import numpy as np

from mc.analysis.kinds import NONE, STEPS
from mc.codec.compiled import released

I64, I32, U32 = np.int64, np.int32, np.uint32

NEAR_BELOW, NEAR_ABOVE = 3 * STEPS // 2, 8 * STEPS  # a weight farther from its row's mean doesn't tell of its column
CLASSES, SPAN, CENTRE = 4, 512, 384  # tables by the quarter of an octave of the scale; symbols in each; see `given`


@released
def count(words, cols, octaves, counts, rows, sums, some):
    """Count words into the tables `counts` u32 [lanes, bins] in turn, and find the scales of rows of `cols` words.

    words: u8 or u16 [rows * cols]; lanes: a power of two; octaves: i16 [bins]. Fills `rows` f64 with mean logarithms
    of magnitude, in steps, NaN where there are none; adds to `sums` i64 [cols] how far each word lies from its row's
    mean, and to `some` how many words that was (both may be empty: don't)."""
    line = np.empty(cols, np.int16)
    last = len(counts) - 1
    for row in range(len(rows)):
        part = words[row * cols : (row + 1) * cols]
        total, there = I64(0), I64(0)
        for at in range(cols):
            word = part[at]
            counts[at & last, word] += U32(1)
            q = octaves[word]
            line[at] = q
            known = I64(q != NONE)
            total += I64(q) * known
            there += known
        rows[row] = total / there if there else np.nan
        if len(sums) and there:
            mean = I32(round(total / there))
            for i in range(cols):
                away = min(max(I32(line[i]) - mean, I32(-NEAR_BELOW)), I32(NEAR_ABOVE))
                known = I32(line[i] != NONE)
                sums[i] += away * known
                some[i] += known


@released
def given(words, cols, symbols, rows, columns, counts):
    """Count each word's quarter-octave symbol, relative to its row's and column's scale, into the table that the
    fraction of the scale's octave names.

    words: u8 or u16 [len(rows) * cols]; symbols: i16 [bins]; rows, columns: i32, in eighths of an octave (columns may
    be empty: zero); counts: i64 [CLASSES, SPAN]. Symbol 0 stands for words without a magnitude; magnitudes beyond the
    table's ends count at its ends."""
    table, odd = counts.reshape(-1), np.zeros(counts.size, np.int64)  # equal neighbours wait for each other
    first, base = np.empty(cols, np.int32), np.empty(cols, np.int32)  # of each column: its table, and what symbol is 0
    for row in range(len(rows)):
        for i in range(cols):
            scale = I32(rows[row] + (columns[i] if len(columns) else I32(0)))
            first[i] = I32(((scale & I32(7)) >> I32(1)) * SPAN)
            base[i] = I32(CENTRE - I32(4) * (scale >> I32(3)))
        line = words[row * cols : (row + 1) * cols]
        for i in range(cols):
            symbol = I32(symbols[line[i]])
            place = min(max(I32(symbol + base[i]), I32(1)), I32(SPAN - 1))
            place = I32(first[i] + (place if symbol != NONE else I32(0)))
            if i & 1:
                odd[place] += 1
            else:
                table[place] += 1
    for k in range(len(odd)):
        table[k] += odd[k]


@released
def moments(numbers, smallest, sums):
    """Fill `sums` f64 [12] with what `Sums` holds, of wide numbers (f32 or f64); `smallest` is the smallest normal
    magnitude."""
    nan, above, below, zeros, subnormal = 0, 0, 0, 0, 0
    least, most = np.inf, -np.inf
    total, n = 0.0, 0
    for x in numbers:
        y = np.float64(x)
        if np.isfinite(y):
            n += 1
            total += y
            least, most = min(least, y), max(most, y)
            zeros += y == 0
            subnormal += y != 0 and abs(y) < smallest
        elif np.isnan(y):
            nan += 1
        elif y > 0:
            above += 1
        else:
            below += 1
    mean = total / n if n else 0.0
    m2, m3, m4 = 0.0, 0.0, 0.0
    for x in numbers:
        y = np.float64(x)
        if np.isfinite(y):
            d = y - mean
            d2 = d * d
            m2 += d2
            m3 += d2 * d
            m4 += d2 * d2
    sums[:] = np.array([n, nan, above, below, zeros, subnormal, least, most, mean, m2, m3, m4])


@released
def halves(words, counts):
    """Count the 16-bit pieces of wide words, all but the uppermost.

    words: u16 [n, pieces]; counts: i64 [pieces - 1, 65536]."""
    for i in range(len(words)):
        for piece in range(len(counts)):
            counts[piece, words[i, piece]] += 1


@released
def beyond(numbers, mean, distance):
    """How many numbers lie farther than `distance` from `mean`; NaN and infinities don't count."""
    found = 0
    for x in numbers:
        away = abs(np.float64(x) - mean)
        found += away > distance and away < np.inf
    return found
