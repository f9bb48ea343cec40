"""Float tensors: symbols in the contexts of row and column scale, everything else as it is.

A tensor is a matrix of `cols` columns to the codec. Its scales, tables and row classes belong to the tensor and stand
in its head; each chunk, a run of whole rows, is coded alone with them (FORMAT.md, section 5).
"""

import struct
from dataclasses import dataclass

import numpy as np

from mc.codec import entropy, planes, scales
from mc.codec.fields import Reader, write_array
from mc.codec.tables import Tables
from mc.codec.typing import Bytes, Counts, Ints, Scales, Words
from mc.errors import DamagedError

CHUNK = 1 << 18  # words in a chunk, at most, unless a single row has more
NARROWEST, WIDEST = 64, 1 << 20  # columns of a matrix
ALONE, ROWS, BOTH = (
    0,
    1,
    2,
)  # which scales give the contexts: one for the whole tensor, of rows, of rows and columns
CONTEXTS = ("alone", "rows", "both")

UNSIGNED = 1  # flag of a float tensor
MOST_FREQUENT = 8  # frequent words
ESCAPE_BITS = 48  # of an escape beyond its symbol: where it is, and its magnitude
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
    frequent: Ints  # words so frequent that each is a symbol by itself, without field and tails
    signed: bool  # whether any word is negative; if not, fields have no sign
    coder: str
    tables: Tables

    @property
    def low(self) -> int:
        """Mantissa bits in the raw field."""
        return self.geometry.mantissa - self.mantissa

    @property
    def field_width(self) -> int:
        """Bits of the raw field."""
        return self.low + self.signed

    @property
    def step_shift(self) -> int:
        """Bits of the head below the symbol."""
        return self.low + self.geometry.padding


