"""What the head of a float tensor tells of its tables, rows and columns, read in one call (FORMAT.md, section 5)."""

import numpy as np

from mc.codec import arrays, tables
from mc.codec.arrays import CUT, NO_CLASS, NO_TABLE, TOO_FAR
from mc.codec.compiled import compiled, inlined
from mc.codec.fixed import ALONE, WIDE
from mc.codec.scales import order_columns


@compiled
def read_described(data, base, context, coder, numbers, lone, rows, columns, order, starts, classes):
    """Fill what follows the fixed part of a head, which says `base`, `context` and `coder`: tables as Tables has them,
    and what `_read_rows` fills. Returns the byte behind, or a fault of `arrays`."""
    at = tables.read(data, coder == WIDE, numbers, lone)
    if at < 0:
        return CUT if at == tables.TOO_SHORT else NO_TABLE
    return _read_rows(data, at, base, context != ALONE, rows, columns, order, starts, classes)


@inlined
def _read_rows(data, at, base, scaled, rows, columns, order, starts, classes):
    """Fill what tells of the rows and columns of a float tensor, from byte `at` on: `rows` i16 with scales above
    `base`, or with it alone unless they are `scaled`; `columns` i16, if there are any, with scales, and what
    `order_columns` makes of them; `classes` u8 [tails, rows]. Returns the byte behind, or a fault."""
    stored = np.empty(max(len(rows), len(columns)), np.uint8)
    stored[:] = 0
    if scaled:
        at = arrays.read(data, at, stored[: len(rows)])
        if at < 0:
            return at
    for row in range(len(rows)):
        scale = base + np.int64(stored[row])
        if scale > 32767:
            return TOO_FAR
        rows[row] = scale
    if len(columns) > 0:
        at = arrays.read(data, at, stored[: len(columns)])
        if at < 0:
            return at
        for column in range(len(columns)):
            columns[column] = np.int8(stored[column])
        order_columns(columns, order, starts)
    for tail in range(len(classes)):
        at = arrays.read(data, at, classes[tail])
        if at < 0:
            return at
        for row in range(len(rows)):
            if classes[tail, row] > 2:
                return NO_CLASS
    return at
