"""Floats with fewer bits of mantissa, in their own type: what an error relative to each weight by itself takes, where
weights or rows differ by more than steps of a grid reach. The lossless coder leaves out the bits that are zero.

Between two numbers of bits, the last bit is set only where a weight is near to what it then means, so that its entropy
and the error go from one to the other without a leap."""

from __future__ import annotations

from math import floor, log2
from typing import Any

import numpy as np

from mc.lossy.finite import largest_of

Array = np.ndarray[Any, Any]
BITS = {"F16": 10, "BF16": 7}  # of the mantissa; of wider types those of f32, in which we calculate
WIDE = 52  # bits of the mantissa of f64, in which no f32 is subnormal
FINEST, WIDEST = 2.0**-WIDE, 1.0  # steps: with finer ones all stays as it is, with wider ones no less does
BLOCK = 1 << 16  # weights at once
GOLDEN = 0.6180339887498949  # whose multiples are spread evenly


def bits_of(dtype: str) -> int:
    """Of the mantissa of a tensor's dtype."""
    return BITS.get(dtype, 23)


def rounded(w: Array, step: float, dtype: str) -> Array:
    """f32 of w f32 of any shape, with -log2(`step`) bits of mantissa, none for a step of 1 or more; what the dtype has
    no more of stays as it is. A weight of the dtype stands for all numbers that round to it, evenly spread by its
    place: else the last bits would come all at once."""
    bits = max(-log2(step), 0.0)
    if bits >= bits_of(dtype):
        return w
    whole = floor(bits)
    share = (bits - whole) ** 2 / 2  # of all numbers, those that the last bit is set for
    unit, half = np.uint64(1 << WIDE - whole), np.uint64(1 << WIDE - whole - 1)
    spread = 2.0 ** (whole - bits_of(dtype))
    flat, out = w.reshape(-1), np.empty(w.size, np.float32)
    for at in range(0, w.size, BLOCK):
        block = flat[at : at + BLOCK]
        words = np.abs(block.astype(np.float64)).view(np.uint64)
        lower = words & ~(unit - np.uint64(1))
        places = np.arange(at, at + len(block)) * GOLDEN
        above = (words - lower) / float(unit) + spread * (places - np.floor(places) - 0.5)
        upwards = np.where(above < 0.5, np.uint64(0), unit)
        near = lower + np.where(np.abs(above - 0.5) < share / 2, half, upwards)
        near = np.where(near.view(np.float64) <= largest_of(dtype), near, lower)
        out[at : at + BLOCK] = np.copysign(near.view(np.float64), block)
    return out.reshape(w.shape)
