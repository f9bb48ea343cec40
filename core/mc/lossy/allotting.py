"""How much of each tensor goes: as asked, or by one multiplier for all, so that a sparsity, an error or a size is met.

With L + lambda x Omega a weight goes if the square of its score is below lambda; a component of a low rank goes if its
squared singular value is below lambda for each number that it takes. Both are counted by the leading bits of that
score, in one histogram for all tensors, and a limit is met by the threshold that the search over its bins finds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from mc.checkpoint import Layout, Source, Tensor
from mc.errors import LimitError, UsageError
from mc.lossy import lowrank, masks
from mc.lossy.cuts import LEADING, SHIFT
from mc.lossy.files import Target as Out
from mc.lossy.files import naming, plain_layout
from mc.lossy.masks import Threshold
from mc.lossy.methods import Method, is_free
from mc.lossy.moments import moments_of
from mc.lossy.pruning import (
    Array,
    Made,
    Masks,
    PruneJob,
    Step,
    component_bits,
    matrix_of,
    prune_tensor,
    refuse_missed,
    results,
    tied,
    units_of,
    write,
)  # fmt: skip
from mc.lossy.sizes import packed_parts
from mc.parallel import Workers
from mc.twins import find_twins

ROUNDS = 14  # of a search for a share, which is then within 1e-4
Cuts = dict[str, Threshold]


def prune_file(source: Source, out: Out, job: PruneJob, work: Workers, step: Step, masks_out: Masks | None) -> Made:
    """Write the pruned form of `source`. McError, naming the tensor, for numbers that are not finite and methods that
    don't fit; LimitError where the target can't be met, and then `out` is not to be kept."""
    layout = plain_layout(source)
    twins = find_twins(source, layout)
    job = replace(job, wanted=tied(twins, job.wanted), twins=twins)
    job, cuts = allotted(source, layout, job, work)
    made = write(source, layout, job, cuts, out, work, step, masks_out)
    refuse_missed(source.where, made, job.target)
    return made


def allotted(source: Source, layout: Layout, job: PruneJob, work: Workers) -> tuple[PruneJob, Cuts]:
    """The job with every share decided, and the thresholds of tensors that share one."""
    target = job.target
    tensors = [tensor for tensor in layout.tensors if tensor.name in job.wanted]
    free = [tensor for tensor in tensors if is_free(job.wanted[tensor.name])]
    if target is None:
        return job, _globals(source, tensors, job, work)
    if not free:
        raise UsageError("A limit was given, and every tensor has a sparsity, a pattern or a rank already.")
    if target.kind == "error" and not target.overall:
        shares = dict(work.each(lambda tensor: (tensor.name, _share(source, tensor, job, target.value)), free))
        return replace(job, wanted=job.wanted | shares), _globals(source, tensors, job, work)
    stuck = [tensor.name for tensor in free if job.wanted[tensor.name].kind == "obs"]
    if stuck:
        raise UsageError("obs can't be shared out over tensors; give it a sparsity, a pattern or --max-error.")
    cuts = _globals(source, tensors, job, work)
    counts = _counted(source, [tensor for tensor in free if tensor.name not in job.twins], job, work)

    def with_cut(bin_number: int) -> Cuts:
        return cuts | {tensor.name: Threshold(bin_number << int(SHIFT), 0) for tensor in free}

    live = np.flatnonzero(counts)
    first, last = (int(live[0]), int(live[-1]) + 1) if len(live) else (0, 1)
    if target.kind == "error":

        def error(bin_number: int) -> bool:
            found = [one for _, one in results(source, tensors, job, with_cut(bin_number), work) if one]
            return sum(one.error for one in found) <= target.value * sum(one.power for one in found)

        return job, with_cut(_last(error, first, last))

    least = 0

    def fits(bin_number: int) -> bool:
        nonlocal least
        with tempfile.TemporaryFile() as out:
            made = write(source, layout, job, with_cut(bin_number), out, work, lambda _: None)
            out.flush()
            _, least = packed_parts(Source.of(out, source.where), made.recipe, job.level, work)
        return least <= target.value

    if not fits(last):
        raise LimitError(
            f"{source.where} takes at least {least} bytes, and the target allows {int(target.value)}. Ask for more, or "
            "keep fewer tensors."
        )
    return job, with_cut(_last(lambda bin_number: not fits(bin_number), first - 1, last) + 1)


def _last(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The last number, from `low` on and below `high`, for which something holds that holds for all before it."""
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


