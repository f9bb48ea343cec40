"""Replacing a file or a folder in one step: whoever looks sees the old one or the whole new one, also after a
crash.

The new content is built beside the target under a hidden name, synced, and renamed over it. On any exception,
KeyboardInterrupt and SystemExit included, what was built is removed and the target is as it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from mc.errors import McError, reason

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A seekable stream to write and read, which becomes the file `target` when the block ends well.

    A symlink stays: the file it points to is replaced, or created. The mode is that of the replaced file,
    else what the umask leaves. A pipe or a device cannot be replaced: it is written directly, and its stream
    may not seek. Raises McError if the target is a folder, its folder cannot be written, or the disk is full.
    """
    final, found = _destination(target)
    if os.fspath(target).endswith(os.sep) or (found is not None and stat.S_ISDIR(found.st_mode)):
        raise McError(f"{os.fspath(target)} names a folder, where a file was to be written. Name a file in it.")
    if found is not None and not stat.S_ISREG(found.st_mode):
        given = os.fspath(target)  # what /dev/stdout resolves to may have no path
        with _refusing(given, given), os.fdopen(os.open(given, os.O_WRONLY), "wb") as stream:
            yield stream
        return
    built = _beside(final)
    with _refusing(final, built):
        try:
            descriptor = os.open(built, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600 if found else 0o666)
            with os.fdopen(descriptor, "w+b") as stream:
                yield cast(BinaryIO, stream)
                stream.flush()
                if found is not None:
                    os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & 0o777)
                os.fsync(descriptor)
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
    the current folder, or cannot be replaced.
    """
    final, found = _destination(target)
    if found is not None and not stat.S_ISDIR(found.st_mode):
        raise McError(f"{final} is a file, where a folder was to be written. Name another place or remove it.")
    if found is not None and Path.cwd().resolve().is_relative_to(final):
        raise McError(f"{final} holds the current folder, so it cannot be replaced. Name another place.")
    built = _beside(final)
    with _refusing(final, built):
        try:
            os.mkdir(built, 0o700 if found else 0o777)
            yield Path(built)
            _sync_tree(built)
            if found is None:
                os.rename(built, final)
            else:
                os.chmod(built, stat.S_IMODE(found.st_mode))
                _swap(built, final)
            _sync(os.path.dirname(final))
        except BaseException:
            shutil.rmtree(built, ignore_errors=True)
            raise


def _destination(target: str | os.PathLike[str]) -> tuple[str, os.stat_result | None]:
    """The path behind all symlinks, and what stands there now, if anything."""
    given = os.fspath(target)
    with _refusing(given, given):
        try:
            return os.path.realpath(given), os.stat(given)
        except FileNotFoundError:
            return os.path.realpath(given), None


def _beside(final: str) -> str:
    """A hidden name in the folder of `final` that nothing has, short enough for any file system."""
    folder, name = os.path.split(final)
    return os.path.join(folder, f".{name[:40]}.{secrets.token_hex(8)}.part")


@contextlib.contextmanager
def _refusing(target: str, built: str) -> Iterator[None]:
    """Turn the system's refusal to write `target` into a McError; errors of other files pass as they are."""
    folder = os.path.dirname(target) or "."
    try:
        yield
    except OSError as error:
        if error.filename in (target, built, folder):
            advice = f"Check that the folder {folder} exists and may be written."
        elif error.filename is None and error.errno in _FULL:
            advice = "Make room or name another place."
        else:
            raise
        raise McError(f"{target} cannot be written: {reason(error)}. {advice}") from error


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
