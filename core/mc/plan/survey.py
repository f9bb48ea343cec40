"""Every tensor of a checkpoint: left as it is, and why, or with a menu of what can be done to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from mc.checkpoint import Source, Tensor
from mc.errors import McError
from mc.lossy import arrays, grids
from mc.lossy.files import naming, plain_layout, read_array
from mc.lossy.frames import Frames
from mc.lossy.passes import Job, framed
from mc.lossy.requests import FRAMED, STEPPED, Request
from mc.lossy.tied import parted
from mc.lossy.zeros import pruned_in
from mc.parallel import Workers
from mc.plan.asked import STATE, Asked, by_name, refuse_twice, refuse_unused, settled
from mc.plan.curves import Curve
from mc.plan.losses import measure_of
from mc.plan.menus import KINDS, Kind, Sample, grid, lossless, mantissa, plain, trellis
from mc.plan.thinned import THINNED
from mc.plan.thinned import asked as asked_thinned
from mc.plan.ways import Combined
from mc.twins import find_tied

Array = np.ndarray[Any, Any]
SAMPLED = 1 << 15  # weights of a tensor on which candidates are tried, at least
FEWEST_ROWS = 16
# Weights that may change, together, up to which a trellis of more states takes no time to speak of: 2.7 % less loss.
FEW, EFFORT_OF_FEW = 1 << 20, 64
FEWEST_THINNED = 2048  # weights: with fewer, a further step of the recipe takes more than is saved, and half the time


@dataclass(frozen=True)
class Menu:
    """The candidates of one tensor. Losses are as the objective measures them, relative to nothing."""

    name: str
    shard: int
    dtype: str
    shape: tuple[int, ...]
    curves: tuple[Curve, ...]
    most: float  # loss of storing nothing

    @property
    def weights(self) -> int:
        """Numbers in it."""
        return prod(self.shape)


@dataclass(frozen=True)
class Survey:
    """A checkpoint as the allocation sees it."""

    menus: tuple[Menu, ...]
    twins: dict[str, str]  # tensors that go the way of another
    kept: dict[str, str]  # tensors that stay as they are: the reason
    state: bool  # whether it is a training state

    @property
    def weights(self) -> int:
        """Of all menus."""
        return sum(menu.weights for menu in self.menus)

    @property
    def most(self) -> float:
        """The loss of storing nothing: what losses are relative to."""
        return sum(menu.most for menu in self.menus)


def survey(sources: Sequence[Source], asked: Asked, work: Workers, frames: Frames | None = None) -> Survey:
    """Look at every tensor of the shards, and try candidates on samples of those that may change. Frames with feedback
    are kept in `frames`.

    UsageError for a pattern that fits no tensor; McError for a name in two shards, or a tensor for which `asked` wants
    a scheme that can't hold it."""
    listed: list[tuple[int, Tensor]] = []
    twins: dict[str, str] = {}
    pruned: frozenset[str] = frozenset()
    for shard, source in enumerate(sources):
        layout = plain_layout(source)
        pruned |= pruned_in([(source, layout)])
        listed += [(shard, tensor) for tensor in layout.tensors]
        twins |= find_tied([(source, layout)])
    tensors = [tensor for _, tensor in listed]
    names = [tensor.name for tensor in tensors]
    refuse_twice(names)
    refuse_unused(tensors, asked, sources[0].where if len(sources) == 1 else "No shard")
    state = any(STATE.search(name) for name in names)
    chosen = by_name(tensors, asked)
    twins = parted(twins, chosen, asked.keep)
    kept, chosen = settled(tensors, twins, asked, chosen, state)
    free = [(shard, tensor) for shard, tensor in listed if tensor.name not in kept and tensor.name not in twins]

    few = sum(prod(tensor.shape) for _, tensor in free) <= FEW
    effort = Request("trellis", effort=EFFORT_OF_FEW) if few else Request("trellis")

    def menu(one: tuple[int, Tensor]) -> Menu | str:
        shard, tensor = one
        # A trellis loses the zeros of what was pruned.
        kinds = KINDS if tensor.name in pruned else (*KINDS, lambda sample: trellis(sample, effort))
        return menu_of(sources[shard], shard, tensor, asked, chosen, twins, tensor.name in pruned, frames, kinds)

    menus: list[Menu] = []
    for (_, tensor), found in zip(free, work.each(menu, free), strict=True):
        if isinstance(found, Menu):
            menus.append(found)
        else:
            kept[tensor.name] = found
    there = {one.name for one in menus}
    for name, first in twins.items():
        if first not in there and name not in kept:
            kept[name] = kept[first]
    return Survey(tuple(menus), {name: first for name, first in twins.items() if first in there}, kept, state)


