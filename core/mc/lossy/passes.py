"""One pass over a plain file: every tensor through its scheme, into a quantized file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt

from mc.checkpoint import Layout, Source, Tensor
from mc.lossy import arrays, grids
from mc.lossy.arrays import Array, Result
from mc.lossy.files import Target as Out
from mc.lossy.files import Writer, naming, read_array
from mc.lossy.frames import Frames
from mc.lossy.measure import Measured, bound, measured
from mc.lossy.requests import FRAMED, Request, Target
from mc.lossy.statistics import Statistics
from mc.manifest import RECIPE_KEY
from mc.parallel import Workers
from mc.recipe import WEIGHED, Quantize, Recipe, read_recipe, write_recipe
from mc.schemes import matrix, parts
from mc.twins import tied_with

Step = Callable[[int], None]

# Errors of layers' outputs, relative to their power, add up in what a network computes (HIGGS, arXiv 2411.17525), taken
# here as alike whatever a layer's size. Half a bit for each of its N_t weights halves its D_t: so the sum of all D_t is
# least at equal bits where D_t ~ N_t, with steps ~ sqrt(N_t). This many weights have the step itself.
USUAL = 1 << 18
EMBEDDING = re.compile(r"embed|\bw[tp]e\b")


@dataclass(frozen=True)
class Job:
    """What a file is quantized with."""

    wanted: dict[str, Request]  # by tensor
    objective: str
    seed: int
    level: str  # at which sizes are measured
    target: Target | None
    statistics: Statistics | None = None
    strict: bool = False  # whether all tensors need statistics
    twins: Mapping[str, str] = field(default_factory=dict)  # tensors that are tied, by the one they have the bytes of
    frames: Frames | None = None  # those with feedback, kept between trials
    pruned: frozenset[str] = frozenset()  # tensors whose zeros are to stay zero
    keep: Sequence[str] = ()  # patterns of tensors that stay
    sets: Sequence[tuple[str, Request]] = ()  # patterns of tensors that a scheme was named for


@dataclass(frozen=True)
class Made:
    """What was written."""

    recipe: Recipe
    tensors: tuple[Measured, ...]
    size: int  # bytes of the quantized file
    listed: tuple[tuple[str, int], ...]  # all its tensors, with their bytes
    unweighed: tuple[Unweighed, ...] = ()
    tied: tuple[tuple[str, str], ...] = ()  # tensors that stay because the one they are tied to does, and that one


@dataclass(frozen=True)
class Unweighed:
    """A tensor whose errors were weighed otherwise than asked, for want of statistics."""

    name: str
    objective: str  # tensor (an embedding), row or diag


def unweighed(job: Job, tensors: Iterable[Tensor]) -> tuple[Unweighed, ...]:
    """Of the tensors to be quantized by steps, those that lack statistics for the objective."""
    statistics = job.statistics
    if job.objective not in WEIGHED or statistics is None:
        return ()
    found = []
    for tensor in tensors:
        request = job.wanted.get(tensor.name)
        if request is None or request.kind not in FRAMED:
            continue
        tied = tied_with(tensor.name, job.twins)
        features = matrix(tensor.shape)[1]
        if all(statistics.mean_squares(one, features) is None for one in tied):
            found.append(Unweighed(tensor.name, "tensor" if is_embedding(tied) else "row"))
        elif job.objective == "gram" and not any(statistics.has_gram(one) for one in tied):
            found.append(Unweighed(tensor.name, "diag"))
    return tuple(found)


def framed(name: str, w: Array, request: Request, job: Job) -> tuple[str, grids.Frame | None]:
    """The frame of a grid for the matrix w, if it is to be one, and the objective that the frame follows: that of the
    job, or what the statistics of the tensor's inputs allow."""
    if request.kind not in FRAMED:
        return job.objective, None
    if job.objective not in WEIGHED or job.statistics is None:
        return job.objective, grids.frame(w, job.objective, request.columns)
    # What is tied has one frame: by the statistics of the first of them that has any.
    tied = tied_with(name, job.twins)
    if job.objective == "gram":
        if job.frames is not None and (kept := job.frames.get(name)) is not None:
            return "gram", kept
        for one in tied:
            if (gram := job.statistics.gram(one, w.shape[1])) is not None:
                made = _wider(grids.weighed_frame(w, gram), w)
                return "gram", made if job.frames is None else job.frames.keep(name, made)
    for one in tied:
        if (squares := job.statistics.mean_squares(one, w.shape[1])) is not None:
            return "diag", _wider(grids.weighed_frame(w, squares), w)
    if is_embedding(tied):
        return "tensor", _wider(grids.lookup_frame(w), w)
    return "row", _wider(grids.frame(w, "row", request.columns), w)


