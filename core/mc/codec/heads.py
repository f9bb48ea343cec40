"""What the chunks of float tensors are decoded with, read from the heads of many tensors in one call (FORMAT.md, 5).

A model has hundreds of small tensors, and each return to Python costs as much as decoding some KiB, all of it under the
interpreter's lock. So many heads are read at once, and then all of their chunks are decoded at once (`chunks.decode`).
What isn't as nearly every head is, or unsound, is left to `floats.read_head`, which says what is wrong.
"""

from typing import NamedTuple

import numpy as np

from mc.codec import tables
from mc.codec.bitstream import U64, read32
from mc.codec.compiled import inlined, released
from mc.codec.entropy import LOOK_UPS, coder_of, fill_look_ups
from mc.codec.planes import MOST_FIELD_BITS, Geometry
from mc.codec.rows import CHUNK, NARROWEST, WIDEST, read_rows, rows_in_chunk
from mc.codec.scales import OCTAVE
from mc.codec.segments import TABLES
from mc.codec.typing import Bytes, Counts, Ints, Scales, Words

RAW, FLOATS = 0, 1  # the codings that are read here
OTHER = -1  # in place of the coding of a tensor that is left to others

FIXED = "BBBBIhB"  # mantissa, flags, context, coder, columns, base, frequent words: how each head begins
FIXED_BYTES = 12  # with the coding before it
CODER = 4  # where the coder stands
ALONE, ROWS, BOTH = 0, 1, 2  # which scales give the contexts: one for the whole tensor, of rows, of rows and columns
UNSIGNED = 1  # flag of a float tensor
MOST_FREQUENT = 8  # frequent words
CODERS = len(LOOK_UPS)

# Columns of `Heads.facts`. AT_ROW, AT_COLUMN: where its rows and columns begin among all.
CODING, AT_ROW, COUNT, AT_COLUMN, COLUMNS, COLS, HEIGHT, LOW, PADDING, MANTISSA, WIDTH, TABLES_USED = range(12)
FACTS = 12
# Columns of what `read` is told of each tensor: where its head begins and ends, how many bytes it has when decoded, how
# many chunks at most, where its blob ends, the seed of the first chunk's checksums, where its decoded bytes belong.
HEAD, HEAD_END, NBYTES, MOST_CHUNKS, BLOB_END, OF, BELONGS = range(7)

# Columns of what `chunks.decode` is told of chunks of a tensor: its place in Heads, their first row, the seed of the
# first one's checksums, where they begin and end, where their part of the directory begins (FRAMELESS: it is one chunk
# without a frame, whose checksums are somebody else's), where their decoded bytes belong, and how many those are.
NUMBER, FIRST_ROW, SEED, AT, STOP, DIRECTORY, PLACE, SIZE = range(8)
JOB = 8
FRAMELESS = -1
FRAME = 20  # bytes before a chunk in its blob: its size, the checksums of the coded and of the decoded bytes
ENTRY = 4  # bytes of a chunk in the directory of its blob: its size


class Heads(NamedTuple):
    """Of several tensors, arrays one behind the other, and what it takes to part them."""

    facts: Counts  # [tensors, FACTS]
    rows: Scales  # i16, scales of all rows
    columns: Scales  # i16, scales of columns, of those tensors that have them
    order: Words  # u16, twice as many: see scales.column_order
    starts: Counts  # i64 [tensors, 9]
    classes: Bytes  # u8, of each tensor [tails, rows]
    tables: Ints  # [tensors, 4, 4096]: what is looked up to decode
    lone: Counts  # i64 [tensors, 4]


def shape_of(geometry: Geometry) -> tuple[int, int, int, int]:
    """What `read` calls a geometry."""
    return geometry.width, geometry.mantissa, geometry.padding, geometry.tails


@inlined
def tables_of(context):
    """Tables, one for each segment of a chunk."""
    return 1 if context == ALONE else TABLES


@inlined
def known(mantissa, flags, context, coder, frequent, most_mantissa):
    """Whether a head asks for what there is, given the mantissa bits of a word's head."""
    of_word = mantissa <= most_mantissa and most_mantissa < mantissa + MOST_FIELD_BITS
    return of_word and flags <= UNSIGNED and frequent <= MOST_FREQUENT and context <= BOTH and coder < CODERS


@inlined
def fits(cols, context, words):
    """Whether so many words can be a matrix of so many columns."""
    wide = min(NARROWEST, words) <= cols and cols <= min(words, WIDEST)
    return wide and (context != BOTH or (words % cols == 0 and cols <= 0xFFFF))


