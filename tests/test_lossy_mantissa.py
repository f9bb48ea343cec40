"""Floats of fewer bits of mantissa: what is rounded, by how much, and that the file is smaller for it."""

from __future__ import annotations

import io
from math import log2
from typing import Any

import numpy as np
import pytest

import mc
from checkpoints import build
from mc.dtypes import numpy_dtype
from mc.lossy.finite import largest_of
from mc.lossy.mantissas import bits_of, rounded
from mc.lossy.requests import Target
from mc.plan.goals import Goal
from planned import lost, piece, run, tensors

Array = np.ndarray[Any, Any]
DTYPES = "F16", "BF16", "F32"


def drawn(dtype: str, size: int = 4096) -> Array:
    """Numbers of all sizes that a type has, subnormal ones among them, zeros and the largest, as f32."""
    random, most = np.random.default_rng(0), largest_of(dtype)
    least = {"F16": 2.0**-24}.get(dtype, 2.0**-133)
    w = random.choice([-1.0, 1.0], size) * np.exp2(random.uniform(log2(least), log2(most), size))
    w[:6] = 0.0, -0.0, most, -most, least, -least
    return w.astype(numpy_dtype(dtype)).astype(np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [0, 1, 3, 5])
def test_whole_bits_round_each_weight_to_the_nearest(dtype: str, bits: int) -> None:
    w = drawn(dtype)
    found = rounded(w, 2.0**-bits, dtype).astype(np.float64)
    exponent = np.frexp(w.astype(np.float64))[1]
    unit = np.exp2(exponent - 1 - bits)
    assert np.array_equal(found.astype(numpy_dtype(dtype)).astype(np.float64), found)
    assert np.array_equal(found / unit, np.rint(found / unit)) and np.array_equal(np.signbit(found), np.signbit(w))
    held = np.abs(np.rint(w / unit) * unit) <= largest_of(dtype)
    assert (np.abs(found - w)[held] <= unit[held] / 2).all() and (np.abs(found - w) <= unit).all()
    assert held.sum() > 0.98 * w.size and not np.array_equal(found, w)


@pytest.mark.parametrize("dtype", DTYPES)
def test_error_and_bytes_go_on_without_a_leap_up_to_no_loss_at_all(dtype: str) -> None:
    w = np.random.default_rng(1).normal(size=(256, 128)).astype(numpy_dtype(dtype))
    exact = w.astype(np.float32)
    places = np.arange(2.0, bits_of(dtype) - 0.001, 0.25)
    errors = [float(np.square(rounded(exact, 2.0**-one, dtype) - exact).sum()) for one in places]
    sizes = []
    for one in places:
        near = rounded(exact, 2.0**-one, dtype).astype(numpy_dtype(dtype))
        sizes.append(len(mc.compress(build([piece("w", dtype, near)]), level="best")))
    ratios = np.array(errors[1:]) / errors[:-1]
    assert (ratios < 1 + 1e-9).all() and (ratios > 0.3).all()
    assert np.diff(sizes).max() < 0.5 / 8 * w.size
    assert np.array_equal(rounded(exact, 2.0 ** -bits_of(dtype), dtype), exact)


@pytest.mark.parametrize("dtype", [*DTYPES, "F64"])
def test_quantize_meets_limits_with_it_and_verify_states_its_error(dtype: str) -> None:
    w = np.random.default_rng(2).normal(size=(64, 96)) * np.exp2(np.arange(64) / 8)[:, None]
    data = build([piece("w", dtype, w.astype(numpy_dtype(dtype)))])
    for limit in (Target("error", 1e-3), Target("bits", 8.0)):
        out = io.BytesIO()
        report = mc.quantize(io.BytesIO(data), out, scheme="mantissa", limit=limit, pack=True, threads=1)
        (one,) = report.files[0].tensors
        found = lost(data, out.getvalue(), ["w"], "plain")
        assert one.error == pytest.approx(found, rel=1e-3) and one.scheme.startswith("mantissa of ")
        value = one.error if limit.kind == "error" else one.bits
        assert 0.99 * limit.value <= value <= limit.value
        after = tensors(out.getvalue())["w"]
        assert after.dtype == numpy_dtype(dtype)
        checked = mc.verify(io.BytesIO(out.getvalue())).files[0]
        assert checked.quantized["w"]["scheme"] == one.scheme


@pytest.mark.parametrize(("dtype", "ratio", "most"), [("BF16", 2.0, 2e-4), ("F32", 4.0, 2e-4), ("BF16", 3.0, 6e-3)])
def test_a_weight_beyond_all_scales_costs_no_other_rows(dtype: str, ratio: float, most: float) -> None:
    """One of 1e30 among weights of .02: no step of a grid reaches both. A mantissa fills what is allowed; integers with
    a scale for each row, whose bytes leap, may lose less with fewer."""
    w = np.random.default_rng(0).normal(0, 0.02, (256, 256))
    w[3, 5] = 1e30
    data = build([piece("x.weight", dtype, w.astype(numpy_dtype(dtype)))])
    report, packed = run(data, Goal("ratio", ratio))
    assert len(packed) <= len(data) / ratio and report.loss < most
    report, packed = run(data, Goal("ratio", ratio), sets=[("*", "mantissa")])
    assert 0.995 * len(data) / ratio <= len(packed) <= len(data) / ratio and report.loss < most


def test_rows_of_all_sizes_are_kept() -> None:
    scales = np.exp2(np.linspace(log2(1e-38), log2(3e37), 256))[:, None]
    w = (np.random.default_rng(0).normal(size=(256, 256)) * scales).astype("<f4")
    data = build([piece("x.weight", "F32", w)])
    for ratio, most in ((2.0, 1e-5), (4.0, 1e-2)):
        report, packed = run(data, Goal("ratio", ratio))
        assert report.loss < most and len(packed) <= len(data) / ratio
