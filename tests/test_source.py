"""Reads by position: alike from memory and files, and never past what is there."""

from __future__ import annotations

import gzip
import io
import os
import time
from pathlib import Path

import numpy as np
import pytest

import mc
from checkpoints import Piece, build
from mc.errors import McError
from mc.plan.goals import Goal
from mc.source import Source


def test_sources_read_alike_from_memory_and_files(tmp_path: Path) -> None:
    data = bytes(range(256)) * 3
    path = tmp_path / "f"
    path.write_bytes(data)
    with open(path, "rb") as file:
        file.seek(100)
        for given_data in (data, bytearray(data), memoryview(data), path, str(path), file, io.BytesIO(data)):
            with Source.of(given_data) as source:
                assert source.size == len(data)
                assert bytes(source.read(5, 300)) == data[5:300]
                assert source.read(5, 300).readonly
                assert bytes(source.read(768, 768)) == b""
                out = np.zeros((2, 5), np.uint8)
                source.read_into(758, out)
                assert out.tobytes() == data[758:]
                source.read_into(768, np.empty(0, np.uint8))
                source.unchanged()
                with pytest.raises(ValueError, match="do not lie within the 768 bytes"):
                    source.read(700, 769)
            with pytest.raises(ValueError, match="is closed"):
                source.read(0, 1)
        assert file.tell() == 100  # still open, and not moved
    assert bytes(Source.of(np.arange(4, dtype="<u2")).read(0, 4)) == b"\0\0\1\0"
    assert Source.of(b"").size == 0


def test_memory_is_not_copied() -> None:
    data = bytearray(b"abcd")
    view = Source.of(data).read(1, 3)
    data[1:3] = b"xy"
    assert bytes(view) == b"xy"


def test_a_file_that_shrinks_or_changes_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(100))
    with Source.of(path) as source:
        source.unchanged()
        os.truncate(path, 60)
        assert bytes(source.read(0, 60)) == bytes(60)
        with pytest.raises(McError, match=r"shrank while it was read: it had 100 bytes, and now ends at byte 60"):
            source.read(50, 70)
        with pytest.raises(McError, match="shrank"):
            source.read_into(90, np.empty(10, np.uint8))
        with pytest.raises(McError, match="changed while it was read"):
            source.unchanged()


def test_what_cannot_be_read_by_position_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "z.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(McError, match="is a pipe or a device"):
        Source.of(tmp_path / "fifo")
    with pytest.raises(McError, match="is a folder"):
        Source.of(tmp_path)
    with pytest.raises(McError, match="none does not exist"):
        Source.of(tmp_path / "none")
    with pytest.raises(McError, match="null"):
        Source.of("a\0b")
    with gzip.open(tmp_path / "z.gz") as file, pytest.raises(McError, match="by position"):
        Source.of(file)  # type: ignore[arg-type]
    read_end, write_end = os.pipe()
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe, pytest.raises(McError, match="is a pipe or a device"):
        Source.of(pipe)


def test_what_changes_while_it_is_made_smaller_is_refused(tmp_path: Path) -> None:
    """These read a file more than once: of two states of it nothing sound can be made."""
    path, out = tmp_path / "m.safetensors", tmp_path / "o.safetensors"
    path.write_bytes(build([Piece("w", "F32", (64, 64), np.arange(4096, dtype=np.float32).tobytes())]))
    mc.quantize(path, tmp_path / "q.safetensors", scheme="int8")

    def touch(*_: object) -> None:
        for one in (path, tmp_path / "q.safetensors"):
            one.write_bytes(one.read_bytes())
            os.utime(one, ns=(0, time.time_ns()))

    for act in (
        lambda: mc.quantize(path, out, scheme="int4", progress=touch, threads=1),
        lambda: mc.prune(path, out, method="2:4", progress=touch, threads=1),
        lambda: mc.auto(path, out, goal=Goal("bits", 6), note=touch, threads=1),
        lambda: mc.dequantize(tmp_path / "q.safetensors", out, progress=touch, threads=1),
    ):
        with pytest.raises(McError, match="changed while it was read"):
            act()
        assert not out.exists()
