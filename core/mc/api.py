"""What `import mc` offers: files, folders, pipes and bytes, each handed to the part that does the work."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

from mc.atomic import replacing, replacing_folder
from mc.checkpoint import Source
from mc.errors import DamagedError, McError
from mc.folder import Folder, check_index, packed_name, plain_name, read_folder, refuse_pickle, scan_folder
from mc.memory import Room
from mc.packing import pack_file
from mc.parallel import Workers, workers
from mc.reports import FileReport, Finding, PackReport, RestoredFile, UnpackReport, VerifiedFile, VerifyReport
from mc.scratch import scratch
from mc.streams import FromPipe, FromSource
from mc.unpacking import restore, restore_bytes
from mc.verifying import verify_file

Level = Literal["fast", "default", "best"]
Progress = Callable[[int, int], None]  # (bytes done, bytes in all), called from the caller's thread only
PathLike = str | os.PathLike[str]

STDIN = "<stream>"


def compress(
    data: bytes | bytearray | memoryview, *, level: Level = "default", threads: int | None = None,
    executor: Executor | None = None,
) -> bytes:  # fmt: skip
    """The packed form of the safetensors file whose bytes are `data`.

    Raises DamagedError if they are no sound safetensors file, McError if they are a packed one already."""
    with Source.of(data) as source, workers(threads, executor) as work:
        out = Room(source.size)
        _, _, size = pack_file(source, out, level, work, _ignore)
    return out.result(size)


def decompress(
    data: bytes | bytearray | memoryview, *, threads: int | None = None, executor: Executor | None = None
) -> bytes:
    """The bytes that `compress` was given. Every chunk's checksum is verified; raises DamagedError if one is wrong."""
    with Source.of(data) as source, workers(threads, executor) as work:
        return restore_bytes(source, work)


def pack(
    source: PathLike | BinaryIO, target: PathLike | BinaryIO, *, level: Level = "default",
    threads: int | None = None, executor: Executor | None = None, progress: Progress | None = None,
) -> PackReport:  # fmt: skip
    """Pack a safetensors file, a folder of them, or a stream into a file, a folder or a stream.

    A path as target is replaced when all is written, never before. Raises McError and its kin (see mc.errors)."""
    with workers(threads, executor) as work:
        if is_folder(source):
            return _pack_folder(Path(_path(source)), target, level, work, progress)
        _refuse_same(source, target)
        with random_access(source) as opened, writing(target) as out:
            report = _pack_one(opened, out, _name(target), level, work, _Sum(opened.size, progress).step)
        return PackReport((report,))


def _pack_one(
    source: Source, out: BinaryIO, target: str, level: str, work: Workers, step: Callable[[int], None]
) -> FileReport:
    manifest, tensors, packed = pack_file(source, out, level, work, step)
    return FileReport(source.where, target, source.size, packed, manifest.sha256, tensors)


def _pack_folder(
    path: Path, target: PathLike | BinaryIO, level: str, work: Workers, progress: Progress | None
) -> PackReport:
    folder = read_folder(path)
    if folder.packed:
        raise McError(f"{path} holds packed shards already. Unpack it first.")
    total = _Sum(sum((path / name).stat().st_size for name in folder.shards), progress)
    reports = []
    names = [packed_name(name) for name in folder.shards]
    with new_folder(path, target, [*folder.others, *names]) as place:
        copy_others(path, place, folder.others)
        for name in folder.shards:
            packed = packed_name(name)
            with Source.of(path / name) as source, replacing(place / packed) as out:
                reports.append(_pack_one(source, out, str(Path(_path(target)) / packed), level, work, total.step))
    return PackReport(tuple(reports))


def unpack(
    source: PathLike | BinaryIO, target: PathLike | BinaryIO, *, check: bool = False,
    tensors: Sequence[str] | None = None, threads: int | None = None, executor: Executor | None = None,
    progress: Progress | None = None,
) -> UnpackReport:  # fmt: skip
    """Restore the original of a packed file, folder or stream. With `check`, the sha256 of the whole is compared
    too; with `tensors`, globs, a file with only those is written.

    Raises DamagedError, naming file and tensor, where a byte is not what was packed."""
    with workers(threads, executor) as work:
        if is_folder(source):
            if tensors is not None:
                raise McError(
                    f"{_path(source)} is a folder; tensors can be picked from a single file. Name one of its shards."
                )
            return _unpack_folder(Path(_path(source)), target, check, work, progress)
        _refuse_same(source, target)
        shown, own = progress or _ignore, isinstance(target, str | os.PathLike)
        with writing(target) as out:
            if isinstance(source, str | os.PathLike):
                with random_access(source) as opened:
                    found = restore(FromSource(opened), opened, out, work, check, tensors, shown, own)
            else:
                found = restore(FromPipe(source, STDIN), None, out, work, check, tensors, shown, own)
        name = _name(source)
        file = RestoredFile(name, _name(target), found.size, found.packed_size, found.sha256, check and tensors is None)
        return UnpackReport((file,))


def _unpack_folder(
    path: Path, target: PathLike | BinaryIO, check: bool, work: Workers, progress: Progress | None
) -> UnpackReport:
    folder = read_folder(path)
    if not folder.packed:
        raise DamagedError(f"{path} holds plain shards, not packed ones. There is nothing to unpack.")
    files = []
    whole = 0
    names = [plain_name(name) for name in folder.shards]
    with new_folder(path, target, [*folder.others, *names]) as place:
        copy_others(path, place, folder.others)
        for name in folder.shards:
            plain = plain_name(name)
            done_before = whole

            def shown(done: int, size: int, before: int = done_before) -> None:
                if progress is not None:
                    progress(before + done, before + size)

            with Source.of(path / name) as source, replacing(place / plain) as out:
                found = restore(FromSource(source), source, out, work, check, None, shown, own=True)
            whole += found.size
            plain_path = str(Path(_path(target)) / plain)
            files.append(RestoredFile(str(path / name), plain_path, found.size, found.packed_size, found.sha256, check))
    return UnpackReport(tuple(files))