def _globals(source: Source, tensors: Sequence[Tensor], job: PruneJob, work: Workers) -> Cuts:
    """Thresholds of tensors whose sparsity is for all of them together: exactly as many weights go."""
    cuts: Cuts = {}
    groups: dict[float, list[Tensor]] = {}
    for tensor in tensors:
        method = job.wanted[tensor.name]
        if tensor.name in job.twins or method.scope != "global" or method.keep:
            continue
        if method.sparsity is not None:
            groups.setdefault(method.sparsity, []).append(tensor)
    for sparsity, members in groups.items():
        counts = _counted(source, members, job, work)

        def units(tensor: Tensor) -> masks.Units:
            with naming(source.where, tensor.name):
                _, w = matrix_of(source, tensor)
                moments = moments_of(job.statistics, tensor.name, w.shape[1])
                return units_of(tensor, w, job.wanted[tensor.name], job.objective, moments)

        count = masks.wanted(sparsity, int(counts.sum()))
        threshold = masks.ranked(counts, map(units, members), count)
        for tensor in members:  # of equal scores, those of the first tensors go
            cuts[tensor.name] = threshold
            if threshold.ties:
                _, left = masks.above(units(tensor), threshold)
                threshold = Threshold(threshold.least, left)
    return cuts | {name: cuts[twin] for name, twin in job.twins.items() if twin in cuts}


def _counted(source: Source, tensors: Sequence[Tensor], job: PruneJob, work: Workers) -> Array:
    """Weights, and numbers of components, by the leading bits of their scores."""

    def count(tensor: Tensor) -> Array:
        with naming(source.where, tensor.name):
            _, w = matrix_of(source, tensor)
            method = job.wanted[tensor.name]
            moments = moments_of(job.statistics, tensor.name, w.shape[1])
            if method.kind == "low-rank":
                found = lowrank.decomposed(w, moments.gram if moments is not None else None)
                bits = component_bits(found, w, job.objective) >> SHIFT
                return np.bincount(bits, minlength=LEADING).astype(np.int64) * sum(w.shape)
            return masks.leading(units_of(tensor, w, method, job.objective, moments))

    counts = np.zeros(LEADING, np.int64)
    for one in work.each(count, tensors, lambda tensor: tensor.stop - tensor.start):
        counts += one
    return counts


def _share(source: Source, tensor: Tensor, job: PruneJob, limit: float) -> Method:
    """The method with the largest share gone whose error is at most the limit."""
    method = job.wanted[tensor.name]
    with naming(source.where, tensor.name):
        raw, w = matrix_of(source, tensor)
        if method.kind == "low-rank":
            return replace(method, rank=_rank(tensor, raw, w, method, job, limit))
        low, high = 0.0, 1.0
        for _ in range(ROUNDS):
            share = (low + high) / 2
            found = prune_tensor(tensor, raw, w, replace(method, sparsity=share, scope=_local(method)), job, None)
            low, high = (share, high) if found.about.error <= limit else (low, share)
        return replace(method, sparsity=low, scope=_local(method))


def _local(method: Method) -> str:
    return "tensor" if method.scope == "global" else method.scope


def _rank(tensor: Tensor, raw: Array, w: Array, method: Method, job: PruneJob, limit: float) -> int:
    """The least rank whose error is at most the limit."""
    low, high = 0, min(w.shape)
    while low < high:
        rank = (low + high) // 2
        found = prune_tensor(tensor, raw, w, replace(method, rank=rank), job, None)
        low, high = (low, rank) if found.about.error <= limit else (rank + 1, high)
    return low
