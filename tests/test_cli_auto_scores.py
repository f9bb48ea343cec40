"""Scores that are zero or negative, logs that were cut, signals, and where scores are written down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import PATIENCE, document, refused

Command = Callable[..., Any]
Tree = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def at(tmp_path: Path, built: Callable[..., bytes]) -> Path:
    """A checkpoint, and a program that scores how far from it another is, from a start on."""
    w = np.random.default_rng(0).normal(size=(48, 64)).astype("f4")
    (tmp_path / "m.safetensors").write_bytes(built({"w": ("F32", w)}))
    (tmp_path / "judge.py").write_text(
        "import sys\nfrom safetensors.numpy import load_file\n"
        "now, before = (load_file(name)['w'].astype('f8') for name in (sys.argv[2], 'm.safetensors'))\n"
        "away = float(((now - before) ** 2).sum() / (before ** 2).sum())\n"
        "open('runs', 'a').write('x')\nprint(float(sys.argv[1]) - away * (-1 if sys.argv[3:] else 1))\n"
    )
    return tmp_path


def judge(start: str, *more: str) -> tuple[str, ...]:
    return "--eval", f"'{sys.executable}' judge.py {start} {{}} {' '.join(more)}"


@pytest.mark.parametrize(
    ("start", "drop", "lower", "allowed"),
    [("-2", "1%", False, 0.02), ("0", "0.02", False, 0.02), ("-2", "1%", True, 0.02), ("0", "0.02", True, 0.02)],
)
def test_scores_below_and_at_zero(
    mc_inside: Command, at: Path, start: str, drop: str, lower: bool, allowed: float
) -> None:
    more = ("--lower-is-better",) if lower else ()
    line = ("auto", "m.safetensors", "-n", "--max-drop", drop, "--max-evals", "9", *judge(start, *["up"] * lower))
    found = document(mc_inside(*line, *more, "--json", cwd=at))["plan"]["scores"]
    assert found[0][1] == float(start)
    worse = [abs(score - float(start)) for _, score, passed in found if passed]
    assert allowed / 2 < max(worse) <= allowed
    assert all(abs(score - float(start)) > allowed for _, score, passed in found if not passed)


@pytest.mark.parametrize("lower", [(), ("--lower-is-better",)])
def test_no_share_of_zero_is_a_drop(mc_inside: Command, at: Path, lower: tuple[str, ...]) -> None:
    line = ("auto", "m.safetensors", "-o", "s.mc.safetensors", *judge("0"), *lower)
    text = refused(mc_inside(*line, "--max-drop", "5%", cwd=at), 1)
    assert "original's score is 0" in text and (at / "runs").read_text() == "x"
    assert not (at / "s.mc.safetensors").exists()
    assert mc_inside(*line, "--max-drop", "0%", "--max-evals", "2", "-q", cwd=at).returncode == 0


def test_a_score_after_a_line_that_was_cut_is_kept(mc_inside: Command, at: Path) -> None:
    log = at / "s.mc.safetensors.evals.jsonl"
    log.write_text('{"bytes": 12, "sco')
    line = ("auto", "m.safetensors", "-f", "-o", "s.mc.safetensors", *judge("1"), "--max-drop", "1%", "-q")
    for _ in range(2):
        assert mc_inside(*line, "--max-evals", "4", cwd=at).returncode == 0
    assert (at / "runs").read_text() == "xxxx"
    cut, *lines = log.read_text().splitlines()
    assert cut == '{"bytes": 12, "sco' and len([json.loads(one) for one in lines]) == 4


def test_where_scores_are_written_down(mc_inside: Command, at: Path, tree: Tree) -> None:
    line = ("auto", "m.safetensors", *judge("1"), "--max-drop", "1%", "--max-evals", "2", "-q")
    before = tree(at)
    log = "s.mc.safetensors.evals.jsonl"
    text = refused(mc_inside(*line, "-o", "s.mc.safetensors", "--plan-out", log, cwd=at), 2)
    assert log in text and "--plan-out" in text
    (at / log).mkdir()
    assert f"'{log}', where scores" in refused(mc_inside(*line, "-o", "s.mc.safetensors", cwd=at), 2)
    assert tree(at) == before
    assert mc_inside(*line, "-o", "/dev/null", cwd=at).returncode == 0
    assert (at / "m.safetensors.evals.jsonl").is_file() and not Path("/dev/null.evals.jsonl").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_signals_end_a_search_and_leave_nothing(at: Path, env: dict[str, str], number: int, code: int) -> None:
    (at / "judge.py").write_text(
        "import pathlib, time\nruns = pathlib.Path('runs')\nruns.open('a').write('x')\n"
        "if len(runs.read_text()) > 1: time.sleep(3600)\nprint(1)\n"
    )
    (at / "tmp").mkdir()
    line = [sys.executable, "-m", "mc_cli", "auto", "m.safetensors", "-o", "s.mc.safetensors", "-q", *judge("1")]
    process = subprocess.Popen(
        [*line, "--max-drop", "1%", "--plan-out", "p.json"], cwd=at, env={**env, "TMPDIR": str(at / "tmp")},
        stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )  # fmt: skip
    until = time.monotonic() + PATIENCE
    while not (at / "runs").exists() or len((at / "runs").read_text()) < 2:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == code and b"no output was left half-written" in said
    left = {path.name for path in at.iterdir()}
    assert left == {"m.safetensors", "judge.py", "runs", "tmp", "s.mc.safetensors.evals.jsonl"}
    assert not list((at / "tmp").iterdir())


def test_the_last_lines_of_a_program_are_cut(mc_inside: Command, at: Path) -> None:
    (at / "long.py").write_text("import sys\nfor _ in range(3):\n    print('9' * 5000 + 'x')\n")
    scored = "--eval", f"'{sys.executable}' long.py {{}}", "--max-drop", "1%"
    done = mc_inside("auto", "m.safetensors", "-o", "o.mc.safetensors", *scored, cwd=at)
    assert done.returncode == 1 and len(done.stderr) < 2500 and b"9x" in done.stderr


def test_a_full_folder_for_temporary_files_is_what_is_named(
    mc: Command, at: Path, env: dict[str, str], tree: Tree
) -> None:
    """Of a limit on the size of files, which only the copy that is scored exceeds."""
    script = f"ulimit -f 4; exec '{sys.executable}' -m mc_cli auto m.safetensors -o o.mc.safetensors --max-drop 1 {{}}"
    eval_of = f"--eval \"'{sys.executable}' -c 'print(1)' {{}}\""
    done = subprocess.run(["bash", "-c", script.format(eval_of)], cwd=at, env=env, capture_output=True)
    assert done.returncode == 1 and b"TMPDIR" in done.stderr, done.stderr
    assert "o.mc.safetensors" not in tree(at)
