"""A plan carried out again gives the same file, whatever kind of candidate it names, and a wrong one says what is."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mc
from checkpoints import Piece, build
from mc.automatic import auto
from mc.errors import DamagedError, McError, UsageError
from mc.plan.goals import Goal
from mc.plan.plans import dumped

Array = np.ndarray[Any, Any]
SHAPES = {"first.weight": (80, 64), "second.weight": (48, 96)}
WEIGHED = "wanda,sparsity=0.8+grid"
WAYS = (
    "lossless", "bf16", "fp16", "fp8", "int4,group=32", "codebook,codes=16", "nf4", "grid", "grid,columns=yes",
    "trellis", "trellis,effort=64,columns=yes", "magnitude,sparsity=0.9+grid", "low-rank,rank=6+grid", WEIGHED,
    "mantissa",
)  # fmt: skip


def piece(name: str, array: Array) -> Piece:
    return Piece(name, {"f": "F32", "i": "I64"}[array.dtype.kind], array.shape, array.tobytes())


def weights() -> bytes:
    random = np.random.default_rng(0)
    matrices = [piece(name, random.normal(0, 0.1, shape).astype("<f4")) for name, shape in SHAPES.items()]
    return build([*matrices, piece("ids", np.arange(64, dtype="<i8").reshape(8, 8))])


def statistics(place: Path) -> Path:
    """Sums of squares of inputs that differ much."""
    random = np.random.default_rng(1)
    parts = []
    for name, (_, cols) in SHAPES.items():
        parts.append(piece(f"{name}.in_sum2", np.exp2(random.normal(0, 2, cols)).astype("<f4")))
        parts.append(piece(f"{name}.counts", np.array([512], "<i8")))
    (place / "stats.safetensors").write_bytes(build(parts))
    return place / "stats.safetensors"


def carried_out(plan: bytes, data: bytes, threads: int, stats: Path | None = None) -> bytes:
    out = io.BytesIO()
    auto(io.BytesIO(data), out, plan=plan, threads=threads, stats=stats)
    return out.getvalue()


@pytest.mark.parametrize("way", WAYS)
def test_every_kind_of_candidate_comes_out_the_same_again(way: str, tmp_path: Path) -> None:
    data, out = weights(), io.BytesIO()
    objective, stats = ("diag", statistics(tmp_path)) if way == WEIGHED else (None, None)
    report = auto(
        io.BytesIO(data),
        out,
        goal=Goal("alpha", 0.01),
        sets=[("*.weight", way)],
        threads=1,
        objective=objective,
        stats=stats,
    )
    named = {entry["as"].split(",")[0] for entry in report.plan["tensors"].values()}
    assert named == ({way.split(",")[0]} if way != "lossless" else set())
    for threads in (1, 2):
        assert carried_out(dumped(report.plan).encode(), data, threads, stats) == out.getvalue()


def changed(entry: dict[str, Any] | None = None, **head: Any) -> bytes:
    """A plan of `weights` in which something was edited."""
    plan: dict[str, Any] = {"plan": 1, "objective": "row", "seed": 0, "level": "fast"}
    tensors = {"first.weight": entry} if entry is not None else {}
    return json.dumps({**plan, "tensors": tensors, **head}).encode()


@pytest.mark.parametrize(
    ("way", "step"),
    [
        ("grid", 1e30), ("grid", 2.0**-120), ("trellis", 2.0**119), ("trellis", 1e-30), ("mantissa", 2.0**-120),
        ("magnitude,sparsity=0.5+grid", 2.0**-120), ("low-rank,rank=64+grid", 1e-30),
    ],
)  # fmt: skip
def test_steps_beyond_all_reason_are_carried_out(way: str, step: float) -> None:
    """The widest leave nothing, the finest lose nothing that integers of 32 bits can tell; only numbers come out."""
    packed = carried_out(changed({"as": way, "step": step}, alpha=-1, nearby=[["x"]], weights=-3), weights(), 1)
    with mc.open(packed, dequantize=True) as now, mc.open(weights()) as before:
        w, v = (found.tensor("first.weight") for found in (before, now))
        assert v.shape == w.shape and np.isfinite(v).all() and (step < 1 or not v.any())
        assert step > 1 or "+" in way or np.allclose(v, w, rtol=0, atol=1e-6 * np.abs(w).max())


@pytest.mark.parametrize(
    ("plan", "kind", "text"),
    [
        (changed({"as": "low-rank,rank=99999999999999999999+grid", "step": 1.0}), DamagedError, "rank=9999"),
        (changed({"as": "int4,group=99999999999999999999"}), DamagedError, "group=9999"),
        (changed({"as": "low-rank,rank=-4+grid", "step": 1.0}), DamagedError, "rank=-4"),
        (changed({"as": "low-rank,rank=9999999+grid", "step": 1.0}), McError, "80 rows of 64: its rank is 64"),
        (changed({"as": "grid", "step": 5e-324}), DamagedError, "has 5e-324 for `step`"),
        (changed({"as": "magnitude,sparsity=0.5+grid", "step": 2.0**-140}), DamagedError, "for `step`"),
        (changed({"as": "grid", "step": 1.0}, seed=2**70), DamagedError, "1180591620717411303424"),
        (changed({"as": "grid", "step": 1.0}, objective="diag"), UsageError, "need statistics"),
        (changed({"as": WEIGHED, "step": 1.0}), McError, "'first.weight' has no second moments"),
        (changed(tensors={"ids": {"as": "grid", "step": 1.0}}), McError, "'ids'"),
        (changed(tensors={"none.such": {"as": "bf16"}}), McError, "'none.such'"),
        (changed({"as": "codebook,codes=16", "step": 1.0}), DamagedError, "takes no step"),
    ],
)
def test_what_cannot_be_carried_out_is_named(plan: bytes, kind: type[McError], text: str) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        carried_out(plan, weights(), 1)
