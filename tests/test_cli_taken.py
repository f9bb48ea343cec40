"""What appears where a command is about to write, while it runs, is nobody's to replace; and two files that belong
together appear together."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import PATIENCE, refused

Command = Callable[..., Any]
Tree = Callable[[Path], dict[str, bytes]]
COMMANDS = {
    "pack": (), "quantize": ("--scheme", "int8"), "prune": ("--method", "2:4"), "auto": ("--bits", "6"),
    "unpack": (),
}  # fmt: skip


@pytest.fixture
def large(built: Callable[..., bytes]) -> bytes:
    """A checkpoint of more bytes than a pipe holds."""
    w = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    return built({"w": ("F32", w)})


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_appears_meanwhile_is_replaced_with_f_alone(
    mc_inside: Command, tmp_path: Path, env: dict[str, str], large: bytes, command: str, force: bool
) -> None:
    given = large
    if command == "unpack":
        (tmp_path / "m.safetensors").write_bytes(large)
        assert mc_inside("pack", "m.safetensors", "-q", cwd=tmp_path).returncode == 0
        given = (tmp_path / "m.mc.safetensors").read_bytes()
    out = tmp_path / "out.safetensors"
    line = [sys.executable, "-m", "mc_cli", command, "-", "-q", "-o", out.name, *COMMANDS[command], *["-f"] * force]
    process = subprocess.Popen(line, cwd=tmp_path, env=env, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(given[:-1])  # more than the pipe holds: it reads, and has looked at the output's place
    process.stdin.flush()
    out.write_bytes(b"mine")
    _, said = process.communicate(given[-1:], timeout=PATIENCE)
    if force:
        assert process.returncode == 0 and out.read_bytes() != b"mine"
    else:
        assert process.returncode == 1 and b"out.safetensors already exists" in said, said
        assert out.read_bytes() == b"mine"
    assert not list(tmp_path.glob(".*"))


def judge(place: Path, does: str) -> tuple[str, ...]:
    (place / "judge.py").write_text(f"import pathlib\n{does}\nprint(1)\n")
    return ("--eval", f"'{sys.executable}' judge.py {{}}", "--max-drop", "1%", "--max-evals", "2", "-q")


def test_what_appears_while_auto_searches_is_left_alone(mc_inside: Command, place: Path) -> None:
    for source, target in (("model.safetensors", "s.mc.safetensors"), ("folder", "s.mc")):
        line = ("auto", source, "-o", target)
        made = f"pathlib.Path('{target}').write_text('mine')"
        text = refused(mc_inside(*line, *judge(place, made), cwd=place), 1)
        assert target in text and "already exists" in text and (place / target).read_text() == "mine"
        (place / target).unlink()
        (place / f"{target}.evals.jsonl").unlink()
    inner = "pathlib.Path('s.mc').mkdir(exist_ok=True); pathlib.Path('s.mc/notes').write_text('mine')"
    for more in ((), ("-f",)):  # of a folder, nobody has looked at what is in it
        text = refused(mc_inside("auto", "folder", "-o", "s.mc", *more, *judge(place, inner), cwd=place), 1)
        assert "s.mc already exists" in text or "holds notes" in text
        assert [path.name for path in (place / "s.mc").iterdir()] == ["notes"]
        (place / "s.mc" / "notes").unlink()
        (place / "s.mc").rmdir()
        (place / "s.mc.evals.jsonl").unlink()
    plan = "pathlib.Path('plan.json').write_text('mine')"
    rest = ("-o", "t.mc.safetensors", "--plan-out", "plan.json", *judge(place, plan))
    text = refused(mc_inside("auto", "model.safetensors", *rest, cwd=place), 1)
    assert "plan.json already exists" in text and (place / "plan.json").read_text() == "mine"
    assert not (place / "t.mc.safetensors").exists() and not list(place.glob(".*"))


def test_what_is_put_into_an_old_folder_meanwhile_is_not_lost(mc_inside: Command, place: Path) -> None:
    assert mc_inside("auto", "folder", "-o", "s.mc", "--bits", "6", "-q", cwd=place).returncode == 0
    late = "pathlib.Path('s.mc/notes').write_text('mine')"
    assert "holds notes" in refused(mc_inside("auto", "folder", "-f", "-o", "s.mc", *judge(place, late), cwd=place), 1)
    assert (place / "s.mc" / "notes").read_text() == "mine"


def test_a_plan_that_cannot_be_written_leaves_no_output(mc_inside: Command, place: Path, tree: Tree) -> None:
    before = tree(place)
    for source, target in (("model.safetensors", "s.mc.safetensors"), ("folder", "s.mc"), ("model.safetensors", "-")):
        line = ("auto", source, "--bits", "6", "-q", "--plan-out", "/dev/full")
        done = mc_inside(*line, *(("-o", target) if target != "-" else ("-n",)), cwd=place)
        assert "/dev/full cannot be written" in refused(done, 1) and not done.stdout
    full = ("auto", "model.safetensors", "-q", "-o", "/dev/full", "--bits", "6", "--plan-out", "plan.json")
    text = refused(mc_inside(*full, cwd=place), 1)
    assert "/dev/full" in text and "plan.json" not in text
    assert tree(place) == before


@pytest.mark.parametrize(
    "broken", [b"[1]", b"{broken", b'{"a": "\xff"}', b'{"a": "\\ud800"}', b"5", b"[" * 99_999, b""]
)
def test_a_broken_config_is_said_before_any_work(mc_inside: Command, place: Path, broken: bytes) -> None:
    (place / "folder" / "config.json").write_bytes(broken)
    said = []
    counted = judge(place, "open('runs', 'a').write('x')")
    for line in (("quantize", "--scheme", "int8"), ("prune", "--method", "2:4"), ("auto", "--bits", "3"),
                 ("auto", *counted), ("auto", "--bits", "3", "-n")):  # fmt: skip
        more = ("-o", "out") if "-n" not in line else ()
        said.append(refused(mc_inside(line[0], "folder", *more, *line[1:], cwd=place), 3))
    assert all("folder/config.json" in one and "JSON" in one for one in said)
    assert not (place / "runs").exists() and not list(place.glob("out*"))
    # What isn't to be changed isn't read.
    assert mc_inside("auto", "folder", "-o", "out", "--lossless", "-q", cwd=place).returncode == 0
    assert (place / "out" / "config.json").read_bytes() == broken


def test_a_broken_config_is_said_before_floats_are_written(mc_inside: Command, place: Path) -> None:
    assert mc_inside("quantize", "folder", "-o", "q.mc", "--scheme", "int8", "-q", cwd=place).returncode == 0
    (place / "q.mc" / "config.json").write_bytes(b"[1]")
    shard = next((place / "q.mc").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")  # which would be said first, were it read first
    text = refused(mc_inside("unpack", "q.mc", "-o", "f", "--dequantize", cwd=place), 3)
    assert "q.mc/config.json holds [1], where a JSON object was expected" in text


def test_a_dry_run_writes_its_plan(mc_inside: Command, place: Path) -> None:
    line = ("auto", "model.safetensors", "-n", "--bits", "6", "-q", "--plan-out", "plan.json")
    assert mc_inside(*line, cwd=place).returncode == 0
    assert json.loads((place / "plan.json").read_text())["plan"] == 1
    assert "'plan.json' already exists" in refused(mc_inside(*line, cwd=place), 1)
    assert mc_inside(*line, "-f", cwd=place).returncode == 0
