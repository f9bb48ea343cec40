"""What can be done to a tensor, each with the bytes and the loss that it is expected to have.

A kind of candidate is one function: a sample of a tensor in, points of rate and loss out. Those with a step give a
ladder of steps, half an octave apart, between which rate and loss are interpolated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod, sqrt
from typing import Any

import numpy as np

from mc import blob
from mc.analysis.predict import tensor_bytes
from mc.checkpoint import Tensor
from mc.dtypes import numpy_dtype
from mc.errors import McError
from mc.lossy import arrays, grids, trellises
from mc.lossy.grids import Frame
from mc.lossy.recipe import WEIGHED
from mc.lossy.requests import Request
from mc.lossy.schemes import parts
from mc.plan.losses import loss

Array = np.ndarray[Any, Any]
WIDEST, FINEST = 4, -14  # octaves of a step relative to the weights' deviation
EVERY = 2  # steps an octave that are tried
FINE = 8  # steps between two of them that are interpolated
TABLE = 24  # bytes of a code table, about
MOST_ESCAPES = 0.02  # share of integers without a symbol, from which on planes are cheaper
SCALE = 0.75  # bytes of a scale or context in the head, about


@dataclass(frozen=True)
class Sample:
    """Some rows of a tensor, and what is known of all of it."""

    tensor: Tensor
    w: Array  # f32 [rows, cols], the rows picked
    rows: int  # of the whole tensor
    frames: dict[str, tuple[str, Frame]]  # by kind with steps, of the whole with scales and powers of the rows picked
    objective: str
    inputs: Array | None  # of the layer: mean squares f32 [cols], or the Gram matrix f32 [cols, cols]
    weight: float  # what losses of this tensor are multiplied with
    seed: int
    level: str

    def lost(self, v: Array) -> float:
        """What numbers f32 [rows, cols] in the place of the sample lose of the whole tensor."""
        return loss(self.w, v, self.objective, self.inputs, self.share * self.weight)

    @property
    def share(self) -> float:
        """How many times the sample is in the whole."""
        return float(self.rows / len(self.w))

    @cached_property
    def raw(self) -> Array:
        """The rows as the file has them, u8."""
        return np.ascontiguousarray(self.w.astype(numpy_dtype(self.tensor.dtype))).reshape(-1).view(np.uint8)


@dataclass(frozen=True)
class Curve:
    """One kind of candidate: a point for each step, or a single one."""

    request: Request | None  # None: left as it is, and packed without loss
    steps: Array  # f64, relative to the frame's unit, rising; [0] for a kind without steps
    bytes: Array  # f64, falling
    losses: Array  # f64

    def at(self, step: float) -> tuple[float, float]:
        """Bytes and loss at a step."""
        if len(self.steps) == 1:
            return float(self.bytes[0]), float(self.losses[0])
        place = np.log2(self.steps)
        where = np.log2(step)
        logs = np.log2(np.maximum(self.losses, np.finfo(float).tiny))
        return float(np.interp(where, place, self.bytes)), float(np.exp2(np.interp(where, place, logs)))

    @cached_property
    def fine(self) -> Curve:
        """The same with interpolated steps between."""
        if len(self.steps) == 1:
            return self
        near = np.linspace(0, len(self.steps) - 1, FINE * (len(self.steps) - 1) + 1)
        every = np.arange(len(self.steps))
        tiny = np.finfo(float).tiny
        steps, losses = (
            np.exp2(np.interp(near, every, np.log2(np.maximum(one, tiny)))) for one in (self.steps, self.losses)
        )
        return Curve(self.request, steps, np.interp(near, every, self.bytes), losses)


Kind = Callable[[Sample], Iterator[Curve]]


def lossless(sample: Sample) -> Iterator[Curve]:
    """As it is."""
    yield Curve(None, np.zeros(1), np.array([coded(sample, sample.tensor.dtype, sample.raw)]), np.zeros(1))


def casts(sample: Sample) -> Iterator[Curve]:
    """Narrower floats, where their range allows it."""
    for kind in ("bf16", "fp16"):
        if numpy_dtype(sample.tensor.dtype).itemsize > 2:
            try:
                yield plain(sample, Request(kind))
            except McError:  # numbers beyond the narrower type
                continue


def plain(sample: Sample, request: Request) -> Curve:
    """A scheme without a step. McError if it can't hold the numbers."""
    shape = sample.w.shape
    result = arrays.quantize("w", sample.w, sample.tensor.dtype, shape, request, sample.seed)
    listed = parts("w", result.about.scheme, sample.tensor.dtype, shape)
    size = sum(
        coded(sample, listed[part][0], array.reshape(-1).view(np.uint8)) for part, array in result.stored.items()
    )
    return Curve(request, np.zeros(1), np.array([size]), np.array([sample.lost(restored(sample, result))]))


def grid(sample: Sample, request: Request = Request("grid")) -> Iterator[Curve]:  # noqa: B008 - it is frozen
    """Uniform steps from wide to fine, for the entropy coder."""
    objective, frame = sample.frames[request.kind]
    deviation = deviation_of(sample, frame)
    if not deviation:
        return
    steps = deviation * np.exp2(np.arange(FINEST * EVERY, WIDEST * EVERY + 1) / EVERY)
    sizes, losses = np.empty(len(steps)), np.empty(len(steps))
    for number, step in enumerate(steps[::-1], 1):
        result = arrays.quantize(
            "w", sample.w, sample.tensor.dtype, sample.w.shape, request, sample.seed, float(step), objective,
            frame,
        )  # fmt: skip
        q = next(iter(result.stored.values()))
        sizes[-number], escaped = rate(sample, frame, q, float(step))
        losses[-number] = sample.lost(restored(sample, result))
        if escaped > MOST_ESCAPES:  # finer ones are coded in another way, which takes a bit more for each octave
            finer = np.log2(step / steps[: len(steps) - number])
            sizes[: len(steps) - number] = sizes[-number] + finer * prod(sample.tensor.shape) / 8
            losses[: len(steps) - number] = losses[-number] / np.exp2(2 * finer)
            break
    yield Curve(request, steps, falling(sizes), rising(losses))


