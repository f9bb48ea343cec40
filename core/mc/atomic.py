"""Replacing a file or a folder in one step: whoever looks sees the old one or the whole new one, also after a
crash.

The new content is built beside the target under a hidden name, synced, and renamed over it. On any exception,
KeyboardInterrupt and SystemExit included, what was built is removed and the target is as it was. Where the target is
`New`, nothing is replaced: whether the name is free is decided by the step that takes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from mc.early import writing_early
from mc.errors import McError, reason

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}  # what renaming a folder to a name meets that is taken


@dataclass(frozen=True)
class New(os.PathLike[str]):
    """A path as a target that is written only if nothing stands there, also when it is put there."""

    path: str

    def __fspath__(self) -> str:
        return self.path

    def __str__(self) -> str:
        return self.path


def refuse_taken(target: str | os.PathLike[str]) -> None:
    """McError if the target is `New`, and something stands there but a pipe or a device, of which nothing is lost."""
    _destination(target)


def _taken(final: str) -> McError:
    return McError(f"{final} already exists, and isn't replaced unless that is allowed (-f). Name another place.")


@contextlib.contextmanager
def replacing(target: str | os.PathLike[str], *, alone: bool = True) -> Iterator[BinaryIO]:
    """A seekable stream to write and read, which becomes the file `target` when the block ends well.

    A symlink stays: the file it points to is replaced, or created. The mode is that of the replaced file,
    else what the umask leaves. A pipe or a device cannot be replaced: it is written directly, and its stream
    may not seek. Raises McError if the target is a folder, its folder cannot be written, the disk is full (in the
    block too, unless others write in it: `alone`), or what is to be `New` isn't.
    """
    final, found = _destination(target)
    if os.fspath(target).endswith(os.sep) or (found is not None and stat.S_ISDIR(found.st_mode)):
        raise McError(f"{os.fspath(target)} names a folder, where a file was to be written. Name a file in it.")
    if found is not None and not stat.S_ISREG(found.st_mode):
        given = os.fspath(target)  # what /dev/stdout resolves to may have no path
        with refusing(given, given, alone):
            device = os.fdopen(os.open(given, os.O_WRONLY), "wb")
            try:
                yield device
            finally:
                with refusing(given, given):
                    device.close()
        return
    built = _beside(final)
    with refusing(final, built, alone):
        try:
            descriptor = os.open(built, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600 if found else 0o666)
            with os.fdopen(descriptor, "w+b") as stream:
                with writing_early(descriptor):
                    yield cast(BinaryIO, stream)
                stream.flush()
                if found is not None:
                    os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & 0o777)
                os.fsync(descriptor)
            if isinstance(target, New):
                _place(built, final)
            else:
                os.replace(built, final)
            _sync(os.path.dirname(final))
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(built)
            raise


@contextlib.contextmanager
def replacing_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty folder, which becomes the folder `target` when the block ends well; what stood there is gone.

    No call of the system swaps two folders everywhere: an old one is renamed aside, the new one renamed in,
    the old one deleted. Between the two renames, and only there, a crash leaves no `target`, but both folders
    beside it. Symlink and mode are treated as by `replacing`. Raises McError if the target is a file, holds
    the current folder, cannot be replaced, or wasn't there at first, and is now: nobody has looked at what is in it.
    """
    final, found = _destination(target)
    if found is not None and not stat.S_ISDIR(found.st_mode):
        raise McError(f"{final} is a file, where a folder was to be written. Name another place or remove it.")
    if found is not None and Path.cwd().resolve().is_relative_to(final):
        raise McError(f"{final} holds the current folder, so it cannot be replaced. Name another place.")
    built = _beside(final)
    with refusing(final, built):
        try:
            os.mkdir(built, 0o700 if found else 0o777)
            yield Path(built)
            _sync_tree(built)
            if found is None:
                _place_folder(built, final)
            else:
                os.chmod(built, stat.S_IMODE(found.st_mode))
                _swap(built, final)
            _sync(os.path.dirname(final))
        except BaseException:
            shutil.rmtree(built, ignore_errors=True)
            raise


