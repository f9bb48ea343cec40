"""Statistics of inputs weigh errors: feedback against its definition in numpy, outputs closer at the same bits, and the
command that says what has none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from mc.lossy import feedback, grids

if TYPE_CHECKING:
    import subprocess

Command = Callable[..., "subprocess.CompletedProcess[bytes]"]


def correlated(features: int, samples: int, seed: int = 0) -> np.ndarray:
    """Inputs that a few directions dominate, as in networks."""
    rng = np.random.default_rng(seed)
    spread = rng.normal(size=(features, features)) * np.exp(-np.arange(features) / max(1, features / 8))[:, None]
    x: np.ndarray = rng.normal(size=(samples, features)) @ spread + 0.05 * rng.normal(size=(samples, features))
    narrow: np.ndarray = x.astype(np.float32)
    return narrow


def gram_of(x: np.ndarray) -> np.ndarray:
    gram: np.ndarray = (x.T @ x / len(x)).astype(np.float32)
    return gram


@settings(deadline=None)
@given(st.integers(1, 150), st.integers(0, 99))
def test_the_factor_is_that_of_the_damped_matrix(features: int, seed: int) -> None:
    gram = gram_of(correlated(features, 40, seed))  # singular beyond 40 features
    matrix, scales = feedback.factor(gram.copy())
    damped = gram + feedback.DAMPING * np.diagonal(gram).mean() * np.eye(features)
    lower = matrix * scales
    assert (np.triu(matrix, 1) == 0).all() and np.allclose(np.diagonal(matrix), 1)
    np.testing.assert_allclose(lower @ lower.T, damped, atol=1e-4 * np.diagonal(damped).max())


@pytest.mark.parametrize("gram", [np.zeros((5, 5)), np.ones((70, 70)), np.full((9, 9), 1e-30), -np.eye(6)])
def test_any_matrix_has_a_factor(gram: np.ndarray) -> None:
    matrix, scales = feedback.factor(gram.astype(np.float32))
    assert np.isfinite(matrix).all() and np.isfinite(scales).all() and (scales > 0).all()


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 150), st.integers(0, 99))
def test_feedback_is_its_definition(rows: int, cols: int, seed: int) -> None:
    w = np.random.default_rng(seed).normal(size=(rows, cols)).astype(np.float32)
    matrix, scales = feedback.factor(gram_of(correlated(cols, 200, seed)))
    steps, factors = np.full(rows, 0.3), 1 / scales
    contexts = np.zeros(rows, np.int64), np.zeros(cols, np.int64)
    lengths, q = np.zeros((grids.CONTEXTS, 2 * grids.HALF + 1), np.float32), np.empty((rows, cols), np.int32)
    feedback.fed_back(w, matrix, False, steps, factors, contexts, lengths, 0.0, q, np.zeros(lengths.shape, np.int64))
    # Each column lies within half a step of where the errors of those behind it put it.
    wide = np.float32(steps[:, None] * factors)
    errors = (w - q * wide.astype(np.float64)) @ matrix.astype(np.float64)
    assert (np.abs(errors) <= wide * (0.5 + 1e-3) + 1e-5).all()


def layers(folder: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    tensors = {
        "embed_tokens.weight": rng.normal(size=(300, 96)).astype(np.float32),
        "up.weight": rng.normal(size=(200, 96)).astype(np.float32),
        "conv.weight": rng.normal(size=(40, 8, 3, 3)).astype(np.float32),
        "norm.weight": np.ones(96, np.float32),
    }
    save_file(tensors, folder / "m.safetensors")
    x, y = correlated(96, 4000), correlated(72, 4000)
    save_file({"up.weight": x, "conv.weight": y}, folder / "x.safetensors")
    return tensors | {"x": x, "y": y}


def quantized(mc: Command, folder: Path, *more: str) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    done = mc("quantize", "m.safetensors", "-fo", "q.safetensors", "--scheme", "grid", *more, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    back = mc("unpack", "q.safetensors", "--dequantize", "-fo", "d.safetensors", cwd=folder)
    assert back.returncode == 0, back.stderr.decode()
    return load_file(folder / "d.safetensors"), json.loads(done.stdout)


def test_outputs_are_closer_at_the_same_bits(mc: Command, tmp_path: Path) -> None:
    before = layers(tmp_path)
    stats = ("analyze", "--inputs", "x.safetensors", "--stats-out", "s.safetensors", "--gram")
    assert mc(*stats, cwd=tmp_path).returncode == 0
    errors = {}
    for objective in ("row", "diag", "gram"):
        given_ = ("--stats", "s.safetensors") if objective != "row" else ()
        after, report = quantized(mc, tmp_path, "--bits", "3", "--objective", objective, *given_, "--keep", "embed*")
        assert report["files"][0]["bits"] <= 3  # type: ignore[index]
        assert (after["norm.weight"] == 1).all()
        errors[objective] = [
            float(np.square(before[x] @ (after[name] - before[name]).reshape(len(after[name]), -1).T).sum())
            for name, x in (("up.weight", "x"), ("conv.weight", "y"))
        ]
    for one in (0, 1):
        assert errors["gram"][one] < 0.7 * errors["row"][one] and errors["gram"][one] < errors["diag"][one]


def test_what_has_no_statistics_is_listed_or_refused(mc: Command, tmp_path: Path) -> None:
    layers(tmp_path)
    stats = ("analyze", "--inputs", "x.safetensors", "--stats-out", "s.safetensors")
    assert mc(*stats, cwd=tmp_path).returncode == 0
    weighed = ("--bits", "4", "--objective", "gram", "--stats", "s.safetensors")
    _, report = quantized(mc, tmp_path, *weighed)
    unweighed = {one["name"]: one["objective"] for one in report["files"][0]["unweighed"]}  # type: ignore[index]
    assert unweighed == {"embed_tokens.weight": "row", "up.weight": "diag", "conv.weight": "diag"}
    command = ("quantize", "m.safetensors", "-fo", "q.safetensors", "--scheme", "grid")
    spoken = mc(*command, *weighed, cwd=tmp_path)
    assert b"1 tensors have no statistics and were weighed by row: embed_tokens.weight" in spoken.stderr
    refused = mc(*command, *weighed, "--strict", cwd=tmp_path)
    assert refused.returncode == 1 and b"'conv.weight' and 2 more has no Gram matrix in" in refused.stderr
    assert mc(*command, "--bits", "4", "--objective", "diag", cwd=tmp_path).returncode == 2
    assert mc(*command, "--bits", "4", "--stats", "s.safetensors", cwd=tmp_path).returncode == 2
    assert mc(*command, *weighed, "--format", "compressed-tensors", cwd=tmp_path).returncode == 2


def test_threads_change_nothing_and_tied_tensors_stay_tied(mc: Command, tmp_path: Path) -> None:
    before = layers(tmp_path)
    tied = {name: before[name] for name in ("embed_tokens.weight", "up.weight")}
    save_file(tied | {"lm_head.weight": before["embed_tokens.weight"]}, tmp_path / "m.safetensors")
    save_file({"lm_head.weight": before["x"]}, tmp_path / "x.safetensors")
    stats = ("analyze", "--inputs", "x.safetensors", "--stats-out", "s.safetensors", "--gram")
    assert mc(*stats, cwd=tmp_path).returncode == 0
    made = []
    for threads in ("1", "4"):
        weighed = ("--bits", "3", "--objective", "gram", "--stats", "s.safetensors", "--threads", threads)
        after, report = quantized(mc, tmp_path, *weighed)
        assert (after["lm_head.weight"] == after["embed_tokens.weight"]).all()
        assert [one["name"] for one in report["files"][0]["unweighed"]] == ["up.weight"]  # type: ignore[index]
        made.append((tmp_path / "q.safetensors").read_bytes())
    assert made[0] == made[1]
    kept = mc("quantize", "m.safetensors", "-fo", "q.safetensors", "--scheme", "int4", "--keep", "embed*", cwd=tmp_path)
    assert b"lm_head.weight stays, tied to embed_tokens.weight" in kept.stderr
