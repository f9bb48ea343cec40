"""Float words as a head, from which symbol and field are made, and the tails below it.

The head of a word is its highest 16 bits (of an 8-bit float, the byte and eight zero bits): sign, exponent, and the
first bits of the mantissa. The codec makes a symbol of the exponent with the top mantissa bits, and a raw *field* of
the sign with the head's other mantissa bits. What lies below the head, the *tails*, is one u16 for f32, three for f64.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types

from mc.codec.compiled import by_rows, by_type, compiled, inlined
from mc.codec.narrow import shift_left, shift_right
from mc.codec.runs import UNSIGNED
from mc.codec.typing import Bytes, Ints

U8, U16, U32, U64 = np.uint8, np.uint16, np.uint32, np.uint64
MOST_FIELD_BITS = 8
SIX = 6
PARTS = (1, 2, 4, 8)  # bits of the parts that other fields are stored in


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
    words: Ints = raw.view(UNSIGNED[geometry.width])
    return words


def head_of(word: Any) -> Any:
    """The head of a word, u16; compiled for each width."""
    raise NotImplementedError


@by_type(head_of)
def _head_of(word):
    return {
        types.uint8: lambda word: U16(U16(word) << U16(8)),
        types.uint16: lambda word: word,
        types.uint32: lambda word: U16(word >> U32(16)),
        types.uint64: lambda word: U16(word >> U64(48)),
    }[word]


def heads_of(words: Any, room: Any) -> Any:
    """An array that begins with the heads of all words, u16: these themselves, or else `room` u16, filled. Two loops
    over them then read what one has narrowed. Compiled for each width."""
    raise NotImplementedError


@by_type(heads_of)
def _heads_of(words, room):
    def narrowed(words, room):
        for i in range(len(words)):
            room[i] = head_of(words[i])
        return room

    return (lambda words, room: words) if words.dtype is types.uint16 else narrowed


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


@by_type(put_head)
def _put_head(words, i, head):
    return {types.uint8: _put8, types.uint16: _put16, types.uint32: _put32, types.uint64: _put64}[words.dtype]


@compiled
def field_bytes(width, n):
    """Bytes that n fields of `width` bits take."""
    if width == SIX:
        return 3 * ((n + 3) // 4)
    size = 0
    for bits in PARTS:
        if width & bits:
            size += _quota(n, bits)
    return size


@inlined
def _quota(n, bits):
    """Bytes of a plane with n parts of `bits` bits."""
    return (n + 8 // bits - 1) // (8 // bits)


@by_rows
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


@by_rows
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


@by_rows
def _pack_part(fields, bits, low, out):
    """One part of all fields, planar: byte k holds the parts of fields k, k + q, k + 2q ... of q bytes."""
    n, quota = len(fields), len(out)
    down, mask = U8(low), U8((1 << bits) - 1)
    out[:] = 0
    for slot in range(8 // bits):
        # Slices, for the compiler to see that no index wraps round and to make vector loops.
        part = fields[min(slot * quota, n) : min((slot + 1) * quota, n)]
        place, up = out[: len(part)], U8(slot * bits)
        for k in range(len(part)):
            place[k] |= shift_left(U8(shift_right(part[k], down) & mask), up)


@by_rows
def _unpack_part(packed, bits, low, fields):
    """Undo `_pack_part`: add to what is there."""
    n, quota = len(fields), len(packed)
    up, mask = U8(low), U8((1 << bits) - 1)
    for slot in range(8 // bits):
        part = fields[min(slot * quota, n) : min((slot + 1) * quota, n)]
        source, down = packed[: len(part)], U8(slot * bits)
        for k in range(len(part)):
            part[k] |= shift_left(U8(shift_right(source[k], down) & mask), up)


@compiled
def pack_fields(fields, width, out, at):
    """Put fields of `width` bits, one a byte, into field_bytes(width, n) bytes of `out` from `at` on; return the byte
    after the last."""
    n = len(fields)
    if width == SIX:
        size = field_bytes(width, n)
        _pack_six(fields, out[at : at + size])
        return at + size
    low = np.int64(0)
    for bits in PARTS:
        if width & bits:
            size = _quota(n, bits)
            if bits == MOST_FIELD_BITS:
                place = out[at : at + size]
                for k in range(size):
                    place[k] = fields[k]
            else:
                _pack_part(fields, bits, low, out[at : at + size])
            at += size
            low += bits
    return at


@compiled
def unpack_fields(packed, width, n):
    """Undo `pack_fields` for n fields; `packed` itself where they are whole bytes."""
    if width == MOST_FIELD_BITS:
        return packed
    fields = np.empty(n, np.uint8)
    if width == SIX:
        _unpack_six(packed, fields)
        return fields
    fields[:] = 0
    at, low = 0, np.int64(0)
    for bits in PARTS:
        if width & bits:
            size = _quota(n, bits)
            _unpack_part(packed[at : at + size], bits, low, fields)
            at += size
            low += bits
    return fields
