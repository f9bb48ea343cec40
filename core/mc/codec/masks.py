"""Where the words of a sparse tensor stand: a mask of blocks, coded in the contexts of its rows and columns.

A mask is a small matrix of bytes to the coder of grids: a byte for each block, or for eight of them side by side, which
holds patterns such as two of four (FORMAT.md, 7.8).
"""

import struct
from dataclasses import dataclass, replace
from math import gcd

import numpy as np

from mc.codec import entropy, gridfit, grids, groups
from mc.codec.compiled import released
from mc.codec.fields import Reader, write_array
from mc.codec.fit import Each
from mc.codec.fixed import rows_in_chunk
from mc.codec.grids import MOST_SHIFT, MOST_TABLES, GridCode
from mc.codec.groups import GroupCode
from mc.codec.tables import Tables, counted
from mc.codec.typing import Bytes, Counts, Ints
from mc.errors import DamagedError

SINGLE, EIGHTS, GROUPS = (
    0,
    1,
    2,
)  # a block in a byte of the mask, eight of them, or n of m: forms by their numbers in a file
HEAD = struct.Struct("<IIBBBB")  # height, width, form, coder, tables, shift
MUST_SAVE = 0.03  # share of a mask's entropy that its structure has to save for it to be tried
PIECE = 256  # rows of a mask that are unpacked at once
MOST_SIDE = 64  # of blocks that aren't whole but for a few zeros
SCARCE = 0.04  # or so few words are left that a table for both loses


@dataclass(frozen=True)
class MaskCode:
    """All that the mask of a chunk is coded with."""

    height: int  # rows and columns of a block
    width: int
    form: int
    cols: int  # of the tensor
    code: GridCode  # of the mask's bytes
    groups: GroupCode | None = None  # in its place, of form GROUPS

    @property
    def tables(self) -> Tables:
        """Of either."""
        return self.code.tables if self.groups is None else self.groups.tables

    def rows_of(self, first: int, rows: int) -> int:
        """Rows of the mask that the chunk of so many rows from row `first` on has; one may belong to two chunks."""
        return (first + rows - 1) // self.height - first // self.height + 1


