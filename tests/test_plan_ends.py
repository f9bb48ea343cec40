"""Numbers at the ends of their types, and goals beyond all numbers: something is still chosen."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from checkpoints import build
from mc.dtypes import numpy_dtype
from mc.errors import LimitError, McError
from mc.lossy.finite import largest_of
from mc.plan.goals import Goal
from planned import layered, piece, run, tensors

Array = np.ndarray[Any, Any]


def typed(w: Array, dtype: str) -> bytes:
    return build([piece("x.weight", dtype, w.astype(numpy_dtype(dtype)))])


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("ratio", [2.0, 6.0])
@pytest.mark.parametrize("scheme", ["auto", "grid", "trellis"])
def test_weights_up_to_the_end_of_their_type_stay_finite(dtype: str, ratio: float, scheme: str) -> None:
    random, most = np.random.default_rng(0), largest_of(dtype)
    w = np.clip(random.normal(0, most / 3, (128, 128)), -most, most)
    w[:, :2] = most, -most
    data = typed(w, dtype)
    report, packed = run(data, Goal("ratio", ratio), sets=[("*", scheme)])
    after = tensors(packed)["x.weight"]
    assert np.isfinite(after.astype(np.float32)).all() and len(packed) <= len(data) / ratio
    assert report.loss < (1e-4 if ratio == 2 else 0.1)


def test_a_cast_that_some_weight_is_beyond_is_no_candidate() -> None:
    """One row of many, which no sample of rows is likely to have."""
    w = np.random.default_rng(0).normal(size=(4096, 64))
    w[-1, 0] = 7e4
    report, _ = run(typed(w, "F32"), Goal("error", 1e-7))
    assert report.plan["tensors"]["x.weight"]["as"] != "fp16"


@pytest.mark.parametrize("alpha", [1e3, 1e308])
def test_an_alpha_beyond_all_losses_gives_the_smallest_file(alpha: float) -> None:
    report, packed = run(layered(), Goal("alpha", alpha))
    with pytest.raises(LimitError) as refused:
        run(layered(), Goal("size", 100))
    least = int(re.findall(r"found to take is (\d+) bytes", str(refused.value))[0])
    assert least - 32 <= len(packed) <= least + 32  # a file says what its goal was
    assert report.loss > 0.9


def test_an_alpha_next_to_nothing_loses_nothing() -> None:
    report, _ = run(layered(), Goal("alpha", 1e-308))
    assert report.loss == 0


def apart(decades: float) -> Array:
    """Rows of 128 numbers that differ by so many powers of ten."""
    random = np.random.default_rng(0)
    return random.normal(size=(256, 128)) * 10.0 ** random.uniform(-decades / 2, decades / 2, (256, 1))


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
@pytest.mark.parametrize("decades", [15, 50])
def test_rows_beyond_the_scales_of_a_grid_are_no_worse_off_than_with_integers(dtype: str, decades: int) -> None:
    data = typed(apart(decades), dtype)
    single, packed = run(data, Goal("alpha", 1e-3), sets=[("*", "int4")])
    report, smaller = run(data, Goal("size", len(packed) + 200))  # what another row of the plan takes
    assert single.loss < 0.02 and report.loss < 1.02 * single.loss and len(smaller) <= len(packed) + 200


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_one_weight_beyond_all_others_costs_only_its_row(dtype: str) -> None:
    w = np.random.default_rng(0).normal(0, 0.02, (256, 128))
    w[100, 100] = 1e30
    report, _ = run(typed(w, dtype), Goal("bits", 4))
    assert report.loss < 0.1


def test_numbers_that_f32_has_nothing_of_stay_as_they_are() -> None:
    w = np.random.default_rng(0).normal(size=(64, 64))
    w[3] *= 1e-100
    data = typed(w, "F64")
    report, packed = run(data, Goal("error", 1e-3))
    assert report.plan["tensors"] == {} and np.array_equal(tensors(packed)["x.weight"], w)
    with pytest.raises(McError, match="1 row of numbers too small for f32"):
        run(data, Goal("error", 1e-3), sets=[("*", "grid")])


def test_what_f64_loses_when_rounded_to_f32_is_stated() -> None:
    w = np.random.default_rng(0).normal(size=(64, 64))
    report, packed = run(typed(w, "F64"), Goal("alpha", 1e-3), sets=[("*", "mantissa")])
    after = tensors(packed)["x.weight"]
    assert report.loss >= ((w - after) ** 2).sum() / (w**2).sum()
