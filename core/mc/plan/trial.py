"""A plan carried out: quantized, packed, and measured, exactly as it will be in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np

from mc.checkpoint import Layout, Source, Tensor, read_layout
from mc.errors import McError, quote
from mc.loader import Checkpoint
from mc.lossy import arrays, pruned
from mc.lossy.files import Floats, naming, plain_layout, read_array
from mc.lossy.frames import Frames
from mc.lossy.loops import squares
from mc.lossy.masks import Threshold
from mc.lossy.measure import bound
from mc.lossy.passes import Job, Made, write
from mc.lossy.pruning import PruneJob, matrix_of
from mc.lossy.requests import Request
from mc.lossy.sizes import Nowhere
from mc.lossy.statistics import Statistics
from mc.lossy.zeros import pruned_in, refuse_unheld
from mc.packing import pack_file, recipe_of, room
from mc.parallel import Workers
from mc.plan.allocate import Choice, acts
from mc.plan.losses import measure_of
from mc.plan.plans import Plan, written
from mc.plan.stored import stored, with_parts
from mc.plan.thinned import is_cut, of_weights, threshold
from mc.plan.ways import Combined, gridded
from mc.recipe import Recipe, read_recipe, refuse_infinite
from mc.scratch import scratch
from mc.twins import find_tied, find_twins

AS_IS = None, 0.0  # what is done to a tensor that isn't listed
SETTLED = 4  # rounds, at most, until a size that the plan states is that of the file with the plan


@dataclass(frozen=True)
class Shard:
    """One file of a checkpoint, carried out."""

    made: Made
    size: int  # bytes of the packed file
    header: int  # of these, that of its header
    packed: dict[str, int]  # bytes of each tensor of the original, with all that belongs to it, and of its parts
    layout: Layout  # of the quantized file, which the length of the packed one's header depends on
    twins: dict[str, str]
    recipe: Recipe  # that it has


@dataclass(frozen=True)
class Trial:
    """A plan, and what came of it."""

    plan: Plan
    shards: tuple[Shard, ...]
    bytes: dict[str, int]  # of every tensor in the plan
    losses: dict[str, float]  # by the objective; those of tied tensors count once
    bounds: dict[str, float]  # bits a weight that no code beats at these squared errors, were weights Gaussian

    @property
    def size(self) -> int:
        """Bytes of all packed files."""
        return sum(shard.size for shard in self.shards)

    @property
    def loss(self) -> float:
        """Over all tensors."""
        return sum(self.losses.values())


def tied_in(source: Source, layout: Layout, plan: Plan) -> dict[str, str]:
    """Tensors that are tied to an earlier one, and that: not those for which the plan has something else in store."""
    does = acts(plan.choices)
    twins = find_tied([(source, layout)])
    return {name: one for name, one in twins.items() if name not in does or does[name] == does.get(one, AS_IS)}


def requests_of(layout: Layout, twins: Mapping[str, str], plan: Plan) -> dict[str, Choice]:
    """What a plan changes in one shard, by tensor. A tied tensor goes the way of the one it is tied to, so that it
    stays tied."""
    here = {tensor.name for tensor in layout.tensors if tensor.start < tensor.stop}
    lossy = {name: one for name, one in plan.choices.items() if one.request is not None and name in here}
    for name, first in twins.items():
        if first in lossy:
            lossy[name] = lossy[first]
        else:
            lossy.pop(name, None)
    return lossy


def carry_out(
    source: Source, plan: Plan, work: Workers, statistics: Statistics | None, frames: Frames
) -> tuple[BinaryIO | None, Made]:
    """The quantized form of one shard, in a temporary file: what the plan doesn't change is copied. None if it changes
    nothing. McError where a tensor can't hold what the plan wants. `frames` keeps those of tensors as they are."""
    layout = plain_layout(source)
    twins = tied_in(source, layout, plan)
    lossy = requests_of(layout, twins, plan)
    if not lossy:
        listed = tuple((tensor.name, tensor.stop - tensor.start) for tensor in layout.tensors)
        return None, Made((), (), source.size, listed)
    with ExitStack() as stack:
        ready = source
        if any(isinstance(one.request, Combined) for one in lossy.values()):
            thin = stack.enter_context(scratch())
            ready = pruned_first(source, layout, lossy, plan, thin, work, statistics, twins)
        wanted: dict[str, Request] = {}
        steps: dict[str, float] = {}
        tied = dict(twins)
        for tensor in layout.tensors:
            one = lossy.get(tensor.name)
            if one is None or one.request is None:
                continue
            names = tensor.name, twins.get(tensor.name, tensor.name)
            both = (gridded(name, one.request, tensor.dtype, tensor.shape) for name in names)
            for part, first in zip(*both, strict=True):
                wanted[part], steps[part] = one.request, one.step
                if part != first:
                    tied[part] = first
        found = read_layout(ready)
        zeros = pruned_in([(ready, found)])
        refuse_unheld(source.where, wanted, zeros)
        kept = frames if ready is source else None
        job = Job(wanted, plan.objective, plan.seed, plan.level, None, statistics, False, tied, kept, zeros)
        out: BinaryIO = scratch()
        try:
            made = write(ready, found, job, steps, out, work, lambda _: None)
            refuse_infinite(made.recipe, source.where)
            out.flush()
        except BaseException:
            out.close()
            raise
        return out, made


