"""One tensor through a scheme and back: the one place that knows them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np

from mc.dtypes import MOST_DIMENSIONS, numpy_dtype
from mc.errors import DamagedError, McError
from mc.lossy import casts, codebooks, finite, grids, integers, lowrank, mantissas, masks, trellises
from mc.lossy.loops import faults, squares
from mc.lossy.requests import FRAMED, Request
from mc.lossy.zeros import lost_between
from mc.recipe import Quantized
from mc.schemes import (
    BEYOND,
    Cast,
    Channel,
    Codebook,
    Fp8,
    Grid,
    Int,
    LowRank,
    Mantissa,
    Nf4,
    Scheme,
    Shape,
    Shrunk,
    Sparse,
    Trellis,
    matrix,
    parts,
    scale_dtype,
)

Array = np.ndarray[Any, Any]
F16_MOST = 65504.0
TINY = float(np.finfo(np.float64).tiny)
HALVED = 2.0**-48  # of the power of F64, at most, is lost when it is rounded to f32
WHOLE = 2.0**-102  # numbers of f32 from here on have all their digits, and so have those down to 2^-24 of them


@dataclass(frozen=True)
class Result:
    """A quantized tensor."""

    about: Quantized
    stored: dict[str, Array]  # by name, each with the dtype and shape that `schemes.parts` says
    error: float  # sum of squared differences
    power: float  # sum of squares
    zeros_lost: int = 0  # weights that were zero and aren't any more


def as_matrix(raw: Array, dtype: str, shape: Shape) -> Array:
    """f32 [rows, cols] of a tensor's bytes. McError for numbers that aren't finite, or not in f32, rows that f32 has
    nothing of, and for a shape that numpy has no arrays of."""
    if len(shape) > MOST_DIMENSIONS:
        raise McError(f"has {len(shape)} dimensions, and at most {MOST_DIMENSIONS} can be held: keep it with --keep")
    with np.errstate(over="ignore", invalid="ignore"):
        w = np.ascontiguousarray(raw.view(numpy_dtype(dtype)).astype(np.float32, copy=False))
    count = faults(w.reshape(-1))
    if count:
        plural = "s that are" if count > 1 else " that is"
        beyond = ", or beyond f32" if dtype == "F64" else ""
        raise McError(f"has {count} number{plural} NaN or infinite{beyond}, which no scheme can hold")
    rows = w.reshape(matrix(shape))
    if dtype == "F64" and (count := _vanishing(raw.view(np.float64).reshape(rows.shape))):
        raise McError(
            f"has {count} row{'s' if count > 1 else ''} of numbers too small for f32, in which every scheme calculates"
        )
    return rows


def _vanishing(w: Array) -> int:
    """Rows of f64 [rows, cols] whose largest number f32 doesn't hold with all its digits."""
    largest = np.maximum(w.max(axis=1, initial=0.0), -w.min(axis=1, initial=0.0))
    return int(((largest > 0) & (largest < WHOLE)).sum())


def quantize(
    name: str, w: Array, dtype: str, shape: Shape, request: Request, seed: int, step: float = 0.0,
    objective: str = "", frame: grids.Frame | None = None, held: bool = False,
) -> Result:  # fmt: skip
    """The matrix w, which was a tensor of this name, dtype and shape, as `request` asks. Grids and trellises take
    `step`, relative to their frame's unit, and the objective; a mantissa takes a step relative to each weight. `held`:
    zeros are to come back as zeros, as of all but a trellis they then do."""
    frame = frame or _no_frame(w, request, objective)
    if frame is not None and held:
        frame = replace(frame, held=True)
    scheme, stored = _quantized(w, dtype, request, seed, step, frame, held)
    weighed = objective if request.kind in FRAMED else ""
    about = Quantized(scheme, dtype, shape, 0.0, weighed)

    def shaped(first: Array) -> dict[str, Array]:
        listed = parts(name, scheme, dtype, shape)
        every = zip(listed.items(), (first, *stored[1:]), strict=True)
        return {part: np.ascontiguousarray(array).reshape(size) for (part, (_, size)), array in every}

    def restored(first: Array) -> Array:
        return dequantize(name, about, shaped(first)).reshape(-1).astype(np.float32, copy=False)

    first, near = stored[0], restored(stored[0])
    error, power = squares(w.reshape(-1), near)
    if request.kind in FRAMED and not isfinite(error):
        first = finite.inwards(first, 2 if isinstance(scheme, Trellis) else 1, restored)
        near = restored(first)
        error, power = squares(w.reshape(-1), near)
    if dtype == "F64":
        error += HALVED * power
    about = Quantized(scheme, dtype, shape, error / power if power else 0.0, weighed)
    return Result(about, shaped(first), error, power, lost_between(w.reshape(-1), near))


def _no_frame(w: Array, request: Request, objective: str) -> grids.Frame | None:
    return grids.frame(w, objective, request.columns) if request.kind in FRAMED else None


