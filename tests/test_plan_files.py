"""Plans as files: read back, edited, carried out to the byte, refused where they make no sense."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import mc
from checkpoints import build
from mc.errors import DamagedError, McError
from mc.plan.goals import Goal
from mc.plan.plans import dumped, loaded, written
from mc.plan.ways import parse_way, spelled
from planned import layered, piece, run, tensors


def test_a_plan_is_read_back_carried_out_to_the_byte_and_edited() -> None:
    data = layered(6)
    report, packed = run(data, Goal("ratio", 8))
    text = dumped(report.plan).encode()
    again, same = run(data, plan=text)
    assert same == packed and again.plan == report.plan
    edited = json.loads(text)
    edited["tensors"]["layers.1.weight"] = {"as": "int4,group=64"}
    del edited["tensors"]["layers.0.weight"]
    _, other = run(data, plan=json.dumps(edited).encode())
    with mc.open(other, dequantize=True) as found:
        kinds = {name: type(about.scheme).__name__ for step in found.recipe for name, about in step.tensors.items()}
    assert kinds["layers.1.weight"] == "Int" and "layers.0.weight" not in kinds
    assert tensors(other)["layers.0.weight"].tobytes() == tensors(data)["layers.0.weight"].tobytes()


@pytest.mark.parametrize(
    "change",
    [
        {"plan": 2}, {"objective": "best"}, {"level": "slow"}, {"seed": -1}, {"tensors": []},
        {"tensors": {"a": 3}}, {"tensors": {"a": {"as": "grid"}}}, {"tensors": {"a": {"as": "int9"}}},
        {"tensors": {"a": {"as": "bf16", "step": 1.0}}}, {"tensors": {"a": {"as": "grid", "step": -1.0}}},
        {"tensors": {"a": {"as": "grid", "step": True}}}, {"tensors": {"a": {"as": "grid", "step": 1e300}}},
        {"tensors": {"a": {"as": "lossless", "bytes": "many"}}},
    ],
)  # fmt: skip
def test_a_plan_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    fine = {"plan": 1, "objective": "row", "seed": 0, "level": "best", "tensors": {}}
    assert loaded(json.dumps(fine).encode(), "p").choices == {}
    with pytest.raises(DamagedError, match="p"):
        loaded(json.dumps(fine | change).encode(), "p")
    for text in (b"", b"[]", b"{", b"\xff"):
        with pytest.raises(DamagedError):
            loaded(text, "p")


def test_a_plan_of_another_model_is_refused() -> None:
    plan = {"plan": 1, "objective": "row", "seed": 0, "level": "best", "tensors": {"absent": {"as": "bf16"}}}
    with pytest.raises(McError, match="'absent'"):
        run(layered(), plan=json.dumps(plan).encode())


@pytest.mark.parametrize(
    "text",
    ["bf16", "fp16", "fp8,format=e5m2,per=tensor", "int4,group=32,symmetric=no,scales=mse", "int8", "nf4,group=64",
     "codebook,codes=8,rows=4", "grid", "grid,columns=yes", "trellis,effort=64,columns=yes",
     "magnitude,sparsity=0.95+grid", "wanda,sparsity=0.5+grid,columns=yes", "low-rank,rank=8+grid"],
)  # fmt: skip
def test_every_request_has_a_spelling(text: str) -> None:
    assert parse_way(spelled(parse_way(text))) == parse_way(text)


def test_steps_too_fine_for_integers_lose_nothing() -> None:
    w = np.random.default_rng(0).normal(0, 0.02, (16, 24)).astype("<f4")
    for way in ("grid", "grid,columns=yes", "trellis,effort=8"):
        entry = {"as": way, "step": 1e-20}
        plan = {"plan": 1, "objective": "row", "seed": 0, "level": "fast", "tensors": {"w": entry}}
        report, _ = run(build([piece("w", "F32", w)]), plan=json.dumps(plan).encode())
        assert report.plan["tensors"]["w"]["loss"] < 1e-12, way


def test_what_written_gives_loaded_takes() -> None:
    report, _ = run(layered(), Goal("ratio", 5))
    assert written(loaded(dumped(report.plan).encode(), "p")) == report.plan


def test_a_manifest_whose_plan_is_no_object_is_damaged() -> None:
    _, packed = run(layered(), Goal("lossless"))
    with mc.open(packed) as found:
        assert found.names()
    from mc.checkpoint import Source, read_layout
    from mc.manifest import Manifest, read_packed, write_header

    layout = read_layout(Source.of(packed))
    manifest = read_packed(layout, "p").manifest
    assert manifest.plan == {}  # nothing that the file doesn't say elsewhere
    wrong: Any = ["no", "object"]
    forged = Manifest(manifest.sha256, manifest.size, manifest.level, manifest.entries, plan=wrong)
    sizes = [tensor.stop - tensor.start for tensor in layout.tensors]
    header = write_header(forged, sizes[0], sizes[1:])
    with pytest.raises(DamagedError, match="for a plan"):
        mc.decompress(header + packed[len(layout.prefix) :])
