"""Float tensors: symbols in the contexts of row and column scale, everything else as it is.

A tensor is a matrix of `cols` columns to the codec. Its scales, tables and row classes belong to the tensor and stand
in its head; each chunk, a run of whole rows, is coded alone with them (FORMAT.md, section 5).
"""

import struct
from dataclasses import dataclass

import numpy as np

from mc.codec import entropy, planes, scales
from mc.codec.fields import Reader, write_array
from mc.codec.typing import Bytes, Counts, Scales, Words
from mc.errors import DamagedError

CHUNK = 1 << 18  # words in a chunk, at most, unless a single row has more
NARROWEST, WIDEST = 64, 1 << 20  # columns of a matrix
ALONE, ROWS, BOTH = 0, 1, 2  # which scales give the contexts: one for the whole tensor, of rows, of rows and columns
CONTEXTS = ("alone", "rows", "both")

RAW, CODED, ESCAPES = 0, 1, 2  # first byte of a chunk: how it is stored; ESCAPES is added to CODED


@dataclass(frozen=True)
class FloatCode:
    """All that a chunk is coded with."""

    geometry: planes.Geometry
    mantissa: int  # mantissa bits in the symbol
    cols: int
    context: int
    row_scales: Scales  # of every row, i16 in eighths of an octave
    column_scales: Scales  # of every column, or empty
    order: Words  # see scales.column_order
    starts: Counts
    classes: Bytes  # [tails, rows]: see planes.zero_runs
    coder: str
    tables: entropy.Tables

    @property
    def low(self) -> int:
        """Mantissa bits in the raw field."""
        return self.geometry.mantissa - self.mantissa

    @property
    def step_shift(self) -> int:
        """Bits of the head below the symbol."""
        return self.low + self.geometry.padding


