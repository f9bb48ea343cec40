"""Float words split into a head of 16 bits, the bits below it, and back.

The head of a word is its highest 16 bits (of an 8-bit float, the byte and eight zero bits): sign, exponent, and the
first bits of the mantissa. The codec makes a symbol of the exponent with the top mantissa bits, and a raw *field* of
the sign with the head's other mantissa bits. What lies below the head, the *tails*, is one u16 for f32, three for f64.
"""

from dataclasses import dataclass

import numpy as np

from mc.codec.compiled import compiled, inlined
from mc.codec.typing import Bytes, Ints, Words

U16 = np.uint16


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


@compiled
def _split8(words, heads):  # type: ignore[no-untyped-def]
    for i in range(len(words)):
        heads[i] = U16(words[i]) << U16(8)


@compiled
def _split32(words, heads, tail):  # type: ignore[no-untyped-def]
    for i in range(len(words)):
        heads[i] = U16(words[i] >> np.uint32(16))
        tail[i] = U16(words[i] & np.uint32(0xFFFF))


@compiled
def _split64(words, heads, tails):  # type: ignore[no-untyped-def]
    for i in range(len(words)):
        heads[i] = U16(words[i] >> np.uint64(48))
        tails[0, i] = U16((words[i] >> np.uint64(32)) & np.uint64(0xFFFF))
        tails[1, i] = U16((words[i] >> np.uint64(16)) & np.uint64(0xFFFF))
        tails[2, i] = U16(words[i] & np.uint64(0xFFFF))


def split(raw: Bytes, geometry: Geometry) -> tuple[Words, Words]:
    """Heads [n] and tails [tails, n], u16, of the words in `raw` (u8, little-endian). 16-bit words are not copied."""
    n = len(raw) // geometry.width
    tails = np.empty((geometry.tails, n), np.uint16)
    if geometry.width == 2:
        return raw.view(np.uint16), tails
    heads = np.empty(n, np.uint16)
    if geometry.width == 1:
        _split8(raw, heads)
    elif geometry.width == 4:
        _split32(raw.view(np.uint32), heads, tails[0])
    else:
        _split64(raw.view(np.uint64), heads, tails)
    return heads, tails


@compiled
def _join8(heads, words):  # type: ignore[no-untyped-def]
    for i in range(len(words)):
        words[i] = np.uint8(heads[i] >> U16(8))


@compiled
def _join32(heads, tail, words):  # type: ignore[no-untyped-def]
    for i in range(len(words)):
        words[i] = np.uint32(heads[i]) << np.uint32(16) | np.uint32(tail[i])


@compiled
def _join64(heads, tails, words):  # type: ignore[no-untyped-def]
    for i in range(len(words)):
        words[i] = (
            np.uint64(heads[i]) << np.uint64(48)
            | np.uint64(tails[0, i]) << np.uint64(32)
            | np.uint64(tails[1, i]) << np.uint64(16)
            | np.uint64(tails[2, i])
        )


