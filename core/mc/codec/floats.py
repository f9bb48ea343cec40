"""Float tensors: symbols in the contexts of row and column scale, everything else as it is.

A tensor is a matrix of `cols` columns to the codec. Its scales, tables and row classes belong to the tensor and stand
in its head; each chunk, a run of whole rows, is coded alone with them (FORMAT.md, section 5).
"""

import struct
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mc.codec import chunks, entropy, fixed, planes, scales, symbols
from mc.codec.fields import Reader, write_array
from mc.codec.rows import read_described
from mc.codec.tables import Tables, narrow
from mc.codec.typing import Bytes, Counts, Ints, Scales, Words
from mc.codec.ways import raw_chunk
from mc.errors import DamagedError

NO_ROOM: Bytes = np.empty(0, np.uint8)


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
    classes: Bytes  # [tails, rows]: see tails.zero_runs
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
    def tables_wanted(self) -> int:
        """Tables, one for each segment of a chunk."""
        tables: int = fixed.tables_of(self.context)
        return tables

    @property
    def frequent_if_any(self) -> Ints | None:
        """The frequent words, or None if there are none: then the loops are compiled without what is for them."""
        return self.frequent if len(self.frequent) else None

    @cached_property
    def zero_number(self) -> int:
        """The number of the frequent word that is zero; how many there are if none is."""
        found = np.flatnonzero(self.frequent == 0)
        return int(found[0]) if len(found) else len(self.frequent)

    @property
    def has_zeros(self) -> bool:
        """Whether zero is a frequent word."""
        return len(self.frequent) > 0 and self.zero_number < len(self.frequent)

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """What the loops of `chunks` call so."""
        return self.cols, self.low, self.geometry.padding, self.mantissa, self.field_width

    def rows_of(self, first: int, words: int) -> slice:
        """The rows of so many words from row `first` on."""
        return slice(first, first + -(-words // self.cols))

    def scales_of(self, rows: slice) -> tuple[Scales, Scales, Words, Counts]:
        """Scales of these rows, and of the columns with their order."""
        return self.row_scales[rows], self.column_scales, self.order, self.starts

    @property
    def step_shift(self) -> int:
        """Bits of the head below the symbol."""
        return self.low + self.geometry.padding


def spans(words: int, cols: int) -> list[tuple[int, int]]:
    """First and last word (exclusive) of each chunk."""
    step = fixed.rows_in_chunk(cols) * cols
    return [(at, min(at + step, words)) for at in range(0, words, step)]


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
            "<" + fixed.FIXED,
            code.mantissa,
            fixed.UNSIGNED * (not code.signed),
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
    """Undo `write_head` for a tensor of that many words, in as many chunks at most; DamagedError for what can't have
    been written."""
    of = fixed.read_fixed(reader, geometry, words, most_chunks)
    frequent = reader.words(of.frequent, geometry.width)
    count = fixed.tables_of(of.context)
    tables = Tables(np.empty((count, 256), np.uint8), np.empty(count, np.int64))
    row_scales, classes = np.empty(of.rows, np.int16), np.empty((geometry.tails, of.rows), np.uint8)
    columns, order, starts = symbols.EMPTY_SCALES, symbols.EMPTY_WORDS, symbols.EMPTY_COUNTS
    if of.context == fixed.BOTH:
        columns, order = np.empty(of.cols, np.int16), np.empty(2 * of.cols, np.uint16)
        starts = np.empty(scales.OCTAVE + 1, np.int64)
    reader.filled(
        read_described, of.base, of.context, of.coder, tables.numbers, tables.lone, row_scales, columns, order, starts,
        classes,
    )  # fmt: skip
    if of.frequent and (classes != classes[:, :1]).any():
        raise DamagedError("it has frequent words, and rows of different classes")
    return FloatCode(
        geometry, of.mantissa, of.cols, of.context, row_scales, columns, order, starts, classes, frequent,
        of.flags != fixed.UNSIGNED, entropy.CODERS[of.coder], tables,
    )  # fmt: skip


def widest_window(frequent: Ints) -> Words:
    """The lowest and the highest symbol that a magnitude can have."""
    return np.array([max(len(frequent), 1), symbols.ESCAPE - 1], np.uint16)


def window_of(code: FloatCode) -> Words:
    """The lowest and the highest symbol that stand in one of the code's tables, be it alone."""
    window = widest_window(code.frequent)
    narrow(code.tables.numbers, code.tables.lone, window)
    return window


def encode_chunk(
    code: FloatCode, window: Words, coder: tuple[Ints, ...], raw: Bytes, first_row: int, present: Bytes | None = None,
    out: Bytes = NO_ROOM,
) -> Bytes:  # fmt: skip
    """The chunk of words `raw` whose rows begin at `first_row`, coded: at the front of `out` if that is large enough.
    Magnitudes whose symbol lies outside the window escape. Of a sparse chunk, the words that are `present` u8; the
    others are zero."""
    words = planes.words_of(raw, code.geometry)
    rows = code.rows_of(first_row, len(words))
    coded: Bytes = chunks.encode(
        words, code.frequent_if_any, code.shape, code.scales_of(rows), window, code.classes[:, rows], coder, present,
        out,
    )  # fmt: skip
    return coded if len(coded) <= len(raw) else raw_chunk(raw)