def menu_of(
    source: Source, shard: int, tensor: Tensor, asked: Asked, chosen: Mapping[str, Request | None],
    twins: Mapping[str, str], pruned: bool, kept: Frames | None, kinds: Sequence[Kind],
) -> Menu | str:  # fmt: skip
    """The candidates of a tensor, or why it must stay: numbers that aren't finite can only be left as they are, and
    are refused where something else is asked of them. `kinds` are those of all that wasn't pruned first."""
    wanted = chosen.get(tensor.name)
    raw = read_array(source, tensor)
    try:
        w = arrays.as_matrix(raw, tensor.dtype, tensor.shape)
    except McError as error:
        if wanted is not None:
            with naming(source.where, tensor.name):
                raise
        return str(error).partition(",")[0]
    sample = sample_of(w, raw, tensor, asked, twins, wanted, kept)
    if wanted is not None:
        with naming(source.where, tensor.name):
            curves = tuple(of_request(sample, wanted))
    else:
        simple = [curve for kind in kinds for curve in kind(sample)]
        thinned = sample.alone and not pruned and prod(tensor.shape) >= FEWEST_THINNED
        thin = [curve for kind in THINNED for curve in kind(sample, simple)] if thinned else []
        curves = (*simple, *thin)
    return Menu(tensor.name, shard, tensor.dtype, tensor.shape, curves, sample.measure.most(w))


def of_request(sample: Sample, request: Request) -> list[Curve]:
    """The one candidate that was asked for."""
    if isinstance(request, Combined):
        return list(asked_thinned(sample, request)) or list(lossless(sample))
    if request.kind in STEPPED:
        kind = {"grid": grid, "trellis": trellis, "mantissa": mantissa}[request.kind]
        return list(kind(sample, request)) or list(lossless(sample))
    return [plain(sample, request)]


def sample_of(
    w: Array, raw: Array, tensor: Tensor, asked: Asked, twins: Mapping[str, str], wanted: Request | None,
    kept: Frames | None,
) -> Sample:  # fmt: skip
    """Some rows of w f32, whose bytes in the file are `raw`, picked by the seed; and the frames of all: for every kind
    with steps, or the one that is wanted."""
    statistics = asked.statistics
    job = Job({}, asked.objective, 0, asked.level, None, statistics, twins=twins)
    any_kind = wanted or Request(FRAMED[0])  # all kinds that have a frame have the same
    objective, frame = framed(tensor.name, w, any_kind, replace(job, frames=kept))
    picked = spread(np.zeros(len(w)) if frame is None else frame.row_power, w.shape[1], asked.seed)
    kinds = FRAMED if wanted is None else (wanted.kind,)
    frames = {} if frame is None else dict.fromkeys(kinds, (objective, grids.at_rows(frame, picked)))

    def framing(ending: str, part: Array) -> tuple[str, grids.Frame]:
        objective, frame = framed(tensor.name + ending, np.ascontiguousarray(part), Request("grid"), job)
        return objective, frame or grids.frame(part, objective, False)

    measure = measure_of(tensor.name, w.shape, asked.objective, statistics, twins)
    reach = 0.0 if frame is None else grids.reach(w, frame)
    alone = statistics is None or (tensor.name not in twins.values() and tensor.name not in twins)
    rows = raw.reshape(len(w), -1)[picked].reshape(-1)
    return Sample(
        tensor, w, picked, w[picked], rows, len(w), frames, framing, asked.objective, measure, reach,
        octaves_of(frame), alone, asked.seed, asked.level,
    )  # fmt: skip


def octaves_of(frame: grids.Frame | None) -> float:
    """Between the smallest and the largest row that isn't zero; 0 where rows have no scales."""
    if frame is None or frame.rows is None or not (live := frame.row_power[frame.row_power > 0]).size:
        return 0.0
    return float(np.log2(live.max()) - np.log2(live.min())) / 2


def spread(powers: Array, cols: int, seed: int) -> Array:
    """Which rows of so many columns are looked at, rising: of all rows by power, one by chance of each of as many equal
    parts, so that few rows have the sizes of all."""
    rows = len(powers)
    count = min(rows, max(FEWEST_ROWS, -(-SAMPLED // cols)))
    places = (np.arange(count) + np.random.default_rng(seed).random(count)) * (rows / count)
    order = np.argsort(powers, kind="stable")
    found: Array = np.sort(order[np.minimum(places.astype(np.int64), rows - 1)])
    return found