def heads_for(raw: Bytes, geometry: Geometry) -> Words:
    """Where the heads of `raw` are to be decoded to: its own bytes if a word is its head."""
    return raw.view(np.uint16) if geometry.width == 2 else np.empty(len(raw) // geometry.width, np.uint16)


def join(heads: Words, tails: Words, raw: Bytes, geometry: Geometry) -> None:
    """Undo `split` into `raw`; heads of 16-bit words are there already (see `heads_for`)."""
    if geometry.width == 1:
        _join8(heads, raw)
    elif geometry.width == 4:
        _join32(heads, tails[0], raw.view(np.uint32))
    elif geometry.width == 8:
        _join64(heads, tails, raw.view(np.uint64))


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
    return sum(_quota(n, bits) for bits, _ in field_parts(width))


def _quota(n: int, bits: int) -> int:
    return -(-n // (8 // bits))


@inlined
def _shifts(low, padding, bits, shift):  # type: ignore[no-untyped-def]
    """How one part of the field lies in a head: two shifts and two masks, for its mantissa bits and for the sign."""
    mantissa = U16(max(min(low - shift, bits), 0))
    mantissa_mask = U16((1 << mantissa) - 1)
    has_sign = shift <= low < shift + bits
    return U16(padding + shift), mantissa_mask, U16(15 - (low - shift) if has_sign else 0), U16(1 << mantissa if has_sign else 0)


@compiled
def _pack_fields(heads, low, padding, bits, shift, out):  # type: ignore[no-untyped-def]
    """One part of all fields, planar: byte j holds the parts of heads j, j + q, j + 2q ... of q bytes."""
    n, quota, slots = len(heads), len(out), 8 // bits
    down, mantissa, sign_down, sign = _shifts(low, padding, bits, shift)
    full = max(n - (slots - 1) * quota, 0)  # bytes with a head in every slot
    # Slices, for the compiler to see that no index wraps round and to make vector loops.
    if bits == 2:
        a, b, c, d = heads[:full], heads[quota:], heads[2 * quota :], heads[3 * quota :]
        for k in range(full):
            p = U16(U16(a[k] >> down) & mantissa) | U16(U16(a[k] >> sign_down) & sign)
            q = U16(U16(b[k] >> down) & mantissa) | U16(U16(b[k] >> sign_down) & sign)
            r = U16(U16(c[k] >> down) & mantissa) | U16(U16(c[k] >> sign_down) & sign)
            s = U16(U16(d[k] >> down) & mantissa) | U16(U16(d[k] >> sign_down) & sign)
            out[k] = np.uint8(U16(p | U16(q << U16(2))) | U16(U16(r << U16(4)) | U16(s << U16(6))))
    elif bits == 4:
        a, b = heads[:full], heads[quota:]
        for k in range(full):
            p = U16(U16(a[k] >> down) & mantissa) | U16(U16(a[k] >> sign_down) & sign)
            q = U16(U16(b[k] >> down) & mantissa) | U16(U16(b[k] >> sign_down) & sign)
            out[k] = np.uint8(p | U16(q << U16(4)))
    elif bits == 8:
        for k in range(n):
            out[k] = np.uint8(U16(U16(heads[k] >> down) & mantissa) | U16(U16(heads[k] >> sign_down) & sign))
        full = n
    else:
        full = 0
    out[full:] = 0
    for slot in range(slots):
        part = heads[min(slot * quota, n) : min((slot + 1) * quota, n)]
        up = U16(slot * bits)
        for k in range(full, len(part)):
            p = U16(U16(part[k] >> down) & mantissa) | U16(U16(part[k] >> sign_down) & sign)
            out[k] |= np.uint8(p << up)


@compiled
def _unpack_fields(packed, low, padding, bits, shift, heads, first):  # type: ignore[no-untyped-def]
    """Undo `_pack_fields` into the heads: assign if this is the `first` part, else add to what is there."""
    n, quota = len(heads), len(packed)
    up, mantissa, sign_up, sign = _shifts(low, padding, bits, shift)
    for slot in range(8 // bits):
        part = heads[min(slot * quota, n) : min((slot + 1) * quota, n)]
        down = U16(slot * bits)
        if first:
            for k in range(len(part)):
                p = U16(packed[k]) >> down
                part[k] = U16(U16(p & mantissa) << up) | U16(U16(p & sign) << sign_up)
        else:
            for k in range(len(part)):
                p = U16(packed[k]) >> down
                part[k] |= U16(U16(p & mantissa) << up) | U16(U16(p & sign) << sign_up)


def pack_fields(heads: Words, low: int, padding: int, out: Bytes) -> None:
    """Write sign and `low` mantissa bits of every head to `out` (field_bytes(low + 1, n) bytes)."""
    at = 0
    for bits, shift in field_parts(low + 1):
        size = _quota(len(heads), bits)
        _pack_fields(heads, low, padding, bits, shift, out[at : at + size])
        at += size


def unpack_fields(packed: Bytes, low: int, padding: int, heads: Words) -> None:
    """Undo `pack_fields`: fill the heads with sign and low mantissa bits, all else zero."""
    at = 0
    for k, (bits, shift) in enumerate(field_parts(low + 1)):
        size = _quota(len(heads), bits)
        _unpack_fields(packed[at : at + size], low, padding, bits, shift, heads, k == 0)
        at += size


@compiled
def zero_runs(tail, cols, classes):  # type: ignore[no-untyped-def]
    """For each row of `cols` tails (the last may be shorter): 2 if all are zero, 1 if their low 13 bits are, else 0."""
    n = len(tail)
    for row in range(len(classes)):
        some = U16(0)
        for i in range(row * cols, min((row + 1) * cols, n)):
            some |= tail[i]
        classes[row] = 2 if some == 0 else 1 if some & U16(0x1FFF) == 0 else 0


@compiled
def _gather_rows(tail, cols, classes, wanted, shift, out):  # type: ignore[no-untyped-def]
    n, at = len(tail), 0
    for row in range(len(classes)):
        if classes[row] == wanted:
            for i in range(row * cols, min((row + 1) * cols, n)):
                out[at] = tail[i] >> U16(shift)
                at += 1
    return at


@compiled
def _scatter_rows(rows, cols, classes, wanted, shift, tail):  # type: ignore[no-untyped-def]
    n, at = len(tail), 0
    for row in range(len(classes)):
        if classes[row] == wanted:
            for i in range(row * cols, min((row + 1) * cols, n)):
                tail[i] = rows[at] << U16(shift)
                at += 1


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


def pack_tail(tail: Words, cols: int, classes: Bytes, out: Bytes) -> None:
    """Write a tail: the words of the rows of class 0, then the top three bits of those of class 1."""
    if not classes.any():
        out[:] = tail.view(np.uint8)
        return
    full = _row_words(cols, len(tail), classes, 0)
    words = np.empty(full, np.uint16)
    _gather_rows(tail, cols, classes, 0, 0, words)
    out[: 2 * full] = words.view(np.uint8)
    short = np.empty(_row_words(cols, len(tail), classes, 1), np.uint16)
    _gather_rows(tail, cols, classes, 1, TOP_SHIFT, short)
    _pack_tops(short, out[2 * full :])


def unpack_tail(packed: Bytes, cols: int, classes: Bytes, tail: Words) -> None:
    """Undo `pack_tail`."""
    if not classes.any():
        tail.view(np.uint8)[:] = packed
        return
    full = _row_words(cols, len(tail), classes, 0)
    tail[:] = 0
    words: Ints = packed[: 2 * full].copy().view(np.uint16)
    _scatter_rows(words, cols, classes, 0, 0, tail)
    short = np.empty(_row_words(cols, len(tail), classes, 1), np.uint16)
    _unpack_tops(packed[2 * full :], short)
    _scatter_rows(short, cols, classes, 1, TOP_SHIFT, tail)


def _pack_tops(tops: Words, out: Bytes) -> None:
    # Two bits and no sign: a field's "sign" is bit 15, so the three bits go to the top and come as a field of three.
    pack_fields((tops & 4) << 13 | tops & 3, TOP_BITS - 1, 0, out)


def _unpack_tops(packed: Bytes, tops: Words) -> None:
    unpack_fields(packed, TOP_BITS - 1, 0, tops)
    tops[:] = (tops >> 13) & 4 | tops & 3
