"""Uniform steps with rate-distortion optimised rounding: at equal error fewer bits than any format of fixed rate, once
an entropy coder has had the integers (Gish and Pierce, 1968: within a quarter bit of Shannon's bound)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log
from typing import Any

import numpy as np

from mc.lossy.feedback import DAMPING, factor, fed_back, round_block
from mc.lossy.loops import MOST, powers, round_grid, scale_grid, thresholds
from mc.schemes import NARROW, Grid

Array = np.ndarray[Any, Any]
EIGHTHS = tuple(2.0 ** (k / 8) for k in range(8))  # compared with FORMAT.md's in a test
ONE, LAST = 128, 255  # the scale code that stands for 1, and the last one
HUGE = 2.0**200  # mean square of a row, from which on steps are kept small by its scale
SCALES = 64  # codes of columns, 1 being the largest scale: eight octaves
CONTEXTS, HALF = 32, 127  # of the table of code lengths
MIDDLE = 8  # the context of weights whose deviation is one step; half an octave each
SAMPLED = 1 << 15, 1 << 16  # weights, at least, from which code lengths are estimated, and then better ones
# dR/dD of a fine grid is -1 / (2 ln 2 D), with D = 1/12 in squared steps.
SLOPE = 2 * log(2) / 12
BLOCK = 64  # columns between which errors are fed back one by one
FINE = 2.0**-12  # of a frame's unit: with steps above, rows of up to a million weights stay below `loops.MOST`
STRETCH = 1 << 16  # weights whose integers are made narrow while they lie in the cache
UNCOUNTED = np.zeros((0, 0), np.int64)
LIMITS = {"I8": 127, "I16": 32767, "I32": 2**31 - 1}


@dataclass(frozen=True)
class Frame:
    """What a matrix is quantized with, whatever the step."""

    rows: Array | None  # scale codes u8 [rows]
    columns: Array | None  # [cols]
    row_power: Array  # mean squares f64 [rows]
    column_power: Array  # f64 [cols], of rows scaled to power 1
    unit: float  # that a relative step is multiplied with
    matrix: Array | None = None  # f32 [cols, cols] that errors are fed back through (`feedback.factor`)
    held: bool = False  # whether zeros stay zero, whatever is fed back

    @property
    def largest(self) -> float:
        """The absolute step that a relative one of 1 is in the largest row."""
        return self.unit if self.rows is None else self.unit * float(scale(self.rows.max()))


def at_rows(frame: Frame, picked: Array | slice) -> Frame:
    """The frame of a whole matrix for some of its rows."""
    rows = frame.rows[picked] if frame.rows is not None else None
    return replace(frame, rows=rows, row_power=frame.row_power[picked])


def scale(codes: Array) -> Array:
    """f64 of scale codes u8: EIGHTHS[k mod 8] x 2^(floor(k / 8) - 16), exactly."""
    scales: Array = np.ldexp(np.array(EIGHTHS)[codes & 7], (codes >> 3).astype(np.int32) - 16)
    return scales


def objective_of(objective: str, cols: int) -> str:
    """The objective, but that of rows for a single column: it is taken for one row, as scales of single numbers would
    say what these are."""
    return "tensor" if objective == "row" and cols == 1 else objective


def frame(w: Array, objective: str, columns: bool) -> Frame:
    """Scales for f32 [rows, cols]: none for `plain` and `tensor`, of each row's power for `row`."""
    objective = objective_of(objective, w.shape[1])
    row_power, column_power = np.empty(w.shape[0]), np.empty(w.shape[1])
    powers(w, row_power, column_power)
    unit, codes = 1.0, None
    if objective == "tensor":
        unit = float(np.sqrt(row_power.mean()))
    elif objective == "row":
        codes = _row_codes(row_power)
        unit = float(np.sqrt(row_power.max()) / scale(codes.max()))
    return Frame(codes, _codes(column_power) if columns else None, row_power, column_power, unit)


