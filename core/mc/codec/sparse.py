"""Tensors of which many words are one and the same, mostly zero: a mask of where the others are, and the others.

The others are coded as floats or as a grid would be, in the same contexts, but the absent word has no symbol; what the
mask costs depends on how it is made up, and patterns, blocks and whole rows are far below a table of zeros and words
together (FORMAT.md, 7.8).
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import gcd

import numpy as np

from mc.codec import entropy, fit, floats, gridfit, grids, masks, packed, planes
from mc.codec.chunks import CODED
from mc.codec.codings import FLOATS, GRID
from mc.codec.decoding import decoder_of
from mc.codec.fields import Reader
from mc.codec.fit import Each, Read
from mc.codec.fitted import Fitted
from mc.codec.fixed import WIDEST, rows_in_chunk
from mc.codec.floats import FloatCode, spans
from mc.codec.grids import GridCode
from mc.codec.masks import MaskCode
from mc.codec.tables import counted
from mc.codec.typing import Bytes, Ints
from mc.codec.ways import opened_chunk, raw_chunk
from mc.errors import DamagedError

FIELDS = {
    8: 4,
    9: 8,
    10: 2,
    11: 3,
    12: 5,
    13: 6,
    14: 7,
}  # in place of a coding: bits of the integers that are packed in the tensor's words
SCARCE = 16  # one word in so many must be absent for a mask to be thought of
SCARCE_PACKED = 5  # the same of packed integers: of dense ones of four bits every sixth may be zero
LENGTH = struct.Struct("<BI")  # of a chunk: how it is stored, bytes of the mask


def unsigned(width: int) -> str:
    """The numpy type of words as they are compared."""
    return f"<u{width}"


def _look(words: int, cols: int, width: int, read: Read, absent: int, in_contexts: bool) -> bool:
    """Whether the first chunk's mask is worth coding by itself."""
    first = min(spans(words, cols)[0][1], words)
    present = read(0, first * width).view(unsigned(width)).reshape(-1, cols) != absent
    return masks.is_structured(present, in_contexts)


FEWEST = 1e-6  # share of the absent words for which a code is kept