def rows_in_chunk(cols: int) -> int:
    """Whole rows that make a chunk."""
    return max(1, CHUNK // cols)


def write_rows(rows: Scales) -> bytes:
    """Row scales above the lowest."""
    return write_array((rows - rows.min()).astype(np.uint8))


def write_columns(columns: Scales) -> bytes:
    """Column scales."""
    return write_array(columns.astype(np.int8).view(np.uint8))


def write_head(code: FloatCode, described_tables: bytes, described_scales: bytes) -> bytes:
    """The head of a float tensor, after its coding number."""
    base = int(code.row_scales.min()) if len(code.row_scales) else 0
    parts = [
        struct.pack(
            "<BBBBIhB",
            code.mantissa,
            UNSIGNED * (not code.signed),
            code.context,
            entropy.CODERS.index(code.coder),
            code.cols,
            base,
            len(code.frequent),
        ),
        code.frequent.tobytes(),
        described_tables,
        described_scales,
    ]
    parts.extend(write_array(classes) for classes in code.classes)
    return b"".join(parts)


def read_head(reader: Reader, geometry: planes.Geometry, words: int, most_chunks: int) -> FloatCode:
    """Undo `write_head` for a tensor of that many words, in as many chunks at most; DamagedError for anything that
    can't have been written."""
    mantissa, flags, context, coder, cols, base, frequent = reader.numbers("BBBBIhB")
    fits = mantissa <= geometry.mantissa < mantissa + planes.MOST_FIELD_BITS
    if not fits or flags > UNSIGNED or frequent > MOST_FREQUENT or context > BOTH or coder >= len(entropy.CODERS):
        raise DamagedError(
            f"its head asks for {mantissa} mantissa bits, flags {flags}, context {context}, coder {coder}"
        )
    if not min(NARROWEST, words) <= cols <= min(words, WIDEST) or (context == BOTH and (words % cols or cols > 0xFFFF)):
        raise DamagedError(f"its head says {cols} columns, which doesn't fit {words} words")
    rows = -(-words // cols)
    if -(-rows // rows_in_chunk(cols)) > most_chunks:
        raise DamagedError(f"it has room for {most_chunks} chunks, too few for its {rows} rows")
    frequent_words: Ints = reader.bytes(frequent * geometry.width).view(planes.WORDS[geometry.width])
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
    if frequent and (classes != classes[:, :1]).any():
        raise DamagedError("it has frequent words, and rows of different classes")
    return FloatCode(
        geometry,
        mantissa,
        cols,
        context,
        row_scales,
        columns,
        order,
        starts,
        classes,
        frequent_words,
        not flags & UNSIGNED,
        entropy.CODERS[coder],
        tables,
    )


def widest_window(code: FloatCode) -> Words:
    """The lowest and the highest symbol that a magnitude can have."""
    return np.array([max(len(code.frequent), 1), scales.ESCAPE - 1], np.uint16)


def window_of(numbers: Bytes, code: FloatCode) -> Words:
    """The lowest and the highest symbol with a code, given the numbers of the tables [tables, 256]."""
    low, high = widest_window(code)
    used = np.flatnonzero(numbers[:, low : high + 1].any(axis=0))
    return np.array([low + used[0], low + used[-1]] if len(used) else [low, low], np.uint16)


def symbols_of(
    code: FloatCode, window: Words, words: Ints, first_row: int, fields: Bytes
) -> tuple[Bytes, Counts, Ints]:
    """Symbols of a run of rows, sorted into segments; the segments' sizes; the escapes of each row, i32. Fills
    `fields`, unless they are empty. Magnitudes whose symbol lies outside the window escape."""
    rows = code.row_scales[first_row : first_row + -(-len(words) // code.cols)]
    counts = segment_sizes(code, rows, len(words))
    symbols, escaping = np.empty(len(words), np.uint8), np.empty(len(rows), np.int32)
    scales.symbols_of(
        words, code.cols, code.low, code.geometry.padding, code.mantissa, code.frequent, window, rows,
        code.column_scales, code.order, code.starts, counts, symbols, fields, escaping,
    )  # fmt: skip
    return symbols, counts, escaping


def segment_sizes(code: FloatCode, rows: Scales, n: int) -> Counts:
    """Symbols that each table gets from n words in rows of these scales."""
    counts = np.zeros(1 if code.context == ALONE else scales.TABLES, np.int64)
    scales.segment_sizes(n, code.cols, rows, code.starts, counts)
    return counts


def encode_chunk(code: FloatCode, window: Words, encode: entropy.Encode, raw: Bytes, first_row: int) -> list[Bytes]:
    """The chunk of words `raw` whose rows begin at `first_row`, as pieces to be written one after the other."""
    words = planes.words_of(raw, code.geometry)
    rows = slice(first_row, first_row + -(-len(words) // code.cols))
    fields = np.empty(len(words), np.uint8)
    symbols, counts, escaping = symbols_of(code, window, words, first_row, fields)
    escapes = int(escaping.sum())
    coded = encode(symbols, counts)
    cols, kept, classes = code.cols, words, code.classes[:, rows]
    if len(code.frequent):
        present = ~np.isin(words, code.frequent)
        fields, kept = fields[present], words[present]
        cols, classes = _one_row(code, len(kept))
        kept.flags.writeable = False
    method = CODED | (ESCAPES if escapes else 0)
    head = np.frombuffer(struct.pack("<BI", method, len(coded)), np.uint8)
    pieces = [head, coded, planes.pack_fields(fields, code.field_width)]
    for tail, of_rows in enumerate(classes):
        pieces += planes.pack_tail(kept, tail, cols, of_rows)
    if escapes:
        where, magnitudes = np.empty(escapes, np.uint32), np.empty(escapes, np.uint16)
        scales.escaped(
            words, code.cols, code.step_shift, code.mantissa, code.frequent, window, code.row_scales[rows],
            code.column_scales, escaping, where, magnitudes,
        )  # fmt: skip
        pieces.append(np.frombuffer(struct.pack("<I", escapes), np.uint8))
        pieces += [where.view(np.uint8), magnitudes.view(np.uint8)]
    if sum(len(piece) for piece in pieces) > len(raw):
        return [np.array([RAW], np.uint8), raw]
    return pieces


def _one_row(code: FloatCode, n: int) -> tuple[int, Bytes]:
    """Columns and classes of the n words of a chunk that aren't frequent ones: one row of the one class."""
    return max(n, 1), code.classes[:, : min(n, 1)]


def decode_chunk(code: FloatCode, decode: entropy.Decode, coded: memoryview, first_row: int, raw: Bytes) -> None:
    """Fill `raw` with the chunk whose rows begin at `first_row`; DamagedError if `coded` makes no sense."""
    reader = Reader(coded)
    (method,) = reader.numbers("B")
    if method == RAW:
        raw[:] = reader.bytes(len(raw))
        reader.end()
        return
    if method not in (CODED, CODED | ESCAPES):
        raise DamagedError(f"a chunk is stored in way {method}, and there are ways 0, 1 and 3")
    words = planes.words_of(raw, code.geometry)
    n = len(words)
    row_scales = code.row_scales[first_row : first_row + -(-n // code.cols)]
    counts = segment_sizes(code, row_scales, n)
    (size,) = reader.numbers("I")
    symbols = decode(reader.bytes(size), counts)
    plane = symbols
    if len(code.frequent):
        plane = np.empty(n, np.uint8)
        scales.unsorted(symbols, n, code.cols, row_scales, code.order, code.starts, counts, plane)
        fields = _spread(code, reader, plane, words)
    else:
        fields = planes.unpack_fields(reader.bytes(planes.field_bytes(code.field_width, n)), code.field_width, n)
        for tail, classes in enumerate(code.classes[:, first_row : first_row + len(row_scales)]):
            packed = reader.bytes(planes.tail_bytes(code.cols, n, classes))
            planes.unpack_tail(packed, tail, code.cols, classes, words)
    scales.put_together(
        symbols, fields, code.cols, code.low, code.geometry.padding, code.mantissa, len(code.frequent), row_scales,
        code.column_scales, code.order, code.starts, counts, words,
    )  # fmt: skip
    for k, word in enumerate(code.frequent):
        words[plane == k] = word
    if method & ESCAPES:
        (escapes,) = reader.numbers("I")
        where = reader.bytes(4 * escapes).view("<u4")
        magnitudes = reader.bytes(2 * escapes).view("<u2")
        if escapes and (int(where[-1]) >= n or (where[1:] <= where[:-1]).any()):
            raise DamagedError("an escape lies outside its chunk, or they are out of order")
        scales.add_escapes(where, magnitudes, code.step_shift, words)
    reader.end()


def _spread(code: FloatCode, reader: Reader, plane: Bytes, words: Ints) -> Bytes:
    """Put the tails into the words that aren't frequent ones, going by the symbols in the order of the words; return
    the fields, zero for the frequent ones."""
    present = plane >= len(code.frequent)
    n = int(present.sum())
    fields = np.zeros(len(words), np.uint8)
    packed = reader.bytes(planes.field_bytes(code.field_width, n))
    fields[present] = planes.unpack_fields(packed, code.field_width, n)
    fields.flags.writeable = False
    kept = np.zeros(n, words.dtype)
    cols, classes = _one_row(code, n)
    for tail, of_rows in enumerate(classes):
        planes.unpack_tail(reader.bytes(planes.tail_bytes(cols, n, of_rows)), tail, cols, of_rows, kept)
    words[:] = 0
    words[present] = kept
    return fields