def trellis(sample: Sample, request: Request = Request("trellis")) -> Iterator[Curve]:  # noqa: B008 - it is frozen
    """Interleaved lattices: fewer bits than a grid from about half a bit on, and more time."""
    objective, frame = sample.frames[request.kind]
    deviation = deviation_of(sample, frame)
    if not deviation:
        return
    steps = deviation * np.exp2(np.arange(FINEST, WIDEST + 1).astype(np.float64))
    whole = sample.lost(np.zeros_like(sample.w))
    codes, shape = (frame.rows, frame.columns), (len(sample.w), sample.w.shape[1])
    sizes, losses = np.empty(len(steps)), np.empty(len(steps))
    for number, step in enumerate(steps[::-1], 1):
        absolute = float(step) * frame.unit * trellises.AS_GRID
        error, power, bits = trellises.estimate(sample.w, frame, absolute, request.effort, 1)
        sizes[-number] = bits / 8 * sample.share + beside(sample, frame, 8)
        losses[-number] = error / power * whole if power else 0.0
        if objective in WEIGHED:
            result = arrays.quantize(
                "w", sample.w, sample.tensor.dtype, shape, request, sample.seed, float(step), objective, frame
            )
            losses[-number] = sample.lost(restored(sample, result))
        rows, columns = grids.steps_of(absolute, *codes, shape)
        widths = rows[:, None] * (columns if len(columns) else 1.0)
        escaped = float((np.abs(sample.w) > 2 * grids.HALF * widths).mean())
        sizes[-number] += 2 * escaped * prod(sample.tensor.shape)
        if escaped > MOST_ESCAPES:
            finer = np.log2(step / steps[: len(steps) - number])
            sizes[: len(steps) - number] = sizes[-number] + finer * prod(sample.tensor.shape) / 8
            losses[: len(steps) - number] = losses[-number] / np.exp2(2 * finer)
            break
    yield Curve(request, steps, falling(sizes), rising(losses))


def deviation_of(sample: Sample, frame: Frame) -> float:
    """The relative step that is as wide as the weights' deviation; 0 of zeros."""
    steps, factors = grids.steps_of(frame.unit, frame.rows, frame.columns, sample.w.shape)
    widths = steps[:, None] * (factors if len(factors) else 1.0)
    units = np.divide(sample.w, widths, out=np.zeros(sample.w.shape), where=widths > 0)
    return sqrt(float(np.square(units).mean()))


def falling(sizes: Array) -> Array:
    """Sizes by rising step, as they must be: none larger than that of a finer step."""
    found: Array = np.maximum.accumulate(sizes[::-1])[::-1]
    return found


def rising(losses: Array) -> Array:
    """Losses by rising step likewise: none smaller than that of a finer step."""
    found: Array = np.minimum.accumulate(losses[::-1])[::-1]
    return found


KINDS: tuple[Kind, ...] = (lossless, casts, grid, trellis)


def restored(sample: Sample, result: arrays.Result) -> Array:
    """f32 [rows, cols] of a quantized sample."""
    return arrays.dequantize("w", result.about, result.stored).astype(np.float32)


def coded(sample: Sample, dtype: str, raw: Array) -> float:
    """Bytes of the whole tensor, once packed, if a sample of it has these bytes under this dtype."""
    rows = len(sample.w)
    shape = (rows, len(raw) // (rows * numpy_dtype(dtype).itemsize)) if rows else (0,)
    size = tensor_bytes(dtype, shape, len(raw), lambda start, stop: raw[start:stop].copy(), sample.level)
    fixed = blob.overhead(1)
    return fixed + (size - fixed) * sample.share


def rate(sample: Sample, frame: Frame, q: Array, step: float) -> tuple[float, float]:
    """Bytes of the whole tensor, if a sample of it has these integers: their entropy given how large row and column
    are, and what stands beside them. And the share of integers that escape."""
    steps, factors = grids.steps_of(step * frame.unit, frame.rows, frame.columns, q.shape)
    rows, columns = grids.contexts_of(frame, steps, factors)
    contexts = np.clip(rows[:, None] + columns[None, :], 0, grids.CONTEXTS - 1)
    width = 2 * grids.HALF + 2  # the last symbol stands for all that escape
    wide = q.astype(np.int64)
    symbols = np.where(np.abs(wide) <= grids.HALF, wide + grids.HALF, width - 1)
    counts = np.bincount((contexts * width + symbols).reshape(-1), minlength=grids.CONTEXTS * width)
    counts = counts.reshape(grids.CONTEXTS, width)
    sums = counts.sum(axis=1)
    bits = float((sums * np.log2(np.maximum(sums, 1))).sum() - (counts * np.log2(np.maximum(counts, 1))).sum())
    escapes = int(counts[:, -1].sum())
    coded = (bits / 8 + escapes * q.itemsize) * sample.share
    return coded + beside(sample, frame, min(int((sums > 0).sum()), 8)), escapes / q.size


def beside(sample: Sample, frame: Frame, tables: int) -> float:
    """About the bytes of a tensor that aren't its coded integers: code tables, scales, contexts of rows and columns."""
    scales = sample.rows * (2 if frame.rows is not None else 1)
    scales += sample.w.shape[1] * (2 if frame.columns is not None else 1)
    return float(TABLE * tables + SCALE * scales + blob.overhead(1))
