"""`mc verify --against`: the error of every tensor, recomputed, and limits on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mc as library
from conftest import document, refused

Command = Callable[..., Any]


def test_verify_against_recomputes_every_error(mc_inside: Command, place: Path) -> None:
    for name, scheme in (("q.mc.safetensors", ("int4",)), ("g.safetensors", ("grid", "--max-error", "0.01"))):
        line = ("quantize", "model.safetensors", "-o", name, "--json", "--scheme", *scheme)
        made = {one["name"]: one for one in document(mc_inside(*line, cwd=place))["files"][0]["tensors"]}
        done = mc_inside("verify", name, "--against", "model.safetensors", "--json", cwd=place)
        found = {one["name"]: one for one in document(done)["tensors"]}
        for tensor, one in found.items():
            assert one["error"] == pytest.approx(made[tensor]["error"] if tensor in made else 0, rel=1e-6)
    line = ("verify", "g.safetensors", "--against", "model.safetensors", "--max-error")
    assert mc_inside(*line, "0.0101", "-q", cwd=place).returncode == 0
    for more in ((), ("--overall",)):
        done = mc_inside(*line, "0.005", "-q", *more, cwd=place)
        assert done.returncode == 4 and b"Traceback" not in done.stderr


def test_verify_against_another_model_is_no_match(mc_inside: Command, place: Path, built: Callable[..., bytes]) -> None:
    library.quantize(place / "model.safetensors", place / "q.safetensors", scheme="int4")
    (place / "other.safetensors").write_bytes(built({"half.weight": ("F16", np.zeros((3, 3), np.float16))}))
    done = mc_inside("verify", "q.safetensors", "--against", "other.safetensors", cwd=place)
    assert done.returncode == 3 and b"Its shape is [32, 192], and the original's [3, 3]." in done.stdout
    for line in (("--max-error", "1"), ("--against", "m", "--overall"), ("model.safetensors", "--against", "m")):
        refused(mc_inside("verify", "q.safetensors", *line, cwd=place), 2)


def test_numbers_that_are_nan_in_both_hide_no_error(
    mc_inside: Command, tmp_path: Path, built: Callable[..., bytes], recwarn: pytest.WarningsRecorder
) -> None:
    weights = np.random.default_rng(0).normal(size=(16, 16))
    odd = np.array([np.nan, np.inf, 1e200])
    (tmp_path / "m.safetensors").write_bytes(built({"w": ("F64", weights), "odd": ("F64", odd)}))
    (tmp_path / "n.safetensors").write_bytes(built({"w": ("F64", weights * 1.1), "odd": ("F64", odd)}))
    line = ("verify", "n.safetensors", "--against", "m.safetensors", "--json")
    assert document(mc_inside(*line, cwd=tmp_path))["error"] == pytest.approx(0.01)
    assert mc_inside(*line, "--max-error", "0.001", "--overall", cwd=tmp_path).returncode == 4
    assert not recwarn.list
