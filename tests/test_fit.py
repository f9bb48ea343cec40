"""What is looked at before a float tensor is coded: a sample of its rows, the symbols in it, arrays for its head."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save

import mc
from mc.codec import arrays, choose, fit, scales, symbols, tables
from mc.codec.compiled import njit
from mc.codec.fields import Reader, write_array
from mc.codec.matrix import Matrix, measure, sampled
from mc.codec.planes import GEOMETRIES

Array = np.ndarray[Any, Any]
ROWS = 40
BF16 = GEOMETRIES["BF16"]


def weights(rows: int, cols: int) -> Array:
    """bf16 words, u16, of rows and columns that differ in scale."""
    random = np.random.default_rng(rows + cols)
    power = random.normal(0, 0.7, (rows, 1)) + random.normal(0, 0.7, (1, cols))
    values = (random.normal(0, 0.02, (rows, cols)) * np.exp2(power)).astype("<f4")
    return (values.view("<u4") >> 16).astype("<u2").reshape(-1)


@pytest.mark.parametrize("cols", [64, 200, 384, 385])
@pytest.mark.parametrize("context", ["alone", "rows", "both"])
def test_symbols_of_a_sample_are_counted_as_they_are_coded(cols: int, context: str) -> None:
    words, random = weights(ROWS, cols), np.random.default_rng(cols)
    rows = np.full(ROWS, 950, np.int16) if context == "alone" else random.integers(900, 1000, ROWS).astype(np.int16)
    columns = random.integers(-20, 20, cols).astype(np.int16) if context == "both" else symbols.EMPTY_SCALES
    order, starts = symbols.EMPTY_WORDS, symbols.EMPTY_COUNTS
    if context == "both":
        order, starts = scales.column_order(columns)
    many = 1 if context == "alone" else 4
    window = np.array([1, symbols.ESCAPE - 1], np.uint16)
    counts = np.zeros((many, 256), np.int64)
    symbols.tally(words, cols, 5, 2, None, window, rows, columns, counts)

    sizes, cursor, out = np.empty(many, np.int64), np.empty(many, np.int64), np.empty(len(words), np.uint8)
    njit(lambda *arguments: symbols.take_apart(*arguments))(
        words, cols, 5, 0, 2, None, window, rows, columns, order, starts, sizes, cursor, np.empty(cols, np.uint16),
        np.empty(cols, np.uint8), out, np.empty(len(words), np.uint8), np.empty(ROWS, np.int32),
    )  # fmt: skip
    assert (counts == tables.histogram(out, sizes)).all() and counts.sum() == len(words)


@pytest.mark.parametrize("cols", [64, 200, 384, 1000])
@pytest.mark.parametrize("apart", [1, 2, 3])
def test_a_sample_has_every_piece_in_so_many_of_its_rows(cols: int, apart: int) -> None:
    words, first, stride = weights(ROWS, cols), 7, 3
    whole = Matrix(BF16, len(words), cols, 2, 1, stride, apart, 0)
    found = measure(whole, words, first)
    taken = words.reshape(ROWS, cols)[np.arange(first, first + ROWS) % stride == 0]
    picked = np.arange(cols) // scales.PIECE % apart == 0
    assert whole.sampled_cols == picked.sum()
    assert (found.sample == taken[:, picked].reshape(-1)).all()
    assert (sampled(np.arange(cols, dtype=np.int16), apart) == np.flatnonzero(picked)).all()


@pytest.mark.parametrize("mantissa", [0, 2])
def test_what_lies_just_beside_a_sample_has_codes_where_symbols_are_octaves(mantissa: int) -> None:
    shape, words = (256, 1024), weights(256, 1024)
    effort = fit.EFFORTS["fast"] if mantissa == 0 else fit.EFFORTS["default"]
    raw = words.view(np.uint8)
    found = fit.fit(BF16, shape, len(words), lambda start, stop: raw[start:stop], effort, map)
    assert found.code.mantissa == mantissa
    seen = np.flatnonzero((found.counts > 1).any(axis=0))
    coded = np.flatnonzero((found.code.tables.numbers > 0).any(axis=0))[1:-1]  # without those below and the escape
    beside = 0 if mantissa else 1
    assert coded[0] <= seen[seen > 0].min() - beside and coded[-1] >= seen[seen < 255].max() + beside


@pytest.mark.parametrize(
    "values, way",
    [
        ([], arrays.PLAIN), ([7], arrays.SAME), ([7] * 5000, arrays.SAME), (list(range(256)), arrays.PLAIN),
        ([1, 2] * 10, arrays.PLAIN), ([1, 2, 3, 3] * 100, arrays.CODED), ([1, 2, 3, 3] * 3000, arrays.CODED),
    ],
)  # fmt: skip
def test_an_array_stands_in_the_shortest_of_three_ways(values: list[int], way: int) -> None:
    given = np.array(values, np.uint8)
    written = write_array(given)
    assert written[0] == way and len(written) <= 1 + len(values)
    reader = Reader(memoryview(written))
    assert (reader.array(len(values)) == given).all()
    reader.end()


@pytest.mark.parametrize("period", [2, 3, 4, 6, 9, 12])
@pytest.mark.parametrize("level", ["default", "best"])
def test_rows_that_differ_by_a_period_have_tables_as_good_as_if_they_were_shuffled(period: int, level: str) -> None:
    """As heads do, or queries, keys and values side by side: the sample holds rows of every kind."""
    random, shape = np.random.default_rng(period), (768, 1568)
    number = np.arange(shape[0])
    power = np.where(number % period == 0, (1 + number // period % 3) / 4, 0)  # octaves
    values = (random.normal(size=shape) * np.exp2(power)[:, None]).astype("<f4")

    def packed(rows: Array) -> int:
        raw = rows.reshape(-1).view(np.uint8)
        raw.flags.writeable = False
        coded = choose.code("F32", shape, len(raw), lambda start, stop: raw[start:stop], level, map)
        empty = np.empty(0, np.uint8)
        return sum(len(coded.encode(k, raw[start:stop], empty)) for k, (start, stop) in enumerate(coded.spans))

    assert packed(values) < 1.001 * packed(random.permutation(values))


@pytest.mark.parametrize("shape", [(100,), (1024,), (64, 64)])
def test_best_is_no_larger_than_default_on_a_file_of_small_tensors(shape: tuple[int, ...]) -> None:
    """The tables of its coder are twice as long, which is much of so few weights."""
    rng = np.random.default_rng(11)
    data = save({f"tensor {i}": rng.normal(0, 0.02, shape).astype(ml_dtypes.bfloat16) for i in range(200)})
    assert len(mc.compress(data, level="best")) <= len(mc.compress(data)) + 64
