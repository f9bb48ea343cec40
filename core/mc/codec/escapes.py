"""Escapes: words that no symbol stands for, listed at the end of a chunk, where they are and what (FORMAT.md, 5.5)."""

import numpy as np

from mc.codec.bitstream import U8, U64, read32, store32
from mc.codec.compiled import by_rows
from mc.codec.narrow import shift_left
from mc.codec.planes import head_of, put_head
from mc.codec.symbols import ESCAPE, ZERO, base_of, magnitude_of, symbol_of

U16, I32 = np.uint16, np.int32


@by_rows
def escaped(words, cols, step_shift, mantissa, frequent, window, rows, columns, escaping, count, out, at):
    """Write the `count` words whose symbol is an escape into `out` u8 from byte `at` on, as FORMAT.md, 5.5, says:
    u32 positions, then u16 magnitudes; return the byte behind. `escaping`, from `take_apart`, tells of each row how
    many it has."""
    zero = U8(ZERO) if frequent is None else U8(ESCAPE)
    place, value = U64(at), U64(at + 4 * count)
    for row in range(len(rows)):
        if escaping[row] == 0:
            continue
        for i in range(row * cols, min((row + 1) * cols, len(words))):
            scale = I32(rows[row]) + (I32(columns[i - row * cols]) if len(columns) > 0 else I32(0))
            base = base_of(scale, mantissa)
            symbol = symbol_of(words[i], U16(step_shift), base, window[0], U16(window[1] - window[0]), zero)
            escapes = symbol == U8(ESCAPE)
            if frequent is not None:
                for k in range(len(frequent)):
                    escapes = escapes and words[i] != frequent[k]
            if escapes:
                v = magnitude_of(words[i], U16(step_shift))
                store32(out, place, U64(i))
                out[value], out[value + U64(1)] = U8(v & U16(255)), U8(v >> U16(8))
                place += U64(4)
                value += U64(2)
    return np.int64(value)


@by_rows
def add_escapes(data, at, count, step_shift, words):
    """Undo `escaped` for words whose magnitudes were left zero; False if positions aren't rising or lie outside.
    The caller has made sure that the escapes lie in `data`."""
    before = np.int64(-1)
    for k in range(count):
        where = np.int64(read32(data, U64(at + 4 * k)))
        if where <= before or where >= len(words):
            return False
        before = where
        low = at + 4 * count + 2 * k
        v = U16(U16(data[low]) | U16(U16(data[low + 1]) << U16(8)))
        put_head(words, where, U16(head_of(words[where]) | U16(shift_left(v, U16(step_shift)) & U16(0x7FFF))))
    return True
