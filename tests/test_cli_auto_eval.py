"""`mc auto --eval` at its boundary: the user's own command as a judge, its log and its failures."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import conftest
from conftest import document, refused

Command = Callable[..., Any]
JUDGE = """
import sys
from pathlib import Path
import numpy as np
from safetensors.numpy import load_file
path = Path(sys.argv[1])
files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
with open("runs", "a") as runs:
    runs.write(f"{path}\\n")
before = np.load("before.npy")
now = np.concatenate([w.astype(np.float64).ravel() for file in files for _, w in sorted(load_file(file).items())
                      if w.dtype == np.float32 and w.ndim == 2 and w.size])
print("how close:")
print(1 - ((now - before) ** 2).sum() / (before ** 2).sum())
"""


@pytest.fixture
def judged(place: Path, built: Callable[..., bytes]) -> Path:
    """A folder with a checkpoint, a sharded one, and a program that scores both."""
    random = np.random.default_rng(0)
    weights = {f"{k}.weight": ("F32", random.normal(0, 0.1, (64, 96)).astype(np.float32)) for k in range(2)}
    (place / "m.safetensors").write_bytes(built(weights))
    (place / "judge.py").write_text(JUDGE)
    np.save(place / "before.npy", np.concatenate([w.astype(np.float64).ravel() for _, w in weights.values()]))
    return place


def judge(script: str = "judge.py") -> str:
    return f"'{sys.executable}' {script} {{}}"


def test_another_objective_is_taken_where_the_score_prefers_it(mc_inside: Command, place: Path) -> None:
    """One row is so large that nothing else counts for the score: `plain` sees that, `row` doesn't."""
    random = np.random.default_rng(0)
    w = random.normal(size=(64, 256)).astype("f4")
    w[5] *= 300
    np.save(place / "before.npy", w)
    (place / "w.safetensors").write_bytes(conftest.safetensors({"w.weight": ("F32", w)}))
    (place / "far.py").write_text(
        "import sys, numpy as np\nfrom safetensors.numpy import load_file\n"
        "before = np.load('before.npy')\naway = load_file(sys.argv[1])['w.weight'] - before\n"
        "print(1 - float((away ** 2).sum() / (before ** 2).sum()))\n"
    )
    line = ("auto", "w.safetensors", "--eval", judge("far.py"), "--max-drop", "1%", "--json")
    free = document(mc_inside(*line, "-o", "free.mc.safetensors", cwd=place))
    rows = document(mc_inside(*line, "-o", "rows.mc.safetensors", "--objective", "row", cwd=place))
    assert free["plan"]["objective"] == "plain" and rows["plan"]["objective"] == "row"
    assert free["packed_bytes"] < 0.8 * rows["packed_bytes"] and len(free["plan"]["scores"]) <= 24


