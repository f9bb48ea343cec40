"""The disk begins to write a file while it is being written, and nothing depends on that."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from mc.early import writing_early

CACHESTAT = 451  # the number of this system call on every Linux since 6.5
SIZE = 1 << 24


def dirty(descriptor: int) -> int:
    """Pages of a file that the system holds and hasn't begun to write."""
    counted = (ctypes.c_uint64 * 5)()  # cached, dirty, being written, evicted, recently evicted
    whole = (ctypes.c_uint64 * 2)(0, 0)
    if ctypes.CDLL(None).syscall(CACHESTAT, descriptor, whole, counted, 0) != 0:
        pytest.skip("the system doesn't say what of a file waits to be written")
    return counted[1]


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems can't be told to begin")
def test_what_is_written_waits_no_more_when_the_block_ends(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b", buffering=0) as file:
        file.write(bytes(SIZE))
        before = dirty(file.fileno())
        if before == 0:
            pytest.skip("these files are on no disk")
        with writing_early(file.fileno()):
            file.write(bytes(SIZE))
            patience = time.monotonic() + 20
            while dirty(file.fileno()) and time.monotonic() < patience:
                time.sleep(0.01)
        assert dirty(file.fileno()) == 0 < before
    assert (tmp_path / "file").read_bytes() == bytes(2 * SIZE)


def test_a_stream_that_no_disk_stands_behind_is_written_all_the_same() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb", buffering=0) as target:
        with writing_early(writing):
            target.write(b"one")
            time.sleep(0.1)
            target.write(b"two")
        assert source.read(6) == b"onetwo"
    assert "mc-early" not in names()


def test_an_error_in_the_block_comes_through(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file, pytest.raises(KeyboardInterrupt), writing_early(file.fileno()):
        raise KeyboardInterrupt
    assert "mc-early" not in names()
