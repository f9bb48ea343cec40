"""Trellis-coded quantization for the entropy coder: a fifth of a bit below a grid of equal error, an eighth above
Shannon's bound.

Weights lie on one of two interleaved lattices, two steps wide each, in turns that the integers of the row before them
decide; so neighbours share what a finer lattice would cost.
"""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np

from mc.codec.trellis import MACHINES
from mc.lossy import grids
from mc.lossy.feedback import fed_back
from mc.lossy.grids import CONTEXTS, HALF, MIDDLE, Frame
from mc.lossy.walks import unwalk, walk, walk_block
from mc.schemes import Trellis

Array = np.ndarray[Any, Any]
NONE = np.empty(0)
# Of the fine trellis: (2 steps)^2 / 12, less the gain of about one decibel; and dR/dD = -1 / (2 ln 2 D) there.
DISTORTION = 4 / 12 / 1.26
SLOPE = 2 * log(2) * DISTORTION
STEEPEST = 1.5  # times SLOPE, where the error nears the weights' own power: a fiftieth of a bit at half a bit a weight
AS_GRID = (1 / 12 / DISTORTION) ** 0.5  # steps, in those of a grid with this squared error
SAMPLED = (1 << 14, 1 << 15, 1 << 17)  # weights, at least, of the rounds in which code lengths are estimated
BLOCK = 128  # columns between which survivors have errors of their own fed back
TRUST = 4.0  # counts that the model is worth beside those that were counted


def quantize(w: Array, of: Frame, step: float, states: int, weights: Array = NONE) -> Array:
    """Integers of the narrowest type for f32 [rows, cols] in steps of `step` times the scales of the frame. weights f64
    [cols]: that squared errors of columns are multiplied with, 1 on average, none for all 1."""
    q = np.empty(w.shape, np.int32)
    steps, factors = grids.steps_of(step, of.rows, of.columns, w.shape)
    slope = _slope(of, steps, factors)
    contexts, lengths = _lengths(w, of, steps, factors, states, weights, slope, q, 1)
    counts = np.zeros(lengths.shape, np.int64)
    _walk(w, of, 1, steps, factors, weights, contexts, lengths, slope, states, q, counts)
    return grids.narrowest(q)


def estimate(
    w: Array, of: Frame, step: float, states: int, every: int, weights: Array = NONE
) -> tuple[float, float, float]:
    """Of one row of `every`: squared error, squares, and bits by the entropy of the integers in their contexts.
    weights: see `quantize`; the error doesn't have them."""
    q = np.empty(w.shape, np.int32)
    steps, factors = grids.steps_of(step, of.rows, of.columns, w.shape)
    slope = _slope(of, steps, factors)
    contexts, lengths = _lengths(w, of, steps, factors, states, weights, slope, q, every)
    counts = np.zeros(lengths.shape, np.int64)
    error, power = _walk(w, of, every, steps, factors, weights, contexts, lengths, slope, states, q, counts)
    return error, power, _entropy(q[::every], counts)


def tried(w: Array, of: Frame, step: float, states: int) -> tuple[Array, Array, float, float]:
    """What f32 [rows, cols] come back as, f32, and their integers; bits as of `estimate`, and by how much these are too
    few (`unseen`). Code lengths come from one quick round."""
    q = np.empty(w.shape, np.int32)
    steps, factors = grids.steps_of(step, of.rows, of.columns, w.shape)
    slope = _slope(of, steps, factors)
    contexts, lengths = _lengths(w, of, steps, factors, states, NONE, slope, q, 1, SAMPLED[:1])
    counts = np.zeros(lengths.shape, np.int64)
    _walk(w, of, 1, steps, factors, NONE, contexts, lengths, slope, states, q, counts)
    out = np.empty(w.shape, np.float32)
    unwalk(q, steps, factors, MACHINES[states], out)
    return out, grids.narrowest(q), _entropy(q, counts), unseen(counts)


def unseen(counts: Array) -> float:
    """Bits that an entropy is too low by where symbols [..., symbols] were counted in a sample (Miller, 1955): half of
    log2 e for each that came, and is free to."""
    came = counts > 0
    return float(came.sum() - came.any(axis=-1).sum()) * 0.5 / log(2)