@released
def spread(units, first, height, width, form, cols, present):
    """Fill `present` u8 [rows x cols] from the bytes of a mask i8 [rows of blocks, bytes], whose columns are blocks, or
    eight of them by bits; the first of its rows has begun `first` rows before."""
    across = units.shape[1]
    for r in range(len(present) // cols):
        line = min((first + r) // height, len(units) - 1)
        for c in range(cols):
            block = c // width
            if form == EIGHTS:
                byte = np.int64(units[line, min(block >> 3, across - 1)])
                present[r * cols + c] = (byte >> (block & 7)) & 1
            else:
                present[r * cols + c] = units[line, min(block, across - 1)] & 1


def across(cols: int, width: int, form: int) -> int:
    """Bytes of a row of the mask."""
    blocks = -(-cols // width)
    return -(-blocks // 8) if form == EIGHTS else blocks


def blocks_of(present: Ints, first: int) -> tuple[int, int]:
    """The largest height and width of blocks that are whole or absent in present bool [rows, cols], rows `first` and on
    of a tensor; 0 where nothing speaks against any."""
    down = np.flatnonzero((present[1:] != present[:-1]).any(axis=1)) + 1 + first
    right = np.flatnonzero((present[:, 1:] != present[:, :-1]).any(axis=0)) + 1
    return int(np.gcd.reduce(down)) if len(down) else 0, int(np.gcd.reduce(right)) if len(right) else 0


def is_structured(present: Ints, in_contexts: bool) -> bool:
    """Whether a mask like this, bool [rows, cols], is worth coding by itself: what a table of words and zeros can't see
    saves bits, or there are so few words that it loses some. `in_contexts`: such tables go by row and column."""
    share = int(np.count_nonzero(present)) / present.size
    if share < SCARCE or share == 1:
        return share < 1
    if max(1 - float(present.any(axis=axis).mean()) for axis in (0, 1)) > MUST_SAVE:
        return True  # whole rows or columns are gone, which contexts don't tell from small ones
    lines = [
        float(_bits(np.count_nonzero(present, axis=axis) / present.shape[axis]).mean()) + 0.72 / present.shape[axis]
        for axis in (0, 1)
    ]  # half a degree of freedom for each line is noise (Miller, 1955)
    whole = float(_bits(np.array([share])).sum())
    seen = min(whole, *lines) if in_contexts else whole
    found = [] if in_contexts else lines
    found += [_patterned(present), groups.likely(present)[0]]
    if len(present) > 1:
        found.append(_below(present))
    return min(found, default=seen) < (1 - MUST_SAVE) * seen


def _below(present: Ints) -> float:
    """Bits a word of a mask whose words are told by whether the word above is there."""
    above, words = int(np.count_nonzero(present[:-1])), present[1:].size
    there, both = int(np.count_nonzero(present[1:])), int(np.count_nonzero(present[1:] & present[:-1]))
    bits = 0.0
    for seen, of in ((both, above), (there - both, words - above)):
        bits += of * float(_bits(np.array([seen / of])).sum()) if of else 0.0
    return bits / words


def likely_blocks(present: Ints) -> tuple[int, int]:
    """The height and width of blocks that make a mask and the zeros within its blocks cheapest, for present bool [rows,
    cols] in which words of blocks that are there may be zero too, as quantized ones are."""
    rows, cols = present.shape
    sides = [1 << k for k in range(MOST_SIDE.bit_length())]
    tried = [(h, w) for h in (*sides, rows) for w in (*sides, cols) if h <= rows and w <= cols]
    best = min(dict.fromkeys(tried), key=lambda block: (_cost(present, *block), block))
    single = min(_cost(present, 1, 1), _patterned(present) * present.size, groups.likely(present)[0] * present.size)
    return best if _cost(present, *best) < (1 - MUST_SAVE) * single else (1, 1)


def _patterned(present: Ints) -> float:
    """Bits a word of a mask whose words are coded in eights."""
    cols = present.shape[1] // 8 * 8
    if cols == 0:
        return 1.0
    patterns = np.packbits(present[:, :cols], axis=1)
    counts = counted(patterns.reshape(-1))
    likely = counts[counts > 0] / patterns.size
    return (float(-(likely * np.log2(likely)).sum()) + 0.72 * len(likely) / patterns.size) / 8


def units_of(present: Ints, height: int, width: int, first: int = 0) -> Ints:
    """Which blocks have any word that is present, bool [rows of blocks, blocks], of rows `first` and on."""
    lines = present if width == 1 else np.logical_or.reduceat(present, np.arange(0, present.shape[1], width), axis=1)
    if height == 1:
        return lines
    starts = np.maximum(np.arange(-(first % height), len(lines), height), 0)
    units: Ints = np.logical_or.reduceat(lines, starts, axis=0)
    return units


def lines_of(packed: Bytes, cols: int, width: int) -> Ints:
    """Which blocks are there, bool [rows, blocks], of bits of columns [rows, ceil(cols / 8)], the lowest first."""
    return units_of(np.unpackbits(packed, axis=1, count=cols, bitorder="little") > 0, 1, width)


def count_there(packed: Bytes, cols: int, width: int) -> int:
    """Columns, over all rows, that belong to blocks which are there: but for the last ones of rows, exactly."""
    pieces = (packed[at : at + PIECE] for at in range(0, len(packed), PIECE))
    return sum(int(lines_of(piece, cols, width).sum()) for piece in pieces) * width


def _cost(present: Ints, height: int, width: int) -> float:
    """Bits of the mask of blocks, and of which words in them are zero."""
    units = units_of(present, height, width)
    whole = float(_bits(np.array([units.mean()])).sum()) * units.size
    inside = min(float(units.mean()) * present.size, present.size)
    share = min(float(present.sum()) / inside, 1.0) if inside else 1.0
    return whole + inside * float(_bits(np.array([share])).sum())


def _bits(share: Ints) -> Ints:
    """Bits that a choice with this probability takes."""
    inside = np.clip(share, 1e-12, 1 - 1e-12)
    bits: Ints = -(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside))
    return bits


def fit(packed: Bytes, cols: int, height: int, width: int, each: Each) -> tuple[MaskCode, bytes, int]:
    """The cheapest code for a mask, its head, and the bytes that it takes with all chunks. packed: bits of columns
    [rows of blocks, ceil(cols / 8)], the lowest first; a block of height x width is there if any of its columns is."""
    best: tuple[MaskCode, bytes, int] | None = None
    for form in (SINGLE, EIGHTS):
        size = across(cols, width, form)

        def read(start: int, stop: int, form: int = form, size: int = size) -> Bytes:
            lines = packed[start // size : stop // size]
            if form == SINGLE or width > 1:
                lines = np.unpackbits(lines, axis=1, count=cols, bitorder="little")
                lines = units_of(lines > 0, 1, width).astype(np.uint8)
            if form == EIGHTS and width > 1:
                lines = np.packbits(lines, axis=1, bitorder="little")
            flat: Bytes = np.ascontiguousarray(lines).reshape(-1)
            return flat

        fitted = gridfit.fit(len(packed) * size, 1, size, entropy.ANS, read, each)
        code = MaskCode(height, width, form, cols, fitted.code)
        head = write_head(code, entropy.described(fitted.plan))
        if best is None or fitted.bytes < best[2]:
            best = code, head, fitted.bytes
    if best is None:
        raise ValueError("a mask has a form")
    pieces = [packed[at : at + PIECE] for at in range(0, len(packed), PIECE)]
    bits, group, expected = groups.likely(lines_of(pieces[0], cols, width))
    if not group or bits * len(packed) * across(cols, width, SINGLE) > 8 * best[2]:
        return best
    every = (lines_of(piece, cols, width).view(np.uint8) for piece in pieces)
    chunks = -(-len(packed) * height // rows_in_chunk(cols))
    grouped, plan, size = groups.fit(every, group, expected, across(cols, width, SINGLE), chunks)
    code = MaskCode(height, width, GROUPS, cols, replace(best[0].code, coder=plan.coder), grouped)
    head = write_head(code, entropy.described(plan))
    size += len(head) - plan.table_bytes
    return (code, head, size) if size < best[2] else best


def write_head(code: MaskCode, described_tables: bytes) -> bytes:
    """The mask's part of the head of a sparse tensor."""
    inner = code.code
    shift = inner.shift if code.groups is None else 0
    numbers = HEAD.pack(
        code.height, code.width, code.form, entropy.CODERS.index(inner.coder), len(code.tables.lone), shift
    )
    if code.groups is not None:
        return b"".join([numbers, groups.head_of(code.groups), described_tables])
    return b"".join([numbers, write_array(inner.rows), write_array(inner.columns), described_tables])


def read_head(reader: Reader, rows: int, cols: int) -> MaskCode:
    """Undo `write_head` for a tensor of these rows, for which there is room, and columns; DamagedError for anything
    that can't have been written."""
    height, width, form, coder, tables, shift = HEAD.unpack(reader.take(HEAD.size))
    if not 1 <= height <= rows or not 1 <= width <= cols or form > GROUPS:
        raise DamagedError(f"its head says blocks of {height} x {width} in form {form}")
    if coder >= len(entropy.CODERS) or not 1 <= tables <= MOST_TABLES or shift > MOST_SHIFT:
        raise DamagedError(f"its mask asks for coder {coder}, {tables} tables and a shift of {shift}")
    size, name = across(cols, width, form), entropy.CODERS[coder]
    if form == GROUPS:
        grouped = groups.read_head(reader, size, name, tables)
        nothing = np.zeros(0, np.uint8)
        return MaskCode(
            height, width, form, cols, GridCode(1, size, shift, nothing, nothing, name, grouped.tables), grouped
        )
    of_rows, of_columns = reader.array(-(-rows // height)), reader.array(size)
    inner = GridCode(1, size, shift, of_rows, of_columns, name, reader.tables(tables, name))
    return MaskCode(height, width, form, cols, inner)


def encode(code: MaskCode, coder: tuple[Ints, ...], lines: Ints, first_row: int) -> Bytes:
    """The mask of a chunk whose rows begin at `first_row`, coded; lines: bool [rows of blocks, blocks]."""
    if code.groups is not None:
        return groups.encode(code.groups, coder, lines.astype(np.uint8))
    packed = np.packbits(lines, axis=1, bitorder="little") if code.form == EIGHTS else lines.astype(np.uint8)
    raw = np.ascontiguousarray(packed).reshape(-1)
    return grids.encode_chunk(code.code, coder, raw, first_row // code.height)


def decode(code: MaskCode, coder: tuple[Ints, Counts], coded: memoryview, first_row: int, words: int) -> Bytes:
    """Which of the words of a chunk are present, u8; DamagedError if `coded` makes no sense."""
    rows = code.rows_of(first_row, words // code.cols)
    if code.groups is not None:
        units = groups.decode(code.groups, coder, coded, rows)
    else:
        units = np.empty(rows * code.code.cols, np.uint8)
        grids.decode_chunk(code.code, coder, coded, first_row // code.height, units)
    present = np.empty(words, np.uint8)
    spread(
        units.view(np.int8).reshape(rows, -1),
        first_row % code.height,
        code.height,
        code.width,
        code.form,
        code.cols,
        present,
    )
    return present


def merged(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    """Blocks that fit two parts of a tensor."""
    return gcd(one[0], other[0]), gcd(one[1], other[1])
