"""Replacing files and folders: whole or not at all, and nothing left behind."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mc.atomic import New, replacing, replacing_folder
from mc.errors import McError


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    with replacing(tmp_path / "new") as stream:
        stream.write(b"one....")
        stream.seek(3)
        stream.write(b"two")
        stream.seek(0)
        assert stream.read() == b"onetwo."
        assert not (tmp_path / "new").exists()
    assert tree(tmp_path) == {"new": b"onetwo."}
    assert mode(tmp_path / "new") == 0o640


@pytest.mark.parametrize("old_mode", [0o600, 0o666, 0o444])
def test_a_replaced_file_passes_its_mode_on(tmp_path: Path, old_mode: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    path.chmod(old_mode)
    with replacing(str(path)) as stream:
        stream.write(b"new")
        assert path.read_bytes() == b"old"
        (built,) = [entry for entry in tmp_path.iterdir() if entry != path]
        assert mode(built) == 0o600  # never more open than what it replaces
    assert tree(tmp_path) == {"f": b"new"}
    assert mode(path) == old_mode


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existing", [True, False])
def test_an_exception_leaves_everything_as_it_was(tmp_path: Path, kind: type[BaseException], existing: bool) -> None:
    if existing:
        (tmp_path / "f").write_bytes(b"old")
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "kept").write_bytes(b"kept")
    before = tree(tmp_path)
    with pytest.raises(kind), replacing(tmp_path / "f") as stream:
        stream.write(b"new")
        raise kind
    with pytest.raises(kind), replacing_folder(tmp_path / "d") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "new").write_bytes(b"new")
        raise kind
    assert tree(tmp_path) == before
    assert sorted(os.listdir(tmp_path)) == (["d", "f"] if existing else [])


def test_bytes_are_on_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync = os.fsync

    def synced(descriptor: int) -> None:
        found = os.fstat(descriptor)
        done.append("sync folder" if stat.S_ISDIR(found.st_mode) else f"sync {found.st_size} bytes")
        fsync(descriptor)

    monkeypatch.setattr("mc.atomic.os.fsync", synced)
    for name, move in (("replace", os.replace), ("rename", os.rename)):

        def moved(source: str, target: str, move: Callable[[str, str], None] = move) -> None:
            done.append("rename")
            move(source, target)

        monkeypatch.setattr(f"mc.atomic.os.{name}", moved)
    with replacing(tmp_path / "f") as stream:
        stream.write(bytes(9))
    assert done == ["sync 9 bytes", "rename", "sync folder"]
    done.clear()
    with replacing_folder(tmp_path / "d") as folder:
        (folder / "g").write_bytes(bytes(7))
    assert done == ["sync 7 bytes", "sync folder", "rename", "sync folder"]


def test_a_symlink_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "f").write_bytes(b"old")
    (tmp_path / "link").symlink_to("store/f")
    (tmp_path / "dangling").symlink_to("store/new")
    for name in ("link", "dangling"):
        with replacing(tmp_path / name) as stream:
            stream.write(name.encode())
    assert os.readlink(tmp_path / "link") == "store/f"
    assert tree(store) == {"f": b"link", "new": b"dangling"}
    assert sorted(os.listdir(tmp_path)) == ["dangling", "link", "store"]


def test_a_symlink_to_a_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "old").write_bytes(b"")
    (tmp_path / "link").symlink_to("real")
    with replacing_folder(tmp_path / "link") as folder:
        (folder / "new").write_bytes(b"")
    assert os.readlink(tmp_path / "link") == "real"
    assert os.listdir(tmp_path / "real") == ["new"]
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


def test_a_device_and_a_pipe_are_written_directly(tmp_path: Path) -> None:
    with replacing("/dev/null") as stream:
        stream.write(b"x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()))
    reader.start()
    with replacing(fifo) as stream:
        assert not stream.seekable()
        stream.write(b"through")
    reader.join(10)
    assert read == [b"through"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert os.listdir(tmp_path) == ["fifo"]


def test_an_open_descriptor_that_is_a_pipe_is_written_directly() -> None:
    read_end, write_end = os.pipe()
    with replacing(f"/dev/fd/{write_end}") as stream:
        stream.write(b"x")
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        assert pipe.read() == b"x"


def test_refusals_say_what_stands_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(McError, match=f"{tmp_path} names a folder"), replacing(tmp_path):
        pass
    with pytest.raises(McError, match="new/ names a folder"), replacing(f"{tmp_path}/new/"):
        pass
    absent = pytest.raises(McError, match=r"no/f cannot be written: No such file.*folder .*no exists")
    with absent, replacing(tmp_path / "no" / "f"):
        pass
    with (
        pytest.raises(McError, match="loop cannot be written: Too many levels"),
        replacing(tmp_path / "loop"),
    ):
        pass
    with pytest.raises(McError, match="is a file, where a folder"), replacing_folder(tmp_path / "file"):
        pass
    with pytest.raises(McError, match="file/d cannot be written"), replacing_folder(tmp_path / "file" / "d"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(McError, match="Permission denied"), replacing(tmp_path / "f"):
        pass
    tmp_path.chmod(0o700)


def test_a_full_disk_is_a_refusal_and_other_errors_pass(tmp_path: Path) -> None:
    full = pytest.raises(McError, match=r"f cannot be written: No space left.*Make room")
    with full, replacing(tmp_path / "f"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "f"):
        (tmp_path / "other").read_bytes()
    assert os.listdir(tmp_path) == []


def test_dev_full_is_a_refusal() -> None:
    with (
        pytest.raises(McError, match="/dev/full cannot be written: No space left"),
        replacing("/dev/full") as stream,
    ):
        stream.write(b"x")


def test_a_name_of_the_greatest_length(tmp_path: Path) -> None:
    name = "é" * 127  # 254 bytes
    with replacing(tmp_path / name) as stream:
        stream.write(b"x")
    assert os.listdir(tmp_path) == [name]


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "d"
    with replacing_folder(target) as folder:
        assert folder.parent == tmp_path
        (folder / "sub").mkdir()
        (folder / "sub" / "f").write_bytes(b"1")
        assert not target.exists()
    assert tree(tmp_path) == {"d/sub/f": b"1"}
    assert mode(target) == 0o750
    target.chmod(0o2711)
    with replacing_folder(target) as folder:
        (folder / "g").write_bytes(b"2")
        assert tree(target) == {"sub/f": b"1"}
    assert tree(tmp_path) == {"d/g": b"2"}
    assert mode(target) == 0o2711
    assert os.listdir(tmp_path) == ["d"]


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("failing", [1, 2])
def test_a_folder_is_put_back_when_the_swap_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException], failing: int
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "old").write_bytes(b"old")
    calls: list[str] = []
    rename = os.rename

    def flaky(source: str, target: str) -> None:
        calls.append(target)
        if len(calls) == failing:
            raise kind(errno.EBUSY, "Device or resource busy", source)
        rename(source, target)

    monkeypatch.setattr("mc.atomic.os.rename", flaky)
    with pytest.raises(McError if kind is OSError else kind), replacing_folder(tmp_path / "d") as folder:
        (folder / "new").write_bytes(b"new")
    assert tree(tmp_path) == {"d/old": b"old"}
    assert os.listdir(tmp_path) == ["d"]


def test_an_interrupt_after_the_swap_keeps_the_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d").mkdir()
    rename = os.rename

    def interrupted(source: str, target: str) -> None:
        rename(source, target)
        if target == str(tmp_path / "d"):
            raise KeyboardInterrupt

    monkeypatch.setattr("mc.atomic.os.rename", interrupted)
    with pytest.raises(KeyboardInterrupt), replacing_folder(tmp_path / "d") as folder:
        (folder / "new").write_bytes(b"new")
    assert tree(tmp_path) == {"d/new": b"new"}
    assert os.listdir(tmp_path) == ["d"]


def test_an_old_folder_that_cannot_be_put_back_is_never_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "old").write_bytes(b"old")
    rename = os.rename

    def only_away(source: str, target: str) -> None:
        if target == str(tmp_path / "d"):
            raise OSError(errno.EIO, "Input/output error", source)
        rename(source, target)

    monkeypatch.setattr("mc.atomic.os.rename", only_away)
    lost = pytest.raises(McError, match="neither replaced nor put back")
    with lost as caught, replacing_folder(tmp_path / "d"):
        pass
    (name,) = os.listdir(tmp_path)
    assert name in str(caught.value)
    assert tree(tmp_path / name) == {"old": b"old"}


def test_the_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "d" / "below")
    for target in (".", "..", tmp_path / "d"):
        with pytest.raises(McError, match="holds the current folder"), replacing_folder(target):
            pass
    with replacing_folder("new"):
        pass
    assert os.listdir(".") == ["new"]


@pytest.mark.parametrize("links", [True, False])
def test_what_is_to_be_new_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """With hard links, and on file systems that have none."""

    def refuse(source: str, target: str) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), source, None, target)

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "f"
    with replacing(New(str(path))) as stream:
        stream.write(b"whole")
    assert path.read_bytes() == b"whole" and mode(path) == 0o640 and path.stat().st_nlink == 1
    with pytest.raises(McError, match="f already exists"), replacing(New(str(path))):
        raise AssertionError("it isn't even begun")
    path.unlink()
    with pytest.raises(McError, match="f already exists"), replacing(New(str(path))) as stream:
        path.write_bytes(b"mine")
    assert tree(tmp_path) == {"f": b"mine"}
    (tmp_path / "link").symlink_to("absent")
    with replacing(New(str(tmp_path / "link"))) as stream:
        stream.write(b"there")
    assert (tmp_path / "absent").read_bytes() == b"there" and (tmp_path / "link").is_symlink()
    with replacing(New("/dev/null")) as stream:
        stream.write(b"gone")


def test_a_name_that_was_taken_for_what_fails_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(source: str, target: str) -> None:
        raise KeyboardInterrupt

    def refuse(source: str, target: str) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), source)

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(KeyboardInterrupt), replacing(New(str(tmp_path / "f"))):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_to_be_new_replaces_nothing(tmp_path: Path) -> None:
    target = tmp_path / "d"
    for appears in (lambda: target.mkdir(), lambda: target.write_bytes(b"mine"), lambda: target.symlink_to("nowhere")):
        with pytest.raises(McError, match="d already exists"), replacing_folder(New(str(target))):
            appears()
        assert [path.name for path in tmp_path.iterdir()] == ["d"]
        target.rmdir() if target.is_dir() else target.unlink()
    with replacing_folder(New(str(target))) as folder:
        (folder / "f").write_bytes(b"whole")
    with pytest.raises(McError, match="d already exists"), replacing_folder(New(str(target))):
        raise AssertionError("it isn't even begun")
    assert tree(target) == {"f": b"whole"}
