"""Whole float tensors decoded many at once: their heads are read in one call, and their chunks in another.

A tensor that isn't coded as most are, or isn't sound, is left: whoever decodes it by itself says what is wrong.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mc.codec import chunks, entropy, heads, planes
from mc.codec.codings import FLOATS, RAW
from mc.codec.compiled import compiled, inlined, released
from mc.codec.decoding import NOWHERE
from mc.codec.entropy import look_up
from mc.codec.fixed import (
    CHUNK,
    FIXED_BYTES,
    NO_FLOATS,
    UNSIGNED,
    Fixed,
    fixed_at,
    rows_in_chunk,
    scaled_columns,
    tables_of,
)
from mc.codec.heads import ENTRY, FRAME, STARTS, Blob, Heads
from mc.codec.rows import read_described
from mc.codec.tables import EMPTY
from mc.codec.typing import Bytes

Jobs = NDArray[Any]  # of heads.JOB

CODER = 4  # bytes from where a head begins to the number of its coder
NOT_FLOATS = Fixed(NO_FLOATS, 0, 0, 0, 0, 0, 0, 0, 0)


def decode_many(data: memoryview, blobs: Sequence[Blob], geometry: planes.Geometry, raw: Bytes) -> list[int]:
    """Decode whole tensors from `data` to their places in `raw` u8; the numbers of those that are what was packed.
    Nobody knows what the places of the others hold. Places are multiples of a word's size, and `raw` begins at one of
    eight."""
    groups: dict[int, list[int]] = {}  # those of the same coder
    plain: list[int] = []  # raw ones, which are decoded with those of the coder that comes first
    for number, blob in enumerate(blobs):
        if data[blob.head] == FLOATS and blob.head + CODER < blob.begin:
            groups.setdefault(data[blob.head + CODER], []).append(number)
        else:
            plain.append(number)
    done: list[int] = []
    for coder, numbers in groups.items():
        if coder < len(entropy.CODERS):
            numbers = numbers + plain
            plain = []
            done += _decoded(data, [blobs[number] for number in numbers], numbers, geometry, coder, raw)
    return done


def _decoded(
    data: memoryview, blobs: Sequence[Blob], numbers: list[int], geometry: planes.Geometry, coder: int, raw: Bytes
) -> list[int]:
    """The numbers of blobs of one coder, and of raw ones, that could be decoded."""
    read = np.frombuffer(data.toreadonly(), np.uint8)  # one kind of array, so that every loop is compiled once
    words = planes.words_of(raw[: len(raw) // geometry.width * geometry.width], geometry)
    told, jobs = read_heads(read, blobs, geometry, entropy.CODERS[coder])
    done: list[int] = []
    first = 0
    while first < len(jobs):
        sound, _, _ = chunks.decode(read, read, jobs[first:], told, None, raw, words, None, NOWHERE)
        done += numbers[first : first + sound]
        first += sound + 1  # the one that isn't is left out
    return done


@inlined
def _begun(data, blob, mantissa, width):
    """How the head of a blob begins; with a fault if it is none of a float tensor without frequent words."""
    words, most_chunks = blob.nbytes // width, (blob.stop - blob.begin) // (FRAME + ENTRY)
    if data[blob.head] != FLOATS or blob.begin - blob.head <= FIXED_BYTES:
        return NOT_FLOATS
    of = fixed_at(data, blob.head + 1, mantissa, words, most_chunks)
    return of if of.frequent == 0 else NOT_FLOATS


def read_heads(data: Bytes, blobs: Sequence[Blob], geometry: planes.Geometry, coder: str) -> tuple[Heads, Jobs]:
    """What is told of tensors of one coder, and of raw ones, and a heads.JOB for each. One whose head makes no sense
    decodes nothing; there is none at all where tables make no sense."""
    listed, sizes = heads.records(blobs, heads.BLOB), np.empty(5, np.int64)
    _sizes(data, listed, geometry.mantissa, geometry.width, sizes)
    row, column, start, table, words = sizes.tolist()
    lone, facts, jobs = (
        np.empty(table, np.int64),
        np.empty(len(blobs) + 1, heads.FACTS),
        np.empty(len(blobs), heads.JOB),
    )
    told = Heads(
        facts, np.empty(row, np.int16), np.empty(column, np.int16), np.empty(2 * column, np.uint16),
        np.empty(start, np.int64), np.empty((geometry.tails, row), np.uint8), entropy.look_ups(coder, table), lone,
    )  # fmt: skip
    of, numbers = (geometry.mantissa, geometry.padding, geometry.width), np.empty((table, 256), np.uint8)
    fault = _read_heads(data, listed, of, words, numbers, told, jobs)
    return told, jobs[:0] if fault else jobs


@compiled
def _sizes(data, blobs, mantissa, width, sizes):
    """Fill `sizes` i64 with the rows, columns, starts and tables of all blobs, and with their words."""
    sizes[:] = 0
    for i in range(len(blobs)):
        of = _begun(data, blobs[i], mantissa, width)
        if of.fault == 0:
            sizes[0] += of.rows
            sizes[1] += scaled_columns(of)
            sizes[2] += STARTS
            sizes[3] += tables_of(of.context)
            sizes[4] += blobs[i].nbytes // width


@released
def _read_heads(data, blobs, geometry, words, numbers, told, jobs):
    """Read the heads of whole blobs, heads.BLOB, of one coder, or of raw tensors, and make what is looked up to decode
    them. geometry: mantissa and padding bits, bytes of a word; numbers: u8 [tables, 256].

    Fills `jobs`, heads.JOB, with one for each blob, which decodes nothing where a head makes no sense, and `told`,
    whose facts have one behind them for all raw tensors. Returns a fault of the tables, or 0: loops hand back numbers
    alone, since an interrupt that comes while numba makes a tuple of arrays is fatal."""
    mantissa, padding, width = geometry
    facts, rows, columns, order, starts, classes, found, lone = told
    tails = len(classes)
    raw = len(blobs)
    _set_facts(facts[raw], 0, 0, 0, 0, 0, 0, 0, 0, CHUNK, 1, 0, 0, 0, 0)
    row, column, start, table = 0, 0, 0, 0
    for i in range(len(blobs)):
        blob = blobs[i]
        most_chunks = (blob.stop - blob.begin) // (FRAME + ENTRY)
        _set_job(jobs[i], raw, blob, blob.begin)
        if data[blob.head] == RAW and blob.begin - blob.head == 1:
            many = -(-blob.nbytes // (CHUNK * width))
            if many <= most_chunks:
                _set_job(jobs[i], raw, blob, blob.stop - ENTRY * many)
            continue
        of = _begun(data, blob, mantissa, width)
        if of.fault:
            continue
        scaled, used, low = scaled_columns(of), tables_of(of.context), mantissa - of.mantissa
        last, right, behind = row + of.rows, column + scaled, table + used
        after, of_rows = start + (STARTS if scaled else 0), np.empty((tails, of.rows), np.uint8)
        head = data[blob.head + 1 + FIXED_BYTES : blob.begin]
        end = read_described(
            head, of.base, of.context, of.coder, numbers[table:behind], lone[table:behind], rows[row:last],
            columns[column:right], order[2 * column : 2 * right], starts[start:after], of_rows,
        )  # fmt: skip
        if end != len(head):
            lone[table:behind] = EMPTY  # tables without any code: nothing is looked up
            numbers[table:behind] = 0
        else:
            height, field = rows_in_chunk(of.cols), low + (0 if of.flags == UNSIGNED else 1)
            _set_facts(
                facts[i], 1, row, of.rows, column, scaled, start, table, used, of.cols, height, low, padding,
                of.mantissa, field,
            )  # fmt: skip
            _set_job(jobs[i], i, blob, blob.stop - ENTRY * -(-of.rows // height))
        for tail in range(tails):
            for r in range(of.rows):  # as a slice it would be compiled with all that an error might say
                classes[tail, row + r] = of_rows[tail, r]
        row, column, start, table = last, right, after, behind
    return look_up(numbers, lone, words, found)


@inlined
def _set_job(job, tensor, blob, directory):
    """Chunks of the tensor from its blob's begin to its directory; none if they are the same, which is a fault."""
    job.tensor, job.row, job.seed, job.begin = tensor, 0, blob.seed, blob.begin
    job.end, job.directory, job.place, job.nbytes = directory, directory, blob.place, blob.nbytes


@inlined
def _set_facts(
    of, skip, row, rows, column, columns, start, table, tables, cols, height, low, padding, mantissa, width
):  # fmt: skip
    of.skip, of.row, of.rows, of.column, of.columns = skip, row, rows, column, columns
    of.start, of.table, of.tables, of.cols, of.height = start, table, tables, cols, height
    of.low, of.padding, of.mantissa, of.width = low, padding, mantissa, width
