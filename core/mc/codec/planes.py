"""Float words as a head, from which symbol and field are made, and the tails below it.

The head of a word is its highest 16 bits (of an 8-bit float, the byte and eight zero bits): sign, exponent, and the
first bits of the mantissa. The codec makes a symbol of the exponent with the top mantissa bits, and a raw *field* of
the sign with the head's other mantissa bits. What lies below the head, the *tails*, is one u16 for f32, three for f64.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from mc.codec.compiled import compiled
from mc.codec.typing import Bytes, Ints, Words

U8, U16, U32, U64 = np.uint8, np.uint16, np.uint32, np.uint64
MOST_FIELD_BITS = 8
SIX = 6
WORDS: dict[int, np.dtype[Any]] = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}


@dataclass(frozen=True)
class Geometry:
    """How the words of a float dtype fall into head and tails."""

    width: int  # bytes a word
    mantissa: int  # mantissa bits in the head
    padding: int  # zero bits below them in the head: 8 for the 8-bit types
    tails: int  # u16 below the head


GEOMETRIES = {
    "F64": Geometry(8, 4, 0, 3),
    "F32": Geometry(4, 7, 0, 1),
    "C64": Geometry(4, 7, 0, 1),  # pairs of F32
    "BF16": Geometry(2, 7, 0, 0),
    "F16": Geometry(2, 10, 0, 0),
    "F8_E4M3": Geometry(1, 3, 8, 0),
    "F8_E4M3FNUZ": Geometry(1, 3, 8, 0),
    "F8_E5M2": Geometry(1, 2, 8, 0),
    "F8_E5M2FNUZ": Geometry(1, 2, 8, 0),
}


def words_of(raw: Bytes, geometry: Geometry) -> Ints:
    """The bytes as unsigned words, without a copy."""
    words: Ints = raw.view(WORDS[geometry.width])
    return words


def head_of(word: Any) -> Any:
    """The head of a word, u16; compiled for each width."""
    raise NotImplementedError


@overload(head_of)
def _head_of(word):
    return {
        types.uint8: lambda word: U16(U16(word) << U16(8)),
        types.uint16: lambda word: word,
        types.uint32: lambda word: U16(word >> U32(16)),
        types.uint64: lambda word: U16(word >> U64(48)),
    }[word]


def put_head(words: Any, i: Any, head: Any) -> None:
    """Complete words[i], which holds its tails and zeros above them; compiled for each width."""
    raise NotImplementedError


def _put8(words, i, head):
    words[i] = U8(head >> U16(8))


def _put16(words, i, head):
    words[i] = head


def _put32(words, i, head):
    words[i] |= U32(U32(head) << U32(16))


def _put64(words, i, head):
    words[i] |= U64(U64(head) << U64(48))


@overload(put_head)
def _put_head(words, i, head):
    return {types.uint8: _put8, types.uint16: _put16, types.uint32: _put32, types.uint64: _put64}[words.dtype]


def field_parts(width: int) -> list[tuple[int, int]]:
    """The parts of 8, 4, 2 and 1 bits that a field of `width` bits is stored in: (bits, lowest bit)."""
    parts, low = [], 0
    for bits in (1, 2, 4, 8):
        if width & bits:
            parts.append((bits, low))
            low += bits
    return parts


def field_bytes(width: int, n: int) -> int:
    """Bytes that n fields of `width` bits take."""
    if width == SIX:
        return 3 * _quota(n, 2)
    return sum(_quota(n, bits) for bits, _ in field_parts(width))


def _quota(n: int, bits: int) -> int:
    return -(-n // (8 // bits))


@compiled
def _pack_six(fields, out):
    """Six bits a field: three planes of q bytes hold the first three quarters of the fields, and in their two top
    bits the last quarter. A shape of its own, as bf16 and f32 have it and one pass is twice as fast as two."""
    n, quota = len(fields), len(out) // 3
    full = max(n - 3 * quota, 0)
    a, b, c, d = fields[:quota], fields[quota : 2 * quota], fields[2 * quota : 3 * quota], fields[3 * quota :]
    x, y, z = out[:quota], out[quota : 2 * quota], out[2 * quota :]
    for k in range(full):
        x[k] = a[k] | U8(d[k] << U8(6))
        y[k] = b[k] | U8(U8(d[k] >> U8(2)) << U8(6))
        z[k] = c[k] | U8(U8(d[k] >> U8(4)) << U8(6))
    for k in range(full, quota):
        x[k] = a[k] if k < len(a) else U8(0)
        y[k] = b[k] if k < len(b) else U8(0)
        z[k] = c[k] if k < len(c) else U8(0)


@compiled
def _unpack_six(packed, fields):
    """Undo `_pack_six`."""
    n, quota, mask = len(fields), len(packed) // 3, U8(63)
    full = max(n - 3 * quota, 0)
    a, b, c, d = fields[:quota], fields[quota : 2 * quota], fields[2 * quota : 3 * quota], fields[3 * quota :]
    x, y, z = packed[:quota], packed[quota : 2 * quota], packed[2 * quota :]
    for k in range(full):
        a[k] = x[k] & mask
        b[k] = y[k] & mask
        c[k] = z[k] & mask
        d[k] = U8(x[k] >> U8(6)) | U8(U8(y[k] >> U8(6)) << U8(2)) | U8(U8(z[k] >> U8(6)) << U8(4))
    for k in range(full, quota):
        if k < len(a):
            a[k] = x[k] & mask
        if k < len(b):
            b[k] = y[k] & mask
        if k < len(c):
            c[k] = z[k] & mask


@compiled
def _pack_part(fields, bits, shift, out):
    """One part of all fields, planar: byte k holds the parts of fields k, k + q, k + 2q ... of q bytes."""
    n, quota, slots = len(fields), len(out), 8 // bits
    down, mask = U8(shift), U8((1 << bits) - 1)
    full = max(n - (slots - 1) * quota, 0)  # bytes with a field in every slot
    # Slices, for the compiler to see that no index wraps round and to make vector loops.
    if bits == 2:
        a, b, c, d = fields[:full], fields[quota:], fields[2 * quota :], fields[3 * quota :]
        for k in range(full):
            low = U8(U8(a[k] >> down) & mask) | U8(U8(U8(b[k] >> down) & mask) << U8(2))
            high = U8(U8(U8(c[k] >> down) & mask) << U8(4)) | U8(U8(U8(d[k] >> down) & mask) << U8(6))
            out[k] = U8(low | high)
    elif bits == 4:
        a, b = fields[:full], fields[quota:]
        for k in range(full):
            out[k] = U8(U8(a[k] >> down) & mask) | U8(U8(U8(b[k] >> down) & mask) << U8(4))
    else:
        full = 0
    out[full:] = 0
    for slot in range(slots):
        part = fields[min(slot * quota, n) : min((slot + 1) * quota, n)]
        for k in range(full, len(part)):
            out[k] |= U8(U8(U8(part[k] >> down) & mask) << U8(slot * bits))


@compiled
def _unpack_part(packed, bits, shift, fields, first):
    """Undo `_pack_part`: assign to the fields if this is the `first` part, else add to what is there."""
    n, quota = len(fields), len(packed)
    up, mask = U8(shift), U8((1 << bits) - 1)
    for slot in range(8 // bits):
        part = fields[min(slot * quota, n) : min((slot + 1) * quota, n)]
        down = U8(slot * bits)
        if first:
            for k in range(len(part)):
                part[k] = U8(U8(U8(packed[k] >> down) & mask) << up)
        else:
            for k in range(len(part)):
                part[k] |= U8(U8(U8(packed[k] >> down) & mask) << up)


def pack_fields(fields: Bytes, width: int) -> Bytes:
    """Fields of `width` bits, one a byte, in field_bytes(width, n) bytes."""
    if width == MOST_FIELD_BITS:
        return fields
    out = np.empty(field_bytes(width, len(fields)), np.uint8)
    if width == SIX:
        _pack_six(fields, out)
        return out
    at = 0
    for bits, shift in field_parts(width):
        size = _quota(len(fields), bits)
        _pack_part(fields, bits, shift, out[at : at + size])
        at += size
    return out


def unpack_fields(packed: Bytes, width: int, n: int) -> Bytes:
    """Undo `pack_fields` for n fields."""
    if width == MOST_FIELD_BITS:
        return packed
    fields = np.empty(n, np.uint8) if width else np.zeros(n, np.uint8)
    if width == SIX:
        _unpack_six(packed, fields)
    at = 0
    for k, (bits, shift) in enumerate(field_parts(width) if width != SIX else ()):
        size = _quota(n, bits)
        _unpack_part(packed[at : at + size], bits, shift, fields, k == 0)
        at += size
    fields.flags.writeable = False
    return fields


@compiled
def zero_runs(words, tail, cols, classes):
    """For each row of `cols` words (the last may be shorter): 2 if this tail of all is zero, 1 if its low 13 bits
    are, else 0. Tails are numbered from the highest."""
    down = words.dtype.type(16 * (words.itemsize // 2 - 2 - tail))
    for row in range(len(classes)):
        line = words[row * cols : min((row + 1) * cols, len(words))]
        some = words.dtype.type(0)
        for i in range(len(line)):
            some |= line[i]
        seen = U16((some >> down) & words.dtype.type(0xFFFF))
        classes[row] = 2 if seen == 0 else 1 if seen & U16(0x1FFF) == 0 else 0


@compiled
def _take_tail(words, tail, out):
    down = words.dtype.type(16 * (words.itemsize // 2 - 2 - tail))
    for i in range(len(words)):
        out[i] = U16((words[i] >> down) & words.dtype.type(0xFFFF))


@compiled
def _put_tail(tails, tail, first, words):
    """Put u16 tails, given as bytes, into their place in the words: assign if this is the `first`, else add."""
    up = words.dtype.type(16 * (words.itemsize // 2 - 2 - tail))
    if first:
        for i in range(len(words)):
            words[i] = words.dtype.type(U16(tails[2 * i]) | U16(U16(tails[2 * i + 1]) << U16(8))) << up
    else:
        for i in range(len(words)):
            words[i] |= words.dtype.type(U16(tails[2 * i]) | U16(U16(tails[2 * i + 1]) << U16(8))) << up


TOP_BITS = 3  # of a tail whose low 13 bits are zero
TOP_SHIFT = 13


def _row_words(cols: int, n: int, classes: Bytes, wanted: int) -> int:
    """How many words lie in rows of the class `wanted`."""
    words = int((classes == wanted).sum()) * cols
    short = len(classes) * cols - n
    return words - short if len(classes) and classes[-1] == wanted else words


def tail_bytes(cols: int, n: int, classes: Bytes) -> int:
    """Bytes that one tail of n words takes, given the classes of its rows."""
    return 2 * _row_words(cols, n, classes, 0) + field_bytes(TOP_BITS, _row_words(cols, n, classes, 1))


@compiled
def _gather_rows(tail, cols, classes, wanted, shift, out):
    n, at = len(tail), 0
    for row in range(len(classes)):
        if classes[row] == wanted:
            line = tail[row * cols : min((row + 1) * cols, n)]
            place = out[at : at + len(line)]
            for i in range(len(line)):
                place[i] = line[i] >> U16(shift)
            at += len(line)


@compiled
def _scatter_rows(rows, cols, classes, wanted, shift, tail):
    n, at = len(tail), 0
    for row in range(len(classes)):
        if classes[row] == wanted:
            line = tail[row * cols : min((row + 1) * cols, n)]
            place = rows[at : at + len(line)]
            for i in range(len(line)):
                line[i] = place[i] << U16(shift)
            at += len(line)


def pack_tail(words: Ints, tail: int, cols: int, classes: Bytes) -> list[Bytes]:
    """A tail of all words: whole for the rows of class 0, then the top three bits for those of class 1."""
    taken = np.empty(len(words), np.uint16)
    _take_tail(words, tail, taken)
    if not classes.any():
        return [taken.view(np.uint8)]
    whole = np.empty(_row_words(cols, len(taken), classes, 0), np.uint16)
    _gather_rows(taken, cols, classes, 0, 0, whole)
    tops = np.empty(_row_words(cols, len(taken), classes, 1), np.uint16)
    _gather_rows(taken, cols, classes, 1, TOP_SHIFT, tops)
    return [whole.view(np.uint8), pack_fields(tops.astype(np.uint8), TOP_BITS)]


def unpack_tail(packed: Bytes, tail: int, cols: int, classes: Bytes, words: Ints) -> None:
    """Undo `pack_tail`: put the tail into its place in the words; the first one clears what is in them."""
    if classes.any():
        full = _row_words(cols, len(words), classes, 0)
        short = _row_words(cols, len(words), classes, 1)
        tops = unpack_fields(packed[2 * full :], TOP_BITS, short).astype(np.uint16)
        tails: Words = np.zeros(len(words), np.uint16)
        whole: Ints = packed[: 2 * full].copy().view(np.uint16)
        _scatter_rows(whole, cols, classes, 0, 0, tails)
        _scatter_rows(tops, cols, classes, 1, TOP_SHIFT, tails)
        packed = tails.view(np.uint8)
        packed.flags.writeable = False
    _put_tail(packed, tail, tail == 0, words)
