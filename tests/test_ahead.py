"""Loops that a first use needs are compiled by two processes, which leave nothing to compile and no trace but that."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import environment, program, safetensors
from mc import ahead
from mc.api import compress
from mc.codec.compiled import FOLDER
from mc.codec.fit import EFFORTS
from mc.codec.planes import GEOMETRIES

# Both halves in a process of its own, without loops; then all that the real command compiles.
SCRIPT = """
import sys
from mc.ahead import Use, first_half, second_half
from mc.api import compress, decompress
from numba.core import event

class Names(event.Listener):
    def on_start(self, event): print(event.data["dispatcher"].py_func.__qualname__, event.data["args"])
    def on_end(self, event): pass

command, dtype, level, data = *sys.argv[1:4], open(sys.argv[4], "rb").read()
second_half(Use(command, dtype, level))
first_half(Use(command, dtype, level))
with event.install_listener("numba:compile", Names()):
    compress(data, level=level, threads=1) if command == "pack" else decompress(data, threads=1)
"""


def words(dtype: str, side: int = 1100) -> dict[str, tuple[str, np.ndarray[Any, Any]]]:
    """A matrix of more words than a file must have for two processes to pay, and a small one."""
    draw = np.random.default_rng(0)
    bits = (draw.normal(size=(side, side)) * np.exp2(draw.normal(size=(1, side)))).astype(np.float32).view(np.uint32)
    values = bits if dtype == "F32" else (bits >> 16).astype(np.uint16)
    return {"matrix": (dtype, values), "small": (dtype, values[:64, :96].copy())}


@pytest.mark.parametrize(
    ("command", "dtype", "level"),
    [("pack", "F32", "best"), ("unpack", "F32", "best"), ("pack", "BF16", "default"), ("unpack", "F16", "default")],
)
def test_both_halves_are_all_that_is_needed(command: str, dtype: str, level: Any, tmp_path: Path) -> None:
    data = safetensors(words(dtype))
    file = tmp_path / "file"
    file.write_bytes(data if command == "pack" else compress(data, level=level))
    done = program(SCRIPT, command, dtype, level, file, NUMBA_CACHE_DIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, ""), (done.stdout, done.stderr)


@pytest.mark.parametrize(("dtype", "level"), list(product(GEOMETRIES, EFFORTS)))
def test_either_half_works_for_every_kind_of_floats(dtype: str, level: str) -> None:
    """What a half codes or reads must be sound, or the command would not begin."""
    for command in ahead.COMMANDS:
        ahead.first_half(ahead.Use(command, dtype, level))
        ahead.second_half(ahead.Use(command, dtype, level))


def test_what_a_source_is_used_as(tmp_path: Path) -> None:
    plain = tmp_path / "a.safetensors"
    plain.write_bytes(safetensors(words("BF16")))
    assert ahead.use_of("pack", plain, "best") == ("pack", "BF16", "best")
    assert ahead.use_of("pack", tmp_path, "fast") == ("pack", "BF16", "fast")
    assert ahead.use_of("unpack", plain, "best") is None
    packed = tmp_path / "packed" / "a.mc.safetensors"
    packed.parent.mkdir()
    packed.write_bytes(compress(plain.read_bytes(), level="fast"))
    assert ahead.use_of("unpack", packed, "default") == ("unpack", "BF16", "fast")
    assert ahead.use_of("unpack", packed.parent, "default") == ("unpack", "BF16", "fast")
    assert ahead.use_of("pack", packed, "default") is None


@pytest.mark.parametrize("data", [b"", b"no safetensors", safetensors(words("F32", 90)), safetensors({})])
def test_small_and_unsound_sources_are_left_to_the_command(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(data)
    assert ahead.use_of("pack", tmp_path / "a.safetensors", "best") is None
    assert ahead.use_of("pack", tmp_path / "missing", "best") is None


def ends(use: ahead.Use) -> None:
    os._exit(1)


def fails(use: ahead.Use) -> None:
    raise MemoryError


def cannot_start(self: multiprocessing.Process) -> None:
    raise OSError("no more processes")


@pytest.mark.parametrize(
    ("half", "start", "marked"),
    [(None, None, True), (ends, None, True), (fails, None, True), (None, cannot_start, False)],
)
def test_the_second_process_may_fail(
    half: Any, start: Any, marked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    source = tmp_path / "a.safetensors"
    source.write_bytes(safetensors(words("BF16")))
    monkeypatch.setattr(ahead, "FOLDER", str(tmp_path))  # of marks; loops stay where they are
    monkeypatch.setattr(ahead, "processors", lambda: 2)
    if half is not None:
        monkeypatch.setattr(ahead, "second_half", half)
    if start is not None:
        context: Any = multiprocessing.get_context(ahead.WAY)
        monkeypatch.setattr(context.Process, "start", start)
    ahead.compile_for("pack", source)
    assert (tmp_path / "pack-BF16-default").exists() is marked
    assert multiprocessing.active_children() == []
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(ahead, "first_half", lambda use: pytest.fail("compiled again"))
    if marked:
        ahead.compile_for("pack", source)


# A process that is killed while the second one compiles, whose number it has written down.
KILLED = """
import multiprocessing, os, pathlib, signal, sys, time
from mc import ahead

def compiling(use):
    while not multiprocessing.active_children():
        time.sleep(0.01)
    print(multiprocessing.active_children()[0].pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

ahead.processors, ahead.first_half, ahead.second_half = lambda: 2, compiling, lambda use: time.sleep(60)
ahead.compile_for("pack", pathlib.Path(sys.argv[1]))
"""


@pytest.mark.skipif(ahead.WAY != "fork", reason="what stands in for the halves isn't there in a process started anew")
def test_the_second_process_ends_with_the_first(tmp_path: Path) -> None:
    source = tmp_path / "a.safetensors"
    source.write_bytes(safetensors(words("BF16")))
    done = program(KILLED, source, NUMBA_CACHE_DIR=str(tmp_path))
    assert done.returncode == -signal.SIGKILL, done.stderr
    for _ in range(500):
        if not Path("/proc", done.stdout.strip()).exists():
            return
        time.sleep(0.01)
    pytest.fail("it goes on")


def test_nothing_is_kept_where_nothing_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a.safetensors"
    source.write_bytes(safetensors(words("BF16")))
    assert FOLDER is not None
    monkeypatch.setattr(ahead, "FOLDER", None)
    ahead.compile_for("pack", source)
    assert list(tmp_path.iterdir()) == [source]


def test_loops_are_compiled_where_there_is_no_room_to_keep_them(tmp_path: Path) -> None:
    code = "from mc.codec.planes import field_bytes; print(field_bytes(3, 10))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(NUMBA_CACHE_DIR=str(tmp_path)), capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1)),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "5\n"), done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 1] == []
