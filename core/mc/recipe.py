"""The recipe in `__metadata__`: how the tensors of a file were made from others, so that it can be undone.

A recipe is a list of steps. Each names the tensors that it replaced; undone in reverse, the steps give these back
under their own names. What one step stored is an ordinary tensor to the next. All that a recipe claims is compared
with the file here, once, before any of it is used (FORMAT.md, section 11).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite, prod

from mc.checkpoint import Layout
from mc.dtypes import MOST_DIMENSIONS
from mc.errors import DamagedError, McError, quote
from mc.manifest import RECIPE_KEY
from mc.schemes import (
    FLOATS,
    PRUNED,
    LowRank,
    Parts,
    Scheme,
    Shape,
    Shrunk,
    described,
    parts,
    read,
    written,
)
from mc.strict_json import describe, parse_json

QUANTIZE, PRUNE = "quantize", "prune"
MOST_STEPS = 16  # FORMAT.md, section 11; undoing them goes as deep
# FORMAT.md, section 11: weights of what was taken out or is a product, for each byte of the file, and beyond
MOST_GROWN, GROWN_ANYWAY = 1 << 10, 1 << 22
OBJECTIVES = ("plain", "tensor", "row", "diag", "gram")
WEIGHED = ("diag", "gram")  # of them, by statistics


@dataclass(frozen=True)
class Quantized:
    """How one tensor was quantized, or pruned."""

    scheme: Scheme
    dtype: str  # before
    shape: Shape
    error: float  # relative squared, with the dtype above
    objective: str  # what the error was weighed by; empty where there was no choice


@dataclass(frozen=True)
class Quantize:
    """The step that `mc quantize` is."""

    tensors: dict[str, Quantized]  # by the name of before


@dataclass(frozen=True)
class Prune:
    """The step that `mc prune` is."""

    tensors: dict[str, Quantized]


Step = Quantize | Prune
Recipe = tuple[Step, ...]
KINDS: dict[str, type[Quantize] | type[Prune]] = {QUANTIZE: Quantize, PRUNE: Prune}


def write_recipe(recipe: Recipe) -> str:
    """The recipe as it stands under RECIPE_KEY."""
    return json.dumps([_written(step) for step in recipe], ensure_ascii=False, separators=(",", ":"))


def _written(step: Step) -> dict[str, object]:
    listed: dict[str, object] = {}
    for name, one in step.tensors.items():
        about: dict[str, object] = {**written(one.scheme), "dtype": one.dtype, "shape": list(one.shape)}
        about["error"] = one.error
        listed[name] = about | ({"objective": one.objective} if one.objective else {})
    return {"step": PRUNE if isinstance(step, Prune) else QUANTIZE, "tensors": listed}


def read_recipe(layout: Layout, where: str, size: int | None = None) -> Recipe:
    """The recipe of a file, compared with its tensors; empty if it has none. `size`: bytes of the file as it is read,
    where that is a packed one.

    Raises DamagedError, naming file and tensor, for one that can't have been written or doesn't fit the file;
    McError for a kind of step that this version doesn't know."""
    text = layout.metadata.get(RECIPE_KEY)
    if text is None:
        return ()
    what = f"{where}: the recipe under {RECIPE_KEY!r}"
    found = parse_json(text.encode(), what)
    if not isinstance(found, list):
        raise DamagedError(f"{what} is {describe(found)}, where a list of steps was expected. Quantize again.")
    if len(found) > MOST_STEPS:
        raise DamagedError(f"{what} has {len(found)} steps, and {MOST_STEPS} are allowed. Quantize again.")
    recipe = tuple(_step(step, what) for step in found)
    _refuse_grown(recipe, layout.size if size is None else size, what)
    undone(recipe, {tensor.name: (tensor.dtype, tensor.shape) for tensor in layout.tensors}, what)
    return recipe


def _refuse_grown(recipe: Recipe, size: int, what: str) -> None:
    """DamagedError for more weights than a file of `size` bytes can have been made from: those of a low rank, or that
    were taken out, take none of them, so only this bounds the memory that they come back in."""
    each = [one for step in recipe for one in step.tensors.values() if isinstance(one.scheme, LowRank | Shrunk)]
    weights, most = sum(map(elements, each)), MOST_GROWN * size + GROWN_ANYWAY
    if weights > most:
        raise DamagedError(
            f"{what} gives back {weights} weights of low ranks and tensors without their zeros, and a file of {size} "
            f"bytes can have at most {most}. Prune again."
        )


