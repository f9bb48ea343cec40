"""Signed integers whose size depends on their row and column: a quantized matrix, coded in the contexts of both.

As with floats, the contexts are side information in the head, so that symbols can be sorted by context and each
chunk be coded alone (FORMAT.md, 7.6).
"""

import struct
from dataclasses import dataclass

import numpy as np

from mc.codec import entropy
from mc.codec.chunks import CODED
from mc.codec.compiled import inlined, released
from mc.codec.fields import Reader, write_array
from mc.codec.fixed import NARROWEST, WIDEST, rows_in_chunk
from mc.codec.floats import spans
from mc.codec.tables import Tables
from mc.codec.typing import Bytes, Counts, Ints
from mc.codec.ways import opened_chunk, raw_chunk
from mc.errors import DamagedError

ESCAPE = 255  # the symbol of a word that has none
MOST_TABLES = 64
MOST_SHIFT = 8
WIDTHS = (1, 2, 4)
STATES = (4, 8, 64, 256)  # of a trellis


@dataclass(frozen=True)
class GridCode:
    """All that a chunk is coded with."""

    width: int  # bytes a word
    cols: int
    shift: int
    rows: Bytes  # of every row; with that of a column, shifted, it makes the context
    columns: Bytes
    coder: str
    tables: Tables
    states: int = 0  # of a trellis; 0: none, and integers mean the same everywhere

    @property
    def classes(self) -> int:
        """Contexts that rows and columns make; each has two tables in a trellis."""
        return len(self.tables.lone) // (2 if self.states else 1)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First and last byte (exclusive) of each chunk."""
        words = len(self.rows) * self.cols
        return [(a * self.width, b * self.width) for a, b in spans(words, self.cols)]

    def words(self, raw: Bytes) -> Ints:
        """Bytes as signed words."""
        words: Ints = raw.view(f"<i{self.width}")
        return words


@inlined
def context_of(row, column, shift, tables):
    """The table for a word."""
    return min((np.int64(row) + np.int64(column)) >> shift, tables - 1)


@inlined
def symbol_of(v):
    """The symbol of a signed word; ESCAPE for what has none."""
    if v < -127 or v > 127:
        return np.uint8(ESCAPE)
    return np.uint8(2 * v if v >= 0 else -2 * v - 1)


@released
def segment_sizes(rows, columns, shift, sizes):
    """Fill `sizes` i64 [tables] with the words of each context, given u8 of all rows and columns."""
    of_rows, of_columns = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for r in range(len(rows)):
        of_rows[rows[r]] += 1
    for c in range(len(columns)):
        of_columns[columns[c]] += 1
    for t in range(len(sizes)):
        sizes[t] = 0
    for a in range(256):
        if of_rows[a] > 0:
            for b in range(256):
                sizes[context_of(a, b, shift, len(sizes))] += of_rows[a] * of_columns[b]


@released
def present_sizes(rows, columns, shift, present, sizes):
    """`segment_sizes` of the words that are `present` u8 [rows x columns]."""
    cols = len(columns)
    for t in range(len(sizes)):
        sizes[t] = 0
    for r in range(len(rows)):
        for c in range(cols):
            sizes[context_of(rows[r], columns[c], shift, len(sizes))] += np.int64(present[r * cols + c])


@released
def gather(words, rows, columns, shift, sizes, symbols, escapes, present):
    """Put the symbols of signed words [rows x columns] into `symbols` u8, sorted by context, as many each as `sizes`
    says, and the words that escape into `escapes`, which is like words; return how many do. Words that aren't `present`
    u8, which may be None, are left out."""
    tables, cols = len(sizes), len(columns)
    places = np.empty(tables, np.int64)
    at = 0
    for t in range(tables):
        places[t] = at
        at += sizes[t]
    count = 0
    for r in range(len(rows)):
        for c in range(cols):
            if present is not None and present[r * cols + c] == 0:
                continue
            v = np.int64(words[r * cols + c])
            symbol = symbol_of(v)
            t = context_of(rows[r], columns[c], shift, tables)
            symbols[places[t]] = symbol
            places[t] += 1
            if symbol == ESCAPE:
                escapes[count] = words[r * cols + c]
                count += 1
    return count


@released
def scatter(symbols, rows, columns, shift, sizes, escapes, words, present):
    """Undo `gather`, leaving alone the words that aren't present; False unless every escape is used."""
    tables, cols = len(sizes), len(columns)
    places = np.empty(tables, np.int64)
    at = 0
    for t in range(tables):
        places[t] = at
        at += sizes[t]
    count = 0
    for r in range(len(rows)):
        for c in range(cols):
            if present is not None and present[r * cols + c] == 0:
                continue
            t = context_of(rows[r], columns[c], shift, tables)
            symbol = np.int64(symbols[places[t]])
            places[t] += 1
            if symbol == ESCAPE:
                if count == len(escapes):
                    return False
                words[r * cols + c] = escapes[count]
                count += 1
            else:
                words[r * cols + c] = -((symbol + 1) >> 1) if symbol & 1 else symbol >> 1
    return count == len(escapes)


@released
def count_symbols(words, rows, columns, counts):
    """Add to `counts` i64 [contexts, 256] the symbols of signed words, contexts without a shift."""
    cols = len(columns)
    for r in range(len(rows)):
        for c in range(cols):
            counts[np.int64(rows[r]) + np.int64(columns[c]), symbol_of(np.int64(words[r * cols + c]))] += 1


