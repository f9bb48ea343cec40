"""Whole float tensors decoded many at once: their heads are read in one call, and their chunks in another.

A tensor that isn't coded as most are, or isn't sound, is left: whoever decodes it by itself says what is wrong.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mc.codec import chunks, entropy, heads, planes
from mc.codec.bitstream import U64, load, read32
from mc.codec.checksum import checksum
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
from mc.codec.heads import ENTRY, FRAME, HEAD, OF_HEAD, PLAIN, STARTS, Blob, Heads
from mc.codec.rows import read_described
from mc.codec.tables import EMPTY
from mc.codec.typing import Bytes

Jobs = NDArray[Any]  # of heads.JOB
SIZES = 5  # numbers that tell how much of a coder there is

CODER = 4  # bytes from where a head begins to the number of its coder
NOT_FLOATS = Fixed(NO_FLOATS, 0, 0, 0, 0, 0, 0, 0, 0)


def decode_many(data: memoryview, blobs: Sequence[Blob], geometry: planes.Geometry, raw: Bytes) -> list[int]:
    """Decode whole tensors from `data` to their places in `raw` u8; the numbers of those that are what was packed.
    Nobody knows what the places of the others hold. Places are multiples of a word's size, and `raw` begins at one of
    eight."""
    read = np.frombuffer(data.toreadonly(), np.uint8)  # one kind of array, so that every loop is compiled once
    words = planes.words_of(raw[: len(raw) // geometry.width * geometry.width], geometry)
    done: list[int] = []
    for numbers, told, jobs in read_many(read, blobs, geometry):
        first = 0
        while first < len(jobs):
            sound, _, _ = chunks.decode(read, read, jobs[first:], told, None, raw, words, None, NOWHERE)
            done += numbers[first : first + sound]
            first += sound + 1  # the one that isn't is left out
    return done


def read_many(data: Bytes, blobs: Sequence[Blob], geometry: planes.Geometry) -> Iterator[tuple[list[int], Heads, Jobs]]:
    """The numbers of blobs of one coder, what is told of them, and a heads.JOB for each, coder by coder. Raw tensors
    come with those of the first. One whose head makes no sense decodes nothing; there are no jobs at all where tables
    make no sense."""
    listed, sizes = heads.records(blobs, heads.BLOB), np.empty((len(entropy.CODERS), SIZES), np.int64)
    _look_at(data, listed, geometry.mantissa, geometry.width, sizes)
    coders = listed["coder"].tolist()
    used = [coder for coder in range(len(entropy.CODERS)) if coder in coders] or [0]
    for coder in used:
        wanted = (coder, PLAIN) if coder == used[0] else (coder,)
        numbers = [number for number, its in enumerate(coders) if its in wanted]
        some = listed if len(numbers) == len(blobs) else listed[numbers]
        yield numbers, *_read(data, some, geometry, entropy.CODERS[coder], sizes[coder].tolist())


def _read(
    data: Bytes, blobs: NDArray[Any], geometry: planes.Geometry, coder: str, sizes: Sequence[int]
) -> tuple[Heads, Jobs]:
    """What is told of blobs of one coder, and a heads.JOB for each. sizes: as `_look_at` fills them."""
    row, column, start, table, words = sizes
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
    fault = _read_heads(data, blobs, of, words, numbers, told, jobs)
    return told, jobs[:0] if fault else jobs


@inlined
def _begun(data, blob, mantissa, width):
    """How the head of a blob begins; with a fault if it is none of a float tensor without frequent words."""
    words, most_chunks = blob.nbytes // width, (blob.stop - blob.begin) // (FRAME + ENTRY)
    if blob.coder == PLAIN or blob.begin - blob.head <= FIXED_BYTES:
        return NOT_FLOATS
    of = fixed_at(data, blob.head + 1, mantissa, words, most_chunks)
    return of if of.frequent == 0 else NOT_FLOATS


@compiled
def _look_at(data, blobs, mantissa, width, sizes):
    """Fill what heads say of `blobs`, heads.BLOB, and `sizes` i64 [coders, SIZES] with the rows, columns, starts and
    tables of all of each coder, and with their words."""
    sizes[:, :] = 0
    for i in range(len(blobs)):
        blob = blobs[i]
        blob.head, blob.begin, blob.coder = blob.start + HEAD, 0, PLAIN
        if blob.head >= blob.stop:
            continue
        end = blob.head + np.int64(read32(data, U64(blob.start)))
        if end <= blob.head or end > blob.stop:
            continue
        seed = U64(blob.number) << U64(32) | U64(OF_HEAD)
        if checksum(data[blob.head : end], seed) != load(data, U64(blob.start + 4)):
            continue
        blob.begin = end
        if data[blob.head] == FLOATS and blob.head + CODER < end and data[blob.head + CODER] < len(sizes):
            blob.coder = np.int64(data[blob.head + CODER])
            of, size = _begun(data, blob, mantissa, width), sizes[blob.coder]
            if of.fault == 0:
                size[0] += of.rows
                size[1] += scaled_columns(of)
                size[2] += STARTS
                size[3] += tables_of(of.context)
                size[4] += blob.nbytes // width


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
        if blob.begin - blob.head == 1 and data[blob.head] == RAW:
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
    job.tensor, job.row, job.seed, job.begin = tensor, 0, blob.number << 32, blob.begin
    job.end, job.directory, job.place, job.nbytes = directory, directory, blob.place, blob.nbytes


@inlined
def _set_facts(
    of, skip, row, rows, column, columns, start, table, tables, cols, height, low, padding, mantissa, width
):  # fmt: skip
    of.skip, of.row, of.rows, of.column, of.columns = skip, row, rows, column, columns
    of.start, of.table, of.tables, of.cols, of.height = start, table, tables, cols, height
    of.low, of.padding, of.mantissa, of.width = low, padding, mantissa, width