def test_a_search_by_scores_and_its_log(mc_inside: Command, judged: Path) -> None:
    line = ("auto", "m.safetensors", "-o", "s.mc.safetensors", "--eval", judge(), "--max-drop", "1%", "--json")
    found = document(mc_inside(*line, cwd=judged))
    scores = found["plan"]["scores"]
    assert scores[0][:2] == [(judged / "m.safetensors").stat().st_size, 1.0]
    logged = [json.loads(one) for one in (judged / "s.mc.safetensors.evals.jsonl").read_text().splitlines()]
    assert [(one["bytes"], pytest.approx(one["score"], rel=1e-5)) for one in logged] == [(a, b) for a, b, _ in scores]
    assert len(logged) == len((judged / "runs").read_text().splitlines()) <= 24
    assert mc_inside("unpack", "s.mc.safetensors", "--dequantize", "-o", "r.safetensors", cwd=judged).returncode == 0
    kept = np.concatenate([w.ravel() for _, w in sorted(load_file(judged / "r.safetensors").items())])
    before = np.load(judged / "before.npy")
    assert 0.005 < ((kept - before) ** 2).sum() / (before**2).sum() <= 0.01
    # Again, all scores are known; and with half of them known the search goes on where it was.
    first, runs = (judged / "s.mc.safetensors").read_bytes(), (judged / "runs").read_text()
    assert mc_inside(*line, "-f", cwd=judged).returncode == 0
    assert (judged / "runs").read_text() == runs and (judged / "s.mc.safetensors").read_bytes() == first
    log = judged / "s.mc.safetensors.evals.jsonl"
    kept_lines = log.read_text().splitlines()[: len(logged) // 2]
    log.write_text("\n".join(kept_lines) + '\n{"bytes": 12, "sco')
    assert mc_inside(*line, "-f", cwd=judged).returncode == 0
    assert (judged / "s.mc.safetensors").read_bytes() == first
    assert len((judged / "runs").read_text().splitlines()) == 2 * len(logged) - len(kept_lines)


def test_a_log_that_something_else_wrote_does_no_harm(tmp_path: Path) -> None:
    from mc_cli.evaluating import Judge

    odd = [
        b"[" * 100_000,
        b"\xff\0",
        b'{"key": "a", "score": NaN}',
        b'{"key": "b", "score": ' + b"9" * 400 + b"}",
        b"5",
    ]
    (tmp_path / "log").write_bytes(b"\n".join([*odd, b'{"key": "c", "score": 0.5}', b"{"]))
    assert Judge("true {}", None, tmp_path / "log").known == {"c": 0.5}


def test_a_folder_is_scored_as_a_folder_and_a_loss_may_rise(mc_inside: Command, place: Path) -> None:
    script = (
        "import sys, pathlib, numpy as np\nfrom safetensors.numpy import load_file\n"
        "top = pathlib.Path(sys.argv[1])\nassert (top / 'config.json').is_file() and top.name == 'folder'\n"
        "assert len(list(top.glob('*.safetensors'))) == 2\n"
        "print(100 - sum(float((w ** 2).sum()) for f in top.glob('*.safetensors') for w in load_file(f).values()))\n"
    )
    (place / "judge.py").write_text(script)
    options = ("--eval", judge(), "--max-drop", "5%", "--lower-is-better", "--max-evals", "5", "--json")
    found = document(mc_inside("auto", "folder", "-o", "small.mc", *options, cwd=place))
    assert len(found["plan"]["scores"]) == 5 and found["packed_bytes"] < found["bytes"] / 4


@pytest.mark.parametrize(
    ("script", "more", "text"),
    [
        ("import sys; print('so far'); sys.exit('broke: xyzzy')", (), "xyzzy"),
        ("print('all done')", (), "'all done'"),
        ("pass", (), "printed nothing"),
        ("print('nan')", (), "'nan'"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", (), "signal 11"),
        ("import time; print('slow', flush=True); time.sleep(3600)", ("--eval-timeout", "1"), "after 1 seconds"),
    ],
)
def test_a_command_that_fails_ends_the_search(
    mc_inside: Command, judged: Path, script: str, more: tuple[str, ...], text: str
) -> None:
    (judged / "bad.py").write_text(script)
    line = ("auto", "m.safetensors", "-o", "s.mc.safetensors", "--eval", judge("bad.py"), "--max-drop", "1%", *more)
    said = refused(mc_inside(*line, cwd=judged), 1)
    assert text in said and "bad.py" in said
    assert not (judged / "s.mc.safetensors").exists() and not (judged / "s.mc.safetensors.evals.jsonl").exists()


def test_a_command_that_isnt_there_and_words_that_a_shell_would_take(mc_inside: Command, judged: Path) -> None:
    line = ("auto", "m.safetensors", "-o", "s.mc.safetensors", "--max-drop", "1%", "--max-evals", "2")
    assert "'no-such-command'" in refused(mc_inside(*line, "--eval", "no-such-command {}", cwd=judged), 1)
    # ; and $( mean nothing, quotes hold words together.
    (judged / "echo.py").write_text("import sys; assert sys.argv[1:3] == ['a b', ';touch $(x)'], sys.argv; print(1)")
    command = f"'{sys.executable}' echo.py 'a b' ';touch $(x)' {{}}"
    assert mc_inside(*line, "--eval", command, cwd=judged).returncode == 0
    assert not list(judged.glob("*x)*"))


def test_an_interrupted_search_leaves_its_log_and_no_process_and_goes_on(
    mc_inside: Command, judged: Path, env: dict[str, str]
) -> None:
    (judged / "slow.py").write_text(
        "import os, time\nopen('pids', 'a').write(f'{os.getpid()}\\n')\nn = len(open('pids').readlines())\n"
        "if n > 1: time.sleep(3600)\nprint(1)\n"
    )
    line = [sys.executable, "-m", "mc_cli", "auto", "m.safetensors", "-o", "s.mc.safetensors", "--eval"]

    def heard() -> None:
        """A test run in the background may ignore interruptions."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(
        [*line, judge("slow.py"), "--max-drop", "1%", "-q"], cwd=judged, env=env, preexec_fn=heard
    )
    until = time.monotonic() + conftest.PATIENCE
    while not (judged / "pids").exists() or len((judged / "pids").read_text().split()) < 2:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    child = int((judged / "pids").read_text().split()[-1])
    assert not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]
    assert not (judged / "s.mc.safetensors").exists()
    log = judged / "s.mc.safetensors.evals.jsonl"
    assert len(log.read_text().splitlines()) == 1
    # Run again, it goes on where it was: of two scores, the original's is known.
    (judged / "slow.py").write_text("open('pids', 'a').write('again\\n')\nprint(1)\n")
    done = mc_inside(*line[3:], judge("slow.py"), "--max-drop", "0.01", "--max-evals", "2", "-q", cwd=judged)
    assert done.returncode == 0 and (judged / "s.mc.safetensors").exists()
    assert (judged / "pids").read_text().count("again") == 1 and len(log.read_text().splitlines()) == 2


def test_what_auto_made_explains_itself(mc_inside: Command, judged: Path) -> None:
    options = ("--eval", judge(), "--max-drop", "2%", "--max-evals", "4", "-q")
    assert mc_inside("auto", "m.safetensors", "-o", "s.mc.safetensors", *options, cwd=judged).returncode == 0
    done = mc_inside("analyze", "s.mc.safetensors", "--html", "s.html", cwd=judged)
    assert done.returncode == 0
    said = done.stderr.decode()
    assert "The original (49.3 kB) scores 1." in said and "A tenth smaller" in said and "Second came" in said
    found = json.loads(mc_inside("analyze", "s.mc.safetensors", "--json", cwd=judged).stdout)["checkpoints"][0]["plan"]
    assert len(found["plans"][0]["scores"]) == 4 and set(found["plans"][0]["tensors"]) == {"0.weight", "1.weight"}
    assert all(line in said for line in found["explanation"])
    # The table of all choices: below the sentences' place with -v, every one in JSON with its runner-up.
    assert "dearer by" not in said
    table = mc_inside("analyze", "s.mc.safetensors", "-v", cwd=judged).stderr.decode().splitlines()
    start = next(k for k, line in enumerate(table) if line.startswith("tensor\tas\t"))
    heads, *rows = [line.split("\t") for line in table[start : start + 3]]
    assert heads[-5:] == ["loss per kB", "second", "its bytes", "its loss", "dearer by"]
    for row in rows:
        kept = found["plans"][0]["tensors"][row[0]]
        assert row[1] == kept["as"] and row[-4:-1] == [str(kept["next"][key]) for key in ("as", "bytes", "loss")]
        assert row[-1] == f"{kept['next']['cost']:.1%}" and float(row[-5]) == kept["per_kB"]
    page = (judged / "s.html").read_text()
    assert '"explanation":' in page and 'id="planned"' in page
    found = json.loads(mc_inside("analyze", "m.safetensors", "--json", cwd=judged).stdout)["checkpoints"][0]
    assert found["plan"] is None


def test_digits_are_fifteen_times_smaller_within_half_a_percent(mc_inside: Command, tmp_path: Path) -> None:
    digits = Path(__file__).resolve().parent.parent / "fixtures" / "digits"
    command = f"'{sys.executable}' '{digits / 'accuracy.py'}' {{}}"
    line = ("auto", digits / "model.safetensors", "-o", "d.mc.safetensors", "--eval", command, "--max-drop", "0.5%")
    found = document(mc_inside(*line, "--objective", "plain", "--json", cwd=tmp_path))
    size = (tmp_path / "d.mc.safetensors").stat().st_size
    assert found["bytes"] / size >= 15
    assert mc_inside("unpack", "d.mc.safetensors", "--dequantize", "-o", "r.safetensors", cwd=tmp_path).returncode == 0
    scores = []
    for path in (digits / "model.safetensors", tmp_path / "r.safetensors"):
        done = subprocess.run([sys.executable, digits / "accuracy.py", path], capture_output=True, check=True)
        scores.append(float(done.stdout))
    assert scores[1] >= scores[0] * 0.995 and scores[0] > 0.95


def test_a_program_that_writes_to_what_it_scores_harms_no_original(mc_inside: Command, judged: Path) -> None:
    (judged / "writes.py").write_text(
        "import os, sys\nopen(sys.argv[1], 'ab').write(b'x')\nos.remove(sys.argv[1])\nprint(1)\n"
    )
    before = (judged / "m.safetensors").read_bytes()
    line = ("auto", "m.safetensors", "-o", "s.mc.safetensors", "--max-drop", "1%", "--max-evals", "3", "-q")
    done = mc_inside(*line, "--eval", judge("writes.py"), cwd=judged)
    assert done.returncode == 0, done.stderr.decode()
    assert (judged / "m.safetensors").read_bytes() == before


def test_what_a_command_leaves_running_is_stopped(mc_inside: Command, judged: Path) -> None:
    (judged / "leaves.py").write_text(
        "import subprocess, sys\n"
        "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])\n"
        "open('left', 'a').write(f'{left.pid}\\n')\nprint(1)\n"
    )
    line = ("auto", "m.safetensors", "-o", "s.mc.safetensors", "--max-drop", "1%", "--max-evals", "2", "-q")
    assert mc_inside(*line, "--eval", judge("leaves.py"), cwd=judged).returncode == 0
    pids = (judged / "left").read_text().split()
    assert len(pids) == 2
    for pid in pids:
        state = Path(f"/proc/{pid}/stat")
        assert not state.exists() or "Z" in state.read_text().rpartition(")")[2].split()[0]


def test_quotes_and_spaces_in_paths_and_two_places_in_a_command(mc_inside: Command, judged: Path) -> None:
    name = 'it\'s "m".safetensors'
    (judged / name).write_bytes((judged / "m.safetensors").read_bytes())
    (judged / "two.py").write_text(
        "import sys; from safetensors.numpy import load_file\n"
        "assert len(sys.argv) == 3 and sys.argv[2] == 'at=' + sys.argv[1], sys.argv\n"
        "assert len(load_file(sys.argv[1])) == 2\nprint(1)\n"
    )
    command = f"'{sys.executable}' two.py {{}} at={{}}"
    line = ("auto", name, "-o", "o u't.mc.safetensors", "--eval", command, "--max-drop", "1%", "--max-evals", "2")
    done = mc_inside(*line, "-q", cwd=judged)
    assert done.returncode == 0 and (judged / "o u't.mc.safetensors.evals.jsonl").is_file(), done.stderr.decode()
    # Another command knows none of these scores.
    (judged / "none.py").write_text("pass")
    again = ("auto", name, "-o", "o u't.mc.safetensors", "-f", "--eval", judge("none.py"), "--max-drop", "1%")
    assert "printed nothing" in refused(mc_inside(*again, cwd=judged), 1)