@dataclass(frozen=True)
class _Mask:
    """A mask's code, ready to code chunks."""

    code: MaskCode
    head: bytes
    bytes: int
    coder: tuple[Ints, ...]
    within: float  # share of the absent words that stand in blocks which are there
    there: int  # words, about, in these blocks
    packed: (
        Bytes  # bits of columns [rows of blocks, ceil(cols / 8)], the lowest first: whether a block has any word there
    )

    def encode(self, first: int, rows: int) -> tuple[Bytes, Bytes]:
        """Of a chunk of rows from `first` on, its mask, coded, and which words belong to blocks that are there, u8. A
        block that two chunks share is there in both if it is there at all."""
        lines = self._lines(first, rows)
        return masks.encode(self.code, self.coder, lines, first), self._plane(lines, first, rows)

    def present(self, first: int, rows: int) -> Bytes:
        """Which words of so many rows belong to blocks that are there, u8."""
        return self._plane(self._lines(first, rows), first, rows)

    def _lines(self, first: int, rows: int) -> Ints:
        height, width, cols = self.code.height, self.code.width, self.code.cols
        some = self.packed[first // height : -(-(first + rows) // height)]
        return masks.lines_of(some, cols, width)

    def _plane(self, lines: Ints, first: int, rows: int) -> Bytes:
        return _plane(lines, self.code.height, self.code.width, first, rows, self.code.cols)


def _masked(words: int, cols: int, width: int, read: Read, absent: int, each: Each) -> _Mask:
    """The code of the mask: of the largest blocks that are whole or absent; where these are single words, of those that
    cost least in the first chunk, all zeros within them counted."""

    def look(part: tuple[int, int]) -> tuple[Bytes, tuple[int, int]]:
        raw = read(part[0] * width, part[1] * width)
        present = raw.view(unsigned(width)).reshape(-1, cols) != absent
        return np.packbits(present, axis=1, bitorder="little"), masks.blocks_of(present, part[0] // cols)

    packed: list[Bytes] = []
    blocks = (0, 0)
    for some, found in each(look, spans(words, cols)):
        packed.append(some)
        blocks = masks.merged(blocks, found)
    rows = words // cols
    bits = np.concatenate(packed)
    edges = np.arange(rows_in_chunk(cols), rows, rows_in_chunk(cols))
    changing = edges[(bits[edges] != bits[edges - 1]).any(axis=1)]  # chunks were looked at one by one
    height, across = gcd(blocks[0], *changing.tolist()) or rows, blocks[1] or cols
    within, single = 0.0, (height, across) == (1, 1)
    if single:
        first = np.unpackbits(bits[: rows_in_chunk(cols)], axis=1, count=cols, bitorder="little") > 0
        height, across = masks.likely_blocks(first)
    whole = np.bitwise_or.reduceat(bits, np.arange(0, rows, height), axis=0)
    if single and (height, across) != (1, 1):
        within = max(_within(bits, whole, height, across, cols), FEWEST)
    code, head, size = masks.fit(whole, cols, height, across, each)
    there = min(masks.count_there(whole, cols, across) * height, words)
    return _Mask(code, head, size, entropy.encoder(code.code.coder, code.tables), within, there, whole)


def _whole(words: int, cols: int, each: Each) -> _Mask:
    """The mask of which all words are there: one block."""
    packed = np.packbits(np.ones((1, cols), bool), axis=1, bitorder="little")
    code, head, size = masks.fit(packed, cols, words // cols, cols, each)
    return _Mask(code, head, size, entropy.encoder(code.code.coder, code.tables), 0.0, words, packed)


def _within(bits: Bytes, whole: Bytes, height: int, across: int, cols: int) -> float:
    """Share of the zeros that stand in blocks which are there, over all rows: those of the first chunk may be rows of
    an embedding that were never trained."""
    zeros = inside = 0
    for first in range(0, len(bits), rows_in_chunk(cols)):
        some = np.unpackbits(bits[first : first + rows_in_chunk(cols)], axis=1, count=cols, bitorder="little")
        blocks = whole[first // height : -(-(first + len(some)) // height)]
        lines = masks.units_of(np.unpackbits(blocks, axis=1, count=cols, bitorder="little") > 0, 1, across)
        words = int(some.sum())
        zeros += some.size - words
        inside += int(_plane(lines, height, across, first, *some.shape).sum()) - words
    return inside / zeros if zeros else 0.0


def fit_floats(fitted: fit.Fitted, geometry: planes.Geometry, words: int, read: Read, each: Each) -> Fitted | None:
    """A mask and the other words of a float tensor, given how it is coded without one; None if zeros are few, or their
    places have no structure that a table of words wouldn't see."""
    code, cols = fitted.code, fitted.code.cols
    if not code.has_zeros or words % cols:
        return None
    zeros = len(fitted.sample) - int(np.count_nonzero(fitted.sample))
    if zeros * SCARCE < len(fitted.sample):
        return None
    if not _look(words, cols, geometry.width, read, 0, False):
        return None
    mask = _masked(words, cols, geometry.width, read, 0, each)
    dense = fit.without_zeros(fitted, words, read, each, mask.within)
    window = floats.window_of(dense.code)
    arrays = entropy.encoder(dense.plan.coder, dense.plan.tables)

    def encode(k: int, raw: Bytes) -> Bytes:
        row = fitted.parts[k][0] // cols
        of_mask, plane = mask.encode(row, len(raw) // (cols * geometry.width))
        return _joined(of_mask, floats.encode_chunk(dense.code, window, arrays, raw, row, plane), raw)

    head = bytes([FLOATS]) + dense.head + mask.head
    width = geometry.width
    size = dense.bits / 8 * (mask.there / words)
    return Fitted(
        head, len(head) + size + mask.bytes, f"sparse+{dense.plan.coder}",
        [(a * width, b * width) for a, b in fitted.parts], encode,
    )  # fmt: skip


def fit_grid(
    nbytes: int, width: int, cols: int, read: Read, each: Each, absent: int, dense: bool = False
) -> Fitted | None:
    """The same of signed words of `width` bytes, or bytes that count as such, in rows of `cols`; `absent` is the word
    that most are, unsigned. `dense`: where a mask isn't worth coding by itself, all words are there."""
    words = nbytes // width
    if words // max(cols, 1) < gridfit.FEWEST_ROWS or cols > WIDEST:
        return None
    signed = int(np.array([absent], unsigned(width)).view(f"<i{width}")[0])
    if words % cols or int(grids.symbol_of(signed)) == grids.ESCAPE:
        return None
    if _look(words, cols, width, read, absent, True):
        mask = _masked(words, cols, width, read, absent, each)
    elif dense:
        mask = _whole(words, cols, each)
    else:
        return None
    found = gridfit.fit(nbytes, width, cols, entropy.ANS, read, each, absent=signed, present=mask.present)
    code = found.code
    arrays = entropy.encoder(code.coder, code.tables)

    def encode(k: int, raw: Bytes) -> Bytes:
        row = code.spans[k][0] // (cols * width)
        of_mask, plane = mask.encode(row, len(raw) // (cols * width))
        return _joined(of_mask, grids.encode_chunk(code, arrays, raw, row, plane), raw)

    listed = grids.write_head(code, entropy.described(found.plan)) + absent.to_bytes(width, "little")
    head = bytes([GRID]) + listed + mask.head
    return Fitted(head, len(head) + found.bytes + mask.bytes, f"sparse+grid+{code.coder}", code.spans, encode)


def fit_packed(nbytes: int, bits: int, line: int, read: Read, each: Each, sample: Bytes, dense: bool) -> Fitted | None:
    """The same of integers that are packed in words, rows of which have `line` bytes; None unless many of the sample's
    rows are one and the same, or `dense`."""
    cols = 8 * line // bits
    seen = packed.split(sample[: len(sample) // line * line], bits, cols)
    counts = counted(seen)
    if not dense and int(counts.max()) * SCARCE_PACKED < len(seen):
        return None

    def fields(start: int, stop: int) -> Bytes:
        return packed.split(read(start // cols * line, stop // cols * line), bits, cols)

    found = fit_grid(nbytes // line * cols, 1, cols, fields, each, int(counts.argmax()), dense)
    if found is None:
        return None
    inner = found.encode

    def encode(k: int, raw: Bytes) -> Bytes:
        values, back = packed.split(raw, bits, cols), np.empty_like(raw)
        packed.join(values, bits, cols, back)
        coded = inner(k, values)
        return coded if len(coded) <= len(raw) and np.array_equal(back, raw) else raw_chunk(raw)

    number = next(number for number, of in FIELDS.items() if of == bits)
    parts = [(a // cols * line, b // cols * line) for a, b in found.spans]
    return replace(found, head=bytes([number]) + found.head[1:], spans=parts, encode=encode)


def _plane(lines: Ints, height: int, width: int, first: int, rows: int, cols: int) -> Bytes:
    """Which words of rows from `first` on are in blocks that are there, u8, by lines bool [rows of blocks, blocks]."""
    lines = lines.astype(np.uint8)
    if height > 1 or width > 1:
        lines = np.repeat(np.repeat(lines, height, axis=0)[first % height :][:rows], width, axis=1)[:, :cols]
    plane: Bytes = np.ascontiguousarray(lines).reshape(-1)
    return plane


def _joined(mask: Bytes, others: Bytes, raw: Bytes) -> Bytes:
    coded = np.concatenate([np.frombuffer(LENGTH.pack(CODED, len(mask)), np.uint8), mask, others])
    return coded if len(coded) <= len(raw) else raw_chunk(raw)


@dataclass(frozen=True)
class SparseCode:
    """What it takes to decode any chunk of a sparse tensor."""

    inner: FloatCode | GridCode
    absent: int
    mask: MaskCode
    bits: int = 0  # of integers that are packed in words; 0: words are coded as they are

    @property
    def width(self) -> int:
        """Bytes a word."""
        return self.inner.width if isinstance(self.inner, GridCode) else self.inner.geometry.width

    @property
    def line(self) -> int:
        """Bytes of a row."""
        return packed.line_of(self.inner.cols, self.bits or 8 * self.width)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First and last byte (exclusive) of each chunk."""
        rows = len(self.inner.rows if isinstance(self.inner, GridCode) else self.inner.row_scales)
        cols = self.inner.cols
        return [(a // cols * self.line, b // cols * self.line) for a, b in spans(rows * cols, cols)]


def read_head(reader: Reader, dtype: str, nbytes: int, most_chunks: int) -> SparseCode:
    """Undo the heads of both fits; DamagedError for anything that can't have been written."""
    number = reader.byte()
    inner: FloatCode | GridCode
    absent = 0
    if number == FLOATS:
        geometry = planes.GEOMETRIES.get(dtype)
        if geometry is None or nbytes % geometry.width:
            raise DamagedError(f"its words are coded as floats, and its dtype is {dtype}")
        words = nbytes // geometry.width
        inner = floats.read_head(reader, geometry, words, most_chunks)
        if inner.zero_number == len(inner.frequent):
            raise DamagedError("it is sparse, and zero isn't among its frequent words")
    elif number == GRID:
        inner = grids.read_head(reader, nbytes, most_chunks)
        words = nbytes // inner.width
        absent = int.from_bytes(reader.take(inner.width), "little")
    elif number in FIELDS:
        inner = grids.read_head(reader, nbytes, most_chunks, bits=FIELDS[number])
        words, absent = len(inner.rows) * inner.cols, reader.byte()
    else:
        raise DamagedError(f"its words have coding {number}, where {FLOATS} or {GRID} was expected")
    if words % inner.cols:
        raise DamagedError(f"it is sparse, and {inner.cols} columns don't fill {words} words")
    mask = masks.read_head(reader, words // inner.cols, inner.cols)
    return SparseCode(inner, absent, mask, FIELDS.get(number, 0))


def decoder(code: SparseCode) -> Callable[[int, memoryview, Bytes], None]:
    """What decodes a chunk, given its number, its bytes and room for the decoded ones."""
    parts = code.spans
    words = parts[-1][1] // code.line * code.inner.cols
    if isinstance(code.inner, GridCode):
        of_grid = entropy.decoder(code.inner.coder, code.inner.tables, words)
    else:
        of_floats = decoder_of(code.inner, words)
    of_mask = entropy.decoder(code.mask.code.coder, code.mask.tables, words)

    def decode(k: int, coded: memoryview, raw: Bytes) -> None:
        reader = opened_chunk(coded, raw)
        if reader is None:
            return
        if code.bits:
            fields = np.empty(len(raw) // code.line * code.inner.cols, np.uint8)
            words_of(k, coded, reader, fields)
            packed.join(fields, code.bits, code.inner.cols, raw)
        else:
            words_of(k, coded, reader, raw)

    def words_of(k: int, coded: memoryview, reader: Reader, raw: Bytes) -> None:
        size, row = reader.u32(), parts[k][0] // code.line
        present = masks.decode(code.mask, of_mask, reader.take(size), row, len(raw) // code.width)
        rest = coded[LENGTH.size + size :]
        if isinstance(code.inner, GridCode):
            raw.view(unsigned(code.width))[:] = code.absent
            grids.decode_chunk(code.inner, of_grid, rest, row, raw, present)
        else:
            of_floats.decode_chunk(rest, row, raw, present)

    return decode
