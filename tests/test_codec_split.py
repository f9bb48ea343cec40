"""Floats that are narrower than their type are coded as narrow as they are, whatever bits a few of them have below."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mc
from anatomy import dissect
from checkpoints import Piece, build
from mc.codec import split
from mc.codec.planes import GEOMETRIES

Array = np.ndarray[Any, Any]
LEVELS: tuple[Any, ...] = ("fast", "default", "best")
WIDTHS = {"F16": 2, "BF16": 2, "F32": 4, "C64": 4, "F64": 8}  # bytes a word


def weights(seed: int = 0) -> Array:
    draw = np.random.default_rng(seed)
    found: Array = draw.normal(0, 0.05, (300, 256)) * np.exp2(draw.normal(0, 0.5, (300, 1)))
    return found


def packed(dtype: str, values: Array, level: Any = "default") -> int:
    """Bytes of the packed tensor."""
    data = build([Piece("w", dtype, values.shape, values.tobytes())])
    found = mc.compress(data, level=level, threads=1)
    assert mc.decompress(found, threads=1) == data
    return len(found)


def coding(dtype: str, values: Array) -> str:
    data = build([Piece("w", dtype, values.shape, values.tobytes())])
    named: str = dissect(mc.compress(data, threads=1)).manifest["tensors"]["w"][2]
    return named


@pytest.mark.parametrize("level", LEVELS)
def test_bfloat16_in_float16_takes_about_what_bfloat16_does(level: Any) -> None:
    narrow = weights().astype(ml_dtypes.bfloat16)
    wide = narrow.astype(np.float16)
    some = np.abs(wide) < 6.2e-5  # subnormal in float16: their low bits aren't zero
    assert some.any()
    assert packed("F16", wide, level) < 1.02 * packed("BF16", narrow, level)


@pytest.mark.parametrize("zeros", [1, 5, 7, 8, 11])
def test_zero_bits_at_the_end_of_float32_cost_nothing(zeros: int) -> None:
    whole = weights().astype(np.float32)
    words = whole.view(np.uint32) & np.uint32(0xFFFFFFFF << zeros & 0xFFFFFFFF)
    words.flat[::5000] |= np.uint32(1)
    assert packed("F32", words.view(np.float32)) < packed("F32", whole) - whole.size * (zeros - 0.3) / 8


def test_eight_bit_floats_in_bfloat16_take_about_what_they_do_alone() -> None:
    eight = (weights() * 8).astype(ml_dtypes.float8_e4m3fn)
    assert packed("BF16", eight.astype(ml_dtypes.bfloat16)) < 1.03 * packed("F8_E4M3", eight)


def test_words_that_use_all_their_bits_are_not_cut() -> None:
    for dtype, kind in (("F32", np.float32), ("F16", np.float16), ("F64", np.float64), ("BF16", ml_dtypes.bfloat16)):
        assert not coding(dtype, weights().astype(kind)).startswith("split")


def test_rows_of_narrow_numbers_among_others_are_not_cut() -> None:
    rows = weights().astype(np.float32)
    rows[::2] = rows[::2].astype(np.float16)
    assert not coding("F32", rows).startswith("split")


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(sorted(WIDTHS)),
    seed=st.integers(0, 1 << 30),
    share=st.sampled_from([0.0, 0.001, 0.5]),
    data=st.data(),
)
def test_cut_words_come_back(dtype: str, seed: int, share: float, data: st.DataObject) -> None:
    geometry, draw = GEOMETRIES[dtype], np.random.default_rng(seed)
    taken = data.draw(st.integers(0 if geometry.tails else 1, min(geometry.mantissa - split.FEWEST, 8)))
    words = draw.integers(0, 1 << 8 * WIDTHS[dtype] - 1, 4000, dtype=f"u{WIDTHS[dtype]}")
    low = words & words.dtype.type((1 << 16 * geometry.tails + taken) - 1)
    words ^= np.where(draw.random(4000) < share, 0, low)
    raw = words.view(np.uint8)
    back = np.empty_like(raw)
    split.join(*split.cut(raw, geometry, taken), geometry, back)
    assert (back == raw).all()
    whole = build([Piece("w", dtype, (len(raw) // (8 if dtype in ("F64", "C64") else WIDTHS[dtype]),), raw.tobytes())])
    assert mc.decompress(mc.compress(whole, threads=1), threads=1) == whole


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize(("rows", "cols"), [(64, 66), (2000, 3), (300, 96)])
def test_columns_of_zeros_may_lie_wherever_is_looked(dtype: str, rows: int, cols: int) -> None:
    values = np.random.default_rng(0).normal(size=(rows, cols)).astype(np.float32)
    values[:, ::3] = 0
    for level in LEVELS:
        packed(dtype, values if dtype == "F32" else values.astype(ml_dtypes.bfloat16), level)
