"""Integers of two to eight bits in units of a scale for each group of columns, as compressed-tensors packs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mc.dtypes import numpy_dtype
from mc.lossy.casts import scales_of
from mc.lossy.loops import TRIES, group_scales, pack_bits, round_groups, scale_groups, unpack_bits
from mc.schemes import Int

Array = np.ndarray[Any, Any]
ABSMAX = np.empty(0)
# Of the absmax scale, among which the squared error is least; twice as many make it half a per cent less.
SHRINKS = np.linspace(1.0, 0.4, TRIES)


@dataclass(frozen=True)
class Packed:
    """What is stored of f32 [rows, cols]."""

    words: Array  # i32 [rows, ceil(cols x bits / 32)]
    scales: Array  # [rows, groups]
    points: Array | None  # i32 [ceil(rows x bits / 32), groups]


def quantize(w: Array, scheme: Int, scale_dtype: str, least_error: bool) -> Packed:
    """Integers of f32 [rows, cols], with scales that span each group's range, or with those of least squared error."""
    rows, cols = w.shape
    group = scheme.group or cols
    wanted = np.empty((rows, -(-cols // group)), np.float32)
    group_scales(w, group, scheme.bits, scheme.symmetric, SHRINKS if least_error else ABSMAX, wanted)
    scales = scales_of(wanted, scale_dtype)
    points = np.zeros((0 if scheme.symmetric else rows, wanted.shape[1]), np.int8)
    q = np.empty((rows, cols), np.int8)
    round_groups(w, group, scheme.bits, scheme.symmetric, scales.astype(np.float32), points, q)
    below = None if scheme.symmetric else np.ascontiguousarray(_words(np.ascontiguousarray(points.T), scheme.bits).T)
    return Packed(_words(q, scheme.bits), scales, below)


def dequantize(packed: Packed, scheme: Int, shape: tuple[int, int]) -> Array:
    """f32 [rows, cols]: (q - zero point) x scale."""
    rows, cols = shape
    q = np.empty(shape, np.int8)
    unpack_bits(_unsigned(packed.words), scheme.bits, q)
    points = np.zeros((0, packed.scales.shape[1]), np.int8)
    if packed.points is not None:
        down = np.empty((packed.scales.shape[1], rows), np.int8)
        unpack_bits(_unsigned(np.ascontiguousarray(packed.points.T)), scheme.bits, down)
        points = np.ascontiguousarray(down.T)
    out = np.empty(shape, np.float32)
    scale_groups(q, scheme.group or cols, packed.scales.astype(np.float32), points, out)
    return out


def _words(q: Array, bits: int) -> Array:
    words = np.empty((q.shape[0], -(-q.shape[1] * bits // 32)), np.uint32)
    pack_bits(q, bits, words)
    return words.view(np.int32)


def _unsigned(words: Array) -> Array:
    return words.astype(numpy_dtype("I32"), copy=False).view(np.uint32)
