"""What `import mc` offers: files, folders, pipes and bytes, each handed to the part that does the work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import BinaryIO, Literal

from mc.checkpoint import Source
from mc.errors import DamagedError, McError
from mc.folder import Folder, check_index, packed_name, plain_name, read_folder, scan_folder
from mc.inflating import restore_bytes
from mc.memory import Room
from mc.packing import pack_file
from mc.parallel import Workers, workers
from mc.places import STDIN, PathLike, is_folder, name_of, new_folder, path_of, random_access, refuse_same, writing
from mc.progress import Done, Progress
from mc.reports import FileReport, Finding, PackReport, RestoredFile, UnpackReport, VerifiedFile, VerifyReport
from mc.streams import FromPipe, FromSource
from mc.unpacking import restore
from mc.verifying import verify_file

Level = Literal["fast", "default", "best"]


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
            return _pack_folder(Path(path_of(source)), target, level, work, progress)
        refuse_same(source, target)
        with random_access(source) as opened, writing(target) as out:
            report = _pack_one(opened, out, name_of(target), level, work, Done(opened.size, progress).step)
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
    total = Done(sum((path / name).stat().st_size for name in folder.shards), progress)
    reports = []
    with new_folder(folder, target, [packed_name(name) for name in folder.shards]) as made:
        for name in folder.shards:
            with Source.of(path / name) as source, made.shard(packed_name(name)) as (out, shown):
                reports.append(_pack_one(source, out, shown, level, work, total.step))
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
                    f"{path_of(source)} is a folder; tensors can be picked from a single file. Name one of its shards."
                )
            return _unpack_folder(Path(path_of(source)), target, check, work, progress)
        refuse_same(source, target)
        shown, own = progress or _ignore, isinstance(target, str | os.PathLike)
        with writing(target) as out:
            if isinstance(source, str | os.PathLike):
                with random_access(source) as opened:
                    found = restore(FromSource(opened), out, work, check, tensors, shown, own)
            else:
                found = restore(FromPipe(source, STDIN), out, work, check, tensors, shown, own)
        checked, names = check and tensors is None, (name_of(source), name_of(target))
        return UnpackReport((RestoredFile(*names, found.size, found.packed_size, found.sha256, checked),))


def _unpack_folder(
    path: Path, target: PathLike | BinaryIO, check: bool, work: Workers, progress: Progress | None
) -> UnpackReport:
    folder = read_folder(path)
    if not folder.packed:
        raise DamagedError(f"{path} holds plain shards, not packed ones. There is nothing to unpack.")
    files = []
    whole = 0
    with new_folder(folder, target, [plain_name(name) for name in folder.shards]) as made:
        for name in folder.shards:
            done_before = whole

            def shown(done: int, size: int, before: int = done_before) -> None:
                if progress is not None:
                    progress(before + done, before + size)

            with Source.of(path / name) as source, made.shard(plain_name(name)) as (out, plain):
                found = restore(FromSource(source), out, work, check, None, shown, own=True)
            whole += found.size
            files.append(RestoredFile(str(path / name), plain, found.size, found.packed_size, found.sha256, check))
    return UnpackReport(tuple(files))


def verify(
    packed: PathLike | BinaryIO, original: PathLike | BinaryIO | None = None, *, threads: int | None = None,
    executor: Executor | None = None, progress: Progress | None = None,
) -> VerifyReport:  # fmt: skip
    """Check a packed or a plain file, or a folder of them, in full; with `original`, that the restored file equals it.

    Damage is reported, not raised; McError is raised for what can't be read at all."""
    with workers(threads, executor) as work:
        if is_folder(packed):
            return _verify_folder(Path(path_of(packed)), original, work, progress)
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
    other = Path(path_of(original)) if original is not None else None
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


def _ignore(*_: int) -> None:
    pass
