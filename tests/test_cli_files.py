"""What the command writes: files, folders and streams, the same bytes every way."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mc as library
from mc.lossy.requests import Target

Command = Callable[..., "subprocess.CompletedProcess[bytes]"]
Tree = Callable[[Path], dict[str, bytes]]
CLOSING = r"[\d.]+ [kM]?B -> [\d.]+ [kM]?B, ratio \d\.\d{4}, \d+\.\d\d s, "


# pack and unpack, file to file


def test_pack_and_unpack_restore_every_byte_under_the_default_names(mc: Command, place: Path, model: bytes) -> None:
    done = mc("pack", "model.safetensors", cwd=place)
    assert (done.returncode, done.stderr) == (0, b"")
    assert re.fullmatch(CLOSING + r"model\.mc\.safetensors\n", done.stdout.decode())
    assert (place / "model.safetensors").read_bytes() == model
    assert (place / "model.mc.safetensors").stat().st_size < len(model)
    (place / "model.safetensors").unlink()
    done = mc("unpack", "model.mc.safetensors", "--check", cwd=place)
    assert (done.returncode, done.stderr) == (0, b"")
    assert re.fullmatch(CLOSING + r"model\.safetensors\n", done.stdout.decode())
    assert (place / "model.safetensors").read_bytes() == model


@pytest.mark.parametrize("level", ["fast", "default", "best"])
def test_every_level_restores_every_byte(mc_inside: Command, place: Path, model: bytes, level: str) -> None:
    assert mc_inside("pack", "model.safetensors", "--level", level, "-o", "small", cwd=place).returncode == 0
    assert mc_inside("unpack", "small", "-o", "again", cwd=place).returncode == 0
    assert (place / "again").read_bytes() == model


def test_a_folder_is_packed_shard_by_shard_and_restored_whole(mc_inside: Command, tree: Tree, place: Path) -> None:
    original = tree(place / "folder")
    done = mc_inside("pack", "folder/", cwd=place)
    assert done.returncode == 0, done.stderr
    small = tree(place / "folder.mc")
    shards = {name for name in original if name.endswith(".safetensors")}
    assert set(small) == {name.replace(".safetensors", ".mc.safetensors") for name in shards} | (set(original) - shards)
    assert all(small[name] == original[name] for name in set(original) - shards)
    assert mc_inside("verify", "folder.mc", "folder", cwd=place).returncode == 0
    assert mc_inside("unpack", "folder.mc", cwd=place).returncode == 1  # the original still stands there
    (place / "folder").rename(place / "kept")
    assert mc_inside("unpack", "folder.mc", cwd=place).returncode == 0
    assert tree(place / "folder") == original


def test_the_folder_one_stands_in_has_a_name_too(mc_inside: Command, place: Path) -> None:
    assert mc_inside("pack", ".", cwd=place / "folder").returncode == 0
    assert (place / "folder.mc" / "config.json").exists()


def test_the_result_does_not_depend_on_threads(mc_inside: Command, place: Path) -> None:
    for threads in ("0", "1", "2", "8"):
        assert mc_inside("pack", "model.safetensors", "-o", f"t{threads}", "-T", threads, cwd=place).returncode == 0
    assert len({(place / f"t{threads}").read_bytes() for threads in "0128"}) == 1


def test_names_that_do_not_say_where_to_go_ask_for_an_output(mc_inside: Command, place: Path, packed: bytes) -> None:
    (place / "small").write_bytes(packed)
    done = mc_inside("unpack", "small", cwd=place)
    assert done.returncode == 2
    assert b"-o" in done.stderr and b"small" in done.stderr
    (place / "X").mkdir()
    assert mc_inside("unpack", "X", cwd=place).returncode == 2


def test_some_tensors_alone(mc_inside: Command, place: Path, packed: bytes) -> None:
    from safetensors import safe_open

    (place / "model.mc.safetensors").write_bytes(packed)
    wanted = ("--tensor", "encoder.*", "--tensor", "step")
    done = mc_inside("unpack", "model.mc.safetensors", *wanted, "-o", "some.safetensors", cwd=place)
    assert done.returncode == 0, done.stderr
    with (
        safe_open(str(place / "model.safetensors"), "np") as whole,
        safe_open(str(place / "some.safetensors"), "np") as part,
    ):
        assert set(part.keys()) == {"encoder.dense.weight", "encoder.dense.bias", "step"}
        for name in part.keys():  # noqa: SIM118 - safe_open is no dict
            assert np.array_equal(part.get_tensor(name), whole.get_tensor(name))
    done = mc_inside("unpack", "model.mc.safetensors", "--tensor", "nothing*", "-o", "none", cwd=place)
    assert done.returncode == 1 and b"nothing*" in done.stderr and not (place / "none").exists()
    assert mc_inside("unpack", "model.mc.safetensors", "--tensor", "step", "--check", cwd=place).returncode == 2


def test_some_tensors_of_a_quantized_file_come_back_as_floats(mc_inside: Command, place: Path) -> None:
    """What the recipe says of the others is left out, and so is what takes a tensor that isn't there."""
    pruned, both = io.BytesIO(), io.BytesIO()
    library.prune(place / "model.safetensors", pruned, method="2:4", threads=1)
    library.quantize(io.BytesIO(pruned.getvalue()), both, scheme="grid", limit=Target("bits", 3), pack=True, threads=1)
    (place / "q.mc.safetensors").write_bytes(both.getvalue())
    line = ("unpack", "q.mc.safetensors", "-f", "-q", "-o", "some.safetensors", "--tensor")
    assert mc_inside(*line, "encoder.*", cwd=place).returncode == 0
    with (
        library.open(both.getvalue(), dequantize=True) as whole,
        library.open(place / "some.safetensors", dequantize=True) as some,
    ):
        assert set(some.names()) == {"encoder.dense.weight", "encoder.dense.bias"} and len(some.recipe) == 2
        for name in some.names():
            assert some.tensor(name).tobytes() == whole.tensor(name).tobytes()
    assert mc_inside(*line, "encoder.dense.weight", cwd=place).returncode == 0  # without the scales of its rows
    with library.open(place / "some.safetensors") as plain:
        assert plain.names() == ["encoder.dense.weight"] and plain.metadata == {"format": "pt"}
    assert mc_inside("quantize", "some.safetensors", "-o", "x", "--scheme", "int8", cwd=place).returncode == 2


