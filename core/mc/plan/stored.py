"""The plans that packed files hold of themselves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mc.checkpoint import Source, read_layout
from mc.folder import read_folder
from mc.manifest import is_packed, read_packed


def stored_plans(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The plan of every packed file at a path, a file or a folder, that has one. DamagedError for headers that aren't
    sound, McError for what can't be read."""
    place = Path(path)
    found = []
    for one in [place / name for name in read_folder(place).shards] if place.is_dir() else [place]:
        with Source.of(one) as source:
            layout = read_layout(source)
            if is_packed(layout, source.where):
                plan = read_packed(layout, source.where).manifest.plan
                if plan is not None:
                    found.append(plan)
    return found


def joined(plans: list[dict[str, Any]]) -> dict[str, Any]:
    """The plan of a whole checkpoint: that of the first shard, with the tensors of all."""
    tensors: dict[str, Any] = {}
    for plan in plans:
        listed = plan.get("tensors")
        tensors |= listed if isinstance(listed, dict) else {}
    return {**plans[0], "tensors": tensors} if plans else {}
