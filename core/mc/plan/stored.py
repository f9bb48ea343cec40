"""The plans that packed files hold of themselves, and what is stored of one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from mc.checkpoint import Layout, Source, read_layout
from mc.folder import read_folder
from mc.manifest import SAME, is_packed
from mc.opening import open_packed
from mc.packing import recipe_of, room
from mc.plan.brief import LEFT_OUT, Facts, brief, expanded
from mc.plan.plans import TIED
from mc.recipe import Recipe, elements
from mc.schemes import parts
from mc.streams import FromSource


def stored(
    plan: Mapping[str, Any], layout: Layout, twins: dict[str, str], recipe: Recipe, level: str, alone: bool
) -> dict[str, Any]:
    """A written plan as the manifest of one shard holds it, quantized by `recipe` and packed at `level`. What is said
    of tensors in other shards is left out, and so much of what explains that the header is no longer than that of the
    same shard from `mc quantize`; scores, which no such file has, don't count. `alone`: whether it is the only one."""
    weights = weights_of(layout, recipe)
    here = {**plan, "tensors": {name: entry for name, entry in plan["tensors"].items() if name in weights}}
    most = room(layout, twins, recipe, level)
    found: dict[str, Any] = {}
    for step in range(len(LEFT_OUT)):
        found = brief(here, weights, alone, step)
        counted = {key: value for key, value in found.items() if key != "scores"}
        if room(layout, twins, recipe, level, counted) <= most:
            break
    return found


def weights_of(layout: Layout, recipe: Recipe) -> dict[str, int]:
    """Numbers in each tensor of a quantized file, those that the recipe gives back and those that are stored."""
    counts = {tensor.name: prod(tensor.shape) for tensor in layout.tensors}
    return counts | {name: elements(one) for step in reversed(recipe) for name, one in step.tensors.items()}


def with_parts(sizes: Mapping[str, int], recipe: Recipe) -> dict[str, int]:
    """Bytes of the tensors of a quantized file, and of those that the recipe gives back: their parts together."""
    found = dict(sizes)
    for step in reversed(recipe):  # what one step stored may be what a later one replaced
        for name, about in step.tensors.items():
            found[name] = sum(found[part] for part in parts(name, about.scheme, about.dtype, about.shape))
    return found


def alike(recipe: Recipe, same: Mapping[str, str]) -> dict[str, str]:
    """Tensors that a recipe gives back from the same bytes as an earlier one, and that; `same`: tensors of the
    quantized file that are an earlier one once more, and that."""
    found: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    for name, about in ((name, about) for step in recipe for name, about in step.tensors.items()):
        stored = [name]
        for step in recipe:  # what one step stored may be what a later one replaced
            made = [(part, step.tensors.get(part)) for part in stored]
            stored = [
                leaf
                for part, one in made
                for leaf in (parts(part, one.scheme, one.dtype, one.shape) if one is not None else (part,))
            ]
        kind = about.dtype, about.shape, *(same.get(one, one) for one in stored)
        earlier = first.setdefault(kind, name)
        if earlier != name:
            found[name] = earlier
    return found


def stored_plans(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The plan of every packed file at a path, a file or a folder, that has one. DamagedError for headers that aren't
    sound, McError for what can't be read."""
    place = Path(path)
    found = []
    for one in [place / name for name in read_folder(place).shards] if place.is_dir() else [place]:
        with Source.of(one) as source:
            plan = _plan_in(source)
            if plan is not None:
                found.append(plan)
    return found


def _plan_in(source: Source) -> dict[str, Any] | None:
    if not is_packed(read_layout(source), source.where):
        return None
    opening = open_packed(FromSource(source), source.size)
    manifest = opening.packed.manifest
    if manifest.plan is None:
        return None
    recipe = recipe_of(opening.original, source.where)
    sizes = with_parts(opening.packed.sizes, recipe)
    same = {name: entry.why for name, entry in manifest.entries.items() if entry.coding == SAME}
    facts = Facts(manifest.level, source.size, sizes, weights_of(opening.original, recipe), alike(recipe, same))
    return expanded(manifest.plan, facts)


def joined(plans: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The plan of a whole checkpoint: that of the first shard, with the tensors of all."""
    found: dict[str, dict[str, Any]] = {"tensors": {}, TIED: {}}
    for plan in plans:
        for key, whole in found.items():
            listed = plan.get(key)
            whole |= listed if isinstance(listed, dict) else {}
    return {**plans[0], **{key: whole for key, whole in found.items() if whole or key != TIED}} if plans else {}
