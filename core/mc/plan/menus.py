"""What can be done to a tensor, each with the bytes and the loss that it is expected to have.

A kind of candidate is one function: a sample of a tensor in, points of rate and loss out. Those with a step give a
ladder of steps, half an octave to two apart, between which rate and loss are interpolated.
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
from mc.lossy import arrays, grids, mantissas, trellises
from mc.lossy.casts import cast
from mc.lossy.finite import largest_of
from mc.lossy.grids import Frame
from mc.lossy.requests import Request
from mc.plan.curves import Curve, Trial, finer, laddered, laid
from mc.plan.losses import Measure
from mc.schemes import Cast, parts

Array = np.ndarray[Any, Any]
WIDEST, FINEST = 4, -14  # octaves of a step relative to the weights' deviation
# The objective and the frame of a grid for f32 [rows, cols], which stands under the tensor's name and this ending.
Framing = Callable[[str, Array], tuple[str, Frame]]
BENT = -5  # octaves; of finer steps, where an octave takes a bit a weight and no more, half as many are tried
WIDTHS = (1, 127), (2, 32767)  # bytes of an integer, and the largest they hold
NEXT = 1e-3  # of a step: to both sides of one
REACHED = 30  # octaves that the scales of a grid's rows reach, and two of what a row spreads by itself
INTEGERS = 2, 3, 4, 5, 6, 8  # bits of integers with scales of their own
TABLE = 24  # bytes of a code table, about
ANCHORS = 4.0, 11.0  # bits of a mantissa, with which numbers are so many that they are coded as floats
SCALE = 0.75  # bytes of a scale or context in the head, about
TELLING = 16  # numbers of a row or column: with fewer, no context says enough of them to be stored


@dataclass(frozen=True)
class Sample:
    """Some rows of a tensor, and what is known of all of it."""

    tensor: Tensor
    whole: Array  # f32 [rows, cols]
    picked: Array  # which rows
    w: Array  # f32, these
    raw: Array  # u8, as the file has them
    rows: int  # of the whole tensor
    frames: dict[str, tuple[str, Frame]]  # by kind with steps, of the whole with scales and powers of the rows picked
    framing: Framing
    objective: str
    measure: Measure
    reach: float  # the largest of all integers at a relative step of 1
    spread: float  # octaves between the smallest and the largest row of all that have scales
    alone: bool  # whether no other tensor is tied to it
    seed: int
    level: str

    def lost(self, v: Array) -> float:
        """What numbers f32 [rows, cols] in the place of the sample lose of the whole tensor."""
        return self.measure.lost(self.w, v, self.share)

    @property
    def inputs(self) -> Array | None:
        """Of the layer: mean squares f32 [cols], or the Gram matrix f32 [cols, cols]."""
        return self.measure.inputs

    @property
    def share(self) -> float:
        """How many times the sample is in the whole."""
        return float(self.rows / len(self.w))

    @cached_property
    def largest(self) -> float:
        """The largest magnitude of the whole tensor."""
        return float(max(self.whole.max(), -self.whole.min()))

    @property
    def weighed(self) -> str:
        """`gram`, `diag`, or nothing: the statistics that there are of its inputs."""
        return "" if self.inputs is None else ("diag", "gram")[self.inputs.ndim - 1]


Kind = Callable[[Sample], Iterator[Curve]]


def lossless(sample: Sample) -> Iterator[Curve]:
    """As it is."""
    yield Curve(None, np.zeros(1), np.array([coded(sample, sample.tensor.dtype, sample.raw)]), np.zeros(1))


def casts(sample: Sample) -> Iterator[Curve]:
    """Narrower floats, where their range allows it: that of all weights, not of the sample alone."""
    for kind, narrow in (("bf16", Cast("BF16")), ("fp16", Cast("F16"))):
        if numpy_dtype(sample.tensor.dtype).itemsize > 2:
            try:
                cast(np.array([sample.largest], np.float32), narrow)
            except McError:  # numbers beyond the narrower type
                continue
            yield plain(sample, Request(kind))


def plain(sample: Sample, request: Request) -> Curve:
    """A scheme without a step. McError if it can't hold the numbers."""
    shape = sample.w.shape
    result = arrays.quantize("w", sample.w, sample.tensor.dtype, shape, request, sample.seed)
    listed = parts("w", result.about.scheme, sample.tensor.dtype, shape)
    size = sum(
        coded(sample, listed[part][0], array.reshape(-1).view(np.uint8)) for part, array in result.stored.items()
    )
    return Curve(request, np.zeros(1), np.array([size]), np.array([sample.lost(restored(sample, result))]))