def _quantized(
    w: Array, dtype: str, request: Request, seed: int, step: float, frame: grids.Frame | None, held: bool
) -> tuple[Scheme, list[Array]]:
    """The scheme and what it stores, in the order of `schemes.parts`."""
    match request.kind:
        case "bf16" | "fp16":
            cast = Cast({"bf16": "BF16", "fp16": "F16"}[request.kind])
            return cast, [casts.cast(w, cast)]
        case "fp8":
            fp8 = Fp8(request.to, request.per)
            return fp8, list(casts.quantize(w, fp8, scale_dtype(dtype)))
        case "int":
            whole = Int(request.bits, request.group if request.group < w.shape[1] else 0, request.symmetric)
            packed = integers.quantize(w, whole, scale_dtype(dtype), request.least_error)
            size = np.array(w.shape, np.int64)
            return whole, [packed.words, packed.scales, size] + ([] if packed.points is None else [packed.points])
        case "codebook":
            book = Codebook(request.codes, request.rows if request.rows < len(w) else 0)
            return book, list(codebooks.quantize(w, book, seed, held))
        case "nf4":
            nf4 = Nf4(request.group)
            return nf4, list(codebooks.quantize_nf4(w, nf4))
        case "mantissa":
            step = min(max(step, mantissas.FINEST), mantissas.WIDEST)
            return Mantissa(step), [mantissas.rounded(w, step, dtype).astype(numpy_dtype(dtype))]
    if frame is None:
        raise ValueError("a grid or trellis needs a frame")
    absolute = absolute_step(step, frame)
    if request.standard:
        kind = scale_dtype(dtype)
        if kind == "F16":  # the one type of scales that ends before steps do; all its weights are within one
            absolute = min(absolute, F16_MOST)
        scales = casts.scales_of(grids.channel_steps(w, frame, absolute), kind)
        return Channel("I8"), [grids.quantize_channels(w, frame, scales), scales]
    absolute = grids.held_to(w, frame, absolute)
    by_row, by_column = frame.rows is not None, frame.columns is not None
    scheme: Scheme
    if request.kind == "trellis":
        q = trellises.quantize(w, frame, absolute * trellises.AS_GRID, request.effort)
        scheme = Trellis(grids.narrow(q), absolute * trellises.AS_GRID, request.effort, by_row, by_column)
    else:
        q = grids.quantize(w, frame, absolute)
        scheme = Grid(grids.narrow(q), absolute, by_row, by_column)
    return scheme, [q, *(codes for codes in (frame.rows, frame.columns) if codes is not None)]


def absolute_step(step: float, frame: grids.Frame) -> float:
    """What a relative step stands for. A search may ask for more than a recipe can say, or than a number of f32 is in
    the largest row."""
    return min(step * frame.unit, BEYOND / 2, finite.STEP * frame.unit / max(frame.largest, TINY))


def dequantize(name: str, about: Quantized, stored: Mapping[str, Array]) -> Array:
    """The tensor `name` of before, in its own dtype and shape, from the arrays that `schemes.parts` lists, which have
    the dtypes and shapes it says. DamagedError for an index that isn't in its dictionary, or sizes that contradict."""
    listed = list(parts(name, about.scheme, about.dtype, about.shape))
    try:
        # Scales from outside may be anything: what overflows becomes infinite, as FORMAT.md says, without a warning.
        with np.errstate(over="ignore", invalid="ignore"):
            w = _dequantized(about, stored[listed[0]], [stored[part] for part in listed[1:]], listed)
            plain: Array = w.astype(numpy_dtype(about.dtype), copy=False).reshape(about.shape)
    except MemoryError:
        raise McError(f"of shape {list(about.shape)} is more than there is memory for") from None
    return plain


def _dequantized(about: Quantized, first: Array, more: list[Array], listed: list[str]) -> Array:
    """f32 [rows, cols]; of what was pruned, the tensor's own dtype and shape."""
    shape = matrix(about.shape)
    match about.scheme:
        case Sparse():
            w = first
        case Shrunk() as scheme:
            w = masks.put_back(first, more[0], about.shape, scheme.axis)
        case LowRank():
            w = lowrank.product(
                first, more[0].reshape(len(more[0]), shape[1]), more[1].reshape(shape) if len(more) > 1 else None
            )
        case Mantissa():
            w = first
        case Cast():
            w = first.astype(np.float32)
        case Fp8() | Channel():
            w = casts.dequantize(first.reshape(shape), more[0])
        case Int() as scheme:
            if tuple(int(count) for count in more[1]) != shape:
                raise DamagedError(f"says in {listed[2]!r} that it is {more[1].tolist()}, and its recipe {list(shape)}")
            points = None if scheme.symmetric else more[2]
            w = integers.dequantize(integers.Packed(first, more[0], points), scheme, shape)
        case Codebook() as scheme:
            w = codebooks.dequantize(first.reshape(shape), more[0], scheme)
        case Nf4() as scheme:
            w = codebooks.dequantize_nf4(first.reshape(shape), more[0], scheme)
        case Grid() as scheme:
            rows = more[0] if scheme.rows else None
            w = grids.dequantize(first.reshape(shape), scheme, rows, more[-1] if scheme.columns else None)
        case Trellis() as scheme:
            rows = more[0] if scheme.rows else None
            w = trellises.dequantize(first.reshape(shape), scheme, rows, more[-1] if scheme.columns else None)
    return w
