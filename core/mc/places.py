"""Where checkpoints are read from and where they go: files, folders and streams. No source is ever a target."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Collection, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mc.atomic import replacing, replacing_folder
from mc.checkpoint import Source
from mc.errors import McError
from mc.folder import Folder, refuse_pickle
from mc.scratch import scratch

PathLike = str | os.PathLike[str]
STDIN = "<stream>"


def is_folder(source: PathLike | BinaryIO) -> bool:
    """Whether it is the path of a folder."""
    return isinstance(source, str | os.PathLike) and os.path.isdir(source)


def path_of(place: PathLike | BinaryIO) -> PathLike:
    """What a folder is written to or compared with, if it is a path; McError for a stream."""
    if isinstance(place, str | os.PathLike):
        return place
    raise McError("A folder can't be written to or compared with a stream. Name a folder.")


def name_of(place: PathLike | BinaryIO) -> str:
    """What reports and messages call it."""
    return os.fspath(place) if isinstance(place, str | os.PathLike) else STDIN


def refuse_same(source: PathLike | BinaryIO, target: PathLike | BinaryIO) -> None:
    """McError if both are one regular file: a source is never changed."""
    one, other = _status(source), _status(target)
    if one is not None and other is not None and stat.S_ISREG(one.st_mode) and os.path.samestat(one, other):
        raise McError(f"{name_of(source)} is source and target at once. Name another target.")


def _status(place: PathLike | BinaryIO) -> os.stat_result | None:
    try:
        return os.stat(place) if isinstance(place, str | os.PathLike) else os.fstat(place.fileno())
    except (OSError, AttributeError):  # not there yet, or a stream without a file (io.UnsupportedOperation)
        return None


@contextmanager
def random_access(source: PathLike | BinaryIO) -> Iterator[Source]:
    """A source to be read by position; what can only be read once is spooled to a temporary file first."""
    if isinstance(source, str | os.PathLike):
        refuse_pickle(source)
        if os.path.exists(source) and not os.path.isfile(source) and not os.path.isdir(source):
            with open(source, "rb") as pipe, random_access(pipe) as spooled:
                yield spooled
            return
        with Source.of(source) as opened:
            yield opened
        return
    with scratch() as spool:
        shutil.copyfileobj(source, spool, 1 << 20)
        spool.flush()
        with Source.of(spool, STDIN) as opened:
            yield opened


@contextmanager
def writing(target: PathLike | BinaryIO) -> Iterator[BinaryIO]:
    """A stream that can seek. A path is replaced at the end; a stream that can't seek gets all of it at the end."""
    if isinstance(target, str | os.PathLike):
        with replacing(target) as out:
            if out.seekable():
                yield out
                return
            with _spooled(out) as spool:
                yield spool
        return
    # A stream that appends says that it can seek, and then writes at its end all the same.
    if target.seekable() and "a" not in str(getattr(target, "mode", "")):
        yield target
        return
    with _spooled(target) as spool:
        yield spool


@contextmanager
def _spooled(target: BinaryIO) -> Iterator[BinaryIO]:
    with scratch() as spool:
        yield spool
        spool.seek(0)
        shutil.copyfileobj(spool, target, 1 << 20)
        target.flush()


@dataclass(frozen=True)
class NewFolder:
    """A folder in the making: all is in it but its shards."""

    place: Path  # where it stands as long as it is made
    target: Path  # whose place it takes at the end

    @contextmanager
    def shard(self, name: str) -> Iterator[tuple[BinaryIO, str]]:
        """A stream that becomes a shard of this name, and what reports call it."""
        with replacing(self.place / name) as out:
            yield out, str(self.target / name)


@contextmanager
def new_folder(folder: Folder, target: PathLike | BinaryIO, shards: Collection[str]) -> Iterator[NewFolder]:
    """What takes the place of `target` at the end, which may hold nothing but files of the same names: `folder` with
    shards of these names."""
    given = path_of(target)
    destination, source = Path(given), folder.path.resolve()
    if source in (destination.resolve(), *destination.resolve().parents):
        raise McError(f"{destination} lies in {folder.path}, which is read. Name a folder outside it.")
    if destination.resolve() in source.parents:
        raise McError(f"{destination} holds {folder.path}, which is read. Name another folder.")
    _refuse_others(destination, {*folder.others, *shards})
    with replacing_folder(given) as place:
        copy_others(folder, place)
        yield NewFolder(place, destination)
        _refuse_others(destination, {*folder.others, *shards})  # it may have got more while this took its time


def _refuse_others(destination: Path, written: Set[str]) -> None:
    """McError for a folder that holds other files than are written again: they would be lost."""
    if not destination.is_dir():
        return
    found = (str(path.relative_to(destination)) for path in destination.rglob("*") if not path.is_dir())
    if others := sorted(set(found) - written):
        raise McError(
            f"{destination} is to be replaced, but holds {others[0]}, which isn't written again, and "
            f"{len(others) - 1} more such files. Move them away, or name another folder."
        )


def copy_others(folder: Folder, place: Path) -> None:
    """Copy what is no shard, with its mode."""
    for name in folder.others:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder.path / name, place / name)
        shutil.copymode(folder.path / name, place / name)
