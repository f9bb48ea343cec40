"""A plan carried out: quantized, packed, and measured, exactly as it will be in the end."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np

from mc import blob
from mc.checkpoint import Layout, Source, Tensor, read_layout
from mc.errors import McError, quote
from mc.heading import header_room
from mc.loader import Checkpoint
from mc.lossy import arrays
from mc.lossy.files import Floats, naming, plain_layout, read_array
from mc.lossy.passes import Job, Made, write
from mc.lossy.schemes import parts
from mc.lossy.sizes import Nowhere
from mc.packing import pack_file
from mc.parallel import Workers
from mc.plan.losses import loss
from mc.plan.plans import Plan, written
from mc.twins import find_twins

Array = np.ndarray[Any, Any]
Step = Callable[[int], None]


@dataclass(frozen=True)
class Shard:
    """One file of a checkpoint, carried out."""

    made: Made
    size: int  # bytes of the packed file
    packed: dict[str, int]  # bytes of each tensor of the original that was quantized, with all that belongs to it
    coded: dict[str, int]  # bytes of each tensor that stayed
    header: tuple[Layout, dict[str, str]]  # what the length of the header depends on: layout and twins


@dataclass(frozen=True)
class Trial:
    """A plan, and what came of it."""

    plan: Plan
    shards: tuple[Shard, ...]
    bytes: dict[str, int]  # of every tensor in the plan
    losses: dict[str, float]  # by the objective; those of tied tensors count once

    @property
    def size(self) -> int:
        """Bytes of all packed files."""
        return sum(shard.size for shard in self.shards)

    @property
    def loss(self) -> float:
        """Over all tensors."""
        return sum(self.losses.values())


def carry_out(source: Source, plan: Plan, out: BinaryIO, work: Workers, step: Step) -> Made:
    """Write the quantized form of one shard: what the plan doesn't change is copied. McError where a tensor can't hold
    what the plan wants."""
    layout = plain_layout(source)
    lossy = {name: one for name, one in plan.choices.items() if one.request is not None}
    twins = find_twins(source, layout)
    # A tied tensor goes the way of the one it is tied to, so that it stays tied.
    lossy |= {name: lossy[first] for name, first in twins.items() if first in lossy}
    for name, first in twins.items():
        if first not in lossy:
            lossy.pop(name, None)
    here = {tensor.name for tensor in layout.tensors if tensor.start < tensor.stop}
    wanted = {name: one.request for name, one in lossy.items() if name in here and one.request is not None}
    job = Job(wanted, plan.objective, plan.seed, plan.level, None)
    return write(source, layout, job, {name: one.step for name, one in lossy.items()}, out, work, step)


def try_plan(sources: Sequence[Source], plan: Plan, work: Workers, measuring: bool = True) -> Trial:
    """Carry a plan out for every shard, into nothing; with `measuring`, every loss is computed."""
    shards: list[Shard] = []
    losses: dict[str, float] = {}
    for source in sources:
        with tempfile.TemporaryFile() as out:
            made = carry_out(source, plan, out, work, lambda _: None)
            out.flush()
            quantized = Source.of(out, source.where)
            shards.append(packed(quantized, made, plan, work, None))
            if measuring:
                losses |= lost(source, quantized, made, plan, work)
    sizes = {name: size for shard in shards for name, size in (shard.packed | shard.coded).items()}
    listed = {name: sizes[name] for name in plan.choices if name in sizes}
    return Trial(plan, tuple(shards), listed, {name: losses.get(name, 0.0) for name in plan.choices})


def packed(quantized: Source, made: Made, plan: Plan, work: Workers, out: BinaryIO | None) -> Shard:
    """Pack one shard, with the plan in its manifest; to `out`, if any."""
    _, reports, size = pack_file(
        quantized, out or Nowhere(), plan.level, work, lambda _: None, stored(plan, read_layout(quantized), made)
    )
    sizes = {one.name: one.packed_bytes for one in reports}
    of_tensor = {
        name: sum(sizes.pop(part) for part in parts(name, about.scheme, about.dtype, about.shape))
        for step in reversed(made.recipe)
        for name, about in step.tensors.items()
    }
    layout = read_layout(quantized)
    return Shard(made, size, of_tensor, sizes, (layout, find_twins(quantized, layout)))


def with_plan(trial: Trial, plan: Plan) -> Trial:
    """The trial as it would have been with a plan that does the same and explains it in other words."""

    def resized(shard: Shard) -> Shard:
        layout, twins = shard.header
        reserved = len(blob.write_reserved(layout.prefix))
        before, after = (
            header_room(layout.tensors, layout.size, twins, plan.level, reserved, stored(one, layout, shard.made))
            for one in (trial.plan, plan)
        )
        return replace(shard, size=shard.size - before + after)

    return replace(trial, plan=plan, shards=tuple(map(resized, trial.shards)))


def stored(plan: Plan, layout: Layout, made: Made) -> dict[str, Any]:
    """The plan as the manifest of one shard, quantized, holds it: what is said of tensors elsewhere is left out."""
    found = written(plan)
    here = {tensor.name for tensor in layout.tensors} | {name for step in made.recipe for name in step.tensors}
    return {**found, "tensors": {name: entry for name, entry in found["tensors"].items() if name in here}}


def lost(source: Source, quantized: Source, made: Made, plan: Plan, work: Workers) -> dict[str, float]:
    """The loss of every tensor of a shard that was changed, from the decoded numbers."""
    layout = plain_layout(source)
    changed = {name for step in made.recipe for name in step.tensors if name in plan.choices}
    floats = Floats(Checkpoint(quantized))

    def of(tensor: Tensor) -> tuple[str, float]:
        with naming(source.where, tensor.name):
            w = arrays.as_matrix(read_array(source, tensor), tensor.dtype, tensor.shape)
            v = floats.tensor(tensor.name).astype(np.float32, copy=False).reshape(w.shape)
            return tensor.name, loss(w, v, plan.objective)

    listed = [tensor for tensor in layout.tensors if tensor.name in changed]
    return dict(work.each(of, listed, lambda tensor: tensor.stop - tensor.start))


def refuse_unknown(plan: Plan, names: Sequence[str], where: str) -> None:
    """McError for a tensor of the plan that the checkpoint doesn't have."""
    there = set(names)
    for name in plan.choices:
        if name not in there:
            raise McError(f"The plan has a tensor {quote(name)}, and {where} has none of this name. It is another's.")
