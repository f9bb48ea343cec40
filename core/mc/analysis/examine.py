"""A whole checkpoint examined: every tensor by itself, then layer by layer, then all of it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from itertools import groupby
from math import isfinite, prod
from typing import BinaryIO

import numpy as np

from mc.analysis.advice import advise
from mc.analysis.bits import bits
from mc.analysis.bounds import Bounds, bounds, rate_of
from mc.analysis.fits import fit_all
from mc.analysis.moments import Moments, Pool, joined, moments, pool_moments, pooled
from mc.analysis.predict import LEVELS, file_bytes, tensor_bytes
from mc.analysis.reading import STDIN, File, Item, chosen, opened
from mc.analysis.report import Analysis, FileFacts, GroupAnalysis, ScaleMap, TensorAnalysis
from mc.analysis.structure import structure
from mc.analysis.tally import Each, Tally, tally
from mc.analysis.twins import Earlier
from mc.checkpoint import Layout, parse_layout
from mc.codec.typing import Bytes
from mc.errors import DamagedError, quote
from mc.heading import coded_from
from mc.packing import recipe_of, states_of
from mc.parallel import Workers, single_blas, workers
from mc.recipe import Recipe

WHOLE = 1 << 24  # bytes of a tensor up to which it is one piece of work, read once
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Asked:
    """What to find out, and from how much."""

    sample: int | None = None  # words of each tensor; None: all
    seed: int = 0
    deep: bool = True  # fitted models, spectra, predicted bytes
    coded_from: dict[str, dict[str, int]] = field(default_factory=dict)  # file -> level -> bytes: see mc.heading
    states: dict[tuple[str, str], int] = field(default_factory=dict)  # of trellises, by file and tensor


@dataclass(frozen=True)
class _Found:
    tensor: TensorAnalysis
    pool: Pool
    digest: str


def analyze(
    source: str | os.PathLike[str] | BinaryIO, *, tensors: Sequence[str] = (), sample: int | None = None, seed: int = 0,
    deep: bool = True, threads: int | None = None, executor: Executor | None = None, progress: Progress | None = None,
) -> Analysis:  # fmt: skip
    """Examine a safetensors file, a packed one, a folder of either, an array file (.npy, .npz) or a stream.

    `tensors` are globs; `sample` is a number of words of each tensor, taken in whole rows where `seed` says; without
    `deep`, moments and bits alone are computed. The result doesn't depend on the threads. Raises DamagedError, naming
    file and tensor, for bytes that aren't sound, McError for what can't be read or doesn't match."""
    path = os.fspath(source) if isinstance(source, str | os.PathLike) else STDIN
    with opened(source) as files, workers(threads, executor) as work, single_blas():
        recipes = {file.where: recipe_of(_layout(file), file.where) if file.prefix else () for file in files}
        states = {(where, name): n for where, recipe in recipes.items() for name, n in states_of(recipe).items()}
        asked = Asked(sample, seed, deep, {file.where: _coded_from(file) for file in files}, states)
        items = chosen(files, tensors, path)
        total, done = sum(item.nbytes for item in items), 0
        found: list[TensorAnalysis] = []
        pools: dict[str, dict[bool, Pool]] = {}  # by group: of its floats, and of its whole numbers
        members: dict[str, list[TensorAnalysis]] = {}
        earlier = Earlier(items)
        for item, one in _each(items, asked, work):
            tensor = one.tensor
            twin = earlier.twin(item, one.digest) if sample is None else None
            if twin is not None:
                tensor = _as_duplicate(tensor, twin, item.file)
            found.append(tensor)
            members.setdefault(group_of(item.name), []).append(tensor)
            of_group, floats = (
                pools.setdefault(group_of(item.name), {}),
                tensor.bits.sign is not None or not item.nbytes,
            )
            of_group[floats] = joined(of_group[floats], one.pool) if floats in of_group else one.pool
            done += item.nbytes
            if progress is not None:
                progress(done, total)
        groups = tuple(_group(name, of_group, _pool([pools[name]])) for name, of_group in members.items())
        whole = _whole(files, recipes, items, found, _pool(pools.values()), deep)
    facts = tuple(FileFacts(file.where, file.kind, file.nbytes, len(file.items)) for file in files)
    return Analysis(path, facts, tuple(found), groups, whole)