# Streams


def test_streams_carry_the_data_and_nothing_else(mc: Command, place: Path, model: bytes, packed: bytes) -> None:
    done = mc("pack", "-", input=model, cwd=place)
    assert (done.returncode, done.stdout) == (0, packed)
    assert re.fullmatch(CLOSING + r"stdout\n", done.stderr.decode())
    done = mc("unpack", "-", "-q", input=packed, cwd=place)
    assert (done.returncode, done.stdout, done.stderr) == (0, model, b"")
    done = mc("pack", "model.safetensors", "-o", "-", cwd=place)
    assert (done.returncode, done.stdout) == (0, packed)
    done = mc("verify", "-", input=packed, cwd=place)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in place.iterdir()) == ["folder", "model.safetensors"]


def test_a_stream_can_end_in_a_file_and_a_file_in_a_stream(
    mc: Command, place: Path, model: bytes, packed: bytes
) -> None:
    assert mc("pack", "-", "-o", "out.mc.safetensors", input=model, cwd=place).returncode == 0
    assert (place / "out.mc.safetensors").read_bytes() == packed
    assert mc("unpack", "out.mc.safetensors", "-o", "-", cwd=place).stdout == model


def test_pack_and_unpack_in_one_pipe(place: Path, model: bytes, env: dict[str, str]) -> None:
    mc = f"{sys.executable} -m mc_cli"
    line = f"cat model.safetensors | {mc} pack - -q | {mc} unpack - -q --check > again"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], cwd=place, env=env, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (place / "again").read_bytes() == model


def test_json_goes_to_stderr_where_the_data_has_stdout(mc: Command, place: Path, packed: bytes) -> None:
    done = mc("pack", "model.safetensors", "-o", "-", "--json", cwd=place)
    assert done.stdout == packed
    assert json.loads(done.stderr)["schema"] == 1


def test_a_named_pipe_is_read_and_a_device_is_written(mc: Command, place: Path, packed: bytes) -> None:
    pipe = place / "pipe.safetensors"
    os.mkfifo(pipe)
    assert mc("pack", pipe, cwd=place).returncode == 2
    with subprocess.Popen(["cp", "model.safetensors", str(pipe)], cwd=place):
        assert mc("pack", pipe, "-o", "from_pipe", cwd=place).returncode == 0
    assert (place / "from_pipe").read_bytes() == packed
    assert mc("pack", "model.safetensors", "-o", "/dev/null", cwd=place).returncode == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    done = mc("pack", "model.safetensors", "-o", "/dev/stdout", cwd=place)
    assert (done.returncode, done.stdout) == (0, packed)


def test_binary_data_does_not_go_to_a_terminal_or_come_from_one(mc: Command, place: Path) -> None:
    ours, theirs = os.openpty()
    try:
        done = mc("pack", "model.safetensors", "-o", "-", cwd=place, stdout=theirs)
        assert done.returncode == 1 and b"terminal" in done.stderr
        done = mc("pack", "-", cwd=place, stdin=theirs)
        assert done.returncode == 1 and b"terminal" in done.stderr
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_folder_does_not_go_to_stdout(mc_inside: Command, place: Path) -> None:
    assert mc_inside("pack", "folder", "-o", "-", cwd=place).returncode == 2


def test_a_reader_that_leaves_is_no_news(place: Path, env: dict[str, str]) -> None:
    for command in (["pack", "model.safetensors", "-o", "-"], ["verify", "model.safetensors"]):
        line = [sys.executable, "-m", "mc_cli", *command]
        with subprocess.Popen(line, cwd=place, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stderr is not None
            process.stdout.close()
            assert (process.stderr.read(), process.wait(60)) == (b"", 1)


def test_stdout_may_have_something_before_and_after(place: Path, packed: bytes, env: dict[str, str]) -> None:
    pack = f"{sys.executable} -m mc_cli pack model.safetensors -q -o -"
    for script in (f"{{ echo a; {pack}; echo b; }} > out", f"echo a > out; {pack} >> out; echo b >> out"):
        subprocess.run(["bash", "-euc", script], cwd=place, env=env, check=True)
        assert (place / "out").read_bytes() == b"a\n" + packed + b"b\n"
