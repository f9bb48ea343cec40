"""Which file a command reads and which it writes: names, `-`, and what is refused beforehand.

The core replaces its target atomically and asks no questions. The questions are asked here: would something
be overwritten, is the output the source itself, would bytes of a checkpoint go to a terminal.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import BinaryIO, Final

import click

PLAIN: Final = ".safetensors"
PACKED: Final = ".mc.safetensors"
STDIO: Final = "-"

ERRNO_SENTENCES: Final = {
    errno.ENOENT: "There is no file or folder {name}.",
    errno.EACCES: "Permission denied: {name} may not be read or written by this user.",
    errno.EPERM: "Permission denied: {name} may not be read or written by this user.",
    errno.EROFS: "{name} lies on a read-only file system; choose another place with -o.",
    errno.ENOSPC: "The disk is full: {name} could not be written. Free some space or choose another with -o.",
    errno.EDQUOT: "The disk quota is used up: {name} could not be written.",
    errno.EFBIG: "{name} could not be written: it would be larger than the limit on a file's size here.",
    errno.EISDIR: "{name} is a folder where a file is needed.",
    errno.ENOTDIR: "A part of the path {name} is not a folder.",
    errno.ENAMETOOLONG: "The name {name} is too long for this file system.",
    errno.EMFILE: "Too many files are open to open {name} too; raise the limit (ulimit -n).",
}


WRITE_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
READ_ERRORS: Final = frozenset(errno.errorcode) - WRITE_ERRORS


class Standard(io.BufferedWriter):
    """stdout for bytes; where it appends (`>> file`), the system moves every write to the end: no seeking."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(io.FileIO(descriptor, "wb", closefd=False))
        self.appends = bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND)

    def seekable(self) -> bool:
        """Whether a writer may go back and patch what it wrote."""
        return not self.appends and super().seekable()


class Refused(click.ClickException):
    """What the command will not do, in a whole sentence that names the way out; exit code 1."""


def target_of(source: str, output: str | None, named: Callable[[Path], Path]) -> str:
    """Where the output goes: -o, else stdout for stdin, else the name that `named` makes of the source's."""
    if output is not None:
        return STDIO if is_stdout(output) else output
    if source == STDIO:
        return STDIO
    os.stat(source)  # a source that is not there is the first thing to say
    if is_device(Path(source)):
        raise click.UsageError(f"'{source}' is no regular file, so name the output with -o.")
    return str(named(Path(source)))


def refuse_pipe(source: str) -> None:
    """UsageError for a dry run of a pipe, whose names can't be read ahead."""
    if source == STDIO:
        raise click.UsageError("-n reads names from a file, and - is read once. Name a file.")


def packed_name(source: Path) -> Path:
    """`model.safetensors` -> `model.mc.safetensors`; folder `X` -> `X.mc`."""
    if source.is_dir():
        named = own_name(source)
        if not named.name:
            raise click.UsageError(f"The folder '{source}' has no name to derive one from, so name the output with -o.")
        return named.with_name(named.name + ".mc")
    return source.with_name(source.name.removesuffix(PLAIN) + PACKED)


def plain_name(source: Path) -> Path:
    """`model.mc.safetensors` -> `model.safetensors`; folder `X.mc` -> `X`. Any other name needs -o."""
    suffix, rest = (".mc", "") if source.is_dir() else (PACKED, PLAIN)
    named = own_name(source) if source.is_dir() else source
    if named.name.endswith(suffix) and named.name != suffix:
        return named.with_name(named.name.removesuffix(suffix) + rest)
    raise click.UsageError(f"The name '{source}' does not end in {suffix}, so name the output with -o.")


def own_name(folder: Path) -> Path:
    """The folder under a path that ends in its name, which `.` and `..` do not."""
    return folder if folder.name not in ("", "..") else folder.resolve()


@contextmanager
def reading(name: str) -> Iterator[Path | BinaryIO]:
    """What the core reads: a path, or a stream where `name` is `-` or no regular file (a named pipe)."""
    if name == STDIO:
        if sys.stdin is None:
            raise Refused("There is no standard input to read from; name a file.")
        if sys.stdin.isatty():
            raise Refused("A checkpoint is not read from a terminal; name a file, or pipe one in.")
        with naming("standard input", READ_ERRORS):
            yield sys.stdin.buffer
    elif is_device(Path(name)):
        with open(name, "rb") as stream, naming(name, READ_ERRORS):
            yield stream
    else:
        with naming(name, READ_ERRORS):
            yield Path(name)