def is_embedding(tied: Iterable[str]) -> bool:
    """Whether one of these names is that of an embedding."""
    return any(map(EMBEDDING.search, tied))


def _wider(frame: grids.Frame, w: Array) -> grids.Frame:
    return replace(frame, unit=frame.unit * wider(w.size))


def wider(weights: int) -> float:
    """How much wider the steps of a tensor of so many weights are, where errors are weighed by statistics."""
    return sqrt(max(weights, 1) / USUAL)


def results(
    source: Source, layout: Layout, job: Job, steps: Mapping[str, float], work: Workers
) -> Iterator[tuple[Tensor, Result | None]]:
    """Every tensor in data order, quantized if it is to be."""

    def result(tensor: Tensor) -> tuple[Tensor, Result | None]:
        request = job.wanted.get(tensor.name)
        if request is None:
            return tensor, None
        with naming(source.where, tensor.name):
            w = arrays.as_matrix(read_array(source, tensor), tensor.dtype, tensor.shape)
            step = steps.get(tensor.name, 0.0)
            objective, frame = framed(tensor.name, w, request, job)
            return tensor, arrays.quantize(
                tensor.name, w, tensor.dtype, tensor.shape, request, job.seed, step, objective, frame,
                tensor.name in job.pruned,
            )  # fmt: skip

    yield from work.each(result, layout.tensors, lambda tensor: tensor.stop - tensor.start)


def write(
    source: Source, layout: Layout, job: Job, steps: Mapping[str, float], out: Out, work: Workers, step: Step,
    trial: bool = False,
) -> Made:  # fmt: skip
    """Write the file; all of `source` is read. Of a trial, whose size alone matters, no bounds are found."""
    done: dict[str, Result] = {}
    sizes: dict[str, int] = {}
    bounds: dict[str, float] = {}
    with Writer() as writer:
        for tensor, result in results(source, layout, job, steps, work):
            if result is None:
                writer.add(tensor.name, tensor.dtype, tensor.shape, read_array(source, tensor))
            else:
                listed = parts(tensor.name, result.about.scheme, result.about.dtype, result.about.shape)
                for part, (dtype, shape) in listed.items():
                    writer.add(part, dtype, shape, result.stored[part])
                sizes[tensor.name] = sum(array.nbytes for array in result.stored.values())
                bounds[tensor.name] = 0.0
                if not trial:
                    with naming(source.where, tensor.name):
                        w = arrays.as_matrix(read_array(source, tensor), tensor.dtype, tensor.shape)
                    bounds[tensor.name] = bound(w, result.error)
                done[tensor.name] = replace(result, stored={})
            step(tensor.stop - tensor.start)
        step_made = (Quantize({name: result.about for name, result in done.items()}),) if done else ()
        recipe = (*read_recipe(layout, source.where), *step_made)
        added = {RECIPE_KEY: write_recipe(recipe)} if recipe else {}
        size, _ = writer.finish(out, {**layout.metadata, **added})
    return Made(
        recipe, tuple(measured(name, done[name], sizes[name], bounds[name]) for name in done), size, writer.listed
    )
