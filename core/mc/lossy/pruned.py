"""One pass that prunes a file, tensor by tensor, and what it says of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from mc.checkpoint import Layout, Source, Tensor
from mc.lossy import arrays, instead
from mc.lossy.files import Target as Out
from mc.lossy.files import Writer, naming, read_array
from mc.lossy.limits import refuse_beyond
from mc.lossy.masks import Threshold
from mc.lossy.methods import Method, spelled
from mc.lossy.pruning import Array, Pruned, PruneJob, matrix_of, prune_tensor
from mc.lossy.requests import Target
from mc.manifest import RECIPE_KEY
from mc.parallel import Workers
from mc.recipe import Prune, Quantized, Recipe, read_recipe, write_recipe
from mc.reports import TensorReport
from mc.schemes import LowRank, Shape, matrix, parts

Step = Callable[[int], None]


@dataclass(frozen=True)
class PrunedTensor:
    """What became of one tensor."""

    name: str
    method: str  # as people call it
    dtype: str
    shape: Shape
    weights: int
    zeros: int  # of them, as they come back; those that were there before count
    sparsity: float
    error: float  # relative squared
    weighted: float | None  # on the layer's inputs; None without statistics
    bytes: int  # of what is stored
    packed_bytes: int
    bits: float  # a weight, packed
    grid_error: float  # about, of the dense tensor as a grid that takes as many bytes
    squared: float  # sums, for errors over several tensors
    power: float
    weighted_squared: float
    weighted_power: float


@dataclass(frozen=True)
class Made:
    """What was written."""

    recipe: Recipe
    tensors: tuple[PrunedTensor, ...]
    size: int
    listed: tuple[tuple[str, int], ...]
    tied: tuple[tuple[str, str], ...] = ()  # tensors that stay because one that they are tied to does, and that one


Masks = Callable[[str, Shape, Array], None]


def write(
    source: Source, layout: Layout, job: PruneJob, cuts: Mapping[str, Threshold], out: Out, work: Workers, step: Step,
    masks_out: Masks | None = None,
) -> Made:  # fmt: skip
    """Write the file; all of `source` is read."""
    entries: dict[str, Quantized] = {}
    found: list[PrunedTensor] = []
    with Writer() as writer:
        for tensor, pruned in results(source, layout.tensors, job, cuts, work):
            if pruned is None:
                writer.add(tensor.name, tensor.dtype, tensor.shape, read_array(source, tensor))
            else:
                for part, (dtype, shape) in parts(tensor.name, pruned.about.scheme, tensor.dtype, tensor.shape).items():
                    writer.add(part, dtype, shape, pruned.stored[part])
                if masks_out is not None and pruned.mask is not None:
                    masks_out(tensor.name, tensor.shape, pruned.mask)
                entries[tensor.name] = pruned.about
                found.append(_figures(tensor, pruned, job.wanted[tensor.name]))
            step(tensor.stop - tensor.start)
        recipe: Recipe = (*read_recipe(layout, source.where), *((Prune(entries),) if entries else ()))
        size, _ = writer.finish(out, {**layout.metadata, **({RECIPE_KEY: write_recipe(recipe)} if recipe else {})})
    return Made(recipe, tuple(found), size, writer.listed)


def results(
    source: Source, tensors: Sequence[Tensor], job: PruneJob, cuts: Mapping[str, Threshold], work: Workers
) -> Iterator[tuple[Tensor, Pruned | None]]:
    """Every tensor in data order, pruned if it is to be."""

    def result(tensor: Tensor) -> tuple[Tensor, Pruned | None]:
        method = job.wanted.get(tensor.name)
        if method is None:
            return tensor, None
        with naming(source.where, tensor.name):
            raw, w = matrix_of(source, tensor)
            return tensor, prune_tensor(tensor, raw, w, method, job, cuts.get(tensor.name))

    yield from work.each(result, tensors, lambda tensor: tensor.stop - tensor.start)


def _figures(tensor: Tensor, pruned: Pruned, method: Method) -> PrunedTensor:
    weights = prod(tensor.shape)
    stored = sum(array.nbytes for array in pruned.stored.values())
    scheme = pruned.about.scheme
    name = f"rank {scheme.rank}" + " + sparse" * scheme.residual if isinstance(scheme, LowRank) else spelled(method)
    return PrunedTensor(
        tensor.name, name, tensor.dtype, tensor.shape, weights, pruned.zeros, pruned.zeros / weights,
        pruned.about.error, pruned.weighted, stored, 0, 0.0, 0.0, pruned.error, pruned.power, *pruned.weighted_sums,
    )  # fmt: skip


def packed_as(
    one: PrunedTensor, made: Made, sizes: Mapping[str, TensorReport], source: Source, tensor: Tensor
) -> PrunedTensor:
    """The figures once the packed bytes of every stored tensor are known; `tensor` is the one of `source` that it
    was."""
    about = made.recipe[-1].tensors[one.name]
    packed = sum(sizes[part].packed_bytes for part in parts(one.name, about.scheme, about.dtype, about.shape))
    bits = 8 * packed / one.weights
    # A tied tensor takes no bytes of its own: the one that it is tied to has the figure.
    error = instead.grid_error(_sample(source, tensor), bits) if packed else 0.0
    return replace(one, packed_bytes=packed, bits=bits, grid_error=error)


def _sample(source: Source, tensor: Tensor) -> Array:
    """Some rows of a tensor as it was, f32: read again, so that no file has too many tensors for memory."""
    rows, cols = matrix(tensor.shape)
    line, picked = (tensor.stop - tensor.start) // rows, instead.sampled(rows, cols)
    raw = np.empty((len(picked), line), np.uint8)
    for k, row in enumerate(picked):
        source.read_into(tensor.start + row * line, raw[k])
    return arrays.as_matrix(raw.reshape(-1), tensor.dtype, (len(picked), cols))


def refuse_missed(where: str, files: Sequence[Made], target: Target | None) -> None:
    """LimitError if an error is above its limit, after all; then none of the files is to be kept."""
    tensors = [one for made in files for one in made.tensors]
    refuse_beyond(where, tensors, target, lambda one: f"by {one.method}", "method")