@contextmanager
def writing(source: str, target: str, *, force: bool) -> Iterator[PathLike[str] | BinaryIO]:
    """What the core writes: a path that may be replaced, or a stream; Refused or UsageError if neither."""
    if target == STDIO:
        if source != STDIO and Path(source).is_dir():
            raise click.UsageError("A folder cannot go to stdout; name a folder with -o.")
        if sys.stdout is None:
            raise Refused("There is no standard output to write to; name a file with -o.")
        if sys.stdout.isatty():
            raise Refused("Binary data is not written to a terminal; redirect it, or name a file with -o.")
        with naming("standard output", WRITE_ERRORS), Standard(1) as stream:
            yield stream
    elif is_device(Path(target)):
        with naming(target, WRITE_ERRORS), open(target, "wb") as stream:  # what is left is written as it is closed
            if stream.isatty():
                raise Refused(f"Binary data is not written to a terminal, and '{target}' is one.")
            yield stream
    else:
        if target.endswith(os.sep) and not Path(source).is_dir():
            raise Refused(f"'{target}' names a folder; name a file in it with -o.")
        allow(Path(source) if source != STDIO else None, Path(target), force=force)
        with naming(target, WRITE_ERRORS):
            yield place_of(target, force=force)


def place_of(target: str, *, force: bool) -> PathLike[str]:
    """What the core is told to write: without -f something new, also if something appears there meanwhile."""
    from mc.atomic import New

    return Path(target) if force else New(target)


def allow(source: Path | None, target: Path, *, force: bool, option: str = "-o") -> None:
    """Raise Refused where writing `target`, which `option` named, would touch the source or overwrite what -f has not
    released."""
    if not target.parent.is_dir():
        raise Refused(f"The folder '{target.parent}' that '{target}' would be written to does not exist.")
    if source is not None and source.exists():
        inside(source, target, option)
    if not target.exists() or is_device(target):  # nothing of a device is lost
        return
    if not force:
        raise Refused(f"'{target}' already exists; -f replaces it, {option} names another place.")
    from_folder = source is not None and source.is_dir()
    if target.is_dir() and not from_folder:
        raise Refused(f"'{target}' is a folder; name a file in it with {option}.")
    if from_folder and not target.is_dir():
        raise Refused(f"'{target}' is a file, but a folder is to be written; choose another name with -o.")
    if target.is_dir() and any(target.iterdir()) and not any(target.glob("*" + PLAIN)):
        raise Refused(f"The folder '{target}' holds no {PLAIN} files, so it is not replaced, even with -f.")


def inside(source: Path, target: Path, option: str = "-o") -> None:
    """Raise Refused where source and target are one, or one lies in the other: a source is never changed."""
    if target.exists() and os.path.samefile(source, target):
        raise Refused(f"'{target}' is the source itself, which is never changed; name another with {option}.")
    here, there = source.resolve(), target.resolve()
    if source.is_dir() and there.is_relative_to(here):
        raise Refused(f"'{target}' lies inside the source folder '{source}', which is never changed.")
    if target.is_dir() and here.is_relative_to(there):
        raise Refused(f"'{target}' holds the source '{source}', so it is not replaced; choose another name.")


def distinct(written: dict[str, str | None], read: dict[str, str | None]) -> None:
    """UsageError where a file would be written that another option names too: it would be lost, or overwritten."""
    found: dict[Path, str] = {}
    for option, name in (read | written).items():
        if name is None or name == STDIO or is_device(Path(name)):
            continue
        place = Path(name).resolve()
        if place in found and option in written:
            raise click.UsageError(f"'{name}' is named by {found[place]} and by {option}, which would overwrite it.")
        found[place] = option


def is_device(path: Path) -> bool:
    """Whether something stands there that is neither a regular file nor a folder: a pipe, /dev/null."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def is_packed_name(target: str) -> bool:
    """Whether the name of a file or folder asks for a packed one."""
    return target.rstrip("/").endswith((PACKED, ".mc"))


def is_plain_name(target: str) -> bool:
    """Whether the name ends in .safetensors alone, as that of a plain file."""
    name = target.rstrip("/")
    return name.endswith(PLAIN) and not name.endswith(PACKED)


def is_stdout(name: str) -> bool:
    """Whether the path is another name (/dev/stdout) of the pipe or device that is this process's stdout."""
    try:
        return is_device(Path(name)) and os.path.samestat(os.stat(name), os.fstat(1))
    except OSError:
        return False


@contextmanager
def naming(name: str, errors: frozenset[int] | None = None) -> Iterator[None]:
    """Give an OSError that names no file (a full disk met by `write`) the file that was being worked on."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None and (errors is None or error.errno in errors):
            error.filename = name
        raise


def sentence(error: OSError) -> str:
    """An OSError as a whole sentence that names the file."""
    known_name = isinstance(error.filename, str | bytes | os.PathLike)
    name = f"'{os.fsdecode(error.filename)}'" if known_name else "a file"
    known = ERRNO_SENTENCES.get(error.errno or 0)
    if known:
        text = known.format(name=name)
        return text[0].upper() + text[1:]
    code = errno.errorcode.get(error.errno or 0, "no error number")
    return f"Reading or writing {name} failed: {error.strerror or error} ({code})."
