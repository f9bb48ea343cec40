"""The head of a coded tensor read again: what it takes to decode any of its chunks."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mc.codec import dictionary, entropy, fixed, floats, grids, integers, planes, runs, scarce, sparse, split, trellis
from mc.codec.codings import (
    AFFINE,
    FLOATS,
    GRID,
    PLANES,
    RAW,
    SCARCE,
    SPARSE,
    SPLIT,
    TRELLIS,
    ZSTD,
    plain_spans,
    word_width,
)
from mc.codec.decoding import decoder_of
from mc.codec.fields import Reader
from mc.codec.typing import Bytes
from mc.errors import DamagedError


class Opened(NamedTuple):
    """What it takes to decode any chunk of a tensor."""

    spans: list[tuple[int, int]]
    decode: Callable[[int, memoryview, Bytes], None]  # (chunk, coded bytes, room for the decoded ones)
    # The same for chunks one behind the other, checksums included: (their frames, their part of the directory, seed of
    # the first, its number, room). Chunks and what is coded of them are longer than `checksum.SHORT`.
    together: Callable[[memoryview, memoryview, int, int, Bytes], None] | None = None


def opened(head: memoryview, dtype: str, nbytes: int, most_chunks: int) -> Opened:
    """Read the head of a coded tensor of `nbytes` >= 1 in as many chunks at most; DamagedError for anything
    that can't have been written."""
    reader = Reader(head)
    coding = reader.byte()
    if coding == RAW:
        reader.end()
        return Opened(plain_spans(nbytes, word_width(dtype, nbytes)), _decode_raw)
    if coding == FLOATS:
        return _open_floats(reader, dtype, nbytes, most_chunks)
    if coding == AFFINE:
        run = runs.read_head(reader)
        reader.end()
        if nbytes % run[0]:
            raise DamagedError(f"its head says words of {run[0]} bytes, which don't fill {nbytes}")
        run_spans = plain_spans(nbytes, word_width(dtype, nbytes))

        def fill(k: int, coded: memoryview, raw: Bytes) -> None:
            if len(coded):
                raise DamagedError("a chunk of an affine run isn't empty")
            runs.fill(run, run_spans[k][0] // run[0], raw)

        return Opened(run_spans, fill)
    if coding == PLANES:
        return _open_planes(reader, nbytes, most_chunks)
    if coding == ZSTD:
        width = reader.byte()
        reader.end()
        if width not in (1, 2, 4, 8):
            raise DamagedError(f"its head says words of {width} bytes")
        return Opened(plain_spans(nbytes, width), _decode_zstd)
    if coding in (GRID, TRELLIS):
        return _open_grid(reader, nbytes, most_chunks, coding == TRELLIS)
    if coding == SPARSE:
        sparse_code = sparse.read_head(reader, dtype, nbytes, most_chunks)
        reader.end()
        return Opened(sparse_code.spans, sparse.decoder(sparse_code))
    if coding == SCARCE:
        scarce_code = scarce.read_head(reader, nbytes)
        reader.end()
        return Opened(scarce_code.spans(nbytes), lambda _, coded, raw: scarce.decode_chunk(scarce_code, coded, raw))
    if coding == SPLIT:
        split_code = split.read_head(reader, dtype, nbytes, most_chunks)
        reader.end()
        return Opened(split.spans_of(split_code, nbytes), split.decoder(split_code, nbytes))
    raise DamagedError(f"it has coding {coding}, and this version knows 0 to {SPARSE}, {SCARCE} and {SPLIT}")


def _decode_raw(_: int, coded: memoryview, raw: Bytes) -> None:
    if len(coded) != len(raw):
        raise DamagedError(f"a raw chunk has {len(coded)} bytes where {len(raw)} belong")
    raw[:] = np.frombuffer(coded, np.uint8)


def _decode_zstd(_: int, coded: memoryview, raw: Bytes) -> None:
    if len(coded) and coded[0] == 1:
        dictionary.decompress(coded[1:], raw)
    elif len(coded) and coded[0] == 0:
        _decode_raw(0, coded[1:], raw)
    else:
        raise DamagedError("a zstd chunk is neither a frame nor raw")


def _open_floats(reader: Reader, dtype: str, nbytes: int, most_chunks: int) -> Opened:
    geometry = planes.GEOMETRIES.get(dtype)
    if geometry is None or nbytes % geometry.width:
        raise DamagedError(f"it is coded as floats, and its dtype is {dtype}")
    words = nbytes // geometry.width
    code = floats.read_head(reader, geometry, words, most_chunks)
    reader.end()
    decoder = decoder_of(code, words)
    rows = fixed.rows_in_chunk(code.cols)
    step = rows * code.cols * geometry.width

    def decode_chunk(k: int, coded: memoryview, raw: Bytes) -> None:
        decoder.decode_chunk(coded, k * rows, raw)

    return Opened([(at, min(at + step, nbytes)) for at in range(0, nbytes, step)], decode_chunk, decoder.decode_frames)


def _open_planes(reader: Reader, nbytes: int, most_chunks: int) -> Opened:
    plane_code = integers.read_head(reader, nbytes, most_chunks)
    reader.end()
    coder = entropy.decoder(plane_code.coder, plane_code.tables, nbytes)
    plane_spans = integers.spans_of(plane_code, nbytes)

    def decode_planes(k: int, coded: memoryview, raw: Bytes) -> None:
        integers.decode_chunk(plane_code, coder, coded, plane_spans[k][0] // max(plane_code.cols, 1), raw)

    return Opened(plane_spans, decode_planes)


def _open_grid(reader: Reader, nbytes: int, most_chunks: int, walks: bool) -> Opened:
    grid_code = grids.read_head(reader, nbytes, most_chunks, walks)
    reader.end()
    coder = entropy.decoder(grid_code.coder, grid_code.tables, nbytes // grid_code.width)
    grid_spans = grid_code.spans
    row_bytes = grid_code.cols * grid_code.width
    decode_chunk = trellis.decode_chunk if walks else grids.decode_chunk

    def decode_grid(k: int, coded: memoryview, raw: Bytes) -> None:
        decode_chunk(grid_code, coder, coded, grid_spans[k][0] // row_bytes, raw)

    return Opened(grid_spans, decode_grid)
