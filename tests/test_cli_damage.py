"""Damage is exit code 3, wherever it is, and `mc verify` lists all of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Command = Callable[..., "subprocess.CompletedProcess[bytes]"]


def flipped(data: bytes, place: int) -> bytes:
    """The same bytes but for one bit."""
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def blob(packed: bytes, name: str) -> tuple[int, int]:
    """Where a tensor's coded bytes lie in a packed file, which is a safetensors file."""
    length = int.from_bytes(packed[:8], "little")
    start, stop = json.loads(packed[8 : 8 + length])[name]["data_offsets"]
    return 8 + length + start, 8 + length + stop


@pytest.mark.parametrize("command", ["unpack", "verify"])
@pytest.mark.parametrize("damage", ["empty", "cut", "header", "blob", "last byte"])
def test_damage_is_exit_code_3(mc_inside: Command, tmp_path: Path, packed: bytes, command: str, damage: str) -> None:
    start, stop = blob(packed, "encoder.dense.weight")
    broken = {
        "empty": b"",
        "cut": packed[: len(packed) // 2],
        "header": flipped(packed, 20),
        "blob": flipped(packed, (start + stop) // 2),
        "last byte": flipped(packed, len(packed) - 1),
    }[damage]
    (tmp_path / "x.mc.safetensors").write_bytes(broken)
    done = mc_inside(command, "x.mc.safetensors", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    said = done.stdout + done.stderr
    assert b"x.mc.safetensors" in said and b"Traceback" not in said
    if damage == "blob":
        assert b"encoder.dense.weight" in said
    assert [p.name for p in tmp_path.iterdir()] == ["x.mc.safetensors"]


def test_verify_lists_all_findings(mc_inside: Command, tmp_path: Path, packed: bytes) -> None:
    broken = packed
    for name in ("encoder.dense.weight", "decoder.dense.weight", "half.weight"):
        start, stop = blob(packed, name)
        broken = flipped(broken, (start + stop) // 2)
    (tmp_path / "x.mc.safetensors").write_bytes(broken)
    done = mc_inside("verify", "x.mc.safetensors", "-q", cwd=tmp_path)
    assert done.returncode == 3
    lines = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert lines[0] == ["result", "file", "tensor", "place", "message"]
    assert all(len(line) == 5 for line in lines)
    named = {line[2] for line in lines[1:] if line[0] == "damaged"}
    assert {"encoder.dense.weight", "decoder.dense.weight", "half.weight"} <= named
    report = json.loads(mc_inside("verify", "x.mc.safetensors", "--json", cwd=tmp_path).stdout)
    assert report["schema"] == 1 and report["intact"] is False
    assert {finding["tensor"] for finding in report["findings"]} >= named


def test_verify_compares_with_an_original(mc_inside: Command, place: Path, model: bytes, packed: bytes) -> None:
    (place / "model.mc.safetensors").write_bytes(packed)
    done = mc_inside("verify", "model.mc.safetensors", "model.safetensors", cwd=place)
    assert done.returncode == 0, done.stdout
    header = int.from_bytes(model[:8], "little")
    (place / "model.safetensors").write_bytes(flipped(model, 8 + header + 1000))
    done = mc_inside("verify", "model.mc.safetensors", "model.safetensors", cwd=place)
    assert done.returncode == 3 and b"encoder.dense.weight" in done.stdout
    assert mc_inside("verify", "a", "b", "c", cwd=place).returncode == 2


def test_verify_knows_plain_files_and_folders(
    mc_inside: Command, place: Path, built: Callable[..., bytes], packed: bytes
) -> None:
    done = mc_inside("verify", "model.safetensors", cwd=place)
    assert done.returncode == 0 and b"plain" in done.stdout
    assert mc_inside("verify", "folder", cwd=place).returncode == 0
    data = built({"a": ("F32", np.ones(4, np.float32))})
    (place / "hole.safetensors").write_bytes(data + b"\0")
    done = mc_inside("verify", "hole.safetensors", cwd=place)
    assert done.returncode == 3 and b"hole.safetensors" in done.stdout
    (place / "good.mc.safetensors").write_bytes(packed)
    done = mc_inside("verify", "--each", "good.mc.safetensors", "hole.safetensors", "folder", cwd=place)
    assert done.returncode == 3
    results = [line.split("\t")[:2] for line in done.stdout.decode().splitlines()[1:]]
    assert ["damaged", "hole.safetensors"] in results and ["intact", "good.mc.safetensors"] in results
    done = mc_inside("verify", "--each", "missing", "good.mc.safetensors", cwd=place)
    assert done.returncode == 1 and b"unreadable\tmissing" in done.stdout and b"intact\tgood" in done.stdout


@pytest.mark.parametrize(("other", "said"), [("missing", b"does not exist"), ("model.safetensors", b"is no folder")])
def test_an_original_that_is_not_there_is_no_damage(mc_inside: Command, place: Path, other: str, said: bytes) -> None:
    done = mc_inside("verify", "folder", other, cwd=place)
    assert done.returncode == 1 and other.encode() in done.stderr and said in done.stderr
    assert not done.stdout


def test_a_missing_shard_is_named(mc_inside: Command, place: Path) -> None:
    (place / "folder" / "model-00002-of-00002.safetensors").unlink()
    for command in ("pack", "verify"):
        done = mc_inside(command, "folder", cwd=place)
        assert done.returncode == 3, done.stderr
        assert b"model-00002-of-00002.safetensors" in done.stdout + done.stderr
    assert not (place / "folder.mc").exists()
