"""Quantize: plain safetensors files in, quantized ones out, by schemes that were asked for, up to a limit to meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mc.checkpoint import Layout, Source
from mc.errors import McError, quote
from mc.lossy.files import Target as Out
from mc.lossy.limits import refuse_beyond
from mc.lossy.passes import Job, Made, Step, unweighed, write
from mc.lossy.requests import Target, assign
from mc.lossy.shards import Files, tensors_of
from mc.lossy.standards import refuse_unnamed
from mc.lossy.targets import steps_for
from mc.lossy.tied import parted, together
from mc.lossy.zeros import pruned_in, refuse_unheld
from mc.parallel import Workers
from mc.twins import find_tied


@dataclass(frozen=True)
class Decided:
    """What is done to every tensor of every file."""

    job: Job
    steps: Mapping[str, float]  # of grids, by tensor
    tied: Mapping[str, str]  # tensors that stay because one that they are tied to does, and that one
    alone: bool  # whether there is one file only


def decided(where: str, files: Files, job: Job, work: Workers) -> Decided:
    """The schemes and steps with which all files meet the target together; `where` names the whole. McError,
    naming the tensor, for numbers that are not finite or too large, without statistics
    where the job is strict, or whose zeros a trellis would lose; LimitError where the target can't be met."""
    said = assign([tensor for _, tensor in tensors_of(files)], None, job.sets, job.keep)[0]
    twins = parted(find_tied(files), said, job.keep)
    refuse_unnamed(twins, said, job.keep, {tensor.name: len(tensor.shape) for _, tensor in tensors_of(files)})
    tied = together(twins, job.wanted, said, job.keep)
    job = replace(job, wanted=tied.wanted, twins=twins, pruned=pruned_in(files))
    refuse_unheld(where, tied.wanted, job.pruned)
    missing = unweighed(job, [tensor for _, tensor in tensors_of(files)])
    if job.strict and missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        lacks = "no statistics" if missing[0].objective == "row" else "no Gram matrix"
        raise McError(
            f"{where}: tensor {quote(missing[0].name)}{more} has {lacks} in "
            f"{job.statistics.where if job.statistics else ''}. Record its inputs, keep it, or leave out --strict."
        )
    steps = steps_for(where, files, job, work) if job.wanted else {}
    return Decided(job, steps, tied.stay, len(files) == 1)


def quantize_file(source: Source, layout: Layout, plan: Decided, out: Out, work: Workers, step: Step) -> Made:
    """Write the quantized form of one of the files. LimitError if an error of it is above its limit; one over several
    files is known at their end."""
    made = write(source, layout, plan.job, plan.steps, out, work, step)
    target = plan.job.target
    if plan.alone or (target is not None and not target.overall):
        refuse_missed(source.where, [made], target)
    tied = tuple((tensor.name, plan.tied[tensor.name]) for tensor in layout.tensors if tensor.name in plan.tied)
    return replace(made, unweighed=unweighed(plan.job, layout.tensors), tied=tied)


def refuse_missed(where: str, files: Sequence[Made], target: Target | None) -> None:
    """LimitError if an error is above its limit, after all; then none of the files is to be kept."""
    tensors = [one for made in files for one in made.tensors]
    refuse_beyond(where, tensors, target, lambda one: f"as {one.scheme}", "scheme")
