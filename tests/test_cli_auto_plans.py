"""Plans that people, or worse, have edited: what is wrong is said by tensor and field, and what is done can be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import refused

Command = Callable[..., Any]
HEAD = {"plan": 1, "objective": "row", "seed": 0, "level": "fast"}
STEP = "where a number from 7.52e-37 to 1.33e+36 was expected"
SCHEME = "where the text of a scheme was expected"


@pytest.fixture
def at(tmp_path: Path, built: Callable[..., bytes]) -> Path:
    w = np.random.default_rng(0).normal(size=(32, 48)).astype("f4")
    tensors = {"w": ("F32", w), "ids": ("I64", np.arange(512).reshape(16, 32)), "nan": ("F32", w[:16] * np.nan)}
    (tmp_path / "m.safetensors").write_bytes(built(tensors))
    return tmp_path


def planned(mc_inside: Command, at: Path, text: str) -> Any:
    (at / "p.json").write_text(text)
    return mc_inside("auto", "m.safetensors", "-q", "-f", "-o", "o.mc.safetensors", "--plan", "p.json", cwd=at)


@pytest.mark.parametrize(
    ("name", "entry", "code", "said"),
    [
        ("w", 5, 3, "is 5, where an object"),
        ("w", {}, 3, f"has no `as`, {SCHEME}"),
        ("w", {"as": 5}, 3, f"has 5 for `as`, {SCHEME}"),
        ("w", {"as": None}, 3, f"has null for `as`, {SCHEME}"),
        ("w", {"as": "int9"}, 3, "'int9' isn't one of"),
        ("w", {"as": "grid"}, 3, "'grid', which needs a step"),
        ("w", {"as": "bf16", "step": 1}, 3, "'bf16', which takes no step"),
        ("w", {"as": "lossless", "step": 1}, 3, "'lossless', which takes no step"),
        ("w", {"as": "grid", "step": 1e-300}, 3, f"has 1e-300 for `step`, {STEP}"),
        ("w", {"as": "trellis", "step": 1e300}, 3, f"has 1e+300 for `step`, {STEP}"),
        ("w", {"as": "grid", "step": 0}, 3, f"has 0 for `step`, {STEP}"),
        ("w", {"as": "grid", "step": -1}, 3, f"has -1 for `step`, {STEP}"),
        ("w", {"as": "grid", "step": "1"}, 3, f"has '1' for `step`, {STEP}"),
        ("w", {"as": "grid", "step": True}, 3, f"has true for `step`, {STEP}"),
        ("w", {"as": "bf16", "bytes": -1}, 3, "has -1 for `bytes`, where a number from 0"),
        ("w", {"as": "bf16", "loss": []}, 3, "has [] for `loss`, where a number from 0"),
        ("w", {"as": "low-rank,rank=999999+grid", "step": 1}, 1, "32 rows of 48: its rank is 32 at most"),
        ("w", {"as": "magnitude,sparsity=1.5+grid", "step": 1}, 3, "sparsity=1.5 was given"),
        ("ids", {"as": "bf16"}, 1, "it is I64"),
        ("nan", {"as": "bf16"}, 1, "768 numbers that are NaN or infinite"),
        ("absent", {"as": "bf16"}, 1, "m.safetensors has none of this name"),
    ],
)
def test_what_is_wrong_with_a_tensor_is_said_by_name(
    mc_inside: Command, at: Path, name: str, entry: object, code: int, said: str
) -> None:
    text = refused(planned(mc_inside, at, json.dumps({**HEAD, "tensors": {name: entry}})), code)
    assert said in text and f"'{name}'" in text and not (at / "o.mc.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"plan": True}, "plan is true, where 1"),
        ({"plan": 2}, "plan is 2, where 1"),
        ({"objective": "best"}, "objective is 'best', where one of plain, tensor, row, diag, gram"),
        ({"seed": -1}, "seed is -1, where a whole number from 0 to 2^63 - 1"),
        ({"seed": 2**63}, "seed is 9223372036854775808, where"),
        ({"seed": False}, "seed is false, where"),
        ({"level": []}, "level is [], where one of fast, default, best"),
        ({"tensors": None}, "tensors is null, where an object"),
    ],
)
def test_what_is_wrong_with_the_whole_is_said_by_field(
    mc_inside: Command, at: Path, change: dict[str, object], said: str
) -> None:
    assert said in refused(planned(mc_inside, at, json.dumps({**HEAD, "tensors": {}, **change})), 3)


def test_fields_that_are_missing_and_numbers_that_are_none(mc_inside: Command, at: Path) -> None:
    for key in (*HEAD, "tensors"):
        found = {**HEAD, "tensors": {}}
        del found[key]
        assert f"it has no {key}, which is" in refused(planned(mc_inside, at, json.dumps(found)), 3)
    text = json.dumps({**HEAD, "tensors": {}})[:-1]
    for more, said in ((', "alpha": 1e999}', "'1e999'"), (', "alpha": NaN}', "NaN"), (', "plan": 1}', "twice")):
        assert said in refused(planned(mc_inside, at, text + more), 3)
    assert "p.json is [1], where a plan" in refused(planned(mc_inside, at, "[1]"), 3)


@pytest.mark.parametrize("step", [1e-36, 1e36])
@pytest.mark.parametrize("way", ["grid", "grid,columns=yes", "trellis,effort=4", "low-rank,rank=32+grid"])
def test_the_finest_and_widest_steps_make_files_that_are_read(
    mc_inside: Command, at: Path, way: str, step: float
) -> None:
    done = planned(mc_inside, at, json.dumps({**HEAD, "tensors": {"w": {"as": way, "step": step}}, "mine": [1, {}]}))
    assert done.returncode == 0, done.stderr.decode()
    assert mc_inside("verify", "o.mc.safetensors", "-q", cwd=at).returncode == 0
    line = ("verify", "o.mc.safetensors", "--against", "m.safetensors", "--max-error", "1e-6", "-q")
    assert mc_inside(*line, cwd=at).returncode == (0 if step < 1 else 4)


def test_a_rank_beyond_the_matrix_is_that_of_the_matrix(mc_inside: Command, at: Path) -> None:
    line = ("auto", "m.safetensors", "-q", "-n", "-f", "--bits", "20", "--plan-out", "p.json")
    done = mc_inside(*line, "--set", "w=low-rank,rank=999+grid", cwd=at)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads((at / "p.json").read_text())["tensors"]["w"]["as"] == "low-rank,rank=32+grid"


def test_a_tensor_of_nan_may_be_whatever_is_best(mc_inside: Command, at: Path) -> None:
    line = ("auto", "m.safetensors", "-n", "--bits", "6", "--json")
    for one in ("nan=auto", "*=auto"):
        done = mc_inside(*line, "--set", one, cwd=at)
        assert done.returncode == 0, done.stderr.decode()
        assert json.loads(done.stdout)["kept"]["nan"] == "has 768 numbers that are NaN or infinite"
    assert "tensor 'nan' has 768 numbers" in refused(mc_inside(*line[:-1], "--set", "nan=bf16", cwd=at), 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--plan", "p.json", "--keep", "w"), "--plan settles what --keep would"),
        (("--plan", "p.json", "--set", "w=int4"), "--plan settles what --set would"),
        (("--plan", "p.json", "--objective", "row"), "--plan settles what --objective would"),
        (("--plan", "p.json", "--seed", "0"), "--plan settles what --seed would"),
        (("--plan", "p.json", "--level", "best"), "--plan settles what --level would"),
        (("--bits", "6", "--plan-out", "-"), "--plan-out wants a file"),
        (("--plan", "-"), "--plan wants a file"),
        (("--bits", "6", "--max-evals", "5"), "--max-evals goes with --eval"),
        (("--bits", "6", "--seed", str(2**63)), "--seed"),
        (("--bits", "6", "--set", "ids=int4"), "no tensor of floats whose name fits 'ids'"),
        (("--lossless", "--set", "w=int4"), "Nothing is to be lost, and 'w' is set to 'int4"),
        (("--lossless", "--keep", "absent"), "no tensor whose name fits 'absent'"),
    ],
)
def test_options_that_would_not_be_heeded_are_refused(
    mc_inside: Command, at: Path, options: tuple[str, ...], said: str
) -> None:
    (at / "p.json").write_text(json.dumps({**HEAD, "tensors": {}}))
    assert said in refused(mc_inside("auto", "m.safetensors", "-o", "o.mc.safetensors", *options, cwd=at), 2)
    assert not (at / "o.mc.safetensors").exists()


def test_a_plan_for_a_name_that_two_shards_have_is_refused(mc_inside: Command, at: Path) -> None:
    (at / "folder").mkdir()
    for name in ("a", "b"):
        (at / "folder" / f"{name}.safetensors").write_bytes((at / "m.safetensors").read_bytes())
    (at / "p.json").write_text(json.dumps({**HEAD, "tensors": {"w": {"as": "bf16"}}}))
    text = refused(mc_inside("auto", "folder", "-o", "out", "--plan", "p.json", cwd=at), 1)
    assert "Two shards have a tensor 'ids'" in text or "Two shards have a tensor 'w'" in text
    assert not (at / "out").exists()
