"""What losses are, by their definitions, and that statistics put the bytes where they matter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from checkpoints import build
from mc.errors import UsageError
from mc.lossy.passes import USUAL
from mc.lossy.statistics import open_statistics
from mc.plan.goals import Goal
from mc.plan.losses import loss, measure_of
from mc.plan.plans import dumped
from planned import piece, run, tensors


def test_losses_are_what_their_names_say() -> None:
    w = np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]], np.float32)
    v = np.array([[3.0, 3.0], [1.0, 0.0], [0.0, 0.0]], np.float32)
    assert loss(w, v, "plain") == 3.0
    assert loss(w, v, "tensor") == pytest.approx(6 * 3 / 26)
    assert loss(w, v, "row") == pytest.approx(2 * (1 / 25 + 1))
    assert loss(w, v, "column") == pytest.approx(3 * (2 / 10 + 1 / 16))


def test_with_statistics_layers_count_alike_whatever_their_size(tmp_path: Path) -> None:
    """And an embedding, of which there are none, like a layer whose outputs are its columns."""
    random = np.random.default_rng(0)
    shapes = {"small.weight": (32, 64), "large.weight": (512, 64), "embeddings.weight": (256, 64)}
    weights = {name: random.normal(0, 0.1, shape).astype("<f4") for name, shape in shapes.items()}
    ones = {"in_sum2": ("F32", np.ones(64, "<f4")), "counts": ("I64", np.array([1]))}
    listed = [(name, part) for name in ("small.weight", "large.weight") for part in ones]
    stats = build([piece(f"{name}.{part}", *ones[part]) for name, part in listed])
    (tmp_path / "stats.safetensors").write_bytes(stats)
    with open_statistics(tmp_path / "stats.safetensors") as opened:
        for name, w in weights.items():
            half = w * 0.5
            lost = measure_of(name, w.shape, "diag", opened, {}).lost(w, half)
            assert lost == pytest.approx(USUAL / 4, rel=1e-5), name


def test_statistics_weigh_losses_and_put_the_bytes_where_they_matter(tmp_path: Path) -> None:
    """Inputs that differ in power by column: at the same bytes, outputs come out closer with them than without."""
    random = np.random.default_rng(0)
    weights = {f"{k}.weight": random.normal(0, 0.1, (96, 128)).astype("<f4") for k in range(2)}
    data = build([piece(name, "F32", w) for name, w in weights.items()])
    x = (random.normal(size=(4096, 128)) @ random.normal(size=(128, 128)) * np.exp2(random.normal(0, 2, 128))).astype(
        "<f4"
    )
    gram = x.T @ x
    parts = {"in_sum2": ("F32", np.diag(gram).copy()), "counts": ("I64", np.array([4096])), "xtx": ("F32", gram)}
    stats = build([piece(f"{name}.{part}", dtype, array) for name in weights for part, (dtype, array) in parts.items()])
    (tmp_path / "stats.safetensors").write_bytes(stats)

    def away(packed: bytes) -> float:
        now = tensors(packed)
        return sum(float(np.square(x @ (weights[name] - now[name]).T).sum()) for name in weights)

    found = {}
    for objective in ("row", "diag", "gram"):
        given = None if objective == "row" else tmp_path / "stats.safetensors"
        report, packed = run(data, Goal("bits", 2.5), objective=objective, stats=given)
        assert report.unweighed == () and report.plan["objective"] == objective
        found[objective] = away(packed)
        if given is not None:
            _, same = run(data, plan=dumped(report.plan).encode(), stats=given)
            assert same == packed
    assert found["gram"] < 0.7 * found["diag"] < 0.7 * found["row"]
    with pytest.raises(UsageError, match="statistics"):
        run(data, Goal("bits", 2.5), objective="gram")


def test_dead_rows_count_neither_as_lost_nor_in_what_losses_are_relative_to() -> None:
    """As AUTO.md says: a loss of the live rows is one of the whole, whatever is dead beside them."""
    random = np.random.default_rng(0)
    w = random.normal(size=(64, 96)).astype("<f4")
    dead = np.concatenate([w, np.zeros_like(w)])
    plan = {"plan": 1, "objective": "row", "seed": 0, "level": "fast", "tensors": {"w": {"as": "grid", "step": 0.5}}}
    losses = [run(build([piece("w", "F32", one)]), plan=json.dumps(plan).encode())[0].loss for one in (w, dead)]
    assert losses[0] > 1e-3 and losses[1] == pytest.approx(losses[0], rel=1e-9)
