"""The tails of float words wider than 16 bits: u16 below the head, kept as they are, but for rows of narrower numbers.

An f32 checkpoint often holds rows that are exactly bf16 (the tail is zero) or fp16 (only its top three bits are used).
Each row has a class for each tail, and stores that much of it (FORMAT.md, section 5.4).
"""

from typing import Any

import numpy as np
from numba.extending import overload

from mc.codec.bitstream import store16
from mc.codec.compiled import by_rows, by_type, compiled
from mc.codec.narrow import shift_right
from mc.codec.planes import field_bytes, pack_fields, unpack_fields

U8, U16, U64 = np.uint8, np.uint16, np.uint64
HEAD_BITS = 16
LOOK = 32  # words after which most rows are known to be of class 0
TOP_BITS = 3  # of a tail whose low 13 bits are zero
TOP_SHIFT = 13


@by_rows
def zero_runs(words, tail, cols, classes):
    """For each row of `cols` words (the last may be shorter): 2 if this tail of all is zero, 1 if its low 13 bits
    are, else 0. Tails are numbered from the highest."""
    down = words.dtype.type(16 * (words.itemsize // 2 - 2 - tail))
    for row in range(len(classes)):
        line = words[row * cols : min((row + 1) * cols, len(words))]
        seen = U16(0)
        for start in range(0, len(line), LOOK):
            some = words.dtype.type(0)
            part = line[start : start + LOOK]
            for i in range(len(part)):
                some |= part[i]
            seen |= U16((some >> down) & words.dtype.type(0xFFFF))
            if seen & U16(0x1FFF):
                break  # as it is with nearly all rows
        classes[row] = 2 if seen == 0 else 1 if seen & U16(0x1FFF) == 0 else 0


@by_rows
def _take_tail(words, tail, out):
    down = words.dtype.type(16 * (words.itemsize // 2 - 2 - tail))
    for i in range(len(words)):
        store16(out, U64(2 * i), U64(U16(shift_right(words[i], down) & words.dtype.type(0xFFFF))))


@by_rows
def put_tail(tails, tail, first, words):
    """Put u16 tails, given as bytes, into their place in the words: assign if this is the `first`, else add."""
    up = words.dtype.type(16 * (words.itemsize // 2 - 2 - tail))
    if first:
        for i in range(len(words)):
            words[i] = words.dtype.type(U16(tails[2 * i]) | U16(U16(tails[2 * i + 1]) << U16(8))) << up
    else:
        for i in range(len(words)):
            words[i] |= words.dtype.type(U16(tails[2 * i]) | U16(U16(tails[2 * i + 1]) << U16(8))) << up


@by_rows
def _row_words(cols, n, classes, wanted):
    """How many words lie in rows of the class `wanted`."""
    words = 0
    for row in range(len(classes)):
        words += min(cols, n - row * cols) if classes[row] == wanted else 0
    return words


@compiled
def tail_bytes(cols, n, classes):
    """Bytes that one tail of n words takes, given the classes of its rows."""
    return 2 * _row_words(cols, n, classes, 0) + field_bytes(np.int64(TOP_BITS), _row_words(cols, n, classes, 1))


@by_rows
def _pack_whole(words, tail, cols, classes, out, at):
    for row in range(len(classes)):
        if classes[row] == 0:
            size = min(cols, len(words) - row * cols)
            _take_tail(words[row * cols : row * cols + size], tail, out[at : at + 2 * size])
            at += 2 * size
    return at


@by_rows
def _take_tops(words, tail, cols, classes, top):
    k, down = 0, words.dtype.type(16 * (words.itemsize // 2 - 2 - tail))
    for row in range(len(classes)):
        if classes[row] == 1:
            line = words[row * cols : min((row + 1) * cols, len(words))]
            for i in range(len(line)):
                top[k + i] = U8(U16((line[i] >> down) & words.dtype.type(0xFFFF)) >> U16(TOP_SHIFT))
            k += len(line)


@by_rows
def _put_tails(packed, tops, tail, cols, classes, words):
    at, k, up = 0, 0, words.dtype.type(16 * (words.itemsize // 2 - 2 - tail))
    for row in range(len(classes)):
        line = words[row * cols : min((row + 1) * cols, len(words))]
        if tail == 0:
            line[:] = 0
        if classes[row] == 0:
            put_tail(packed[at : at + 2 * len(line)], tail, tail == 0, line)
            at += 2 * len(line)
        elif classes[row] == 1:
            for i in range(len(line)):
                line[i] |= words.dtype.type(U16(U16(tops[k + i]) << U16(TOP_SHIFT))) << up
            k += len(line)


# Most words have no tails, and their loops need not be compiled with what would take care of them.


def classify(words: Any, cols: Any, classes: Any) -> None:
    """Fill `classes` [tails, rows] as `zero_runs` does; nothing for words without tails."""
    raise NotImplementedError  # only loops call it


@by_type(classify)
def _classify(words, cols, classes):
    def every(words, cols, classes):
        for tail in range(len(classes)):
            zero_runs(words, tail, cols, classes[tail])

    return every if words.dtype.bitwidth > HEAD_BITS else lambda words, cols, classes: None


def pack_tails(words: Any, cols: Any, classes: Any, out: Any, at: Any) -> Any:
    """All tails, the highest first, into tail_bytes(...) bytes each of `out` from byte `at` on: whole for the rows of
    class 0, then the top three bits for those of class 1. Returns the byte behind."""
    raise NotImplementedError  # only loops call it


@overload(pack_tails)
def _pack_tails(words, cols, classes, out, at):
    def every(words, cols, classes, out, at):
        for tail in range(len(classes)):
            at = _pack_whole(words, tail, cols, classes[tail], out, at)
            top = np.empty(_row_words(cols, len(words), classes[tail], 1), np.uint8)
            if len(top) > 0:
                _take_tops(words, tail, cols, classes[tail], top)
                at = pack_fields(top, np.int64(TOP_BITS), out, at)
        return at

    return every if words.dtype.bitwidth > HEAD_BITS else lambda words, cols, classes, out, at: at


def unpack_tails(data: Any, at: Any, cols: Any, classes: Any, words: Any) -> Any:
    """Undo `pack_tails` from byte `at` of `data` on: put the tails into their places in the words; the first one clears
    what is in them. Returns the byte behind, beyond the end if the tails are cut."""
    raise NotImplementedError  # only loops call it


@overload(unpack_tails)
def _unpack_tails(data, at, cols, classes, words):
    def every(data, at, cols, classes, words):
        for tail in range(len(classes)):
            size = tail_bytes(cols, len(words), classes[tail])
            if at + size > len(data):
                return at + size
            packed, whole = data[at : at + size], 2 * _row_words(cols, len(words), classes[tail], 0)
            tops = unpack_fields(packed[whole:], np.int64(TOP_BITS), _row_words(cols, len(words), classes[tail], 1))
            _put_tails(packed, tops, tail, cols, classes[tail], words)
            at += size
        return at

    return every if words.dtype.bitwidth > HEAD_BITS else lambda data, at, cols, classes, words: at


def put_whole_tails(tails: Any, words: Any) -> None:
    """`put_tail` of the highest tail, if there are any; nothing for words without tails."""
    raise NotImplementedError  # only loops call it


@by_type(put_whole_tails)
def _put_whole_tails(tails, words):
    def every(tails, words):
        if len(tails) > 0:
            put_tail(tails, 0, True, words)

    return every if words.dtype.bitwidth > HEAD_BITS else lambda tails, words: None
