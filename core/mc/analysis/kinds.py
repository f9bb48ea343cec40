"""Every element type as at most 65,536 ordered bins, so that one pass of counting serves all of them.

A word of 8 or 16 bits is its own bin: whatever is derived from the counts is exact. A wider number falls into the bin
of its binary32 form's upper half: sign, exponent and seven mantissa bits, less than 0.8 % wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mc.codec.typing import Bytes, Counts, Ints, Words
from mc.dtypes import numpy_dtype

Floats = NDArray[np.float64]

STEPS = 128  # steps of a magnitude's binary logarithm in an octave, in `octaves`
NONE = -32768  # the logarithm of what has none: zero, NaN, infinity


@dataclass(frozen=True)
class Kind:
    """How words of a dtype are counted."""

    name: str
    width: int  # bytes of a word
    bins: int
    values: Floats  # [bins]: the number each bin stands for; NaN and infinities where it stands for these
    low: Floats  # [bins]: from where numbers round into the bin; NaN where there is none
    high: Floats  # [bins]: up to where they do
    order: Ints  # the finite bins, by value
    ranks: Ints  # [bins]: where each stands in `order`; -1 for NaN and infinities
    octaves: NDArray[np.int16]  # [bins]: binary logarithm of the magnitude in steps of 1/128, or NONE
    symbols: NDArray[np.int16]  # [bins]: quarter of an octave of the magnitude, counted in quarters; or NONE
    mantissa: int | None  # mantissa bits of a word; None for what is no float
    exponent: int
    signed: bool

    @property
    def exact(self) -> bool:
        """Whether a bin is one value."""
        return self.width <= 2

    @property
    def is_float(self) -> bool:
        """Whether words have an exponent; else they are whole numbers."""
        return self.mantissa is not None

    def ordered(self, counts: Counts) -> Ints:
        """The finite bins that occur, by value."""
        ranks = self.ranks[np.flatnonzero(counts != 0)]
        found: Ints = self.order[np.sort(ranks[ranks >= 0])]
        return found


# exponent bits, mantissa bits, sign bits
FLOATS = {
    "F64": (11, 52, 1), "F32": (8, 23, 1), "F16": (5, 10, 1), "BF16": (8, 7, 1), "F8_E4M3": (4, 3, 1),
    "F8_E5M2": (5, 2, 1), "F8_E4M3FNUZ": (4, 3, 1), "F8_E5M2FNUZ": (5, 2, 1), "F8_E8M0": (8, 0, 0),
    "F6_E2M3": (2, 3, 1), "F6_E3M2": (3, 2, 1), "F4": (2, 1, 1),
}  # fmt: skip
PACKED = {"F4": ("float4_e2m1fn", 4), "F6_E2M3": ("float6_e2m3fn", 6), "F6_E3M2": ("float6_e3m2fn", 6)}
WIDE = ("F32", "F64", "I32", "U32", "I64", "U64")


def known(dtype: str) -> str:
    """The dtype whose numbers a tensor's bytes are read as: complex ones are pairs, unknown ones bytes."""
    if dtype == "C64":
        return "F32"
    return dtype if dtype in FLOATS or dtype in (*WIDE, "BOOL", "U8", "I8", "U16", "I16") else "U8"


@cache
def kind_of(dtype: str) -> Kind:
    """The bins of a dtype that `known` returns."""
    exponent, mantissa, sign = FLOATS.get(dtype, (0, -1, int(dtype.startswith("I"))))
    if dtype in WIDE:
        values, low, high = _halves(dtype not in FLOATS)
        width = numpy_dtype(dtype).itemsize
    else:
        values, width = _words(dtype)
        low, high = _cells(values)
    order = np.flatnonzero(np.isfinite(values))
    order = order[np.lexsort((low[order], values[order]))]
    ranks = np.full(len(values), -1)
    ranks[order] = np.arange(len(order))
    magnitude = np.where(np.isfinite(values) & (values != 0), np.abs(values), np.nan)
    fraction, octave = np.frexp(magnitude)  # magnitude = fraction * 2 ** octave, fraction in [1/2, 1)
    there = np.isfinite(magnitude)
    octaves, symbols = np.full(len(values), NONE, np.int16), np.full(len(values), NONE, np.int16)
    octaves[there] = np.round(STEPS * np.log2(magnitude[there]))
    symbols[there] = 4 * (octave[there] - 1) + np.floor(8 * fraction[there]) - 4
    return Kind(
        dtype, width, len(values), values, low, high, order, ranks, octaves, symbols,
        mantissa if mantissa >= 0 else None, exponent, bool(sign),
    )  # fmt: skip


