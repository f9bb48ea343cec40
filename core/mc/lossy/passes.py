"""One pass over a plain file: every tensor through its scheme, into a quantized file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from mc.checkpoint import Layout, Source, Tensor
from mc.lossy import arrays
from mc.lossy.arrays import Result
from mc.lossy.files import Target as Out
from mc.lossy.files import Writer, naming, read_array
from mc.lossy.measure import Measured, bound, measured
from mc.lossy.recipe import Quantize, Recipe, read_recipe, write_recipe
from mc.lossy.requests import Request, Target
from mc.lossy.schemes import parts
from mc.manifest import RECIPE_KEY
from mc.parallel import Workers

Step = Callable[[int], None]


@dataclass(frozen=True)
class Job:
    """What a file is quantized with."""

    wanted: dict[str, Request]  # by tensor
    objective: str
    seed: int
    level: str  # at which sizes are measured
    target: Target | None


@dataclass(frozen=True)
class Made:
    """What was written."""

    recipe: Recipe
    tensors: tuple[Measured, ...]
    size: int  # bytes of the quantized file
    listed: tuple[tuple[str, int], ...]  # all its tensors, with their bytes


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
            return tensor, arrays.quantize(
                tensor.name, w, tensor.dtype, tensor.shape, request, job.seed, step, job.objective
            )

    yield from work.each(result, layout.tensors, lambda tensor: tensor.stop - tensor.start)


def write(
    source: Source, layout: Layout, job: Job, steps: Mapping[str, float], out: Out, work: Workers, step: Step
) -> Made:
    """Write the file; all of `source` is read."""
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
                w = arrays.as_matrix(read_array(source, tensor), tensor.dtype, tensor.shape)
                bounds[tensor.name] = bound(w, result.error)
                done[tensor.name] = Result(result.about, {}, result.error, result.power)
            step(tensor.stop - tensor.start)
        step_made = (Quantize({name: result.about for name, result in done.items()}),) if done else ()
        recipe = (*read_recipe(layout, source.where), *step_made)
        added = {RECIPE_KEY: write_recipe(recipe)} if recipe else {}
        size, _ = writer.finish(out, {**layout.metadata, **added})
    return Made(
        recipe, tuple(measured(name, done[name], sizes[name], bounds[name]) for name in done), size, writer.listed
    )