def _entropy(q: Array, counts: Array) -> float:
    """Bits of integers i32 that were counted so in their contexts."""
    sums = counts.sum(axis=2, keepdims=True)
    bits = float((counts * (np.log2(np.maximum(sums, 1)) - np.log2(np.maximum(counts, 1)))).sum())
    # All beyond the table were counted as one; else ever finer steps would seem to take ever fewer bits.
    beyond = np.abs(q.astype(np.float64))
    return bits + float(np.log2(2 * beyond[beyond > HALF] + 1).sum())


def _walk(
    w: Array, of: Frame, every: int, steps: Array, factors: Array, weights: Array, contexts: tuple[Array, Array],
    lengths: Array, slope: float, states: int, q: Array, counts: Array,
) -> tuple[float, float]:  # fmt: skip
    """`walks.walk`, with feedback if the frame has it: `weights` aren't for that."""
    machine = MACHINES[states]
    if of.matrix is None:
        error, power = walk(w, every, steps, factors, weights, contexts, lengths, slope, machine, states, q, counts)
        return error, power
    w, steps, q, contexts = w[::every], steps[::every], q[::every], (contexts[0][::every], contexts[1])
    begun = np.zeros(len(w), np.int64)

    def rounding(aims: Array, inner: Array, start: int, errors: Array) -> None:
        walk_block(
            w, steps, factors, contexts, lengths, slope, machine, states, q, counts, begun, aims, inner, start, errors
        )

    errors = fed_back(w, of.matrix, BLOCK, rounding)
    return float(np.square(errors, dtype=np.float64).sum()), float(np.square(w, dtype=np.float64).sum())


def _slope(of: Frame, steps: Array, factors: Array) -> float:
    """Squared steps that a bit is worth: more where the steps are wide for the weights, since what a bit saves in error
    grows less there."""
    power = float(of.row_power.sum())
    squares = float((steps**2).sum()) * (float((factors**2).mean()) if len(factors) else 1.0)
    return SLOPE * min(1 + DISTORTION * squares / power, STEEPEST) if power else SLOPE


def _lengths(
    w: Array, of: Frame, steps: Array, factors: Array, states: int, weights: Array, slope: float, q: Array, every: int,
    rounds: tuple[int, ...] = SAMPLED,
) -> tuple[tuple[Array, Array], Array]:  # fmt: skip
    """Contexts of rows and columns, and code lengths f32 [contexts, 2, 2 h + 1] that fit what comes of them: estimated
    from a model at first, then from walks of ever more rows; never of others than one of `every`."""
    contexts = grids.contexts_of(of, steps, factors)
    model = _model()
    lengths = -np.log2(model).astype(np.float32)
    for sampled in rounds:
        counts = np.zeros(lengths.shape, np.int64)
        rows = max(every, w.size // sampled // every * every)
        _walk(w, of, rows, steps, factors, weights, contexts, lengths, slope, states, q, counts)
        seen = counts + TRUST * model
        lengths = (np.log2(seen.sum(axis=2, keepdims=True)) - np.log2(seen)).astype(np.float32)
        if rows == every:
            break
    return contexts, lengths


def _model() -> Array:
    """Probabilities f64 [contexts, 2, 2 h + 1] of integers, were weights Laplacian with the context's deviation."""
    deviation = np.maximum(2.0 ** ((np.arange(CONTEXTS) - MIDDLE) / 2), 0.4)
    values = 2.0 * np.arange(-HALF, HALF + 1) + np.arange(2)[:, None]
    p = np.exp(np.maximum(-np.abs(values) * 2**0.5 / deviation[:, None, None], -40.0))
    found: Array = p / p.sum(axis=2, keepdims=True)
    return found


def dequantize(q: Array, scheme: Trellis, rows: Array | None, columns: Array | None) -> Array:
    """f32 [rows, cols]: what the integers stand for, times step x row x column."""
    out = np.empty(q.shape, np.float32)
    steps, factors = grids.steps_of(scheme.step, rows, columns, q.shape)
    unwalk(q, steps, factors, MACHINES[scheme.states], out)
    return out
