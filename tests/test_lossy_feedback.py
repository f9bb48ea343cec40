"""Statistics of inputs weigh errors: feedback against its definition in numpy, outputs closer at the same bits, and the
command that says what has none."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import mc
from mc.codec.trellis import MACHINES, following
from mc.lossy import feedback, grids, loops
from mc.lossy.requests import Target
from mc.lossy.walks import walk_block
from mc.schemes import Grid

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
    upper = matrix * scales
    assert (np.tril(matrix, -1) == 0).all() and np.allclose(np.diagonal(matrix), 1)
    np.testing.assert_allclose(upper @ upper.T, damped, atol=1e-4 * np.diagonal(damped).max())


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
    levels = np.empty((grids.CONTEXTS, 2 * grids.HALF + 3)), np.empty((grids.CONTEXTS, 2 * grids.HALF + 3))
    loops.thresholds(lengths, 0.0, *levels)

    def rounding(aims: np.ndarray, inner: np.ndarray, start: int, errors: np.ndarray) -> None:
        counts = np.zeros(lengths.shape, np.int64)
        feedback.round_block(w, False, steps, factors, contexts, *levels, q, counts, aims, inner, start, errors)

    left = feedback.fed_back(w, matrix, grids.BLOCK, rounding)
    # Each column lies within half a step of where the errors of those before it put it.
    wide = np.float32(steps[:, None] * factors)
    away = w - q * wide.astype(np.float64)
    np.testing.assert_allclose(left, away, atol=1e-5)
    assert (np.abs(away @ matrix.astype(np.float64)) <= wide * (0.5 + 1e-3) + 1e-5).all()


@pytest.mark.parametrize("states", [4, 8])
@pytest.mark.parametrize("price", [0.0, 0.4])
def test_no_walk_through_a_short_row_costs_less(states: int, price: float) -> None:
    """With as many states as there are ways to go, every survivor is a walk: of two columns all are tried."""
    machine, cols, half = MACHINES[states], 2, 5
    walks = np.array(list(itertools.product(range(-4, 5), repeat=cols)))
    odd = np.zeros_like(walks)
    for line, row in zip(walks, odd, strict=True):
        state = 0
        for c in range(cols):
            row[c] = state & 1
            state = following(state, line[c], *machine)
    values = 2.0 * np.arange(-half, half + 1) + np.arange(2)[:, None]
    lengths = (0.7 * np.abs(values) + 0.2)[None].astype(np.float32)
    bits = lengths[0, odd, walks + half].sum(axis=1)
    w = (np.random.default_rng(states).normal(size=(40, cols)) * 2).astype(np.float32)
    matrix, scales = feedback.factor(gram_of(correlated(cols, 200)))
    factors = 1 / scales
    upper = matrix.astype(np.float64) * scales
    costs = np.square((w[:, None, :] - (2 * walks + odd) * factors) @ upper).sum(axis=2) + price * bits
    q, counts, begun = np.empty(w.shape, np.int32), np.zeros(lengths.shape, np.int64), np.zeros(40, np.int64)
    contexts = np.zeros(40, np.int64), np.zeros(cols, np.int64)

    def rounding(aims: np.ndarray, inner: np.ndarray, start: int, errors: np.ndarray) -> None:
        walk_block(
            w, np.ones(40), factors, contexts, lengths, price, machine, states, q, counts, begun, aims, inner, start,
            errors,
        )  # fmt: skip

    feedback.fed_back(w, matrix, cols, rounding)
    for r in range(len(q)):
        which = np.flatnonzero((walks == q[r]).all(axis=1))
        assert len(which) == 1
        assert costs[r, which[0]] <= costs[r].min() * (1 + 1e-5) + 1e-6
    assert counts.sum() == w.size


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


def quantized(
    mc: Command, folder: Path, *more: str, scheme: str = "grid"
) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    done = mc("quantize", "m.safetensors", "-fo", "q.safetensors", "--scheme", scheme, *more, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    back = mc("unpack", "q.safetensors", "--dequantize", "-fo", "d.safetensors", cwd=folder)
    assert back.returncode == 0, back.stderr.decode()
    return load_file(folder / "d.safetensors"), json.loads(done.stdout)


def test_outputs_are_closer_at_the_same_bits(mc_inside: Command, tmp_path: Path) -> None:
    before = layers(tmp_path)
    stats = ("analyze", "--inputs", "x.safetensors", "--stats-out", "s.safetensors", "--gram")
    assert mc_inside(*stats, cwd=tmp_path).returncode == 0
    errors = {}
    for scheme, objective in (("grid", "row"), ("grid", "diag"), ("grid", "gram"), ("trellis", "gram")):
        given_ = ("--stats", "s.safetensors") if objective != "row" else ()
        asked = ("--bits", "3", "--objective", objective, "--keep", "embed*", *given_)
        after, report = quantized(mc_inside, tmp_path, *asked, scheme=scheme)
        assert report["files"][0]["bits"] <= 3  # type: ignore[index]
        assert (after["norm.weight"] == 1).all()
        outputs = {
            name: before[x] @ (after[name] - before[name]).reshape(len(after[name]), -1).T
            for name, x in (("up.weight", "x"), ("conv.weight", "y"))
        }
        whole = {
            name: before[x] @ before[name].reshape(len(after[name]), -1).T
            for name, x in (("up.weight", "x"), ("conv.weight", "y"))
        }
        # Of outputs relative to their power, over all: what a step by the number of weights makes least.
        errors[scheme, objective] = sum(
            float((np.square(outputs[name]).sum(axis=0) / np.square(whole[name]).sum(axis=0)).mean())
            for name in outputs
        )
    row, diag, gram, trellis = errors.values()
    assert gram < 0.7 * row and gram < diag and trellis < 0.9 * gram


def test_a_layer_of_four_times_the_weights_has_twice_the_step(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    x = correlated(64, 2000)
    one = {"a.weight": rng.normal(size=(64, 64)).astype(np.float32)}
    tensors = one | {"b.weight": np.tile(one["a.weight"], (4, 1))}
    save_file(tensors, tmp_path / "m.safetensors")
    gram = (x.T @ x).astype(np.float32)
    parts = {".xtx": gram, ".in_sum2": np.diagonal(gram).copy(), ".counts": np.array([len(x)])}
    save_file({name + part: value for name in tensors for part, value in parts.items()}, tmp_path / "s.safetensors")
    target = Target("bits", 3.0)
    for scheme in ("grid", "trellis"):
        made = tmp_path / f"{scheme}.safetensors"
        mc.quantize(
            tmp_path / "m.safetensors",
            made,
            scheme=scheme,
            limit=target,
            objective="gram",
            stats=tmp_path / "s.safetensors",
        )
        mc.dequantize(made, tmp_path / "d.safetensors")
        found = load_file(tmp_path / "d.safetensors")
        errors = {name: np.square(found[name] - w).mean() for name, w in tensors.items()}
        assert 3 < errors["b.weight"] / errors["a.weight"] < 5


def test_columns_of_an_embedding_have_steps_by_their_power() -> None:
    w = (np.random.default_rng(4).normal(size=(500, 16)) * 2.0 ** np.arange(16)).astype(np.float32)
    w[::2] *= 8
    frame = grids.lookup_frame(w)
    q = grids.quantize(w, frame, 0.3 * frame.unit, 0.0)
    assert frame.rows is None and frame.columns is not None
    about = Grid("I32", 0.3 * frame.unit, False, True)
    away = grids.dequantize(q, about, None, frame.columns).astype(np.float64) - w
    wide = np.square(away).mean(axis=0) / np.square(w, dtype=np.float64).mean(axis=0)[None]
    np.testing.assert_allclose(
        wide[0, 8:], 0.3**2 / 12, rtol=0.35
    )  # codes span eight octaves; steps are eighths of one
    by_row = np.square(away[:, 8:]).mean(axis=1)
    np.testing.assert_allclose(by_row[::2].mean(), by_row[1::2].mean(), rtol=0.25)


def test_what_has_no_statistics_is_listed_or_refused(mc_inside: Command, tmp_path: Path) -> None:
    layers(tmp_path)
    stats = ("analyze", "--inputs", "x.safetensors", "--stats-out", "s.safetensors")
    assert mc_inside(*stats, cwd=tmp_path).returncode == 0
    weighed = ("--bits", "4", "--objective", "gram", "--stats", "s.safetensors")
    _, report = quantized(mc_inside, tmp_path, *weighed)
    unweighed = {one["name"]: one["objective"] for one in report["files"][0]["unweighed"]}  # type: ignore[index]
    assert unweighed == {"embed_tokens.weight": "tensor", "up.weight": "diag", "conv.weight": "diag"}
    command = ("quantize", "m.safetensors", "-fo", "q.safetensors", "--scheme", "grid")
    spoken = mc_inside(*command, *weighed, cwd=tmp_path)
    assert b"1 tensors have no statistics and were weighed by tensor: embed_tokens.weight" in spoken.stderr
    refused = mc_inside(*command, *weighed, "--strict", cwd=tmp_path)
    assert refused.returncode == 1 and b"'conv.weight' and 2 more has no Gram matrix in" in refused.stderr
    assert mc_inside(*command, "--bits", "4", "--objective", "diag", cwd=tmp_path).returncode == 2
    assert mc_inside(*command, "--bits", "4", "--stats", "s.safetensors", cwd=tmp_path).returncode == 2
    assert mc_inside(*command, *weighed, "--format", "compressed-tensors", cwd=tmp_path).returncode == 2


def test_threads_change_nothing_and_tied_tensors_stay_tied(mc_inside: Command, tmp_path: Path) -> None:
    before = layers(tmp_path)
    tied = {name: before[name] for name in ("embed_tokens.weight", "up.weight")}
    save_file(tied | {"lm_head.weight": before["embed_tokens.weight"]}, tmp_path / "m.safetensors")
    save_file({"lm_head.weight": before["x"]}, tmp_path / "x.safetensors")
    stats = ("analyze", "--inputs", "x.safetensors", "--stats-out", "s.safetensors", "--gram")
    assert mc_inside(*stats, cwd=tmp_path).returncode == 0
    made = []
    for threads in ("1", "4"):
        weighed = ("--bits", "3", "--objective", "gram", "--stats", "s.safetensors", "--threads", threads)
        after, report = quantized(mc_inside, tmp_path, *weighed)
        assert (after["lm_head.weight"] == after["embed_tokens.weight"]).all()
        assert [one["name"] for one in report["files"][0]["unweighed"]] == ["up.weight"]  # type: ignore[index]
        made.append((tmp_path / "q.safetensors").read_bytes())
    assert made[0] == made[1]
    kept = mc_inside(
        "quantize", "m.safetensors", "-fo", "q.safetensors", "--scheme", "int4", "--keep", "embed*", cwd=tmp_path
    )
    assert b"lm_head.weight stays, tied to embed_tokens.weight" in kept.stderr
