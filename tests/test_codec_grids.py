"""Signed integers in the contexts of rows and columns: byte for byte over shapes, escapes, and what is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import product
from math import erf
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import mc
from anatomy import dissect
from mc.codec import entropy, gridfit, grids, trellis
from mc.codec.fields import Reader
from mc.codec.floats import spans
from mc.codec.grids import GridCode
from mc.errors import DamagedError

INTS: dict[int, type[np.signedinteger[Any]]] = {1: np.int8, 2: np.int16, 4: np.int32}


def made(rows: int, cols: int, width: int, seed: int, spread: float) -> np.ndarray[Any, Any]:
    """A matrix of integers whose rows and columns differ in size, with a few far out."""
    draw = np.random.default_rng(seed)
    scale = np.exp(draw.normal(size=(rows, 1))) * np.exp(draw.normal(size=(1, cols)))
    q = np.rint(draw.normal(size=(rows, cols)) * scale * spread)
    info = np.iinfo(INTS[width])
    q.reshape(-1)[draw.integers(q.size, size=2)] = (info.min, info.max)
    clipped: np.ndarray[Any, Any] = np.clip(q, info.min, info.max).astype(INTS[width])
    return clipped


def fitted(q: np.ndarray[Any, Any], states: int = 0) -> gridfit.Fitted:
    raw = q.reshape(-1).view(np.uint8)
    return gridfit.fit(raw.size, q.itemsize, q.shape[1], entropy.ANS, lambda a, b: raw[a:b], map, states)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([(16, 64), (17, 65), (100, 77), (64, 5000), (1100, 512), (1, 3), (4000, 1), (2, 9)]),
    st.sampled_from([1, 2, 4]),
    st.integers(0, 3),
    st.sampled_from([0.01, 0.3, 3.0, 60.0]),
    st.sampled_from([0, *grids.STATES]),
)
def test_there_and_back(shape: tuple[int, int], width: int, seed: int, spread: float, states: int) -> None:
    assume(states or shape[1] >= 64)
    q = made(*shape, width, seed, spread)
    raw = q.reshape(-1).view(np.uint8)
    fit, module = fitted(q, states), trellis if states else grids
    described = grids.write_head(fit.code, entropy.described(fit.plan))
    reader = Reader(memoryview(described))
    code = grids.read_head(reader, raw.size, 1000, states > 0)
    reader.end()
    assert np.array_equal(code.rows, fit.code.rows) and np.array_equal(code.columns, fit.code.columns)
    encoder, decoder = entropy.encoder(code.coder, code.tables), entropy.decoder(code.coder, code.tables, q.size)
    size = len(described)
    for start, stop in code.spans:
        row = start // (q.shape[1] * width)
        coded = module.encode_chunk(code, encoder, raw[start:stop], row)
        out = np.empty(stop - start, np.uint8)
        module.decode_chunk(code, decoder, memoryview(coded.tobytes()), row, out)
        assert np.array_equal(out, raw[start:stop])
        size += len(coded)
    assert size <= fit.bytes * 1.01 + 40 * len(code.spans)
    with pytest.raises(DamagedError):
        module.decode_chunk(code, decoder, memoryview(coded.tobytes())[:-1], row, out)


def test_what_rows_and_columns_tell_is_stored_where_it_is_worth_its_bytes() -> None:
    draw = np.random.default_rng(0)
    alike = np.rint(3 * draw.normal(size=(2000, 64))).astype(np.int8)
    fit = fitted(alike)
    assert not np.ptp(fit.code.rows) and not np.ptp(fit.code.columns)
    apart = np.rint(np.exp2(draw.integers(0, 4, size=(2000, 1))) * draw.normal(size=(2000, 64))).astype(np.int8)
    assert np.ptp(fitted(apart).code.rows) and not np.ptp(fitted(apart).code.columns)


def test_codes_near_the_entropy_of_each_row_and_column(built: Callable[..., bytes]) -> None:
    draw = np.random.default_rng(0)
    scale = np.exp2(draw.uniform(-2, 2, size=(1024, 1))) * np.exp2(draw.uniform(-2, 2, size=(1, 512)))
    q = np.rint(draw.normal(size=(1024, 512)) * scale).astype(np.int8)
    levels = np.arange(-127, 128)
    cdf = np.vectorize(erf)
    p = (
        cdf((levels + 0.5) / (scale.reshape(-1, 1) * 2**0.5)[::97])
        - cdf((levels - 0.5) / (scale.reshape(-1, 1) * 2**0.5)[::97])
    ) / 2
    ideal = float(-(p * np.log2(np.maximum(p, 1e-300))).sum(axis=1).mean())
    packed = mc.compress(built({"w": ("I8", q)}))
    bits = 8 * len(packed) / q.size
    assert ideal < bits < ideal + 0.1


@pytest.mark.parametrize("dtype", ["I8", "I16", "I32"])
def test_pack_chooses_it_for_quantized_matrices(dtype: str, built: Callable[..., bytes]) -> None:
    q = made(300, 256, int(dtype[1:]) // 8, 0, 2.0)
    data = built({"w": (dtype, q)})
    levels: tuple[mc.Level, ...] = ("default", "best")
    for level in levels:
        packed = mc.compress(data, level=level)
        assert dissect(packed).manifest["tensors"]["w"][2] == "grid+ans"
        assert mc.decompress(packed) == data
        assert packed == mc.compress(data, level=level, threads=3)


def test_order_that_zstd_sees_is_found_though_a_grid_saves(built: Callable[..., bytes]) -> None:
    q = made(40, 512, 1, 0, 3.0)
    data = built({"w": ("I8", np.tile(q, (30, 1)))})
    assert len(mc.compress(data, threads=1)) < len(data) / 15  # a grid: a half


def test_contexts_are_those_that_all_words_would_choose() -> None:
    q = made(4100, 700, 1, 0, 2.0)  # more words than contexts are tried on
    parts = spans(q.size, 700)
    rows, columns = np.zeros(4100, np.int64), np.zeros(700, np.int64)
    grids.energies(q.reshape(-1), 700, rows, columns[:0], columns[:0])
    grids.energies(q.reshape(-1), 700, rows, columns, np.minimum((700 << 16) // np.maximum(rows, 1), 1 << 26))
    codes = gridfit.codes_of(rows, 700), gridfit.codes_of(columns, 4100 << 16)
    least = None
    for by_rows, by_columns in product(gridfit.COARSER, gridfit.COARSER):
        of_rows, of_columns = (
            (codes[0] >> by_rows << by_rows).astype(np.uint8),
            (codes[1] >> by_columns << by_columns).astype(np.uint8),
        )
        counts = np.zeros((int(of_rows.max()) + int(of_columns.max()) + 1, 1, 256), np.int64)
        grids.count_symbols(q.reshape(-1), of_rows, of_columns, counts[:, 0])
        found = int(gridfit.sizes(counts, 1.0, of_rows, of_columns, 1, entropy.ANS, len(parts), 0).min())
        least = found if least is None else min(least, found)
    assert least is not None and least <= fitted(q).bytes <= 1.0002 * least


def test_below_one_bit_a_weight(built: Callable[..., bytes]) -> None:
    q = (np.random.default_rng(0).random((512, 512)) < 0.02).astype(np.int8)
    packed = mc.compress(built({"w": ("I8", q)}))
    assert 8 * len(packed) / q.size < 0.17  # the entropy is 0.141


@pytest.mark.parametrize(
    "head",
    [
        (3, 1, 1, 0, 64), (1, 2, 1, 0, 64), (1, 1, 0, 0, 64), (1, 1, 65, 0, 64), (1, 1, 1, 9, 64), (1, 1, 1, 0, 63),
        (1, 1, 1, 0, 0), (1, 1, 1, 0, 65), (8, 1, 1, 0, 64), (1, 1, 1, 0, 2**21), (2, 1, 1, 0, 4096),
    ],
)  # fmt: skip
def test_heads_that_cant_have_been_written_are_refused(head: tuple[int, ...]) -> None:
    body = struct.pack("<BBBBI", *head) + bytes([1, 0, 1, 0]) + bytes(40)
    with pytest.raises(DamagedError):
        grids.read_head(Reader(memoryview(body)), 4096, 100)


def test_a_head_needs_room_for_its_rows() -> None:
    body = struct.pack("<BBBBI", 1, 1, 1, 0, 64) + bytes([1, 0, 1, 0]) + bytes(40)
    with pytest.raises(DamagedError, match="room"):
        grids.read_head(Reader(memoryview(body)), 64 << 20, 1)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 255), st.sampled_from([0, 8]))
def test_no_bytes_do_more_than_be_refused(data: bytes, method: int, states: int) -> None:
    q = made(16, 64, 2, 0, 1.0)
    code: GridCode = fitted(q, states).code
    module = trellis if states else grids
    decoder = entropy.decoder(code.coder, code.tables, q.size)
    out = np.empty(q.nbytes, np.uint8)
    for coded in (data, bytes([method]) + data, struct.pack("<BI", 1, len(data)) + data):
        try:
            module.decode_chunk(code, decoder, memoryview(coded), 0, out)
        except DamagedError:
            continue


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120), st.integers(0, 70), st.integers(0, 9), st.sampled_from([64, 65, 128, 4096]))
def test_no_head_does_more_than_be_refused(data: bytes, tables: int, shift: int, cols: int) -> None:
    for body in (data, struct.pack("<BBBBI", 1, 1, tables, shift, cols) + data):
        try:
            code = grids.read_head(Reader(memoryview(body)), 4096, 100, bool(cols & 64))
            entropy.decoder(code.coder, code.tables, 4096)
        except DamagedError:
            continue


def test_a_chunk_with_a_symbol_that_has_no_code_is_stored_as_it_is() -> None:
    """Tables are made from all words; should they ever lack one, nothing may be lost."""
    words = np.tile(np.array([1, -1, 2, 3], np.int8), (64, 64)).reshape(64, 256)
    raw = words.reshape(-1).view(np.uint8)
    fitted = gridfit.fit(raw.size, 1, 256, entropy.ANS, lambda start, stop: raw[start:stop].copy(), map)
    coder = entropy.encoder(fitted.code.coder, fitted.code.tables)
    other = raw.copy()
    other[100] = 77
    assert len(grids.encode_chunk(fitted.code, coder, raw, 0)) < len(raw) // 2
    coded = grids.encode_chunk(fitted.code, coder, other, 0)
    back = np.empty_like(raw)
    decoder = entropy.decoder(fitted.code.coder, fitted.code.tables, raw.size)
    grids.decode_chunk(fitted.code, decoder, memoryview(coded.tobytes()), 0, back)
    assert np.array_equal(back, other)