def _words(dtype: str) -> tuple[Floats, int]:
    """The number of every word, and its bytes."""
    if dtype in PACKED:
        import ml_dtypes

        name, bits = PACKED[dtype]
        codes = np.arange(1 << bits, dtype=np.uint8)
        return codes.view(getattr(ml_dtypes, name)).astype(np.float64), 1
    if dtype == "BOOL":
        return np.minimum(np.arange(256), 1).astype(np.float64), 1
    kind = numpy_dtype(dtype)
    every = np.arange(1 << 8 * kind.itemsize).astype(f"<u{kind.itemsize}")
    with np.errstate(invalid="ignore"):
        return every.view(kind).astype(np.float64), kind.itemsize


def _cells(values: Floats) -> tuple[Floats, Floats]:
    """The cell of each finite value: half way to its neighbours."""
    low, high = np.full(len(values), np.nan), np.full(len(values), np.nan)
    there = np.isfinite(values)
    levels, which = np.unique(values[there], return_inverse=True)
    middle = (levels[1:] + levels[:-1]) / 2
    low[there] = np.concatenate([2 * levels[:1] - middle[:1], middle])[which]
    high[there] = np.concatenate([middle, 2 * levels[-1:] - middle[-1:]])[which]
    zeros = np.flatnonzero(values == 0)
    negative = zeros[np.signbit(values[zeros])]
    if 0 < len(negative) < len(zeros):  # each zero has the half of the cell on its side
        low[np.setdiff1d(zeros, negative)], high[negative] = 0, 0
    return low, high


def _halves(whole: bool) -> tuple[Floats, Floats, Floats]:
    """The number and the edges of the bins of wide numbers, the upper halves of binary32 words; of `whole` numbers,
    those up to 256 have a bin each and stand in its middle, as words of 8 bits do."""
    upper = np.arange(1 << 16, dtype=np.uint32)
    with np.errstate(invalid="ignore"):  # signalling NaN
        near = (upper << 16).view("<f4").astype(np.float64)
    away = np.where(upper & 0x8000, -1.0, 1.0)
    widths = _widths(near)
    far = near + away * np.where(whole, np.maximum(widths, 1), widths)
    if whole:
        near, far = near - 0.5 * away, far - 0.5 * away
    values = np.where(np.isfinite(near), (near + far) / 2, near)
    if not whole:
        values[[0, 0x8000]] = 0  # mostly exact zeros
    there = np.isfinite(values)
    low, high = np.minimum(near, far), np.maximum(near, far)
    return values, np.where(there, low, np.nan), np.where(there, high, np.nan)


def _widths(near: Floats) -> Floats:
    """2 ** -7 of the octave in which a bin begins; the lowest octave, of subnormals, is as wide as the next."""
    _, octave = np.frexp(np.where(np.isfinite(near), near, 1.0))
    widths: Floats = np.ldexp(1.0, np.maximum(octave - 1, -126) - 7)
    return np.where(near == 0, 2.0**-133, widths)


def unpack(dtype: str, raw: Bytes) -> Bytes:
    """Words of a sub-byte dtype, one a byte: low bits first, six bits in threes of bytes. Others as they are."""
    if dtype not in PACKED:
        return raw
    bits = PACKED[dtype][1]
    flat = np.unpackbits(raw, bitorder="little")
    padded = np.zeros((len(flat) // bits, 8), np.uint8)
    padded[:, :bits] = flat[: len(flat) // bits * bits].reshape(-1, bits)
    out: Bytes = np.packbits(padded, axis=1, bitorder="little").reshape(-1)
    return out


def bins_of(dtype: str, raw: Bytes) -> Bytes | Words:
    """The bin of every word in `raw`, whose words are whole."""
    if dtype == "F32":
        return np.ascontiguousarray(raw.view("<u2")[1::2])
    if dtype in WIDE:
        with np.errstate(over="ignore", invalid="ignore"):
            numbers = raw.view(numpy_dtype(dtype))
            singles = numbers.astype("<f4")
        too_large = np.isinf(singles) & np.isfinite(numbers)
        singles[too_large] = np.copysign(np.finfo("<f4").max, singles[too_large])
        return np.ascontiguousarray(singles.view("<u2")[1::2])
    return raw.view("<u2") if kind_of(dtype).width == 2 else unpack(dtype, raw)


def numbers_of(dtype: str, raw: Bytes) -> NDArray[Any]:
    """The words in `raw` as f64; F32 and BF16 as f32, which holds them."""
    if dtype == "F32":
        return raw.view("<f4")
    if dtype == "BF16":
        return (raw.view("<u2").astype("<u4") << 16).view("<f4")
    if dtype in WIDE:
        return raw.view(numpy_dtype(dtype)).astype(np.float64)
    return kind_of(dtype).values[bins_of(dtype, raw)]
