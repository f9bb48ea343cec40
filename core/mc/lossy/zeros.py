"""Zeros that pruning made, which a further step is to give back as zeros.

Formats with a value for zero hold them by themselves; a dictionary is given one, and feedback leaves them out. A
trellis can't: in every odd state zero is no value (FORMAT.md, section 11)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mc.checkpoint import Layout, Source
from mc.errors import McError, quote
from mc.lossy.requests import Request
from mc.recipe import Prune, read_recipe
from mc.schemes import Sparse

Array = np.ndarray[Any, Any]


def pruned_in(files: Sequence[tuple[Source, Layout]]) -> frozenset[str]:
    """Names of the tensors whose zeros the recipes of these files tell of; a dense low rank has none to hold."""
    return frozenset(
        name
        for source, layout in files
        for step in read_recipe(layout, source.where)
        if isinstance(step, Prune)
        for name, about in step.tensors.items()
        if isinstance(about.scheme, Sparse) and not about.scheme.method.startswith("rank ")
    )


def refuse_unheld(where: str, wanted: Mapping[str, Request], pruned: frozenset[str]) -> None:
    """McError for a pruned tensor that is to become a trellis."""
    lost = [name for name, request in wanted.items() if request.kind == "trellis" and name in pruned]
    if lost:
        which = f"{quote(lost[0])} and {len(lost) - 1} more were" if len(lost) > 1 else f"{quote(lost[0])} was"
        raise McError(
            f"{where}: tensor {which} pruned, and a trellis doesn't hold zeros. Give it another "
            f"scheme: --scheme grid for all, or --set {quote(lost[0] + '=grid')}; or --keep it."
        )


def lost_between(w: Array, after: Array) -> int:
    """How many zeros of w came back, in `after` of the same shape, as something else."""
    return int(np.count_nonzero(after[w == 0]))
