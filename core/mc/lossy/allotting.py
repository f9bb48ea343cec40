"""How much of each tensor goes: as asked, or by one multiplier for all, so that a sparsity, an error or a size is met.

With L + lambda x Omega a weight goes if the square of its score is below lambda; a component of a low rank goes if its
squared singular value is below lambda for each number that it takes. Both are counted by the leading bits of that
score, in one histogram for all tensors, and a limit is met by the threshold that the search over its bins finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mc.checkpoint import Layout, Source, Tensor
from mc.dtypes import numpy_dtype
from mc.errors import LimitError, UsageError
from mc.lossy import lowrank, masks
from mc.lossy.cuts import LEADING, SHIFT
from mc.lossy.files import Target as Out
from mc.lossy.files import naming
from mc.lossy.masks import Threshold
from mc.lossy.methods import Method, is_free
from mc.lossy.pruned import Made, Masks, Step, refuse_missed, results, write
from mc.lossy.pruning import Array, PruneJob, component_bits, largest, matrix_of, prune_tensor, units_of
from mc.lossy.requests import Target, assign
from mc.lossy.shards import Files, Held, held_bytes, tensors_of
from mc.lossy.sizes import packed_parts
from mc.lossy.thresholds import by_components, settled
from mc.lossy.tied import parted, together
from mc.parallel import Workers
from mc.schemes import matrix, scale_dtype
from mc.scratch import scratch
from mc.twins import find_tied

PACKED = 0.7  # of the bytes of a component, at least, are left once it is packed
ROUNDS = 14  # of a search for a share, which is then within 1e-4
Cuts = dict[str, Threshold]


@dataclass(frozen=True)
class Allotted:
    """What is done to every tensor of every file."""

    job: PruneJob  # with every share decided
    cuts: Cuts  # the thresholds of tensors that share one
    tied: Mapping[str, str]  # tensors that stay because one that they are tied to does, and that one
    alone: bool  # whether there is one file only


def allot(where: str, files: Files, job: PruneJob, work: Workers) -> Allotted:
    """The shares and thresholds with which all files meet the target together; `where` names the whole. McError,
    naming the tensor, for numbers that are not finite and methods that don't fit; LimitError where the target can't be
    met."""
    masks = {name: method for name, method in job.wanted.items() if method.kind == "mask"}
    said = assign([tensor for _, tensor in tensors_of(files)], None, job.sets, job.keep)[0] | masks
    twins = parted(find_tied(files), said, job.keep)
    tied = together(twins, job.wanted, said, job.keep, masks)
    job = replace(job, wanted=tied.wanted, twins=twins, masked=tied.masked)
    shares = _allotted(where, files, job, work) if job.wanted else (job, {})
    return Allotted(*shares, tied.stay, len(files) == 1)


def prune_file(
    source: Source, layout: Layout, plan: Allotted, out: Out, work: Workers, step: Step, masks_out: Masks | None
) -> Made:
    """Write the pruned form of one of the files. LimitError if an error of it is above its limit; one over several
    files is known at their end."""
    made = write(source, layout, plan.job, plan.cuts, out, work, step, masks_out)
    target = plan.job.target
    if plan.alone or (target is not None and not target.overall):
        refuse_missed(source.where, [made], target)
    tied = tuple((tensor.name, plan.tied[tensor.name]) for tensor in layout.tensors if tensor.name in plan.tied)
    return replace(made, tied=tied)


def _allotted(where: str, files: Files, job: PruneJob, work: Workers) -> tuple[PruneJob, Cuts]:
    target = job.target
    tensors = [held for held in tensors_of(files) if held[1].name in job.wanted]
    free = [held for held in tensors if is_free(job.wanted[held[1].name])]
    if target is None:
        return job, _globals(tensors, job, work)
    if not free:
        raise UsageError("A limit was given, and every tensor has a sparsity, a pattern or a rank already.")
    if target.kind == "error" and not target.overall:
        shares = dict(work.each(lambda held: (held[1].name, _share(held, job, target.value)), free))
        return replace(job, wanted=job.wanted | shares), _globals(tensors, job, work)
    stuck = [tensor.name for _, tensor in free if job.wanted[tensor.name].kind == "obs"]
    if stuck:
        raise UsageError("obs can't be shared out over tensors; give it a sparsity, a pattern or --max-error.")
    return job, _shared(where, files, job, target, free, _globals(tensors, job, work), work)


def _shared(
    where: str, files: Files, job: PruneJob, target: Target, free: Sequence[Held], cuts: Cuts, work: Workers
) -> Cuts:
    """With the thresholds of tensors that have theirs, those of all others, with which the target is met over all."""
    alone = [held for held in free if held[1].name not in job.twins]
    counts, scores = _counted(alone, job, work)
    low_ranks = len(scores) == len(alone)
    components = np.sort(np.concatenate(list(scores.values()))) if low_ranks else np.empty(0, np.uint32)
    names = {tensor.name for _, tensor in free}

    def with_cuts(least: int, own: Mapping[str, int]) -> Cuts:
        """One threshold for all, but for those that have their own, and what is tied to these."""
        return cuts | {name: Threshold(own.get(job.twins.get(name, name), least), 0) for name in names}

    def live(low: int, high: int) -> bool:
        if not low_ranks:
            return True
        first, last = np.searchsorted(components, [low, high])
        return bool(first < last)

    power = 1.0

    def error(thresholds: Cuts) -> float:
        nonlocal power
        found = [
            one
            for source, layout in files
            for _, one in results(source, _wanted(layout, job), job, thresholds, work)
            if one
        ]
        power = sum(one.power for one in found)
        return sum(one.error for one in found) / power if power else 0.0

    def packed_one(source: Source, layout: Layout, thresholds: Cuts) -> int:
        with scratch() as out:
            made = write(source, layout, job, thresholds, out, work, lambda _: None)
            out.flush()
            return packed_parts(Source.of(out, source.where), made.recipe, job.level, work)[1]

    fewer = target.kind == "error"
    moving = [one for one in files if any(tensor.name in names for tensor in one[1].tensors)]
    fixed = 0 if fewer else sum(packed_one(*one, cuts) for one in files if one not in moving)  # whatever the threshold

    def packed(thresholds: Cuts) -> int:
        return fixed + sum(packed_one(*one, thresholds) for one in moving)

    measure = error if fewer else packed
    bins = np.flatnonzero(counts)
    first, last = (int(bins[0]) << int(SHIFT), int(bins[-1]) + 1 << int(SHIFT)) if len(bins) else (0, 1)
    good, bad = (first, last) if fewer else (last, first - 1)
    if not fewer and (least := packed(with_cuts(last, {}))) > target.value:
        raise LimitError(
            f"{where} takes at least {least} bytes, and the target allows {int(target.value)}. Ask for more, or "
            "keep fewer tensors."
        )
    met = settled(lambda least: measure(with_cuts(least, {})), target.value, good, bad, live)
    shapes = {tensor.name: matrix(tensor.shape) for _, tensor in alone}
    widths = {tensor.name: numpy_dtype(scale_dtype(tensor.dtype)).itemsize for _, tensor in alone}

    def cost(name: str, bits: int) -> float:
        numbers = sum(shapes[name])
        if not fewer:
            return PACKED * numbers * widths[name]
        if job.objective != "plain" or job.statistics is not None:
            return 0.0  # the score is of another error
        return float(np.array([bits], np.uint32).view(np.float32)[0]) ** 2 * numbers / power

    own = by_components(
        lambda each: measure(with_cuts(met.least, each)), target.value, met, scores if low_ranks else {}, cost, fewer
    )
    return with_cuts(met.least, own)


def _wanted(layout: Layout, job: PruneJob) -> list[Tensor]:
    return [tensor for tensor in layout.tensors if tensor.name in job.wanted]


def _globals(tensors: Sequence[Held], job: PruneJob, work: Workers) -> Cuts:
    """Thresholds of tensors whose sparsity is for all of them together: exactly as many weights go."""
    cuts: Cuts = {}
    groups: dict[float, list[Held]] = {}
    for held in tensors:
        tensor = held[1]
        method = job.wanted[tensor.name]
        if tensor.name in job.twins or method.scope != "global" or method.keep:
            continue
        if method.sparsity is not None:
            groups.setdefault(method.sparsity, []).append(held)
    for sparsity, members in groups.items():
        counts, _ = _counted(members, job, work)

        def units(held: Held) -> masks.Units:
            source, tensor = held
            with naming(source.where, tensor.name):
                _, w = matrix_of(source, tensor)
                moments = job.moments(tensor.name, w.shape[1])
                return units_of(tensor, w, job.wanted[tensor.name], job.objective, moments)

        count = masks.wanted(sparsity, int(counts.sum()))
        threshold = masks.ranked(counts, map(units, members), count)
        for held in members:  # of equal scores, those of the first tensors go
            cuts[held[1].name] = threshold
            if threshold.ties:
                _, left = masks.above(units(held), threshold)
                threshold = Threshold(threshold.least, left)
    return cuts | {name: cuts[twin] for name, twin in job.twins.items() if twin in cuts}


def _counted(tensors: Sequence[Held], job: PruneJob, work: Workers) -> tuple[Array, dict[str, Array]]:
    """Weights, and numbers of components, by the leading bits of their scores; and the bits of all components, falling,
    by tensor."""

    def count(held: Held) -> tuple[Array, Array | None]:
        source, tensor = held
        with naming(source.where, tensor.name):
            _, w = matrix_of(source, tensor)
            method = job.wanted[tensor.name]
            moments = job.moments(tensor.name, w.shape[1])
            if method.kind == "low-rank":
                rest = w * (1 - largest(tensor, w, method.residual)) if method.residual else w
                found = lowrank.decomposed(rest, moments.gram if moments is not None else None)
                bits = component_bits(found, w, job.objective)
                return np.bincount(bits >> SHIFT, minlength=LEADING).astype(np.int64) * sum(w.shape), bits
            return masks.leading(units_of(tensor, w, method, job.objective, moments)), None

    counts, scores = np.zeros(LEADING, np.int64), {}
    for (_, tensor), (one, bits) in zip(tensors, work.each(count, tensors, held_bytes), strict=True):
        counts += one
        if bits is not None:
            scores[tensor.name] = bits
    return counts, scores


def _share(held: Held, job: PruneJob, limit: float) -> Method:
    """The method with the largest share gone whose error is at most the limit."""
    source, tensor = held
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
