"""Quantize: a plain safetensors file in, a quantized one out, by schemes that were asked for, up to a limit to meet."""

from __future__ import annotations

from dataclasses import replace

from mc.checkpoint import Source
from mc.errors import LimitError, McError, quote
from mc.lossy.files import Target as Out
from mc.lossy.files import plain_layout
from mc.lossy.frames import Frames
from mc.lossy.passes import Job, Made, Step, unweighed, write
from mc.lossy.targets import steps_for
from mc.parallel import Workers
from mc.twins import find_twins


def quantize_file(source: Source, out: Out, job: Job, work: Workers, step: Step) -> Made:
    """Write the quantized form of `source`. McError, naming the tensor, for numbers that are not finite or too large,
    or without statistics where the job is strict; LimitError where the target can't be met, and then `out` is not to be
    kept."""
    layout = plain_layout(source)
    twins = find_twins(source, layout)
    # A tied tensor is quantized as the one it is tied to, so that it stays tied.
    wanted, tied = dict(job.wanted), []
    for name, twin in twins.items():
        if twin in wanted:
            wanted[name] = wanted[twin]
        elif wanted.pop(name, None) is not None:
            tied.append((name, twin))
    job = replace(job, wanted=wanted, twins=twins)
    missing = unweighed(job, layout.tensors)
    if job.strict and missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        lacks = "no statistics" if missing[0].objective == "row" else "no Gram matrix"
        raise McError(
            f"{source.where}: tensor {quote(missing[0].name)}{more} has {lacks} in "
            f"{job.statistics.where if job.statistics else ''}. Record its inputs, keep it, or leave out --strict."
        )
    with Frames() as frames:
        job = replace(job, frames=frames)
        steps = steps_for(source, layout, job, work)
        made = write(source, layout, job, steps, out, work, step)
    _refuse_missed(source.where, made, job)
    return replace(made, unweighed=missing, tied=tuple(tied))


def _refuse_missed(where: str, made: Made, job: Job) -> None:
    """LimitError if an error is above its limit."""
    target = job.target
    if target is None or target.kind != "error":
        return
    if target.overall:
        error, power = sum(one.squared for one in made.tensors), sum(one.power for one in made.tensors)
        if error > target.value * power:
            raise LimitError(f"{where}: the error over all is {error / power:.3g}, above the limit {target.value:g}.")
        return
    worst = max(made.tensors, key=lambda one: one.error, default=None)
    if worst is not None and worst.error > target.value:
        raise LimitError(
            f"{where}: tensor {quote(worst.name)} has an error of {worst.error:.3g} as {worst.scheme}, above the limit "
            f"{target.value:g}. Give it another scheme with --set."
        )