def pruned_first(
    source: Source, layout: Layout, lossy: Mapping[str, Choice], plan: Plan, out: BinaryIO, work: Workers,
    statistics: Statistics | None, twins: Mapping[str, str],
) -> Source:  # fmt: skip
    """The shard with what is to be pruned first pruned, written to `out`; thresholds of magnitudes are those of each
    tensor, weighed by the objective."""
    methods = {name: one.request.method for name, one in lossy.items() if isinstance(one.request, Combined)}
    job = PruneJob(methods, of_weights(plan.objective), plan.seed, plan.level, None, statistics=statistics, twins=twins)

    def cut(tensor: Tensor) -> tuple[str, Threshold]:
        with naming(source.where, tensor.name):
            _, w = matrix_of(source, tensor)
            return tensor.name, threshold(w, methods[tensor.name], job.objective)

    cuts = dict(work.each(cut, [one for one in layout.tensors if is_cut(methods.get(one.name))]))
    pruned.write(source, layout, job, cuts, out, work, lambda _: None)
    out.flush()
    return Source.of(out, source.where)


class Latest:
    """The quantized files of the plan that was carried out last, so that they are restored or packed without doing it
    again. Closing it, or carrying out another plan, takes them away."""

    def __init__(self, statistics: Statistics | None = None) -> None:
        """`statistics` of layer inputs, for plans whose objective is diag or gram."""
        self.statistics = statistics
        self._choices: dict[str, Choice] | None = None
        self._files: list[tuple[BinaryIO | None, Made]] = []  # None: the shard stays as it is
        self.frames = Frames()  # of tensors as they are

    def of(self, sources: Sequence[Source], plan: Plan, work: Workers) -> list[tuple[Source, Made]]:
        """Every shard, quantized by this plan."""
        wanted = {name: replace(one, bytes=0.0, loss=0.0) for name, one in plan.choices.items()}
        if wanted != self._choices:
            self.close()
            for source in sources:
                self._files.append(carry_out(source, plan, work, self.statistics, self.frames))
            self._choices = wanted
        return [
            (Source.of(out, source.where) if out is not None else source, made)
            for source, (out, made) in zip(sources, self._files, strict=True)
        ]

    def close(self) -> None:
        """Take the files away."""
        for out, _ in self._files:
            if out is not None:
                out.close()
        self._files, self._choices = [], None

    def __enter__(self) -> Latest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self.frames.close()


