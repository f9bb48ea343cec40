"""What a packed file stores of its plan: little, and enough to tell the whole of it again."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mc
from checkpoints import Piece, build
from mc.automatic import AutoReport, auto
from mc.checkpoint import Source, read_layout
from mc.manifest import read_packed, write_header
from mc.plan.brief import LEFT_OUT, Facts, brief, expanded
from mc.plan.explain import sentences
from mc.plan.goals import Goal
from mc.plan.plans import dumped
from mc.plan.stored import joined, stored_plans

Array = np.ndarray[Any, Any]


def weights(*shapes: tuple[int, int]) -> bytes:
    random = np.random.default_rng(0)
    arrays = [(random.standard_t(5, shape) * 0.1).astype("<f4") for shape in shapes]
    return build([Piece(f"layers.{k}.weight", "F32", w.shape, w.tobytes()) for k, w in enumerate(arrays)])


def run(data: bytes, pack: bool = True, **more: Any) -> tuple[AutoReport, bytes]:
    out = io.BytesIO()
    return auto(io.BytesIO(data), out, threads=1, pack=pack, **more), out.getvalue()


def kept(packed: bytes, place: Path) -> dict[str, Any]:
    (place / "kept.mc.safetensors").write_bytes(packed)
    return joined(stored_plans(place / "kept.mc.safetensors"))


@pytest.mark.parametrize("shapes", [[(40, 64)], [(96, 128), (64, 192), (160, 64)], [(48, 64)] * 12])
def test_no_file_is_larger_for_its_plan_than_from_quantize_and_pack(
    shapes: list[tuple[int, int]], tmp_path: Path
) -> None:
    """And what had to be left out of the explanation changes nothing of what is done."""
    data = weights(*shapes)
    report, packed = run(data, goal=Goal("bits", 3))
    plan = dumped(report.plan).encode()
    _, plain = run(data, pack=False, plan=plan)
    assert len(packed) <= len(mc.compress(plain, level="best"))
    found = kept(packed, tmp_path)
    for name, one in report.plan["tensors"].items():
        for key in ("as", "step", "bytes", "loss"):
            assert found["tensors"][name][key] == one[key]
    if len(shapes) > 3:  # with some tensors there is room for all of it
        assert found == report.plan
    assert run(data, plan=dumped(found).encode())[1] == packed == run(data, plan=plan)[1]


def test_facts_of_quantized_tensors_are_told_where_the_manifest_has_a_plan_for_them() -> None:
    _, packed = run(weights((96, 128)), goal=Goal("bits", 3))
    assert not read_packed(read_layout(Source.of(packed)), "p").manifest.quantized
    (file,) = mc.verify(io.BytesIO(packed)).files
    said = dict(file.quantized)["layers.0.weight"]
    assert set(said) == {"scheme", "error", "bits", "objective"} and said["objective"] == "row"
    assert said["bits"] == pytest.approx(3, rel=0.006)


def test_what_earlier_versions_stored_is_told_as_it_stands(tmp_path: Path) -> None:
    report, packed = run(weights((96, 128), (64, 64)), goal=Goal("bits", 3))
    layout = read_layout(Source.of(packed))
    manifest = read_packed(layout, "p").manifest
    facts = {name: {"scheme": "grid", "error": 0.1} for name in report.plan["tensors"]}
    sizes = [tensor.stop - tensor.start for tensor in layout.tensors]
    header = write_header(replace(manifest, plan=report.plan, quantized=facts), sizes[0], sizes[1:])
    old = header + packed[len(layout.prefix) :]
    assert kept(old, tmp_path) == report.plan
    assert dict(mc.verify(io.BytesIO(old)).files[0].quantized) == facts


FACTS = Facts("best", 1000, {"a": 400, "b": 90}, {"a": 3200, "b": 64})
PLAN: dict[str, Any] = {
    "plan": 1, "objective": "plain", "seed": 3, "level": "best", "goal": "size 999", "weights": 3264, "alpha": 0.02,
    "nearby": [[900, 0.2], [1000, 0.0723], [1100, 0.05]], "scores": [[13056, 0.97, True], [900, 0.5, False]],
    "tensors": {
        "a": {
            "as": "trellis,effort=8", "step": 1.5e-5, "bytes": 400, "loss": 0.0723, "bits": 1.0, "bound": 0.9,
            "per_kB": 0.03, "next": {"as": "grid", "bytes": 410, "loss": 0.08, "cost": -0.012},
        },
        "b": {
            "as": "lossless", "bytes": 90, "loss": 0.0,
            "next": {"as": "magnitude,sparsity=0.9+grid", "bytes": 30, "loss": 1e-9, "cost": 1e9},
        },
    },
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {}, {"seed": 0, "objective": "row"}, {"remark": "mine"}, {"nearby": "x"}, {"scores": [1, [2], [3, 4, "x"]]},
        {"tensors": {}}, {"tensors": {"a": {"as": "grid", "step": 1.0, "bytes": 400, "loss": 0.1, "next": [1]}}},
        {"tensors": {"a": {"as": "grid", "step": 1.0, "bytes": 400, "loss": 0.1, "bits": "x", "bound": None}}},
        {"tensors": {"a": {"as": "bf16", "bytes": 400, "loss": 0.1, "remark": "mine"}, "b": 3}},
    ],
)  # fmt: skip
def test_a_plan_comes_back_from_what_is_stored(change: dict[str, Any]) -> None:
    plan = PLAN | change
    short = json.loads(json.dumps(brief(plan, FACTS.weights, alone=True)))
    found = expanded(short, FACTS)
    wanted = plan | ({} if plan["tensors"] == PLAN["tensors"] else {"nearby": found["nearby"]})
    assert found == wanted
    assert len(json.dumps(short)) < len(json.dumps(plan))
    for step in range(len(LEFT_OUT)):
        assert all(sentences(expanded(brief(plan, FACTS.weights, True, step), FACTS)))


def test_what_an_edited_plan_says_is_measured_anew_or_left_out() -> None:
    data = weights((96, 128), (64, 192))
    report, _ = run(data, goal=Goal("bits", 3))
    edited = json.loads(dumped(report.plan))
    entry = edited["tensors"]["layers.0.weight"]
    entry["step"] *= 2
    found, packed = run(data, plan=json.dumps(edited).encode())
    now, before = found.plan["tensors"], report.plan["tensors"]
    with mc.open(data) as old, mc.open(packed, dequantize=True) as new:
        w, v = (one.tensor("layers.0.weight").astype(np.float64) for one in (old, new))
    lost = ((w - v) ** 2).sum(axis=1) / (w**2).sum(axis=1)
    share = w.size / report.weights
    assert now["layers.0.weight"]["loss"] == pytest.approx(share * lost.mean(), rel=0.006) != entry["loss"]
    assert now["layers.0.weight"]["bytes"] < entry["bytes"] and now["layers.0.weight"]["bits"] < entry["bits"]
    assert "next" not in now["layers.0.weight"] and "per_kB" not in now["layers.0.weight"]
    assert now["layers.1.weight"] == before["layers.1.weight"]
    assert not {"goal", "alpha", "nearby"} & set(found.plan)
    assert found.loss == pytest.approx(sum(one["loss"] for one in now.values()), rel=0.01)
    assert found.weights == report.weights
    assert run(data, plan=dumped(found.plan).encode())[1] == packed
    bare = {key: found.plan[key] for key in ("plan", "objective", "seed", "level")}
    acts = {name: {key: one[key] for key in ("as", "step")} for name, one in now.items()}
    assert run(data, plan=json.dumps({**bare, "tensors": acts}).encode())[0].plan["tensors"] == {
        name: {key: value for key, value in one.items() if key not in ("next", "per_kB")} for name, one in now.items()
    }