def weighed_frame(w: Array, inputs: Array) -> Frame:
    """The frame for f32 [rows, cols] that takes inputs of mean squares f32 [cols], or of Gram matrix f32 [cols, cols],
    which it takes the memory of. Rows have scales by the power of their outputs, so that the squared error of each
    output is alike relative to its power; columns by what their errors do to outputs."""
    row_power, column_power = np.empty(w.shape[0]), np.empty(w.shape[1])
    powers(w, row_power, column_power)
    matrix: Array | None = None
    if inputs.ndim == 1:
        outputs = np.square(w) @ inputs
        weights = inputs + DAMPING * float(inputs.mean())
    else:
        outputs = np.concatenate([(part @ inputs * part).sum(axis=1) for part in np.array_split(w, -(-len(w) // 512))])
        matrix, scales = factor(inputs)
        weights = np.square(scales)
    outputs = np.maximum(outputs.astype(np.float64), 0) / w.shape[1]
    inverse = np.divide(1.0, weights, out=np.ones(len(weights)), where=weights > 0)
    codes = _row_codes(outputs)
    unit = float(np.sqrt(outputs.max() * inverse.max()) / scale(codes.max()))
    return Frame(codes, _codes(inverse), row_power, column_power, unit, matrix)


def lookup_frame(w: Array) -> Frame:
    """The frame for an embedding f32 [rows, cols] that nothing is known of: a layer whose inputs are all zero but for
    one, so that its outputs are its columns. They have scales by their power, and rows have none."""
    row_power, column_power = np.empty(w.shape[0]), np.empty(w.shape[1])
    powers(w, row_power, column_power)
    outputs = np.mean(np.square(w, dtype=np.float64), axis=0)
    return Frame(None, _codes(outputs), row_power, column_power, float(np.sqrt(outputs.max())))


def _codes(power: Array) -> Array:
    """Scale codes of deviations relative to the largest; what is smaller by eight octaves or zero has the least."""
    codes: Array = np.maximum(ONE + _eighths(power), ONE - SCALES + 1).astype(np.uint8)
    return codes


def _row_codes(power: Array) -> Array:
    """The same of rows, which all codes there are reach: the moments of units that no longer learn lie 30 octaves and
    more below the others. The largest has that of 1, or as much more as the smallest needs, or as steps need to stay
    below `schemes.BEYOND`."""
    eighths = _eighths(power)
    seen = eighths[power > 0]
    least = max(float(seen.min(initial=1 - SCALES)), -float(LAST))
    top = LAST if power.max() > HUGE else ONE
    codes: Array = (max(top, -least) + np.maximum(eighths, least)).astype(np.uint8)
    return codes


def _eighths(power: Array) -> Array:
    """Deviations relative to the largest, as eighths of an octave below it; what is zero lies as far as any number."""
    largest = power.max()
    relative = np.divide(power, largest, out=np.zeros_like(power), where=largest > 0)
    eighths: Array = np.rint(4 * np.log2(np.maximum(relative, np.finfo(float).tiny)))
    return eighths


def steps_of(step: float, rows: Array | None, columns: Array | None, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Steps f64 [rows], and factors f64 [cols], or [0] where there are none."""
    steps = np.full(shape[0], step) if rows is None else step * scale(rows)
    return steps, np.empty(0) if columns is None else scale(columns)


def held_to(w: Array, of: Frame, step: float) -> float:
    """`step`, or the finest that keeps the integers of w f32 [rows, cols] within half of what loops hold: the other
    half is for errors that are fed back."""
    return step if step >= FINE * of.unit else max(step, 2 * reach(w, of) * of.unit / MOST)


def reach(w: Array, of: Frame) -> float:
    """The largest integer that a relative step of 1 makes of f32 [rows, cols]."""
    steps, factors = steps_of(of.unit, of.rows, of.columns, w.shape)
    part = w / factors if len(factors) else w
    largest = np.maximum(part.max(axis=1), -part.min(axis=1))
    widest = np.divide(largest, steps, out=np.zeros(len(w)), where=steps > 0)
    return float(widest.max())


def quantize(w: Array, of: Frame, step: float, weight: float = SLOPE) -> Array:
    """Integers of the narrowest type for f32 [rows, cols] in steps of `step` times the scales. `weight`: squared steps
    that a bit is worth; 0 rounds to the nearest."""
    return _rounded(w, of, *steps_of(step, of.rows, of.columns, w.shape), weight)


def channel_steps(w: Array, of: Frame, step: float) -> Array:
    """Steps f64 [rows, 1] like those of `quantize`, but wider where a row would need integers beyond a byte."""
    steps, _ = steps_of(step, of.rows, None, w.shape)
    wider: Array = np.maximum(steps, np.abs(w).max(axis=1) / LIMITS["I8"])
    return wider[:, None]


def quantize_channels(w: Array, of: Frame, scales: Array, weight: float = SLOPE) -> Array:
    """Integers i8, from -127 to 127, for f32 [rows, cols] in units of `scales` [rows, 1]."""
    q = _rounded(w, of, scales.astype(np.float64)[:, 0], np.empty(0), weight)
    return np.clip(q, -LIMITS["I8"], LIMITS["I8"]).astype(np.int8)


def _rounded(w: Array, of: Frame, steps: Array, factors: Array, weight: float) -> Array:
    """Integers of the narrowest type in units of steps f64 [rows] x factors f64 [cols], or [0]; code lengths come from
    some rows."""
    contexts = contexts_of(of, steps, factors)
    lengths = np.zeros((CONTEXTS, 2 * HALF + 1), np.float32)
    if weight > 0:
        for trial, sampled in zip((0.0, weight), SAMPLED, strict=True):
            every = max(1, w.size // sampled)
            counts = np.zeros(lengths.shape, np.int64)
            _round(w, of, every, steps, factors, contexts, _thresholds(lengths, trial), counts)
            lengths = _lengths(counts)
    levels = _thresholds(lengths, weight)
    if of.matrix is not None:
        return narrowest(_round(w, of, 1, steps, factors, contexts, levels, UNCOUNTED))
    q = np.empty(w.shape, _wide_enough(w, steps, factors))
    size = max(1, STRETCH // w.shape[1])
    for start in range(0, len(w), size):
        part = slice(start, start + size)
        q[part] = _round(w[part], of, 1, steps[part], factors, (contexts[0][part], contexts[1]), levels, UNCOUNTED)
    return narrowest(q)


def _thresholds(lengths: Array, weight: float) -> tuple[Array, Array]:
    lower, upper = (np.empty((lengths.shape[0], lengths.shape[1] + 2)) for _ in range(2))
    thresholds(lengths, weight, lower, upper)
    return lower, upper


def _wide_enough(w: Array, steps: Array, factors: Array) -> str:
    """The narrowest of NARROW that holds all weights, each rounded to the nearest integer in its step."""
    least = np.minimum(steps * (factors.min() if len(factors) else 1), np.finfo(np.float32).max).astype(np.float32)
    largest = np.maximum(w.max(axis=1), -w.min(axis=1)).astype(np.float64)
    units = np.divide(largest, least, out=np.zeros(len(w)), where=least > 0)
    return _of_limit(min(float(units.max()) + 1, LIMITS["I32"]))


def narrowest(q: Array) -> Array:
    """The same integers in the narrowest type that holds them."""
    return q.astype(_of_limit(max(int(q.max()), -int(q.min()))), copy=False)


def _of_limit(most: float) -> str:
    kind = next(kind for kind in NARROW if most <= LIMITS[kind])
    return f"<i{int(kind[1:]) // 8}"


def _round(
    w: Array, of: Frame, every: int, steps: Array, factors: Array, contexts: tuple[Array, Array],
    levels: tuple[Array, Array], counts: Array,
) -> Array:  # fmt: skip
    """Integers i32 of one row of `every`; adds to counts, if it has any room, how often each came."""
    q = np.empty((-(-len(w) // every), w.shape[1]), np.int32)
    if of.matrix is None:
        round_grid(w, every, steps, factors, contexts, *levels, q, counts)
        return q
    w, steps, contexts = w[::every], steps[::every], (contexts[0][::every], contexts[1])

    def rounding(aims: Array, inner: Array, start: int, errors: Array) -> None:
        round_block(w, of.held, steps, factors, contexts, *levels, q, counts, aims, inner, start, errors)

    fed_back(w, of.matrix, BLOCK, rounding)
    return q


def contexts_of(of: Frame, steps: Array, factors: Array) -> tuple[Array, Array]:
    """Classes i64 [rows] and [cols], half an octave each, whose sum is a weight's context: MIDDLE where its deviation
    is one step."""
    tiny = np.finfo(float).tiny
    rows = np.log2(np.maximum(of.row_power, tiny)) - 2 * np.log2(np.maximum(steps, tiny))
    columns = np.log2(np.maximum(of.column_power, tiny))
    if len(factors):
        columns -= 2 * np.log2(factors)
    kept = 4 * CONTEXTS  # beyond any, so that the sum of both is cut and not wrapped
    return tuple(np.clip(np.rint(one), -kept, kept).astype(np.int64) for one in (rows + MIDDLE, columns))  # type: ignore[return-value]


def _lengths(counts: Array) -> Array:
    """Bits of each integer in each context; a context that wasn't seen has those of all together."""
    seen = counts + (counts.sum(axis=0) + 1) / max(counts.sum(), 1)
    lengths: Array = (np.log2(seen.sum(axis=1, keepdims=True)) - np.log2(seen)).astype(np.float32)
    return lengths


def narrow(q: Array) -> str:
    """The dtype of integers as `quantize` returns them."""
    return f"I{8 * q.itemsize}"


def dequantize(q: Array, scheme: Grid, rows: Array | None, columns: Array | None) -> Array:
    """f32 [rows, cols]: q x f32(step x row x column)."""
    out = np.empty(q.shape, np.float32)
    steps, factors = steps_of(scheme.step, rows, columns, q.shape)
    scale_grid(q, steps, factors, out)
    return out
