"""Candidates that are pruned first: zeros in place of the least weights, then a grid; two thin matrices, each a grid.

They rarely win: a grid that is rounded for rate leaves small weights out by itself. So each is looked at on a few steps
of a sample, and only what is seen to beat all others at equal bytes somewhere gets a curve.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mc.dtypes import numpy_dtype
from mc.lossy import arrays, lowrank, masks, pruning
from mc.lossy.finite import largest_of
from mc.lossy.grids import at_rows
from mc.lossy.masks import Threshold
from mc.lossy.methods import Method, parse_method
from mc.lossy.moments import Moments
from mc.lossy.requests import Request, framed
from mc.plan.curves import Curve, laddered, laid
from mc.plan.menus import Sample, curve_of, deviation_of, gridded, rate, restored
from mc.plan.ways import Combined, combined, magnitude
from mc.recipe import WEIGHED
from mc.schemes import scale_dtype

Array = np.ndarray[Any, Any]
GRID = Request("grid")
SPARSITIES = 0.5, 0.8, 0.9, 0.95, 0.98
ROUGH = np.exp2(np.arange(-2.0, 4.0))  # steps relative to the deviation of what remains, for a first look
OCTAVES = -12, 4  # of the steps of factors, relative to their deviation
GAIN = 0.98  # of the loss of all others at the same bytes: what isn't below isn't worth a step of the recipe
HALF = 128  # rows, at most, that a basis is learnt from, and as many that it is tried on
RANKS = 3  # that are tried, at most
SIDE = 1e-6  # least share of the power that is left out of a low rank, for all that is expected of it


def is_cut(method: Method | None) -> bool:
    """Whether the weights that go lie below one threshold of their tensor."""
    return method is not None and method.kind == "magnitude"


def of_weights(objective: str) -> str:
    """The objective that scores of weights follow."""
    return "row" if objective in WEIGHED else objective


def threshold(w: Array, method: Method, objective: str) -> Threshold:
    """Below which the least magnitudes of w f32 [rows, cols] lie, weighed by the objective."""
    found = scored(w, method, objective, None)
    return masks.ranked(masks.leading(found), [found], masks.wanted(method.sparsity or 0.0, found.weights))


def scored(w: Array, method: Method, objective: str, inputs: Array | None) -> masks.Units:
    """The weights with their scores, as `pruning` has them."""
    moments = None if inputs is None or inputs.ndim > 1 else Moments(inputs, None)
    return pruning.scored(w, method, w.shape, objective if is_cut(method) else "plain", moments)


def left(w: Array, method: Method, objective: str, inputs: Array | None) -> Array:
    """w f32 [rows, cols] with zeros as the method leaves them."""
    found = scored(w, method, objective, inputs)
    if is_cut(method):
        kept, _ = masks.above(found, threshold(w, method, objective))
    else:
        kept = masks.of_rows(found, method.sparsity or 0.0)
    return w * kept


def sparse(sample: Sample, others: Sequence[Curve]) -> Iterator[Curve]:
    """The largest weights, by magnitude or by magnitude times input, as a grid. Not where errors are fed back: weights
    that were zero would be needed again."""
    if sample.weighed == "gram":
        return
    for sparsity in SPARSITIES:
        for method in [magnitude(sparsity), *([wanda(sparsity)] if sample.weighed == "diag" else [])]:
            rows = left(sample.w, method, of_weights(sample.objective), sample.inputs)
            _, frame = sample.framing("", rows)
            deviation = deviation_of(rows, frame)
            if not deviation:
                continue
            trial = gridded(sample, rows, GRID, frame, "")
            _, sizes, losses = laddered(deviation * ROUGH, trial, sample.rows * rows.shape[1])
            if worth(sizes, losses, others):
                yield from sparse_curve(sample, combined(GRID, method))


def sparse_curve(sample: Sample, request: Combined) -> Iterator[Curve]:
    """All of the tensor is pruned, since its scales are those of what remains."""
    whole = left(sample.whole, request.method, of_weights(sample.objective), sample.inputs)
    objective, frame = sample.framing("", whole)
    frame = at_rows(frame, sample.picked)
    rows = whole[sample.picked]
    deviation = deviation_of(rows, frame)
    if deviation:
        steps = deviation * np.exp2(np.arange(-20, 13) / 2)
        yield curve_of(sample, request, steps, gridded(sample, rows, request, frame, objective))


def wanda(sparsity: float) -> Method:
    """The least magnitudes times inputs go, in each row."""
    return parse_method(f"wanda,sparsity={sparsity:g}")


def low_rank(sample: Sample, others: Sequence[Curve]) -> Iterator[Curve]:
    """Factors by singular values, at the ranks that promise most: a basis that some rows need is tried on others."""
    ranks = promising(sample, others)
    if ranks:
        found = lowrank.decomposed(sample.whole, gram_of(sample), max(ranks), sample.seed)
        for rank in ranks:
            yield from low_rank_curve(sample, combined(GRID, parse_method(f"low-rank,rank={rank}")), found)


def promising(sample: Sample, others: Sequence[Curve]) -> list[int]:
    """Ranks with which less may be lost than by all others at the same bytes."""
    rows, cols = sample.whole.shape
    half = min(rows // 2, HALF)
    if half < 2 or cols < 4 or sample.largest > largest_of(sample.tensor.dtype) / 2:  # products may lie beyond it
        return []
    chosen = np.random.default_rng(sample.seed).choice(rows, 2 * half, replace=False)
    a = sample.whole[chosen].astype(np.float64)
    norms = np.sqrt(np.einsum("rc,rc->r", a, a))[:, None]
    if sample.objective not in ("plain", "tensor"):
        a = np.divide(a, norms, out=np.zeros_like(a), where=norms > 0)
    basis = np.linalg.svd(a[:half], full_matrices=False)[2]
    held = a[half:]
    power = float(np.square(held).sum())
    if not power:
        return []
    tails = np.maximum(1 - np.cumsum(np.square(held @ basis.T).sum(axis=0)) / power, SIDE)
    ranks = np.arange(1, len(tails) + 1)
    # As much is lost again by rounding both factors, at half a bit for each halving.
    sizes = ranks * (rows + cols) * np.log2(2 / tails) / 2 / 8
    least = np.maximum(least_loss(sizes, others), np.finfo(float).tiny)
    gains = 2 * tails * sample.lost(np.zeros_like(sample.w)) / least
    taken: list[int] = []
    for at in np.argsort(gains):
        rank = int(ranks[at])
        if gains[at] < GAIN and len(taken) < RANKS and all(max(rank / one, one / rank) > 1.5 for one in taken):
            taken.append(rank)
    return sorted(taken)


def low_rank_curve(sample: Sample, request: Combined, found: lowrank.Components) -> Iterator[Curve]:
    """Both factors in the same steps relative to their frames."""
    rank = min(request.method.rank or 0, len(found.values))
    kind = numpy_dtype(scale_dtype(sample.tensor.dtype))
    with np.errstate(over="ignore"):
        left, right = (np.ascontiguousarray(one.astype(kind), np.float32) for one in lowrank.factors(found, rank))
    if not rank or not (np.isfinite(left).all() and np.isfinite(right).all()):
        return
    (_, before), (_, after) = sample.framing(".mc_left", left), sample.framing(".mc_right", right)
    both = (
        (replace(sample, w=left[sample.picked]), at_rows(before, sample.picked)),
        (replace(sample, w=right, rows=len(right)), after),
    )
    deviation = deviation_of(right, after)
    if not deviation:
        return
    steps = deviation * np.exp2(np.arange(*OCTAVES).astype(np.float64))
    sizes, losses = np.zeros(len(steps)), np.empty(len(steps))
    for number, step in enumerate(map(float, steps)):
        near = []
        for one, frame in both:
            result = arrays.quantize("w", one.w, "F32", one.w.shape, GRID, sample.seed, step, "", frame)
            sizes[number] += rate(one, frame, next(iter(result.stored.values())), step)[0]
            near.append(restored(one, result))
        losses[number] = sample.lost(near[0] @ near[1])
    yield laid(request, steps, sizes, losses)


def gram_of(sample: Sample) -> Array | None:
    """What `pruning` decomposes a low rank with: the Gram matrix, where there is one."""
    return sample.inputs if sample.inputs is not None and sample.inputs.ndim > 1 else None


def asked(sample: Sample, request: Combined) -> Iterator[Curve]:
    """The curve of a candidate that is wanted whatever it promises; a rank is at most what the matrix has."""
    if request.method.kind == "low-rank":
        rank = min(request.method.rank or 0, *sample.whole.shape)
        found = lowrank.decomposed(sample.whole, gram_of(sample), rank, sample.seed)
        yield from low_rank_curve(sample, replace(request, method=replace(request.method, rank=rank)), found)
    else:
        yield from sparse_curve(sample, request)


def worth(sizes: Array, losses: Array, others: Sequence[Curve]) -> bool:
    """Whether any of these points loses clearly less than all others at its bytes."""
    return bool((losses < GAIN * least_loss(sizes, others)).any())


def least_loss(sizes: Array, others: Sequence[Curve]) -> Array:
    """Of all candidates, at so many bytes; between two steps as a curve is interpolated."""
    found = np.full(len(sizes), np.inf)
    for one in others:
        if len(one.steps) == 1:
            found = np.where(sizes >= one.bytes[0], np.minimum(found, one.losses[0]), found)
        else:
            logs = np.log2(np.maximum(one.losses[::-1], np.finfo(float).tiny))
            none = None if framed(one.request) else np.inf  # the widest steps leave zeros, and few bits still bits
            found = np.minimum(found, np.exp2(np.interp(sizes, one.bytes[::-1], logs, left=none)))
    return found


THINNED = (sparse, low_rank)