def _destination(target: str | os.PathLike[str]) -> tuple[str, os.stat_result | None]:
    """The path behind all symlinks, and what stands there now, if anything. McError if nothing should: see
    `refuse_taken`."""
    given = os.fspath(target)
    with refusing(given, given):
        try:
            final, found = os.path.realpath(given), os.stat(given)
        except FileNotFoundError:
            return os.path.realpath(given), None
    if isinstance(target, New) and (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise _taken(given)
    return final, found


def _beside(final: str) -> str:
    """A hidden name in the folder of `final` that nothing has, short enough for any file system."""
    folder, name = os.path.split(final)
    return os.path.join(folder, f".{name[:40]}.{secrets.token_hex(8)}.part")


@contextlib.contextmanager
def refusing(target: str, built: str, unnamed: bool = True) -> Iterator[None]:
    """Turn the system's refusal to write `target` into a McError; errors of other files pass as they are. A full disk
    that no file is named for is taken for this one's, if `unnamed`."""
    folder = os.path.dirname(target) or "."
    try:
        yield
    except OSError as error:
        if error.filename in (target, built, folder):
            advice = f"Check that the folder {folder} exists and may be written."
        elif unnamed and error.filename is None and error.errno in _FULL:
            advice = "Make room or name another place."
        else:
            raise
        raise McError(f"{target} cannot be written: {reason(error)}. {advice}") from error


def _place(built: str, final: str) -> None:
    """Give the file `built` the name `final`, if nothing has it. McError if something has."""
    try:
        os.link(built, final)
    except FileExistsError:
        raise _taken(final) from None
    except OSError:
        _claim(built, final)
    else:
        os.unlink(built)


def _claim(built: str, final: str) -> None:
    """The same on a file system without hard links: an empty file of our own takes the name first."""
    mine = False
    try:
        os.close(os.open(final, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        mine = True
        os.replace(built, final)
    except FileExistsError:
        raise _taken(final) from None
    except BaseException:
        if mine and os.path.lexists(built):  # else it has its name already
            os.unlink(final)
        raise


def _place_folder(built: str, final: str) -> None:
    """Give the folder `built` the name `final`. McError if something has it: renaming replaces an empty folder, which
    has nothing to lose, and nothing else."""
    if os.path.lexists(final):
        raise _taken(final)
    try:
        os.rename(built, final)
    except OSError as error:
        if error.errno in _TAKEN and os.path.lexists(final):
            raise _taken(final) from error
        raise


def _swap(built: str, final: str) -> None:
    """Put the folder `built` in the place of the folder `final`, and delete the latter."""
    old = _beside(final)
    try:
        os.rename(final, old)
        os.rename(built, final)
    except BaseException:
        if os.path.lexists(old) and os.path.lexists(built):  # stopped between the two
            _put_back(old, final)
        raise
    finally:
        if not os.path.lexists(built):
            shutil.rmtree(old, ignore_errors=True)
    if os.path.lexists(old):
        raise McError(f"{final} was replaced, but what stood there before cannot be deleted whole. Delete {old}.")


def _put_back(old: str, final: str) -> None:
    try:
        os.rename(old, final)
    except OSError as error:
        raise McError(
            f"{final} could be neither replaced nor put back: {reason(error)}. It is unharmed, "
            f"but now called {old}: rename that."
        ) from error


def _sync_tree(top: str) -> None:
    for folder, _, names in os.walk(top, topdown=False):
        for name in names:
            if stat.S_ISREG(os.lstat(os.path.join(folder, name)).st_mode):
                _sync(os.path.join(folder, name))
        _sync(folder)


def _sync(path: str) -> None:
    """Make a file's bytes, or a folder's names, last through a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)
