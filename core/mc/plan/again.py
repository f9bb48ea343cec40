"""A plan carried out again: bytes and losses are those of this time, and what was said of others is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from mc.checkpoint import Source, Tensor, read_layout
from mc.errors import McError, quote
from mc.lossy import arrays
from mc.lossy.files import plain_layout, read_array
from mc.lossy.shards import Files, tensors_of
from mc.parallel import Workers
from mc.plan.asked import refuse_twice
from mc.plan.losses import measure_of
from mc.plan.plans import TIED, Plan, short
from mc.plan.reasons import figures
from mc.plan.trial import Latest, Trial, refuse_unknown, tied_in, try_plan, with_plan
from mc.plan.ways import Combined, spelled
from mc.schemes import FLOATS, matrix

OF_ONE = "bits", "bound", "per_kB", "next"  # what explains one tensor's choice
OF_ALL = "goal", "weights", "alpha", "nearby", "scores"  # what explains them all


def replayed(sources: Sequence[Source], plan: Plan, work: Workers, latest: Latest) -> tuple[Trial, int, float]:
    """Carry out a plan that was written before; the trial, how many weights its tensors have, and what storing nothing
    of them loses. McError for tensors that aren't there, or can't be what the plan says."""
    names = [tensor.name for source in sources for tensor in read_layout(source).tensors]
    refuse_twice(names)
    refuse_unknown(plan, names, sources[0].where)
    files = [(source, plain_layout(source)) for source in sources]
    refuse_unfit(plan, files)
    plan = with_tied(plan, {name: one for file in files for name, one in tied_in(*file, plan).items()})
    trial = try_plan(sources, plan, work, latest)
    found = most_of(sources, plan, work, latest)
    weights = sum(count for count, _ in found.values())
    most = sum(found[name][1] for name in plan.choices if name in found)
    return with_plan(trial, renewed(trial, {name: one[0] for name, one in found.items()}, most)), weights, most


def refuse_unfit(plan: Plan, files: Files) -> None:
    """McError for a tensor that can't be what the plan says, whatever its numbers are."""
    for source, tensor in tensors_of(files):
        one = plan.choices.get(tensor.name)
        if one is None or one.request is None:
            continue
        at = f"The plan has tensor {quote(tensor.name)} as {quote(spelled(one.request))}"
        if tensor.dtype not in FLOATS:
            raise McError(f"{at}, and in {source.where} it is {tensor.dtype}. Only {', '.join(FLOATS)} can change.")
        rank = one.request.method.rank if isinstance(one.request, Combined) else None
        if rank is not None and rank > min(matrix(tensor.shape)):
            rows, cols = matrix(tensor.shape)
            raise McError(
                f"{at}, and in {source.where} it has {rows} rows of {cols}: its rank is {min(rows, cols)} at most."
            )


def with_tied(plan: Plan, twins: Mapping[str, str]) -> Plan:
    """The plan without tensors that are tied to another, whose way they go anyway; it says which these are."""
    listed = {name: one for name, one in plan.choices.items() if name not in twins}
    going = {name: first for name, first in twins.items() if first in listed}
    about = {key: value for key, value in plan.about.items() if key != TIED} | ({TIED: going} if going else {})
    return replace(plan, choices=listed, about=about)


def most_of(sources: Sequence[Source], plan: Plan, work: Workers, latest: Latest) -> dict[str, tuple[int, float]]:
    """Numbers in each tensor of a plan, and the loss of storing nothing of it. Those that can't change are left out."""
    found: dict[str, tuple[int, float]] = {}
    for source in sources:
        layout = plain_layout(source)
        twins = tied_in(source, layout, plan)

        def of(tensor: Tensor, source: Source = source, twins: dict[str, str] = twins) -> tuple[int, float]:
            try:
                w = arrays.as_matrix(read_array(source, tensor), tensor.dtype, tensor.shape)
            except McError:  # numbers that aren't finite: as they are
                return 0, 0.0
            measure = measure_of(tensor.name, w.shape, plan.objective, latest.statistics, twins)
            return prod(tensor.shape), measure.most(w)

        listed = [
            one
            for one in layout.tensors
            if one.name in plan.choices and one.name not in twins and one.dtype in FLOATS and one.start < one.stop
        ]
        sums = work.each(of, listed, lambda tensor: tensor.stop - tensor.start)
        found |= {tensor.name: one for tensor, one in zip(listed, sums, strict=True)}
    return found


def renewed(trial: Trial, weights: dict[str, int], most: float) -> Plan:
    """The plan of a trial with what was measured. Where that is what it says, nothing was edited, and what explains it
    stays; else the explanation is of another plan, and goes."""
    plan = trial.plan
    choices = {
        name: replace(one, bytes=float(trial.bytes.get(name, 0)), loss=trial.losses[name] / (most or 1.0))
        for name, one in plan.choices.items()
    }
    same = {
        name: (round(one.bytes), short(one.loss)) == (round(plan.choices[name].bytes), short(plan.choices[name].loss))
        for name, one in choices.items()
    }
    why: dict[str, dict[str, Any]] = {}
    for name, one in choices.items():
        told = plan.why.get(name, {})
        known = {key: value for key, value in told.items() if key not in OF_ONE}
        why[name] = told if same[name] else known | figures(trial, name, one.loss, weights.get(name, 0))
    if all(same.values()):
        return replace(plan, choices=choices, why=why)
    about = {key: value for key, value in plan.about.items() if key not in OF_ALL}
    return replace(plan, choices=choices, why=why, about={**about, "weights": sum(weights.values())})
