"""Zeros that pruning made, through every scheme: held exactly, or refused by name; and told of where nobody pruned."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import mc
from conftest import document, refused
from mc.lossy.requests import Target
from mc.plan.goals import Goal

Array = np.ndarray[Any, Any]
Command = Callable[..., Any]
HOLDING = (
    "bf16", "fp16", "fp8", "fp8,format=e5m2,per=tensor", "int2", "int4,group=32", "int3,symmetric=no",
    "int8,group=16,symmetric=no,scales=mse", "codebook,codes=3", "codebook,codes=16,rows=8", "nf4", "grid",
    "grid,columns=yes",
)  # fmt: skip


@pytest.fixture
def weights() -> Array:
    draw = np.random.default_rng(5)
    w = draw.normal(size=(96, 128)) * np.exp(draw.normal(size=(96, 1)))
    return (w + 0.3 * np.abs(w)).astype(np.float32)  # not centred, so that zero is no mean of anything


@pytest.mark.parametrize("scheme", HOLDING)
@pytest.mark.parametrize("method", ["magnitude,sparsity=0.5", "2:4", "rows,sparsity=0.25"])
def test_zeros_stay_zero_through_the_chain(
    weights: Array, scheme: str, method: str, built: Callable[..., bytes]
) -> None:
    pruned, quantized = io.BytesIO(), io.BytesIO()
    mc.prune(io.BytesIO(built({"w": ("F32", weights)})), pruned, method=method)
    limit = Target("bits", 3) if scheme.startswith("grid") else None
    mc.quantize(io.BytesIO(pruned.getvalue()), quantized, scheme=scheme, limit=limit)
    with mc.open(pruned.getvalue()) as before, mc.open(mc.compress(quantized.getvalue()), dequantize=True) as after:
        gone = before.tensor("w") == 0
        assert gone.mean() >= 0.25
        assert not after.tensor("w")[gone].any()


def test_feedback_leaves_zeros_alone(weights: Array, tmp_path: Path) -> None:
    inputs = np.random.default_rng(6).normal(size=(512, 128)) @ np.random.default_rng(7).normal(size=(128, 128))
    x = inputs.astype(np.float32)
    stats = {"w.in_sum2": np.square(x).sum(0), "w.xtx": x.T @ x, "w.counts": np.array([len(x)])}
    save_file(stats, tmp_path / "stats.safetensors")
    save_file({"w": weights}, tmp_path / "w.safetensors")
    mc.prune(tmp_path / "w.safetensors", tmp_path / "p.safetensors", method="magnitude,sparsity=0.5")
    report = mc.quantize(
        tmp_path / "p.safetensors", tmp_path / "q.safetensors", scheme="grid", limit=Target("bits", 3),
        objective="gram", stats=tmp_path / "stats.safetensors",
    )  # fmt: skip
    assert report.files[0].tensors[0].zeros_lost == 0
    with mc.open(tmp_path / "p.safetensors") as before, mc.open(tmp_path / "q.safetensors", dequantize=True) as after:
        assert not after.tensor("w")[before.tensor("w") == 0].any()


def test_a_trellis_of_what_was_pruned_is_refused_with_the_way_out(mc_inside: Command, place: Path) -> None:
    mc_inside("prune", "model.safetensors", "-o", "p.safetensors", "--method", "2:4", cwd=place)
    line = ("quantize", "p.safetensors", "-o", "q.safetensors", "--scheme", "trellis", "--bits", "2")
    words = refused(mc_inside(*line, cwd=place), 1)
    assert "encoder.dense.weight" in words and "grid" in words and not (place / "q.safetensors").exists()
    assert mc_inside(*line, "--set", "*=grid", cwd=place).returncode == 0


def test_what_was_made_dense_again_may_be_a_trellis(weights: Array, built: Callable[..., bytes]) -> None:
    pruned, quantized = io.BytesIO(), io.BytesIO()
    mc.prune(io.BytesIO(built({"w": ("F32", weights)})), pruned, method="low-rank,rank=9", dense=True)
    mc.quantize(io.BytesIO(pruned.getvalue()), quantized, scheme="trellis", limit=Target("bits", 3))


def test_automatic_choices_keep_zeros(weights: Array, tmp_path: Path) -> None:
    save_file({"w": weights}, tmp_path / "w.safetensors")
    mc.prune(tmp_path / "w.safetensors", tmp_path / "p.safetensors", method="2:4")
    mc.auto(tmp_path / "p.safetensors", tmp_path / "a.safetensors", goal=Goal("bits", 2))
    with mc.open(tmp_path / "p.safetensors") as before, mc.open(tmp_path / "a.safetensors", dequantize=True) as after:
        assert not after.tensor("w")[before.tensor("w") == 0].any()


def test_zeros_that_others_made_and_a_trellis_loses_are_told(mc_inside: Command, place: Path, weights: Array) -> None:
    save_file({"w": np.where(np.abs(weights) < 0.5, 0, weights)}, place / "sparse.safetensors")
    line = ("quantize", "sparse.safetensors", "-o", "q.safetensors", "--scheme", "trellis", "--bits", "2")
    done = mc_inside(*line, cwd=place)
    assert "zeros of 1 tensors aren't zero any more" in done.stderr.decode()
    found = document(mc_inside(*line, "-f", "--json", cwd=place))["files"][0]["tensors"][0]
    assert 0 < found["zeros_lost"] < weights.size