@released
def energies(words, cols, rows, columns, weights):
    """Add the squares of signed words, at most 127 each, to `rows` i64; and with each row weighed by `weights` i64, if
    there are any, to `columns` i64."""
    for r in range(len(rows)):
        for c in range(cols):
            v = min(abs(np.int64(words[r * cols + c])), 127)
            if len(weights):
                columns[c] += v * v * weights[r]
            else:
                rows[r] += v * v


def write_head(code: GridCode, described_tables: bytes) -> bytes:
    """The head of a grid, after its coding number."""
    coder = entropy.CODERS.index(code.coder)
    numbers = struct.pack("<BBBBI", code.width, coder, code.classes, code.shift, code.cols)
    trellis = bytes([code.states.bit_length() - 1]) if code.states else b""
    return b"".join([trellis, numbers, write_array(code.rows), write_array(code.columns), described_tables])


def read_head(reader: Reader, nbytes: int, most_chunks: int, trellis: bool = False, bits: int = 0) -> GridCode:
    """Undo `write_head` for a tensor of `nbytes`, or of packed integers of so many bits, in as many chunks at most;
    DamagedError for anything that can't have been written."""
    states = 1 << min(reader.byte(), 16) if trellis else 0
    if trellis and states not in STATES:
        raise DamagedError(f"its head asks for a trellis of {states} states")
    width, coder, tables, shift, cols = reader.numbers("BBBBI")
    if bits:
        line = -(-cols * bits // 8)
        if width != 1 or not cols or nbytes % line:
            raise DamagedError(f"its packed integers have words of {width} bytes in rows of {cols}")
        nbytes = nbytes // line * cols
    if width not in WIDTHS or nbytes % width or coder >= len(entropy.CODERS):
        raise DamagedError(f"its head asks for words of {width} bytes, coder {coder}")
    if not 1 <= tables <= MOST_TABLES or shift > MOST_SHIFT:
        raise DamagedError(f"its head asks for {tables} tables and a shift of {shift}")
    words = nbytes // width
    narrowest = 1 if trellis else min(NARROWEST, words)
    if not narrowest <= cols <= min(words, WIDEST) or words % cols:
        raise DamagedError(f"its head says {cols} columns, which doesn't fit {words} words")
    rows = words // cols
    if -(-rows // rows_in_chunk(cols)) > most_chunks:
        raise DamagedError(f"it has room for {most_chunks} chunks, too few for its {rows} rows")
    of_rows, of_columns = reader.array(rows), reader.array(cols)
    name = entropy.CODERS[coder]
    listed = reader.tables(2 * tables if trellis else tables, name)
    return GridCode(width, cols, shift, of_rows, of_columns, name, listed, states)


def _sizes(code: GridCode, rows: Bytes, present: Bytes | None) -> Counts:
    sizes = np.empty(len(code.tables.lone), np.int64)
    if present is None:
        segment_sizes(rows, code.columns, code.shift, sizes)
    else:
        present_sizes(rows, code.columns, code.shift, present, sizes)
    return sizes


def encode_chunk(
    code: GridCode, coder: tuple[Ints, ...], raw: Bytes, first_row: int, present: Bytes | None = None
) -> Bytes:
    """The chunk whose rows begin at `first_row`, coded; of a sparse one, the words that are `present` u8."""
    words = code.words(raw)
    rows = code.rows[first_row : first_row + len(words) // code.cols]
    sizes = _sizes(code, rows, present)
    symbols, escapes = np.empty(int(sizes.sum()), np.uint8), np.empty_like(words)
    count = gather(words, rows, code.columns, code.shift, sizes, symbols, escapes, present)
    if entropy.uncoded(symbols, sizes, code.tables):
        return raw_chunk(raw)
    stream = entropy.encode(symbols, sizes, coder)
    front = np.frombuffer(struct.pack("<BI", CODED, len(stream)), np.uint8)
    coded = np.concatenate([front, stream, escapes[:count].view(np.uint8)])
    return coded if len(coded) <= len(raw) else raw_chunk(raw)


def decode_chunk(
    code: GridCode, coder: tuple[Ints, Counts], coded: memoryview, first_row: int, raw: Bytes,
    present: Bytes | None = None,
) -> None:  # fmt: skip
    """Fill `raw`, in a sparse chunk the words that are `present` u8, with the chunk whose rows begin at `first_row`;
    DamagedError if `coded` makes no sense."""
    reader = opened_chunk(coded, raw)
    if reader is None:
        return
    stream = reader.bytes(reader.u32())
    rest = len(coded) - 5 - len(stream)
    if rest % code.width:
        raise DamagedError("a chunk ends within a word")
    escapes = reader.words(rest // code.width, code.width).view(f"<i{code.width}")
    words = code.words(raw)
    rows = code.rows[first_row : first_row + len(words) // code.cols]
    sizes = _sizes(code, rows, present)
    symbols = entropy.decode(stream, sizes, coder)
    if not scatter(symbols, rows, code.columns, code.shift, sizes, escapes, words, present):
        raise DamagedError("a chunk has more or fewer escapes than its words need")