def _each(items: Sequence[Item], asked: Asked, work: Workers) -> Iterator[tuple[Item, _Found]]:
    """Small tensors several at once, large ones chunk by chunk."""
    for small, run in groupby(items, lambda item: item.nbytes <= WHOLE):
        group = list(run)
        if small:
            yield from zip(group, work.each(lambda item: _small(item, asked), group), strict=True)
        else:
            for item in group:
                yield item, _examined(item, asked, work.each)


def _small(item: Item, asked: Asked) -> _Found:
    raw = _naming(item, item.read)(0, item.nbytes)
    held = replace(item, read=lambda start, stop: _part(raw, start, stop))
    return _examined(held, asked, map)


def _part(raw: Bytes, start: int, stop: int) -> Bytes:
    part = raw[start:stop]
    return part if part.__array_interface__["data"][0] % 8 == 0 else part.copy()


def _naming(item: Item, read: Callable[[int, int], Bytes]) -> Callable[[int, int], Bytes]:
    """Errors about the bytes of a tensor say whose they are."""

    def named(start: int, stop: int) -> Bytes:
        try:
            return read(start, stop)
        except DamagedError as error:
            if item.name in str(error):
                raise
            raise DamagedError(f"{item.file}: tensor {quote(item.name)}: {error}") from error

    return named


def _examined(item: Item, asked: Asked, each: Each) -> _Found:
    read = _naming(item, item.read)
    counted = tally(item.dtype, item.shape, item.nbytes, read, each, asked.sample, asked.seed)
    figures, where = moments(counted), bits(counted)
    limits = bounds(counted, where)
    fits = built = predicted = None
    if asked.deep:
        rate = rate_of(counted, where)
        states = asked.states.get((item.file, item.name), 0)
        jobs = [
            lambda: fit_all(counted, _middles(figures)),
            lambda: structure(counted, item.dtype, item.shape, read, rate, asked.seed),
            *(
                partial(tensor_bytes, item.dtype, item.shape, item.nbytes, read, level, smallest, states)
                for level, smallest in asked.coded_from[item.file].items()
            ),
        ]
        fits, built, *sizes = each(lambda job: job(), jobs)
        predicted = dict(zip(LEVELS, sizes, strict=True))
    parameters = prod(item.shape)
    advice = advise(item.dtype, parameters, figures, where, fits, built, limits, predicted, item.nbytes)
    tensor = TensorAnalysis(
        item.name, item.file, item.dtype, item.shape, parameters, item.nbytes, counted.words, figures, where, fits,
        built, limits, predicted, _scales(counted), advice,
    )  # fmt: skip
    return _Found(tensor, pooled(counted), counted.digest)


def _coded_from(file: File) -> dict[str, int]:
    """By level, the bytes of a tensor from which pack codes it."""
    sizes = [item.nbytes for item in file.items]
    return {level: coded_from(sizes, sum(sizes) + len(file.prefix), level) for level in LEVELS}


def _middles(figures: Moments) -> np.ndarray | None:
    shown = figures.histogram
    if shown is None:
        return None
    edges = np.linspace(shown.low, shown.high, len(shown.counts) + 1)
    return (edges[1:] + edges[:-1]) / 2


def _scales(counted: Tally) -> ScaleMap | None:
    if not counted.grid.size:
        return None
    return ScaleMap(tuple(tuple(round(x, 2) if isfinite(x) else None for x in row) for row in counted.grid.tolist()))