def try_plan(sources: Sequence[Source], plan: Plan, work: Workers, latest: Latest) -> Trial:
    """Carry a plan out for every shard, into nothing, and measure."""
    shards: list[Shard] = []
    found: dict[str, tuple[float, float]] = {}
    for source, (quantized, made) in zip(sources, latest.of(sources, plan, work), strict=True):
        shards.append(packed(quantized, made, plan, work, None, len(sources) == 1))
        found |= lost(source, quantized, made, plan, work, latest.statistics)
    sizes = {name: size for shard in shards for name, size in shard.packed.items()}
    listed = {name: sizes[name] for name in plan.choices if name in sizes}
    losses = {name: found[name][0] if name in found else 0.0 for name in plan.choices}
    return Trial(plan, tuple(shards), listed, losses, {name: least for name, (_, least) in found.items()})


def packed(
    quantized: Source, made: Made, plan: Plan, work: Workers, out: BinaryIO | None, alone: bool
) -> Shard:  # fmt: skip
    """Pack one shard, with the plan in its manifest; to `out`, if any. `alone`: whether it is the only one."""
    layout = read_layout(quantized)
    twins = find_twins(quantized, layout)
    recipe = recipe_of(layout, quantized.where)
    kept = stored(written(plan), layout, twins, recipe, plan.level, alone)
    _, reports, size = pack_file(quantized, out or Nowhere(), plan.level, work, lambda _: None, kept)
    sizes = with_parts({one.name: one.packed_bytes for one in reports}, recipe)
    return Shard(made, size, room(layout, twins, recipe, plan.level, kept), sizes, layout, twins, recipe)


def with_plan(trial: Trial, plan: Plan) -> Trial:
    """The trial as it would have been with a plan that does the same and explains it in other words. Where the plan
    tells of sizes near by, that of the trial is among them."""
    alone = len(trial.shards) == 1
    found = trial
    for _ in range(SETTLED):
        told = plan.about.get("nearby")
        match told:
            case [smaller, [int(), loss], larger]:
                plan = replace(plan, about={**plan.about, "nearby": [smaller, [found.size, loss], larger]})
        text = written(plan)

        def resized(shard: Shard, text: dict[str, Any] = text, level: str = plan.level) -> Shard:
            kept = stored(text, shard.layout, shard.twins, shard.recipe, level, alone)
            header = room(shard.layout, shard.twins, shard.recipe, level, kept)
            return replace(shard, size=shard.size - shard.header + header, header=header)

        before, found = found.size, replace(found, plan=plan, shards=tuple(map(resized, found.shards)))
        if found.size == before and found.plan.about.get("nearby") == told:
            break
    return found


def lost(
    source: Source, quantized: Source, made: Made, plan: Plan, work: Workers, statistics: Statistics | None
) -> dict[str, tuple[float, float]]:
    """Of every tensor of a shard that was changed, from the decoded numbers: the loss, and the bits a weight that no
    code beats at its squared error (`measure.bound`)."""
    layout = plain_layout(source)
    before = len(read_recipe(layout, source.where))
    changed = {name for step in made.recipe[before:] for name in step.tensors if name in plan.choices}
    floats, twins = Floats(Checkpoint(quantized), since=before), tied_in(source, layout, plan)

    def of(tensor: Tensor) -> tuple[str, tuple[float, float]]:
        with naming(source.where, tensor.name):
            w = arrays.as_matrix(read_array(source, tensor), tensor.dtype, tensor.shape)
            v = floats.tensor(tensor.name).astype(np.float32, copy=False).reshape(w.shape)
            measure = measure_of(tensor.name, w.shape, plan.objective, statistics, twins)
            squared, _ = squares(w.reshape(-1), v.reshape(-1))
            return tensor.name, (measure.lost(w, v), bound(w, squared))

    listed = [tensor for tensor in layout.tensors if tensor.name in changed]
    return dict(work.each(of, listed, lambda tensor: tensor.stop - tensor.start))


def refuse_unknown(plan: Plan, names: Sequence[str], where: str) -> None:
    """McError for a tensor of the plan that the checkpoint doesn't have."""
    there = set(names)
    for name in plan.choices:
        if name not in there:
            raise McError(f"The plan has a tensor {quote(name)}, and {where} has none of this name. It is another's.")
