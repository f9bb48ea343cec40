"""Limits met: bits used up at any rate, and what no step can meet."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mc
from mc.errors import LimitError, UsageError
from mc.lossy.requests import Request, Target, parse_request
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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, -1])
def test_what_is_no_number_is_no_limit(value: float) -> None:
    for limit in (lambda: Target("error", value), lambda: Goal("bits", value)):
        with pytest.raises(UsageError, match="a number above 0"):
            limit()
