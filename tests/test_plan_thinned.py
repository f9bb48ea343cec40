"""Tensors that are pruned first: chosen where that is better, as the plan says, and back under their names."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest

import mc
from checkpoints import Piece, build
from mc.automatic import AutoReport, auto
from mc.errors import McError
from mc.lossy.requests import Target
from mc.plan.goals import Goal
from mc.plan.plans import dumped

Array = np.ndarray[Any, Any]
RANDOM = np.random.default_rng(0)
TERNARY = (RANDOM.choice([-1.0, 1.0], (192, 256)) * (RANDOM.random((192, 256)) < 0.1)).astype("<f4")
THIN = (RANDOM.normal(size=(192, 12)) @ RANDOM.normal(size=(12, 256))).astype("<f4")


def build_one(w: Array, **others: Array) -> bytes:
    arrays = {"layer.weight": w, **others}
    return build([Piece(name, "F32", array.shape, array.tobytes()) for name, array in arrays.items()])


def run(data: bytes, **more: Any) -> tuple[AutoReport, bytes]:
    out = io.BytesIO()
    report = auto(io.BytesIO(data), out, threads=1, **more)
    assert len(out.getvalue()) == report.packed_bytes
    return report, out.getvalue()


def read(data: bytes) -> dict[str, Array]:
    with mc.open(data, dequantize=True) as found:
        return {name: found.tensor(name) for name in found.names()}


def error(w: Array, data: bytes) -> float:
    v = read(data)["layer.weight"].astype(np.float64)
    return float(((w - v) ** 2).sum() / (w.astype(np.float64) ** 2).sum())


@pytest.mark.parametrize(("w", "bits", "kind"), [(TERNARY, 0.37, "magnitude"), (THIN, 0.7, "low-rank")])
def test_what_is_truly_sparse_or_thin_is_treated_so_and_better_than_any_single_scheme(
    w: Array, bits: float, kind: str
) -> None:
    data = build_one(w)
    report, packed = run(data, goal=Goal("bits", bits), objective="plain")
    entry = report.plan["tensors"]["layer.weight"]
    assert entry["as"].startswith(kind) and entry["as"].endswith("+grid"), entry
    assert entry["bytes"] <= bits * w.size / 8
    assert error(w, packed) == pytest.approx(report.loss, rel=1e-4) and list(read(packed)) == ["layer.weight"]
    for scheme in ("grid", "trellis"):
        out = io.BytesIO()
        limit = Target("bits", bits)
        mc.quantize(io.BytesIO(data), out, scheme=scheme, limit=limit, objective="plain", pack=True, threads=1)
        assert error(w, packed) < 0.9 * error(w, out.getvalue()), scheme
    # The plan alone makes the same file, whatever the threads.
    again = io.BytesIO()
    auto(io.BytesIO(data), again, plan=dumped(report.plan).encode(), threads=3)
    assert again.getvalue() == packed


@pytest.mark.parametrize("objective", ["plain", "tensor", "row"])
@pytest.mark.parametrize("way", ["magnitude,sparsity=0.9+grid", "low-rank,rank=6+grid"])
def test_such_a_way_can_be_asked_for(way: str, objective: str) -> None:
    w = np.random.default_rng(1).normal(size=(96, 64)).astype("<f4")
    report, packed = run(build_one(w), goal=Goal("bits", 0.8), sets=[("layer.*", way)], objective=objective)
    assert report.plan["tensors"]["layer.weight"]["as"] == way
    v = read(packed)["layer.weight"]
    if way.startswith("low"):
        assert np.linalg.matrix_rank(v) <= 6
    else:
        assert (v == 0).mean() >= 0.9


def test_tied_tensors_are_thinned_alike_and_stored_once() -> None:
    data = build_one(THIN, **{"tied.weight": THIN})
    report, packed = run(data, goal=Goal("bits", 0.7))
    after = read(packed)
    assert report.plan["tensors"].keys() == {"layer.weight"} and "+" in report.plan["tensors"]["layer.weight"]["as"]
    assert after["layer.weight"].tobytes() == after["tied.weight"].tobytes()
    assert len(packed) < len(run(build_one(THIN), goal=Goal("bits", 0.7))[1]) + 2000  # names and recipes are two


def test_what_mc_prune_made_is_taken_on() -> None:
    for method in ("low-rank,rank=24", "magnitude,sparsity=0.7"):
        thin = io.BytesIO()
        w = np.random.default_rng(2).normal(size=(192, 256)).astype("<f4")
        mc.prune(io.BytesIO(build_one(w)), thin, method=method, threads=1)
        report, packed = run(thin.getvalue(), goal=Goal("bits", 4))
        assert set(read(packed)) == {"layer.weight"} and report.loss > 0
        assert run(thin.getvalue(), plan=dumped(report.plan).encode())[1] == packed


@pytest.mark.parametrize(
    "way",
    ["low-rank+grid", "low-rank,rank=0+grid", "magnitude,sparsity=2+grid", "magnitude+grid", "2:4+grid", "+grid",
     "low-rank,rank=4+int4", "obs,sparsity=0.5+grid", "magnitude,sparsity=nan+grid",
     "low-rank,rank=4,residual=0.1+grid"],
)  # fmt: skip
def test_a_way_that_is_none_is_refused(way: str) -> None:
    plan = {
        "plan": 1,
        "objective": "row",
        "seed": 0,
        "level": "fast",
        "tensors": {"layer.weight": {"as": way, "step": 1}},
    }
    with pytest.raises(McError):
        run(build_one(THIN), plan=json.dumps(plan).encode())


def test_all_of_the_rank_and_nothing_left_are_carried_out() -> None:
    for way in ("low-rank,rank=192+grid", "magnitude,sparsity=1+grid", "magnitude,sparsity=0+grid"):
        plan = {"plan": 1, "objective": "row", "seed": 0, "level": "fast"}
        _, packed = run(
            build_one(THIN), plan=json.dumps(plan | {"tensors": {"layer.weight": {"as": way, "step": 0.1}}}).encode()
        )
        assert read(packed)["layer.weight"].shape == THIN.shape