def mantissa(sample: Sample, request: Request = Request("mantissa")) -> Iterator[Curve]:  # noqa: B008 - it is frozen
    """Floats of fewer bits of mantissa: where rows or weights differ by more than a grid reaches. A bit more or less of
    it is a bit of the packed tensor, so bytes are estimated at a few steps. Not of F64, whose last bits f32 hasn't."""
    dtype = sample.tensor.dtype
    if dtype == "F64":
        return
    bits = np.arange(0.0, mantissas.bits_of(dtype), 0.5)
    typed = numpy_dtype(dtype)

    def near(one: float) -> Array:
        return mantissas.rounded(sample.w, 2.0**-one, dtype)

    losses = np.array([sample.lost(near(one)) for one in bits])
    some = losses > 0
    if some.any():  # of floats that are narrower than their type, the last bits are zero
        bits, losses = bits[some][::-1], losses[some][::-1]
        places = np.unique(np.minimum([*ANCHORS, bits[0]], bits[0]))
        sizes = [coded(sample, dtype, near(one).astype(typed).reshape(-1).view(np.uint8)) for one in places]
        powers = near(0.0).astype(np.float32).view(np.uint32) >> np.uint32(23)
        least = entropy(powers) * sample.share / 8 + TABLE + blob.overhead(1)
        yield laid(request, np.exp2(-bits), np.interp(bits, [0.0, *places], [least, *sizes]), losses)


def integers(sample: Sample) -> Iterator[Curve]:
    """Integers with a scale for every row, where rows differ by more than the scales of a grid reach."""
    if sample.spread > REACHED:
        for bits in INTEGERS:
            yield plain(sample, Request("int", bits=bits))


def grid(sample: Sample, request: Request = Request("grid")) -> Iterator[Curve]:  # noqa: B008 - it is frozen
    """Uniform steps from wide to fine, for the entropy coder."""
    objective, frame = sample.frames[request.kind]
    deviation = deviation_of(sample.w, frame)
    if deviation:
        steps = with_leaps(deviation * octaves(0.5), sample.reach)
        yield curve_of(sample, request, steps, gridded(sample, sample.w, request, frame, objective, sample.reach))


def gridded(
    sample: Sample, w: Array, request: Request, frame: Frame, objective: str, reach: float = 0.0
) -> Trial:  # fmt: skip
    """A trial of a grid of w f32 [rows, cols] in the place of the sample; `reach`: the largest integer of the whole
    at a step of 1, where it is known."""

    def trial(step: float) -> tuple[float, float, float]:
        result = arrays.quantize("w", w, sample.tensor.dtype, w.shape, request, sample.seed, step, objective, frame)
        q = next(iter(result.stored.values()))
        size, escaped = rate(sample, frame, q, step)
        if reach and escaped > 0:
            size, escaped = min(size, in_planes(sample, frame, q, reach / step)), 0.0
        return size, sample.lost(restored(sample, result)), escaped

    return trial


def in_planes(sample: Sample, frame: Frame, q: Array, largest: float) -> float:
    """Bytes of the whole tensor, if a sample of it has these integers, each of their bytes is coded by itself, and the
    largest of all is this."""
    wide = max(q.itemsize, next((width for width, most in WIDTHS if largest <= most), 4))
    planes = q.astype(f"<i{wide}").reshape(-1, 1).view(np.uint8)
    return sum(map(entropy, planes.T)) / 8 * sample.share + beside(sample, frame, wide)