def rows_in_chunk(cols: int) -> int:
    """Whole rows that make a chunk."""
    return max(1, CHUNK // cols)


def write_scales(code: FloatCode) -> bytes:
    """The side information of a code: row scales above the lowest, then column scales."""
    if code.context == ALONE:
        return b""
    rows = write_array((code.row_scales - code.row_scales.min()).astype(np.uint8))
    return rows + (write_array(code.column_scales.astype(np.int8).view(np.uint8)) if code.context == BOTH else b"")


def write_head(code: FloatCode, described_tables: bytes) -> bytes:
    """The head of a float tensor, after its coding number."""
    base = int(code.row_scales.min()) if len(code.row_scales) else 0
    parts = [
        struct.pack(
            "<BBBIh", code.mantissa, code.context, entropy.CODERS.index(code.coder), code.cols, base
        ),
        described_tables,
        write_scales(code),
    ]
    parts.extend(write_array(classes) for classes in code.classes)
    return b"".join(parts)


def read_head(reader: Reader, geometry: planes.Geometry, words: int) -> FloatCode:
    """Undo `write_head` for a tensor of that many words; DamagedError for anything that can't have been written."""
    mantissa, context, coder, cols, base = reader.numbers("BBBIh")
    if mantissa > geometry.mantissa or context > BOTH or coder >= len(entropy.CODERS):
        raise DamagedError(f"its head asks for {mantissa} mantissa bits, context {context} and coder {coder}")
    if not min(NARROWEST, words) <= cols <= min(words, WIDEST) or (context == BOTH and (words % cols or cols > 0xFFFF)):
        raise DamagedError(f"its head says {cols} columns, which doesn't fit {words} words")
    rows = -(-words // cols)
    tables = reader.tables(1 if context == ALONE else scales.TABLES, entropy.CODERS[coder])
    row_scales = np.full(rows, base, np.int16)
    if context != ALONE:
        offsets = reader.array(rows).astype(np.int32) + base
        if offsets.max() > 32767:
            raise DamagedError("its row scales are beyond their range")
        row_scales = offsets.astype(np.int16)
    columns, order, starts = scales.EMPTY_SCALES, scales.EMPTY_WORDS, scales.EMPTY_COUNTS
    if context == BOTH:
        columns = reader.array(cols).view(np.int8).astype(np.int16)
        order, starts = scales.column_order(columns)
    classes = np.zeros((geometry.tails, rows), np.uint8)
    for tail in range(geometry.tails):
        classes[tail] = reader.array(rows)
    if classes.size and classes.max() > 2:
        raise DamagedError("its rows have a class above 2")
    return FloatCode(
        geometry, mantissa, cols, context, row_scales, columns, order, starts, classes,
        entropy.CODERS[coder], tables,
    )


def symbols_of(code: FloatCode, heads: Words, first_row: int) -> tuple[Bytes, Counts, int]:
    """Symbols of a run of rows, sorted into segments; the segments' sizes; how many are escapes."""
    rows = code.row_scales[first_row : first_row + -(-len(heads) // code.cols)]
    counts = np.zeros(1 if code.context == ALONE else scales.TABLES, np.int64)
    scales.segment_sizes(len(heads), code.cols, rows, code.starts, counts)
    symbols = scales.symbols_buffer(len(heads))
    escapes = scales.symbols_of(
        heads, code.cols, code.step_shift, code.mantissa, rows,
        code.column_scales, code.order, code.starts, counts, symbols,
    )  # fmt: skip
    return symbols, counts, int(escapes)


def encode_chunk(code: FloatCode, encode: entropy.Encode, raw: Bytes, first_row: int) -> list[Bytes]:
    """The chunk of words `raw` whose rows begin at `first_row`, as pieces to be written one after the other."""
    heads, tails = planes.split(raw, code.geometry)
    symbols, counts, escapes = symbols_of(code, heads, first_row)
    rows = slice(first_row, first_row + -(-len(heads) // code.cols))
    coded = encode(symbols, counts)
    fields = np.empty(planes.field_bytes(code.low + 1, len(heads)), np.uint8)
    planes.pack_fields(heads, code.low, code.geometry.padding, fields)
    method = CODED | (ESCAPES if escapes else 0)
    pieces = [np.frombuffer(struct.pack("<BI", method, len(coded)), np.uint8), coded, fields]
    for tail, classes in zip(tails, code.classes, strict=True):
        packed = np.empty(planes.tail_bytes(code.cols, len(heads), classes[rows]), np.uint8)
        planes.pack_tail(tail, code.cols, classes[rows], packed)
        pieces.append(packed)
    if escapes:
        where, magnitudes = np.empty(escapes, np.uint32), np.empty(escapes, np.uint16)
        scales.escaped(
            heads, code.cols, code.step_shift, code.mantissa, code.row_scales[rows], code.column_scales,
            where, magnitudes,
        )  # fmt: skip
        pieces.append(np.frombuffer(struct.pack("<I", escapes), np.uint8))
        pieces += [where.view(np.uint8), magnitudes.view(np.uint8)]
    if sum(len(piece) for piece in pieces) > len(raw):
        return [np.array([RAW], np.uint8), raw]
    return pieces


def decode_chunk(code: FloatCode, decode: entropy.Decode, coded: memoryview, first_row: int, raw: Bytes) -> None:
    """Fill `raw` with the chunk whose rows begin at `first_row`; DamagedError if `coded` makes no sense."""
    reader = Reader(coded)
    (method,) = reader.numbers("B")
    if method == RAW:
        raw[:] = np.frombuffer(reader.take(len(raw)), np.uint8)
        reader.end()
        return
    if method not in (CODED, CODED | ESCAPES):
        raise DamagedError(f"a chunk is stored in way {method}, and there are ways 0, 1 and 3")
    n = len(raw) // code.geometry.width
    rows = slice(first_row, first_row + -(-n // code.cols))
    counts = np.zeros(1 if code.context == ALONE else scales.TABLES, np.int64)
    scales.segment_sizes(n, code.cols, code.row_scales[rows], code.starts, counts)
    (size,) = reader.numbers("I")
    symbols = decode(np.frombuffer(reader.take(size), np.uint8), counts)
    heads = planes.heads_for(raw, code.geometry)
    fields = np.frombuffer(reader.take(planes.field_bytes(code.low + 1, n)), np.uint8)
    planes.unpack_fields(fields, code.low, code.geometry.padding, heads)
    scales.add_magnitudes(
        symbols, code.cols, code.step_shift, code.mantissa, code.row_scales[rows],
        code.column_scales, code.order, code.starts, counts, heads,
    )  # fmt: skip
    tails = np.empty((code.geometry.tails, n), np.uint16)
    for tail, classes in zip(tails, code.classes, strict=True):
        packed = reader.take(planes.tail_bytes(code.cols, n, classes[rows]))
        planes.unpack_tail(np.frombuffer(packed, np.uint8), code.cols, classes[rows], tail)
    if method & ESCAPES:
        _add_escapes(code, reader, heads)
    reader.end()
    planes.join(heads, tails, raw, code.geometry)


def _add_escapes(code: FloatCode, reader: Reader, heads: Words) -> None:
    (escapes,) = reader.numbers("I")
    where = np.frombuffer(reader.take(4 * escapes), "<u4")
    magnitudes = np.frombuffer(reader.take(2 * escapes), "<u2")
    if escapes and int(where.max()) >= len(heads):
        raise DamagedError("an escape lies outside its chunk")
    heads[where] |= (magnitudes.astype(np.uint32) << code.step_shift).astype(np.uint16) & 0x7FFF