def verify(
    packed: PathLike | BinaryIO, original: PathLike | BinaryIO | None = None, *, threads: int | None = None,
    executor: Executor | None = None, progress: Progress | None = None,
) -> VerifyReport:  # fmt: skip
    """Check a packed or a plain file, or a folder of them, in full; with `original`, that the restored file equals it.

    Damage is reported, not raised; McError is raised for what can't be read at all."""
    with workers(threads, executor) as work:
        if is_folder(packed):
            return _verify_folder(Path(_path(packed)), original, work, progress)
        with random_access(packed) as source:
            if original is None:
                file, findings = verify_file(source, None, work, progress or _ignore)
            else:
                with random_access(original) as plain:
                    file, findings = verify_file(source, plain, work, progress or _ignore)
        return VerifyReport((file,), findings)


def _verify_folder(
    path: Path, original: PathLike | BinaryIO | None, work: Workers, progress: Progress | None
) -> VerifyReport:
    folder = scan_folder(path)
    findings: list[Finding] = []
    try:
        findings += check_index(folder)
    except DamagedError as error:
        findings.append(Finding(str(path), None, "index", str(error)))
    other = Path(_path(original)) if original is not None else None
    if other is not None:
        if not other.is_dir():
            fault = "is no folder" if other.exists() else "does not exist"
            raise McError(f"{other} {fault}, and {path} is a folder, which is compared with one. Check the path.")
        findings += _compare_others(path, other, folder)
    files: list[VerifiedFile] = []
    for name in folder.shards:
        plain = plain_name(name)
        with Source.of(path / name) as source:
            if other is None:
                file, found = verify_file(source, None, work, progress or _ignore)
            elif not (other / plain).is_file():
                file, found = verify_file(source, None, work, progress or _ignore)
                findings.append(Finding(str(path / name), None, "file", f"{other} has no {plain} to compare it with."))
            else:
                with Source.of(other / plain) as against:
                    file, found = verify_file(source, against, work, progress or _ignore)
        files.append(file)
        findings += found
    return VerifyReport(tuple(files), tuple(findings))


def _compare_others(path: Path, other: Path, folder: Folder) -> Iterator[Finding]:
    """Files besides the shards that differ, and files of the original that the folder lacks."""
    shards = {plain_name(name) for name in folder.shards}
    for missing in sorted({str(found.relative_to(other)) for found in other.rglob("*") if found.is_file()}):
        if missing not in shards and missing not in folder.others:
            yield Finding(str(path), None, "file", f"{path} lacks {missing}, which {other} has.")
    for name in folder.others:
        if not (other / name).is_file():
            yield Finding(str(path / name), None, "file", f"{other} has no {name}.")
        elif (other / name).read_bytes() != (path / name).read_bytes():
            yield Finding(str(path / name), None, "file", f"{name} differs from the one in {other}.")


class _Sum:
    """Progress over several files: steps in, sums out."""

    def __init__(self, whole: int, progress: Progress | None) -> None:
        self._done, self._whole, self._progress = 0, whole, progress

    def step(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._whole)


def _ignore(*_: int) -> None:
    pass


def _refuse_same(source: PathLike | BinaryIO, target: PathLike | BinaryIO) -> None:
    """McError if both are one regular file: a source is never changed."""
    one, other = _status(source), _status(target)
    if one is not None and other is not None and stat.S_ISREG(one.st_mode) and os.path.samestat(one, other):
        raise McError(f"{_name(source)} is source and target at once. Name another target.")


def _status(place: PathLike | BinaryIO) -> os.stat_result | None:
    try:
        return os.stat(place) if isinstance(place, str | os.PathLike) else os.fstat(place.fileno())
    except (OSError, AttributeError):  # not there yet, or a stream without a file (io.UnsupportedOperation)
        return None


def is_folder(source: PathLike | BinaryIO) -> bool:
    return isinstance(source, str | os.PathLike) and os.path.isdir(source)


def _path(place: PathLike | BinaryIO) -> str:
    if isinstance(place, str | os.PathLike):
        return os.fspath(place)
    raise McError("A folder can't be written to or compared with a stream. Name a folder.")


def _name(place: PathLike | BinaryIO) -> str:
    return os.fspath(place) if isinstance(place, str | os.PathLike) else STDIN


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


@contextmanager
def new_folder(source: Path, target: PathLike | BinaryIO, names: Sequence[str]) -> Iterator[Path]:
    """A folder that takes the place of `target` at the end, which may hold nothing but files of these names."""
    destination = Path(_path(target))
    if source.resolve() in (destination.resolve(), *destination.resolve().parents):
        raise McError(f"{destination} lies in {source}, which is read. Name a folder outside it.")
    if destination.resolve() in source.resolve().parents:
        raise McError(f"{destination} holds {source}, which is read. Name another folder.")
    if destination.is_dir():
        found = (str(path.relative_to(destination)) for path in destination.rglob("*") if not path.is_dir())
        if others := sorted(set(found) - set(names)):
            raise McError(
                f"{destination} is to be replaced, but holds {others[0]}, which isn't written again, and "
                f"{len(others) - 1} more such files. Move them away, or name another folder."
            )
    with replacing_folder(destination) as place:
        yield place


def copy_others(source: Path, place: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, place / name)
        shutil.copymode(source / name, place / name)