@inlined
def _fixed(data, blob, width, mantissa, padding, like, facts):
    """Fill the facts that stand at the front of a head, but for where rows and columns are."""
    at, end, nbytes = blob[HEAD], blob[HEAD_END], blob[NBYTES]
    facts[:], facts[CODING] = 0, OTHER
    if nbytes % width or at >= end:
        return
    if data[at] == RAW and end == at + 1 and nbytes <= CHUNK * width and blob[MOST_CHUNKS] > 0:
        facts[CODING], facts[COLS], facts[HEIGHT] = RAW, nbytes // width, 1
        return
    if data[at] != FLOATS or end < at + FIXED_BYTES:
        return
    words, cols, context = nbytes // width, np.int64(read32(data, U64(at + 5))), data[at + 3]
    if data[at + CODER] != coder_of(like) or data[at + 11] > 0:
        return
    if not known(data[at + 1], data[at + 2], context, data[at + CODER], data[at + 11], mantissa):
        return
    if not fits(cols, context, words):
        return
    rows, height = (words + cols - 1) // cols, rows_in_chunk(cols)
    if (rows + height - 1) // height > blob[MOST_CHUNKS]:
        return
    facts[CODING], facts[COUNT], facts[COLS], facts[HEIGHT] = FLOATS, rows, cols, height
    facts[COLUMNS], facts[TABLES_USED] = cols if context == BOTH else 0, tables_of(context)
    facts[MANTISSA], facts[PADDING], facts[LOW] = data[at + 1], padding, mantissa - data[at + 1]
    facts[WIDTH] = facts[LOW] + (1 - data[at + 2])  # UNSIGNED: fields have no sign


@released
def read(data, blobs, geometry, like):
    """The Heads of tensors whose heads stand in `data` u8, and i64 [tensors, 8] what decodes all chunks of each. Those
    of coding OTHER are not as expected, and have no chunks.

    blobs: i64 [tensors, 7]; geometry: bytes of a word, mantissa bits of its head, padding, tails; like: an empty array
    of what is looked up."""
    width, mantissa, padding, tails = geometry
    facts, jobs, rows, columns = np.empty((len(blobs), FACTS), np.int64), np.empty((len(blobs), JOB), np.int64), 0, 0
    for t in range(len(blobs)):
        of = facts[t]
        _fixed(data, blobs[t], width, mantissa, padding, like, of)
        of[AT_ROW], of[AT_COLUMN] = rows, columns
        rows += of[COUNT]
        columns += of[COLUMNS]
    heads = Heads(
        facts, np.empty(rows, np.int16), np.empty(columns, np.int16), np.empty(2 * columns, np.uint16),
        np.empty((len(blobs), OCTAVE + 1), np.int64), np.empty(tails * rows, np.uint8),
        np.empty((len(blobs), TABLES, like.shape[1]), like.dtype), np.empty((len(blobs), TABLES), np.int64),
    )  # fmt: skip
    for t in range(len(blobs)):
        of, blob = facts[t], blobs[t]
        if of[CODING] == FLOATS and not _rest(data[: blob[HEAD_END]], blob, width, tails, heads, t):
            of[CODING] = OTHER
        _job(t, of, blob, jobs[t])
    return heads, jobs


@inlined
def _job(t, of, blob, job):
    """Fill `job` with what decodes all chunks of a tensor, the one of number `t`."""
    size, many = blob[NBYTES] if of[CODING] != OTHER else 0, max(-(-of[COUNT] // max(of[HEIGHT], 1)), 1)
    directory = blob[BLOB_END] - ENTRY * many
    job[NUMBER], job[FIRST_ROW], job[SEED], job[AT], job[STOP] = t, 0, blob[OF], blob[HEAD_END], directory
    job[DIRECTORY], job[PLACE], job[SIZE] = directory, blob[BELONGS], size


@inlined
def _rest(data, blob, width, tails, heads, t):
    """Read what follows the fixed part of a head that ends with `data`; whether it is sound."""
    of, at = heads.facts[t], blob[HEAD]
    base = np.int64(np.int16(np.uint16(data[at + 9]) | np.uint16(data[at + 10]) << np.uint16(8)))
    scaled, count = data[at + 3] != ALONE, of[TABLES_USED]
    numbers, lone, wide = np.empty((count, 256), np.uint8), heads.lone[t][:count], np.bool_(data[at + CODER] != 0)
    used = tables.read(data[at + FIXED_BYTES :], wide, numbers, lone)
    if used < 0:
        return False
    first, columns, at_column = of[AT_ROW], of[COLUMNS], of[AT_COLUMN]
    behind = first + of[COUNT]
    end = read_rows(
        data, at + FIXED_BYTES + used, base, scaled, heads.rows[first:behind],
        heads.columns[at_column : at_column + columns], heads.order[2 * at_column : 2 * (at_column + columns)],
        heads.starts[t], heads.classes[tails * first : tails * behind].reshape((tails, behind - first)),
    )  # fmt: skip
    return end == len(data) and fill_look_ups(numbers, lone, blob[NBYTES] // width, heads.tables[t][:count])
