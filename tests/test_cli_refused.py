"""What the command refuses or has to give up, and that nothing is left behind then."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., "subprocess.CompletedProcess[bytes]"]
Tree = Callable[[Path], dict[str, bytes]]


def test_nothing_is_overwritten_without_force(mc_inside: Command, place: Path, model: bytes, packed: bytes) -> None:
    target = place / "model.mc.safetensors"
    target.write_bytes(b"precious")
    done = mc_inside("pack", "model.safetensors", cwd=place)
    assert done.returncode == 1 and b"-f" in done.stderr and b"model.mc.safetensors" in done.stderr
    assert target.read_bytes() == b"precious"
    assert mc_inside("pack", "-f", "model.safetensors", cwd=place).returncode == 0
    assert target.read_bytes() == packed
    done = mc_inside("unpack", "model.mc.safetensors", cwd=place)
    assert done.returncode == 1 and b"already exists" in done.stderr
    assert (place / "model.safetensors").read_bytes() == model


@pytest.mark.parametrize("way", ["same", "link", "hard link", "dots"])
def test_the_source_is_never_changed(mc_inside: Command, place: Path, model: bytes, way: str) -> None:
    source = place / "model.safetensors"
    target = place / "target"
    if way == "link":
        target.symlink_to(source)
    elif way == "hard link":
        target.hardlink_to(source)
    else:
        target = source if way == "same" else place / "folder" / ".." / "model.safetensors"
    done = mc_inside("pack", "-f", source, "-o", target, cwd=place)
    assert done.returncode == 1 and b"source" in done.stderr
    assert source.read_bytes() == model


def test_folders_are_not_written_into_each_other(mc_inside: Command, tree: Tree, place: Path) -> None:
    before = tree(place)
    for arguments in (
        ("pack", "folder", "-f", "-o", "folder"),
        ("pack", "folder", "-o", "folder/inside"),
        ("pack", "folder", "-f", "-o", "."),
        ("pack", "folder", "-f", "-o", "model.safetensors"),
        ("pack", "model.safetensors", "-f", "-o", "folder"),
        ("pack", "folder/tokenizer", "-f", "-o", "folder"),
    ):
        assert mc_inside(*arguments, cwd=place).returncode == 1, arguments
    assert tree(place) == before
    (place / "holiday").mkdir()
    (place / "holiday" / "photo.jpg").write_bytes(b"precious")
    done = mc_inside("pack", "folder", "-f", "-o", "holiday", cwd=place)
    assert done.returncode == 1 and (place / "holiday" / "photo.jpg").read_bytes() == b"precious"


def test_a_symlinked_target_is_replaced_where_it_points(
    mc_inside: Command, place: Path, model: bytes, packed: bytes
) -> None:
    (place / "real").write_bytes(b"old")
    (place / "real").chmod(0o640)
    (place / "link").symlink_to("real")
    assert mc_inside("pack", "-f", "model.safetensors", "-o", "link", cwd=place).returncode == 0
    assert (place / "link").is_symlink() and (place / "real").read_bytes() == packed
    assert stat.S_IMODE((place / "real").stat().st_mode) == 0o640


def test_what_cannot_be_read_or_written_is_named(mc_inside: Command, place: Path) -> None:
    for arguments, name in (
        (("pack", "nothing.safetensors"), "nothing.safetensors"),
        (("verify", "nothing.safetensors"), "nothing.safetensors"),
        (("unpack", "nothing.mc.safetensors"), "nothing.mc.safetensors"),
        (("pack", "model.safetensors", "-o", "no/where"), "no"),
        (("pack", "model.safetensors", "-o", "folder"), "folder"),
    ):
        done = mc_inside(*arguments, cwd=place)
        assert done.returncode == 1, arguments
        assert name in done.stderr.decode() and b"Traceback" not in done.stderr
        assert done.stderr.startswith(b"mc: ") and done.stderr.rstrip().endswith(b".")


def test_pickles_are_refused_with_the_way_to_convert_them(mc_inside: Command, place: Path) -> None:
    (place / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    done = mc_inside("pack", "pytorch_model.bin", cwd=place)
    assert done.returncode == 1 and b"save_file" in done.stderr


def without_override() -> None:
    """Give up root's right to read and write everything, so that permissions hold for root's tests too."""
    import ctypes

    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def test_permissions_hold(mc: Command, place: Path) -> None:
    (place / "model.safetensors").chmod(0)
    done = mc("pack", "model.safetensors", cwd=place, preexec_fn=without_override)
    assert done.returncode == 1 and b"model.safetensors" in done.stderr, done.stderr
    (place / "model.safetensors").chmod(0o600)
    (place / "closed").mkdir(mode=0o500)
    done = mc("pack", "model.safetensors", "-o", "closed/out", cwd=place, preexec_fn=without_override)
    assert done.returncode == 1 and b"closed" in done.stderr
    line = ("auto", "model.safetensors", "-o", "a.mc.safetensors", "--lossless", "--plan-out", "closed/plan.json")
    done = mc(*line, cwd=place, preexec_fn=without_override)
    assert done.returncode == 1 and b"closed" in done.stderr
    assert not any((place / "closed").iterdir()) and not (place / "a.mc.safetensors").exists()


def test_a_device_may_take_what_is_written_besides(mc: Command, place: Path) -> None:
    done = mc("auto", "model.safetensors", "-n", "--lossless", "-q", "--plan-out", "/dev/stdout", cwd=place)
    assert done.returncode == 0 and json.loads(done.stdout)["plan"] == 1, done.stderr


def test_a_full_disk_leaves_nothing_behind(mc: Command, mc_inside: Command, tree: Tree, place: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    (place / "model.mc.safetensors").write_bytes(b"old")
    before = tree(place)
    # The limit would also hold for compiled loops on their way to the cache.
    mc_inside("pack", "model.safetensors", "-o", "/dev/null", cwd=place)
    done = mc("pack", "-f", "model.safetensors", cwd=place, preexec_fn=limit)
    assert done.returncode == 1
    assert b"model.mc.safetensors" in done.stderr and b"Traceback" not in done.stderr
    assert tree(place) == before
    with open("/dev/full", "wb") as full:
        done = mc("pack", "model.safetensors", "-o", "-", cwd=place, stdout=full)
        assert done.returncode == 1 and b"standard output" in done.stderr and b"full" in done.stderr
        for line in (("verify",), ("analyze", "--quick"), ("analyze", "--quick", "--json"), ("pack", "-f")):
            done = mc(*line, "model.safetensors", cwd=place, stdout=full)
            assert done.returncode == 1 and b"full: 'standard output'" in done.stderr
    done = mc("pack", "model.safetensors", "-o", "/dev/full", cwd=place)
    assert done.returncode == 1 and b"full: '/dev/full'" in done.stderr


def test_a_full_folder_of_temporary_files_is_not_the_outputs(
    mc: Command, mc_inside: Command, tree: Tree, place: Path
) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    before = tree(place)
    for line in (("quantize", "--scheme", "int8"), ("prune", "--method", "2:4"), ("auto", "--bits", "4"), ("pack",)):
        source = "-" if line == ("pack",) else "model.safetensors"
        options = (line[0], source, "-o", "/dev/null", *line[1:])
        data = (place / "model.safetensors").read_bytes()
        assert mc_inside(*options, cwd=place, input=data).returncode == 0  # what is compiled is in the cache then
        done = mc(*options, cwd=place, preexec_fn=limit, more_env={"TMPDIR": "."}, input=data)
        assert done.returncode == 1 and b"TMPDIR" in done.stderr and b"/dev/null" not in done.stderr, done.stderr
    assert tree(place) == before


def test_a_closed_stdin_is_no_terminal(mc: Command, place: Path) -> None:
    done = mc("pack", "-", "-o", "x.mc.safetensors", cwd=place, preexec_fn=lambda: os.close(0))
    assert done.returncode == 1 and b"no standard input" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
@pytest.mark.parametrize("command", ["pack", "unpack"])
def test_signals_leave_nothing_behind(
    tree: Tree,
    place: Path,
    model: bytes,
    packed: bytes,
    env: dict[str, str],
    command: str,
    number: int,
    code: int,
) -> None:
    (place / "target").write_bytes(b"old")
    (place / "tmp").mkdir()
    before = tree(place)
    line = [sys.executable, "-m", "mc_cli", command, "-", "-f", "-o", "target"]
    with subprocess.Popen(
        line,
        cwd=place,
        env={**env, "TMPDIR": str(place / "tmp")},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a test run in the background may ignore it
    ) as process:
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write((model if command == "pack" else packed)[:-100])
        process.stdin.flush()  # all but the end is through, and the command waits for it
        time.sleep(0.2)
        process.send_signal(number)
        stderr = process.stderr.read().decode()
        assert process.wait(60) == code, stderr
    assert stderr.count("\n") == 1 and ("interrupted" in stderr or "terminated" in stderr)
    assert tree(place) == before


@pytest.mark.parametrize("fails", [False, True])
def test_a_signal_that_nothing_can_be_raised_through_is_not_lost(mc: Command, place: Path, fails: bool) -> None:
    """LLVM calls back into Python while it compiles: what is raised there is dropped, and compiling may fail of it."""
    program = (
        "import ctypes, os, sys, time, mc.checkpoint\n"
        "@ctypes.CFUNCTYPE(None)\n"
        "def back(): os.kill(os.getpid(), 15); time.sleep(.001)\n"
        "def compiling(*_):\n"
        f"    back(); {'raise RuntimeError' if fails else 'time.sleep(30)'}\n"
        "import mc.packing; mc.packing.read_layout = compiling\n"
        "from mc_cli.main import entry; sys.argv[0] = 'mc'; entry()"
    )
    done = mc("pack", "model.safetensors", "-q", cwd=place, command=("-c", program))
    assert done.returncode == 143 and done.stderr.count(b"\n") == 1 and b"terminated" in done.stderr, done.stderr
    assert not (place / "model.mc.safetensors").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_work_is_done_changes_nothing(mc: Command, place: Path, number: int) -> None:
    """The interpreter takes a while to end: by then the output stands, and has been reported."""
    program = (
        f"import atexit, os, sys; atexit.register(os.kill, os.getpid(), {int(number)}); "
        "from mc_cli.main import entry; sys.argv[0] = 'mc'; entry()"
    )
    done = mc("pack", "model.safetensors", "-q", cwd=place, command=("-c", program))
    assert (done.returncode, done.stderr) == (0, b"") and (place / "model.mc.safetensors").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("quantize", "model.safetensors", "--scheme", "grid", "--bits", "3", "--stats", "s", "-o"), b"by --stats and"),
        (("analyze", "--inputs", "model.safetensors", "--html", "s", "--stats-out"), b"by --html and"),
    ],
)
def test_no_file_is_named_twice(mc_inside: Command, place: Path, line: tuple[str, ...], said: bytes) -> None:
    (place / "s").write_bytes(b"read, or written before")
    done = mc_inside(*line, "./s", "-f", cwd=place)
    assert done.returncode == 2 and said in done.stderr
    assert (place / "s").read_bytes() == b"read, or written before"
