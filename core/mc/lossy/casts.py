"""Floats of fewer bits: bf16, fp16, and fp8 in units of a scale."""

from __future__ import annotations

from typing import Any

import numpy as np

from mc.dtypes import numpy_dtype
from mc.errors import McError
from mc.schemes import Cast, Fp8

Array = np.ndarray[Any, Any]
MOST_BF16 = 3.39e38
LARGEST = {"F8_E4M3": 448.0, "F8_E5M2": 57344.0}  # OCP 8-bit floating point, table 1


def cast(w: Array, scheme: Cast) -> Array:
    """f32 rounded to the nearest of the narrower type, ties to even. McError if a number is too large for it."""
    with np.errstate(over="ignore"):
        narrow: Array = w.astype(numpy_dtype(scheme.to))
    if not np.isfinite(narrow).all():
        wider = "; bf16 holds them" if scheme.to == "F16" and np.abs(w).max() < MOST_BF16 else ""
        raise McError(f"has numbers up to {np.abs(w).max():g}, beyond what {scheme.to} holds{wider}")
    return narrow


def quantize(w: Array, scheme: Fp8, scale_dtype: str) -> tuple[Array, Array]:
    """Of f32 [rows, cols], the fp8 numbers and the scales [rows, 1] or [1], which take the largest magnitude of a row
    or of the tensor to the largest number of the type."""
    kind = numpy_dtype(scheme.to)
    largest = np.float32(LARGEST[scheme.to])
    top = np.abs(w).max(axis=1, keepdims=True) if scheme.per == "channel" else np.abs(w).max(keepdims=True)[0]
    scales = scales_of(top.astype(np.float64) / float(largest), scale_dtype)
    wide = scales.astype(np.float32)
    units = np.divide(w, wide, out=np.zeros_like(w), where=wide > 0)
    return np.clip(units, -largest, largest).astype(kind), scales


def scales_of(wanted: Array, dtype: str) -> Array:
    """Scales rounded to their dtype; McError where that has no number so large."""
    with np.errstate(over="ignore"):
        scales: Array = wanted.astype(numpy_dtype(dtype))
    if not np.isfinite(scales).all():
        raise McError(f"needs a scale of {wanted.max():g}, beyond what {dtype} holds")
    return scales


def dequantize(numbers: Array, scales: Array) -> Array:
    """f32 [rows, cols]: number x scale."""
    return numbers.astype(np.float32) * scales.astype(np.float32)