def _step(found: object, what: str) -> Step:
    match found:
        case {"step": ("quantize" | "prune") as kind, "tensors": dict(tensors), **more} if not more:
            about = {name: _quantized(name, one, what) for name, one in tensors.items()}
            for name, one in about.items():
                if isinstance(one.scheme, PRUNED) != (kind == PRUNE):
                    raise DamagedError(f"{what} has another kind of scheme for tensor {quote(name)} than {kind} has.")
            return KINDS[kind](about)
        case {"step": str(kind)} if kind not in KINDS:
            raise McError(
                f"{what} has a step {quote(kind)}, which this version of mc doesn't know. Install a newer one."
            )
    raise DamagedError(f"{what} has {describe(found)} for a step, where an object with step and tensors was expected.")


def _quantized(name: str, found: object, what: str) -> Quantized:
    match found:
        case {"dtype": str(dtype), "shape": list(shape), "error": float() | int() as error, **scheme_of} if (
            dtype in FLOATS
            and len(shape) <= MOST_DIMENSIONS
            and all(type(count) is int and 0 < count < 2**63 for count in shape)
            and type(error) is not bool
            and isfinite(error)
            and error >= 0
        ):
            scheme, objective = (
                read({str(key): value for key, value in scheme_of.items()}),
                scheme_of.get("objective", ""),
            )
            if isinstance(scheme, Shrunk) and scheme.axis < len(shape) and shape[scheme.axis] > scheme.most:
                raise DamagedError(
                    f"{what} says that of {shape[scheme.axis]} entries of tensor {quote(name)} {scheme.kept} are left, "
                    f"and at most {scheme.most} can have been there. Prune again."
                )
            if scheme is not None and isinstance(objective, str):
                return Quantized(scheme, dtype, tuple(shape), float(error), objective)
    raise DamagedError(f"{what} says {describe(found)} of tensor {quote(name)}, which no scheme has. Quantize again.")


def undone(recipe: Recipe, tensors: Mapping[str, tuple[str, Shape]], what: str) -> Parts:
    """Dtype and shape of the tensors before all steps, in the order of the stored ones. DamagedError where a step
    needs a tensor that isn't there as it says, or gives back a name that is taken."""
    current = dict(tensors)
    for step in reversed(recipe):
        places: dict[str, str] = {}  # the tensor that stands where a part stood
        for name, one in step.tensors.items():
            for part, expected in parts(name, one.scheme, one.dtype, one.shape).items():
                if part in places or part not in current:
                    raise DamagedError(f"{what} needs a tensor {quote(part)} for {quote(name)}, which isn't there.")
                if current[part] != expected:
                    raise DamagedError(
                        f"{what} needs {quote(part)} to be {expected[0]} of shape {list(expected[1])} for "
                        f"{quote(name)}, and it is {current[part][0]} of shape {list(current[part][1])}."
                    )
                places[part] = name
        before: Parts = {}
        for name, about in current.items():
            if name not in places:
                if name in step.tensors:
                    raise DamagedError(f"{what} gives back a tensor {quote(name)}, and there is one already.")
                before[name] = about
            elif places[name] not in before:
                one = step.tensors[places[name]]
                before[places[name]] = (one.dtype, one.shape)
        current = before
    return current


def refuse_infinite(recipe: Recipe, where: str) -> None:
    """McError for a tensor that came back infinite: its largest weight is a little less than the largest integer times
    its scale, and that more than its type holds. No recipe can say so of its error."""
    for step in recipe:
        for name, one in step.tensors.items():
            if not isfinite(one.error):
                raise McError(
                    f"{where}: tensor {quote(name)} has weights so near the end of {one.dtype} that "
                    f"{described(one.scheme)} gives some back infinite. Keep it, or name another scheme with --set."
                )


def restricted(recipe: Recipe, tensors: Mapping[str, tuple[str, Shape]]) -> Recipe:
    """What is left of a recipe where only these of its file's tensors are stored: entries that have all their parts."""
    current = dict(tensors)
    left: list[Step] = []
    for step in reversed(recipe):
        whole = {}
        for name, one in step.tensors.items():
            needed = parts(name, one.scheme, one.dtype, one.shape)
            if all(current.get(part) == about for part, about in needed.items()):
                whole[name] = one
                current = {part: about for part, about in current.items() if part not in needed}
        current |= {name: (one.dtype, one.shape) for name, one in whole.items()}
        if whole:
            left.append(replace(step, tensors=whole))
    return tuple(reversed(left))


def elements(one: Quantized) -> int:
    """Weights of a tensor."""
    return prod(one.shape)