def curve_of(sample: Sample, request: Request, steps: Array, trial: Trial) -> Curve:
    """The curve of a request through these steps, and some between."""
    points = laddered(steps, trial, prod(sample.tensor.shape))
    return finer(request, points, trial, prod(sample.tensor.shape), sample.lost(np.zeros_like(sample.w)))


def trellis(sample: Sample, request: Request = Request("trellis")) -> Iterator[Curve]:  # noqa: B008 - it is frozen
    """Interleaved lattices: fewer bits than a grid from about half a bit on, and more time."""
    _, frame = sample.frames[request.kind]
    deviation = deviation_of(sample.w, frame)
    if not deviation:
        return
    codes, shape = (frame.rows, frame.columns), (len(sample.w), sample.w.shape[1])
    most = largest_of(sample.tensor.dtype)
    reach = sample.reach / trellises.AS_GRID / 2

    def trial(step: float) -> tuple[float, float, float]:
        absolute = arrays.absolute_step(step, frame) * trellises.AS_GRID
        near, q, bits, unseen = trellises.tried(sample.w, frame, absolute, request.effort)
        lost = sample.lost(np.clip(near, -most, most))
        rows, columns = grids.steps_of(absolute, *codes, shape)
        widths = rows[:, None] * (columns if len(columns) else 1.0)
        escaped = float((np.abs(sample.w) > 2 * grids.HALF * widths).mean())
        size = (bits * sample.share + unseen * (sample.share - 1)) / 8 + beside(sample, frame, 8)
        if escaped > 0:
            size += 2 * escaped * prod(sample.tensor.shape)
            size = min(size, in_planes(sample, frame, q, reach / step))
        return size, lost, 0.0

    yield curve_of(sample, request, with_leaps(deviation * octaves(1.0), reach), trial)


def octaves(apart: float) -> Array:
    """Steps relative to a deviation, so many octaves apart, and twice as far where they are fine."""
    fine = np.arange(BENT - 2 * apart, FINEST - 2 * apart, -2 * apart)[::-1]
    steps: Array = np.exp2(np.concatenate([fine, np.arange(BENT, WIDEST + apart, apart)]))
    return steps


def with_leaps(steps: Array, reach: float) -> Array:
    """Rising steps with those between where integers take another byte, as bytes leap there; `reach`: the largest
    integer at a step of 1."""
    beside = [reach / most * apart for _, most in WIDTHS for apart in (1 - NEXT, 1 + NEXT)]
    return np.sort(np.append(steps, [step for step in beside if steps[0] < step < steps[-1]]))


def deviation_of(w: Array, frame: Frame) -> float:
    """The relative step that is as wide as the deviation of w f32 [rows, cols]; 0 of zeros."""
    steps, factors = grids.steps_of(frame.unit, frame.rows, frame.columns, w.shape)
    widths = steps[:, None] * (factors if len(factors) else 1.0)
    units = np.divide(w, widths, out=np.zeros(w.shape), where=widths > 0)
    return sqrt(float(np.square(units).mean()))


# For every tensor; where zeros needn't be kept, a trellis too.
KINDS: tuple[Kind, ...] = (lossless, casts, mantissa, integers, grid)


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


def entropy(symbols: Array) -> float:
    """Bits of all symbols together, each coded as often as it comes."""
    counts = np.unique(symbols, return_counts=True)[1]
    return float((counts * np.log2(symbols.size / counts)).sum())


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
    coded = (bits / 8 + escapes * q.itemsize) * sample.share + trellises.unseen(counts) / 8 * (sample.share - 1)
    return coded + beside(sample, frame, min(int((sums > 0).sum()), 8)), escapes / q.size


def beside(sample: Sample, frame: Frame, tables: int) -> float:
    """About the bytes of a tensor that aren't its coded integers: code tables, scales, contexts of rows and columns."""
    columns = sample.w.shape[1]
    scales = sample.rows * ((frame.rows is not None) + (columns >= TELLING))
    scales += columns * ((frame.columns is not None) + (sample.rows >= TELLING))
    return float(TABLE * tables + SCALE * scales + blob.overhead(1))