def _as_duplicate(tensor: TensorAnalysis, twin: Item, file: str) -> TensorAnalysis:
    """Of what is the same in another file, pack stores both: it packs a shard by itself."""
    where = replace(tensor.bits, duplicate_of=twin.name)
    predicted = tensor.predicted_bytes
    if predicted is not None and twin.file == file:
        predicted = dict.fromkeys(LEVELS, 0)
    advice = advise(
        tensor.dtype, tensor.parameters, tensor.moments, where, tensor.fits, tensor.structure, tensor.bounds, predicted,
        tensor.bytes,
    )  # fmt: skip
    return replace(tensor, bits=where, predicted_bytes=predicted, advice=advice)


def group_of(name: str) -> str:
    """The layer that a tensor belongs to, by its name: up to the first number in it, or the first part."""
    numbered = re.match(r"(?:[^.]*\.)*?\d+(?=\.|$)", name)
    return numbered[0] if numbered else name.split(".")[0]


def _layout(file: File) -> Layout:
    return parse_layout(file.prefix, len(file.prefix) + sum(item.nbytes for item in file.items), file.where)


def _pool(pools: Iterable[dict[bool, Pool]]) -> Pool | None:
    """The floats of all groups; without any, the whole numbers: positions and steps say nothing of weights."""
    every = list(pools)
    for floats in (True, False):
        there = [of_group[floats] for of_group in every if floats in of_group]
        if there and sum(pool.sums.count for pool in there):
            return reduce(joined, there)
    return None


def _group(name: str, tensors: list[TensorAnalysis], pool: Pool | None) -> GroupAnalysis:
    figures = pool_moments(pool) if pool is not None else _NO_MOMENTS
    predicted = None
    if all(t.predicted_bytes is not None for t in tensors):
        predicted = {level: sum((t.predicted_bytes or {})[level] for t in tensors) for level in LEVELS}
    words = [(t.counted, t.bits.joint, t.bits.given_scales) for t in tensors if t.bits.joint is not None]
    n = sum(count for count, *_ in words)
    joint = sum(count * alone for count, alone, _ in words) / n if n else None
    given = sum(count * (alone if told is None else told) for count, alone, told in words) / n if n else None
    return GroupAnalysis(
        name, len(tensors), sum(t.parameters for t in tensors), sum(t.bytes for t in tensors), figures, joint, given,
        _mean_bounds(tensors), predicted,
    )  # fmt: skip


_NO_MOMENTS = Moments(0, 0, 0, 0, 0, *([None] * 13))


def _mean_bounds(tensors: list[TensorAnalysis]) -> Bounds | None:
    there = [(t.parameters, t.bounds) for t in tensors if t.bounds is not None]
    n = sum(count for count, _ in there)
    if not n:
        return None

    def mean(which: str) -> dict[str, float]:
        return {db: sum(c * getattr(b, which)[db] for c, b in there) / n for db in there[0][1].gaussian}

    return Bounds(mean("gaussian"), mean("laplace"), mean("empirical"))


def _whole(
    files: Sequence[File], recipes: dict[str, Recipe], items: Sequence[Item], found: list[TensorAnalysis],
    pool: Pool | None, deep: bool,
) -> GroupAnalysis:  # fmt: skip
    """All tensors. Bytes and predicted bytes are those of the files, where all of their tensors were examined."""
    whole = _group("whole", found, pool)
    if len(items) != sum(len(file.items) for file in files) or any(not file.prefix for file in files):
        return whole
    by_place = {(tensor.file, tensor.name): tensor for tensor in found}
    originals = sum(len(file.prefix) for file in files) + whole.bytes
    if not deep:
        return replace(whole, bytes=originals)
    predicted = {}
    for level in LEVELS:
        predicted[level] = 0
        for file in files:
            of_file = [by_place[item.file, item.name] for item in file.items]
            sizes, twins, seen = [], {}, set()
            for item, tensor in zip(file.items, of_file, strict=True):
                twin = tensor.bits.duplicate_of
                if twin in seen and twin is not None:
                    twins[item.name] = twin
                seen.add(item.name)
                sizes.append((tensor.predicted_bytes or {}).get(level, 0))
            predicted[level] += file_bytes(_layout(file), recipes[file.where], sizes, twins, level)
    return replace(whole, bytes=originals, predicted_bytes=predicted)
