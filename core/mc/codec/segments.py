"""The order of a chunk's symbols: sorted into segments, one for each table, row by row.

The table of a word follows from the scales of its row and its column (FORMAT.md, 5.1). The columns of a tensor are
sorted once, by scale; so in each row the words of a table are one or two runs of that order.
"""

from mc.codec.compiled import by_rows
from mc.codec.scales import OCTAVE

TABLES = 4  # one for each quarter of an octave


@by_rows
def slice_of(starts, row, table):
    """Where the columns of a table lie in the doubled order, for a row with scale `row`."""
    first = (2 * table - row) & (OCTAVE - 1)
    second = (first + 1) & (OCTAVE - 1)
    return starts[first], starts[first + 1] - starts[first] + starts[second + 1] - starts[second]


@by_rows
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
                counts[table] += slice_of(starts, rows[row], table)[1]


@by_rows
def to_begin(counts, cursor):
    """Set `cursor` i64 [tables] to where each table's segment begins."""
    cursor[0] = 0
    for t in range(1, len(counts)):
        cursor[t] = cursor[t - 1] + counts[t - 1]


@by_rows
def unsorted(symbols, n, cols, rows, order, starts, counts, cursor, frequent, out):
    """Fill `out` u8 with the symbols in the order of the n words; returns how many aren't below `frequent`."""
    to_begin(counts, cursor)
    others = 0
    for row in range(len(rows)):
        line = out[row * cols : min((row + 1) * cols, n)]
        if len(starts) == 0:
            t = (rows[row] >> 1) & (len(counts) - 1)
            for i in range(len(line)):
                line[i] = symbols[cursor[t] + i]
            cursor[t] += len(line)
        else:
            for t in range(TABLES):
                first, count = slice_of(starts, rows[row], t)
                for k in range(count):
                    line[order[first + k]] = symbols[cursor[t] + k]
                cursor[t] += count
        for i in range(len(line)):
            others += line[i] >= frequent
    return others


@by_rows
def sort_plane(plane, n, cols, rows, order, starts, counts, cursor, out):
    """Undo `unsorted`: fill `out` u8 with what `plane` u8 says of the n words, in the order of their symbols."""
    to_begin(counts, cursor)
    for row in range(len(rows)):
        line = plane[row * cols : min((row + 1) * cols, n)]
        if len(starts) == 0:
            t = (rows[row] >> 1) & (len(counts) - 1)
            for i in range(len(line)):
                out[cursor[t] + i] = line[i]
            cursor[t] += len(line)
        else:
            for t in range(TABLES):
                first, count = slice_of(starts, rows[row], t)
                for k in range(count):
                    out[cursor[t] + k] = line[order[first + k]]
                cursor[t] += count
