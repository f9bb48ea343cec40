"""Prune one tensor by its method.

What is left free by a method is shared out over tensors by one multiplier: the least of L + lambda x Omega, L being the
squared error by the objective and Omega the numbers that remain (PRUNE.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mc.checkpoint import Source, Tensor
from mc.dtypes import numpy_dtype
from mc.errors import McError, UsageError
from mc.loader import Checkpoint
from mc.lossy import arrays, lowrank, masks, obs
from mc.lossy.files import read_array
from mc.lossy.loops import squares
from mc.lossy.masks import Threshold
from mc.lossy.methods import NEED_STATS, Method, spelled
from mc.lossy.moments import Moments, moments_of
from mc.lossy.requests import Target
from mc.lossy.statistics import Statistics
from mc.recipe import Quantized
from mc.schemes import LowRank, Scheme, Shape, Shrunk, Sparse, parts, scale_dtype
from mc.twins import tied_with

Array = np.ndarray[Any, Any]
MOST = float(np.finfo(np.float32).max)
UNSURE = 0.1  # of the mean square of an input: ten times what `obs.DAMPED` adds to each


@dataclass(frozen=True)
class PruneJob:
    """What a file is pruned with."""

    wanted: dict[str, Method]  # by tensor
    objective: str  # plain, tensor or row: what squared errors are relative to where tensors share a limit
    seed: int
    level: str  # at which sizes are measured
    target: Target | None
    dense: bool = False  # a low rank is written as its product
    shrink: bool = False  # what is structured is taken out
    statistics: Statistics | None = None
    masks: Checkpoint | None = None  # bool tensors to apply
    keep: Sequence[str] = ()  # patterns of tensors that stay
    sets: Sequence[tuple[str, Method]] = ()  # patterns of tensors that a method was named for
    twins: Mapping[str, str] = field(default_factory=dict)  # tensors that are tied to earlier ones
    masked: Mapping[str, str] = field(default_factory=dict)  # tensors that take the mask of one that they are tied to

    def moments(self, name: str, features: int) -> Moments | None:
        """Of the inputs of the tensor `name`, or of one that it is tied to, so that both are pruned alike."""
        return None if self.statistics is None else moments_of(self.statistics, tied_with(name, self.twins), features)


@dataclass(frozen=True)
class Pruned:
    """A pruned tensor."""

    about: Quantized
    stored: dict[str, Array]  # by name, as `schemes.parts` lists them
    mask: Array | None  # u8 [rows, cols], what stays; None of a low rank
    zeros: int  # of the weights as they come back
    error: float  # sum of squared differences
    power: float
    weighted: float | None  # relative error on the inputs, where there are statistics
    weighted_sums: tuple[float, float]  # the two that it is made of


def prune_tensor(tensor: Tensor, raw: Array, w: Array, method: Method, job: PruneJob, cut: Threshold | None) -> Pruned:
    """The tensor of these bytes, which is the matrix w f32, as `method` says; `cut` where it is shared out."""
    moments = job.moments(tensor.name, w.shape[1])
    if method.kind in NEED_STATS and (moments is None or (method.kind == "obs" and moments.gram is None)):
        missing = "second moments" if moments is None else "Gram matrix (`mc analyze --gram`)"
        raise McError(
            f"has no {missing} in the statistics, and {method.kind} needs them: name another method with --set"
        )
    if method.kind == "low-rank":
        return _low_rank(tensor, raw, w, method, job, cut, moments)
    words = raw.view(f"<u{numpy_dtype(tensor.dtype).itemsize}").reshape(w.shape)
    if method.kind == "obs" and moments is not None and moments.gram is not None:
        if method.sparsity is None and not method.keep:
            raise UsageError("obs needs a sparsity, a pattern or --max-error: how much of a tensor goes.")
        mask, after = obs.prune(w, moments.gram, method.sparsity or 0.0, method.keep, method.of)
        _refuse_worse(moments, w, after)
        with np.errstate(over="ignore"):
            values = after.astype(numpy_dtype(tensor.dtype))
        if not np.isfinite(values).all():
            raise McError(f"has weights beyond {tensor.dtype} after compensation")
        words = np.ascontiguousarray(values).view(words.dtype)
    else:
        mask = _mask(tensor, w, method, job, cut, moments)
    kept = words * mask.astype(words.dtype)
    found = _result(tensor, w, kept.view(numpy_dtype(tensor.dtype)), Sparse(spelled(method)), {}, moments)
    if job.shrink:
        return _shrunk(tensor, kept, mask, method, found)
    return replace(found, stored={tensor.name: kept.view(numpy_dtype(tensor.dtype)).reshape(tensor.shape)}, mask=mask)


def _refuse_worse(moments: Moments, w: Array, after: Array) -> None:
    """McError where compensation, which takes the least of all errors on the inputs, made one below zero or above that
    of zeros everywhere: no inputs have such products. What damping and rounding make of true ones is far less."""
    lost, most = moments.energy(w - after.astype(np.float32)), moments.energy(w)
    slack = UNSURE * float(np.mean(moments.squares)) * float(np.einsum("ij,ij->", w, w, dtype=np.float64))
    if not -slack <= lost <= most + slack:
        raise McError("has a Gram matrix in the statistics that no inputs have: it isn't positive semidefinite")


def _mask(
    tensor: Tensor, w: Array, method: Method, job: PruneJob, cut: Threshold | None, moments: Moments | None
) -> Array:
    """What stays, u8 [rows, cols]."""
    if method.kind == "mask" and job.masks is not None:
        name = job.masked.get(tensor.name, tensor.name)
        dtype, shape = job.masks.dtype(name), job.masks.shape(name)
        if (dtype, shape) != ("BOOL", tensor.shape):
            raise McError(
                f"has a mask in {job.masks.where} that is {dtype} of shape {list(shape)}, where BOOL of shape "
                f"{list(tensor.shape)} was expected"
            )
        mask = job.masks.data(name)
        applied: Array = (mask.reshape(w.shape) != 0).astype(np.uint8)
        return applied
    of = units_of(tensor, w, method, job.objective if cut is not None else "plain", moments)
    if method.keep:
        return masks.patterned(of, method.keep, method.of)
    if cut is not None:
        return masks.whole(masks.above(of, cut)[0], of)
    if method.sparsity is None:
        raise UsageError(f"{method.kind} needs a target: --sparsity, --max-error or --target-size.")
    if method.scope == "row":
        return masks.whole(masks.of_rows(of, method.sparsity), of)
    threshold = masks.ranked(masks.leading(of), [of], masks.wanted(method.sparsity, of.weights))
    return masks.whole(masks.above(of, threshold)[0], of)


def units_of(tensor: Tensor, w: Array, method: Method, objective: str, moments: Moments | None) -> masks.Units:
    """The units of a tensor with their scores, by objective."""
    return scored(w, method, tensor.shape, objective, moments)


def scored(w: Array, method: Method, shape: Shape, objective: str, moments: Moments | None) -> masks.Units:
    """The same of the matrix w f32 [rows, cols] of a tensor of this shape."""
    rows = None
    if objective != "plain":
        power = np.einsum("ij,ij->i", w, w, dtype=np.float64) / w.shape[1]
        power = np.full(len(w), power.mean()) if objective == "tensor" else power
        rows = np.divide(1, np.sqrt(power), out=np.zeros_like(power), where=power > 0)
        rows = np.minimum(rows, MOST).astype(np.float32)  # of subnormal weights it would be infinite
    columns = None
    if method.kind == "wanda" and moments is not None:
        columns = np.sqrt(moments.squares).astype(np.float32)
    return masks.units(w, method, shape, rows, columns)


def _result(
    tensor: Tensor, w: Array, after: Array, scheme: Scheme, stored: dict[str, Array], moments: Moments | None
) -> Pruned:
    """The errors of a tensor that comes back as `after`."""
    near = np.ascontiguousarray(after, np.float32)
    error, power = squares(w.reshape(-1), near.reshape(-1))
    about = Quantized(scheme, tensor.dtype, tensor.shape, error / power if power else 0.0, "")
    sums, weighted = (0.0, 0.0), None
    if moments is not None:
        sums = moments.energy(w - near), moments.energy(w)
        weighted = sums[0] / sums[1] if sums[1] else 0.0
    zeros = near.size - int(np.count_nonzero(near))
    return Pruned(about, stored, None, zeros, error, power, weighted, sums)


def _shrunk(tensor: Tensor, kept: Array, mask: Array, method: Method, found: Pruned) -> Pruned:
    """Without the entries that went. McError where zeros are no whole entries of one dimension."""
    if not masks.shrinks(method, tensor.shape):
        raise McError(
            f"was pruned by {spelled(method)}, which leaves no whole rows, columns or channels to take out. --shrink "
            "goes with rows, columns, heads and channels; --set or --keep the tensor"
        )
    axis = masks.axis_of(method)
    alive = masks.entries(mask, tensor.shape, axis)
    left = np.ascontiguousarray(np.take(kept.view(numpy_dtype(tensor.dtype)).reshape(tensor.shape), alive, axis))
    scheme = Shrunk(spelled(method), axis, len(alive))
    if tensor.shape[axis] > scheme.most:
        raise McError(
            f"keeps {len(alive)} of {tensor.shape[axis]} entries, too few to be taken out. Prune it without --shrink"
        )
    about = replace(found.about, scheme=scheme)
    return replace(found, about=about, mask=mask, stored={tensor.name: left, f"{tensor.name}.mc_kept": alive})


def _low_rank(
    tensor: Tensor, raw: Array, w: Array, method: Method, job: PruneJob, cut: Threshold | None, moments: Moments | None
) -> Pruned:
    """Factors by singular values, of what is left beside the residual's largest weights."""
    gram = moments.gram if moments is not None else None
    beside, rest = None, w
    if method.residual:
        mask = largest(tensor, w, method.residual)
        words = raw.view(f"<u{numpy_dtype(tensor.dtype).itemsize}").reshape(w.shape)
        beside = (words * mask.astype(words.dtype)).view(numpy_dtype(tensor.dtype))
        rest = w * (1 - mask)
    exact = cut is not None or method.energy is not None or (method.rank is None and method.share is None)
    rank = method.rank if method.rank is not None else None
    if method.share is not None:
        rank = int(method.share * w.size / sum(w.shape))
    found = lowrank.decomposed(rest, gram, None if exact else rank, job.seed)
    if cut is not None:
        rank = int((component_bits(found, w, job.objective) >= cut.least).sum())
    elif method.energy is not None:
        rank = lowrank.rank_for(found, w.shape, method.energy, None)
    elif rank is None:
        raise UsageError("low-rank needs a target: --rank, --energy, --share, --max-error or --target-size.")
    rank = min(rank, len(found.values))
    kind = numpy_dtype(scale_dtype(tensor.dtype))
    left, right = (np.ascontiguousarray(one).astype(kind) for one in lowrank.factors(found, rank))
    after = lowrank.product(left, right, beside)
    with np.errstate(over="ignore"):
        after = after.astype(numpy_dtype(tensor.dtype))
    if not (np.isfinite(left).all() and np.isfinite(right).all() and np.isfinite(after).all()):
        raise McError(f"has factors or a product beyond {tensor.dtype}")
    scheme: Scheme = Sparse(f"rank {rank}") if job.dense else LowRank(rank, beside is not None)
    listed = parts(tensor.name, scheme, tensor.dtype, tensor.shape)
    whole = [after] if job.dense else [left, right, *([] if beside is None else [beside])]
    stored = {part: one.reshape(listed[part][1]) for part, one in zip(listed, whole, strict=True)}
    return _result(tensor, w, after, scheme, stored, moments)


def largest(tensor: Tensor, w: Array, share: float) -> Array:
    """The share of the largest weights that stand beside a low rank, u8 [rows, cols]."""
    of = masks.units(w, Method("magnitude"), tensor.shape, None, None)
    count = w.size - masks.wanted(share, w.size)
    return masks.above(of, masks.ranked(masks.leading(of), [of], count))[0]


def component_bits(found: lowrank.Components, w: Array, objective: str) -> Array:
    """Scores of components as bits, u32: the root of what each saves for each number that it takes."""
    scale = 1.0
    if objective != "plain":
        mean = float(np.einsum("ij,ij->", w, w, dtype=np.float64)) / w.size
        scale = 1 / np.sqrt(mean) if mean > 0 else 0.0
    scores = np.minimum(np.abs(found.values) * scale / np.sqrt(sum(w.shape)), MOST)  # a zero may have a sign
    bits: Array = scores.astype(np.float32).view(np.uint32)
    return bits


def matrix_of(source: Source, tensor: Tensor) -> tuple[Array, Array]:
    """The bytes of a tensor, and its f32 [rows, cols]."""
    raw = read_array(source, tensor)
    return raw, arrays.as_matrix(raw, tensor.dtype, tensor.shape)
