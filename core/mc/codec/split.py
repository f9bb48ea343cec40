"""Floats whose low bits say little: narrower numbers in a wider type, and words that were rounded.

A float16 checkpoint that was made from bfloat16 has three mantissa bits that are nearly always zero, and float32
weights may have been rounded to any number of bits. Such words are cut in two: the upper part, sign and exponent and
the mantissa bits that matter, is coded as floats of that many bits are, the lower part as planes of bytes, each with
a table of its own or raw (FORMAT.md, 7.10).
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mc.codec import entropy, fit, floats, integers, lowbits, planefit, planes, tails
from mc.codec.chunks import CODED
from mc.codec.decoding import decoder_of
from mc.codec.fields import Reader
from mc.codec.fit import Each, Read
from mc.codec.fitted import Fitted
from mc.codec.floats import FloatCode
from mc.codec.integers import PlaneCode
from mc.codec.planes import Geometry
from mc.codec.runs import UNSIGNED
from mc.codec.typing import Bytes, Counts, Ints
from mc.codec.ways import opened_chunk, raw_chunk
from mc.errors import DamagedError

LOOKED_AT = 1024  # words in which low bits are looked at
WORTH = 0.3  # bits a word that they must seem to be worth for the cut to be tried
SHORTER = 0.05  # of a bit: a cut that takes off fewer bits is as good
SHORTENED = np.array([0, tails.TOP_SHIFT, 16])  # bits of a tail that aren't stored, by its row's class
FEWEST = 2  # mantissa bits that stay in the upper part
LENGTH = struct.Struct("<BI")  # of a chunk: how it is stored, bytes of the upper part


@dataclass(frozen=True)
class SplitCode:
    """All that a chunk is decoded with."""

    geometry: Geometry  # of the words
    taken: int  # low bits of the head that belong to the lower part
    upper: FloatCode
    lower: PlaneCode


def upper_geometry(geometry: Geometry, taken: int) -> Geometry:
    """Of the upper parts: heads whose lowest bits are left out."""
    return Geometry(2, geometry.mantissa - taken, taken, 0)


def lower_width(geometry: Geometry, taken: int) -> int:
    """Bytes of a lower part: the first of 1, 2, 4 and 8 that hold its bits."""
    return next(width for width in (1, 2, 4, 8) if 8 * width >= 16 * geometry.tails + taken)


def cut(raw: Bytes, geometry: Geometry, taken: int) -> tuple[Bytes, Bytes]:
    """Upper and lower parts of the words, each as bytes that nobody writes to."""
    words, below = planes.words_of(raw, geometry), 16 * geometry.tails
    mask = (1 << below + taken) - 1
    upper = (words >> words.dtype.type(below)).astype(np.uint16) & np.uint16(0xFFFF - ((1 << taken) - 1))
    lower = (words & words.dtype.type(mask)).astype(UNSIGNED[lower_width(geometry, taken)])
    parts = upper.view(np.uint8), lower.view(np.uint8)
    for part in parts:
        part.flags.writeable = False
    return parts


def join(upper: Bytes, lower: Bytes, geometry: Geometry, raw: Bytes) -> None:
    """Undo `cut` into `raw`."""
    words = planes.words_of(raw, geometry)
    words[:] = upper.view(np.uint16)
    words <<= words.dtype.type(16 * geometry.tails)
    words |= lower.view(UNSIGNED[len(lower) // len(words)]).astype(words.dtype)


def taken_bits(sample: Ints, geometry: Geometry, classes: Bytes) -> int | None:
    """How many low bits of the head to take off, with all tails; None if low bits are as good as random, but for what
    the `classes` [tails, rows] of rows save already."""
    if geometry.width == 1:
        return None
    saved = np.empty(1 + min(geometry.mantissa - FEWEST, 8))
    of_tails = lowbits.saved(sample, geometry.tails, LOOKED_AT, saved)
    short = SHORTENED[classes].sum() / max(classes.shape[1], 1) if geometry.tails else 0
    most = float(saved.max())
    if of_tails is None or most + max(of_tails - short, 0) < WORTH:
        return None
    return next(taken for taken, bits in enumerate(saved.tolist()) if bits > most - SHORTER)


def fit_floats(
    sample: Ints,
    classes: Bytes,
    geometry: Geometry,
    shape: tuple[int, ...],
    words: int,
    read: Read,
    effort: fit.Effort,
    each: Each,
) -> Fitted | None:
    """Both parts' codes for a tensor of so many words; None if nothing in the sample speaks for a cut."""
    taken = taken_bits(sample, geometry, classes)
    if taken is None or taken + geometry.tails == 0:
        return None

    def parts_of(first: int, last: int) -> tuple[Bytes, Bytes]:
        return cut(read(first * geometry.width, last * geometry.width), geometry, taken)

    def read_upper(start: int, stop: int) -> Bytes:
        return parts_of(start // 2, stop // 2)[0]

    upper = fit.fit(upper_geometry(geometry, taken), shape, words, read_upper, effort, each)
    blank = planefit.blank(integers.BYTE_PLANES, lower_width(geometry, taken), effort.coder)

    def count(part: tuple[int, int]) -> Counts:
        return integers.counts_of(integers.planes_of(blank, parts_of(*part)[1], 0))

    counts: Counts = np.sum(list(each(count, upper.parts)), axis=0)
    lower, plan = planefit.best_plan(blank, counts, words)
    arrays = entropy.encoder(lower.coder, lower.tables)

    def encode(k: int, raw: Bytes) -> Bytes:
        above, below = cut(raw, geometry, taken)
        first = upper.encode(k, above, floats.NO_ROOM)
        begin = np.frombuffer(LENGTH.pack(CODED, len(first)), np.uint8)
        coded = np.concatenate([begin, first, integers.encode_chunk(lower, arrays, below, 0)])
        return coded if len(coded) <= len(raw) else raw_chunk(raw)

    head = bytes([taken]) + upper.head + integers.write_head(lower, entropy.described(plan))
    return Fitted(
        head, len(head) + upper.bits / 8 + planefit.cost(lower, plan, words), f"split+{upper.plan.coder}",
        [(a * geometry.width, b * geometry.width) for a, b in upper.parts], encode,
    )  # fmt: skip


def read_head(reader: Reader, dtype: str, nbytes: int, most_chunks: int) -> SplitCode:
    """Undo the head of `fit_floats`; DamagedError for anything that can't have been written."""
    geometry = planes.GEOMETRIES.get(dtype)
    if geometry is None or geometry.width == 1 or nbytes % geometry.width:
        raise DamagedError(f"it is coded as floats in two parts, and its dtype is {dtype}")
    taken = reader.byte()
    if taken > min(geometry.mantissa - FEWEST, 8) or taken + geometry.tails == 0:
        raise DamagedError(f"its head takes {taken} low bits off {dtype}")
    words, width = nbytes // geometry.width, lower_width(geometry, taken)
    upper = floats.read_head(reader, upper_geometry(geometry, taken), words, most_chunks)
    lower = integers.read_head(reader, words * width, most_chunks)
    if lower.form != integers.BYTE_PLANES or lower.width != width:
        raise DamagedError(f"its lower part has form {lower.form} and words of {lower.width} bytes, not {width}")
    return SplitCode(geometry, taken, upper, lower)


def spans_of(code: SplitCode, nbytes: int) -> list[tuple[int, int]]:
    """First and last byte (exclusive) of each chunk."""
    width = code.geometry.width
    return [(a * width, b * width) for a, b in floats.spans(nbytes // width, code.upper.cols)]


def decoder(code: SplitCode, nbytes: int) -> Callable[[int, memoryview, Bytes], None]:
    """What decodes a chunk, given its number, its bytes and room for the decoded ones."""
    words = nbytes // code.geometry.width
    of_upper = decoder_of(code.upper, words)
    of_lower = entropy.decoder(code.lower.coder, code.lower.tables, words)
    row_bytes = code.upper.cols * code.geometry.width
    spans = spans_of(code, nbytes)

    def decode(k: int, coded: memoryview, raw: Bytes) -> None:
        reader = opened_chunk(coded, raw)
        if reader is None:
            return
        first = reader.take(reader.u32())
        many = len(raw) // code.geometry.width
        upper, lower = np.empty(2 * many, np.uint8), np.empty(many * code.lower.width, np.uint8)
        of_upper.decode_chunk(first, spans[k][0] // row_bytes, upper)
        integers.decode_chunk(code.lower, of_lower, reader.take(reader.left), 0, lower)
        join(upper, lower, code.geometry, raw)

    return decode
