"""Limits met: bits used up at any rate, and what no step can meet."""

from __future__ import annotations

import io
from collections.abc import Callable
from math import inf
from typing import Any

import numpy as np
import pytest

import mc
from mc.errors import LimitError, UsageError
from mc.lossy.requests import Request, Target, parse_request
from mc.lossy.targets import finest_step
from mc.plan.goals import Goal

Built = Callable[..., bytes]


def quantized(data: bytes, scheme: str | Request, bits: float) -> tuple[Any, bytes]:
    """What is reported of bits as they were asked for, and the file."""
    out = io.BytesIO()
    report = mc.quantize(io.BytesIO(data), out, scheme=scheme, limit=Target("bits", bits), threads=1)
    return report.files[0], out.getvalue()


@pytest.mark.parametrize("scheme", ["grid", "trellis"])
@pytest.mark.parametrize(("bits", "kind"), [(7.0, "I8"), (10.0, "I16"), (20.0, "I32")])
def test_bits_are_used_up_by_integers_of_any_type(built: Built, scheme: str, bits: float, kind: str) -> None:
    w = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    file, data = quantized(built({"w": ("F32", w)}), scheme, bits)
    assert 0.99 * bits < file.bits <= bits
    assert file.error < 16 * 2.0 ** (-2 * bits)
    with mc.open(data) as stored:
        assert stored.dtype("w") == kind


@pytest.mark.parametrize("scheme", ["grid", "trellis"])
def test_more_bits_than_weights_have_are_not_used(built: Built, scheme: str) -> None:
    w = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    file, _ = quantized(built({"w": ("F32", w)}), scheme, 32)
    assert 20 < file.bits <= 32 and file.error < 1e-13


def test_steps_beyond_the_type_of_scales_are_no_other_fault(built: Built) -> None:
    w = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float16)
    with pytest.raises(LimitError):
        quantized(built({"a.weight": ("F16", w)}), Request(**{**vars(parse_request("grid")), "standard": True}), 3)


def test_a_size_below_what_zeros_take_is_given_up_soon() -> None:
    tried: list[float] = []

    def size(step: float) -> float:
        tried.append(step)
        return 1000 + 4000 / (1 + step) if step < 100 else 1000

    assert finest_step(size, 900, 1000, 0.3, 1e-9) == (inf, 1000)
    assert len(tried) < 12
    found, _ = finest_step(size, 1100, 1000, 0.3, 1e-9)
    assert 0.995 * 1100 <= size(found) <= 1100


@pytest.mark.parametrize("shape", [(600, 512), (3, 40000), (40000, 3)])
@pytest.mark.parametrize("limit", [0.0007, 0.03, 0.4])
def test_the_error_of_each_tensor_is_just_below_its_limit(built: Built, shape: tuple[int, int], limit: float) -> None:
    rng = np.random.default_rng(0)
    w = (rng.normal(size=shape) * np.exp(rng.normal(size=(shape[0], 1)))).astype(np.float32)
    report = mc.quantize(
        io.BytesIO(built({"w": ("F32", w)})), io.BytesIO(), scheme="grid", limit=Target("error", limit), threads=1
    )
    assert 0.995 * limit <= report.files[0].error <= limit


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, -1])
def test_what_is_no_number_is_no_limit(value: float) -> None:
    for limit in (lambda: Target("error", value), lambda: Goal("bits", value)):
        with pytest.raises(UsageError, match="a number above 0"):
            limit()
