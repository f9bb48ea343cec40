"""What is the same wherever a checkpoint is written anew, quantized, pruned or as floats again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from mc.checkpoint import Source
from mc.errors import UsageError, quote
from mc.folder import Folder, read_folder
from mc.lossy.configs import index_of, refuse_broken
from mc.lossy.files import plain_layout
from mc.lossy.sizes import packed_parts
from mc.parallel import Workers
from mc.places import PathLike
from mc.recipe import Recipe, refuse_infinite
from mc.reports import TensorReport

CONFIG = "config.json"


def tensor_names(source: PathLike | BinaryIO) -> list[str]:
    """Names of all tensors of a file or folder; none of a stream."""
    if not isinstance(source, str | os.PathLike):
        return []
    found = []
    for path in shards_of(Path(source)):
        with Source.of(path) as opened:
            found += [tensor.name for tensor in plain_layout(opened).tensors]
    return found


def shards_of(path: Path) -> list[Path]:
    """The file itself, or the shards of a folder."""
    return [path / name for name in read_folder(path).shards] if path.is_dir() else [path]


def refuse_unused(
    used: set[str], sets: Sequence[str], keep: Sequence[str], where: str, wanted: str = "tensor of floats"
) -> None:
    """UsageError for a pattern that fits no tensor, of `sets` none that is `wanted`: it would be a wish without
    effect."""
    for pattern in [*sets, *keep]:
        if pattern not in used:
            kind = wanted if pattern in sets else "tensor"
            raise UsageError(f"{where} has no {kind} whose name fits {quote(pattern)}. `mc analyze` lists the names.")


def finished(
    plain: BinaryIO, where: str, recipe: Recipe, level: str, work: Workers, out: BinaryIO, pack: bool
) -> tuple[dict[str, TensorReport], int]:
    """Put what was written to `plain` into `out`, packed or as it is; what `packed_parts` says of it in either case."""
    refuse_infinite(recipe, where)
    plain.flush()
    parts, size = packed_parts(Source.of(plain, where), recipe, level, work, out if pack else None)
    if not pack:
        plain.seek(0)
        shutil.copyfileobj(plain, out, 1 << 22)
    return parts, size


def rewritable(path: Path) -> Folder:
    """The folder at `path`, whose config.json, if any, can be rewritten."""
    folder = read_folder(path)
    refuse_unwritable(folder)
    return folder


def refuse_unwritable(folder: Folder) -> None:
    """DamagedError for a config.json that `rewrite` can't change, which is better known before the work than after."""
    if CONFIG in folder.others:
        refuse_broken((folder.path / CONFIG).read_bytes(), str(folder.path / CONFIG))


def rewrite(
    place: Path, folder: Folder, held: dict[str, list[tuple[str, int]]], change: Callable[[bytes, str], bytes]
) -> None:
    """Change config.json and the index of a folder that is being built, where it has any."""
    if CONFIG in folder.others:
        (place / CONFIG).write_bytes(change((place / CONFIG).read_bytes(), str(folder.path / CONFIG)))
    if folder.index is not None:
        index = place / folder.index
        index.write_bytes(index_of(index.read_bytes(), held, str(folder.path / folder.index)))
