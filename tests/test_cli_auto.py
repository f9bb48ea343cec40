"""`mc auto` at its boundary: goals, plans, dry runs, folders, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import conftest
import mc as library
from conftest import refused

Command = Callable[..., Any]


def document(done: Any) -> dict[str, Any]:
    found = conftest.document(done)
    assert found["command"] == "auto"
    return found


def test_a_size_is_met_and_explained_and_the_plan_does_it_again(mc_inside: Command, place: Path) -> None:
    line = ("auto", "model.safetensors", "-o", "a.mc.safetensors", "--target-size", "60kB", "--plan-out", "plan.json")
    done = mc_inside(*line, cwd=place)
    assert done.returncode == 0, done.stderr.decode()
    size = (place / "a.mc.safetensors").stat().st_size
    assert 0.995 * 60_000 <= size <= 60_000
    rows = [row.split("\t") for row in done.stdout.decode().splitlines()]
    assert rows[0][:4] == ["tensor", "as", "step", "bytes"] and rows[1][0] == "encoder.dense.weight"
    said = done.stderr.decode()
    assert "A tenth smaller" in said and "Second came" in said
    assert f"-> {size / 1000:.2f} kB" in said.splitlines()[-1]
    plan = json.loads((place / "plan.json").read_text())
    assert set(plan["tensors"]) == {"encoder.dense.weight", "decoder.dense.weight", "half.weight"}
    assert mc_inside("verify", "a.mc.safetensors", "-q", cwd=place).returncode == 0
    assert (
        mc_inside("unpack", "a.mc.safetensors", "--dequantize", "-o", "f.safetensors", "-q", cwd=place).returncode == 0
    )
    with library.open(place / "f.safetensors") as now, library.open(place / "model.safetensors") as before:
        assert now.names() and set(now.names()) == set(before.names())
        assert now.tensor("encoder.dense.bias").tobytes() == before.tensor("encoder.dense.bias").tobytes()
    again = ("auto", "model.safetensors", "-o", "b.mc.safetensors", "--plan", "plan.json", "-q", "-T", "1")
    assert mc_inside(*again, cwd=place).returncode == 0
    assert (place / "b.mc.safetensors").read_bytes() == (place / "a.mc.safetensors").read_bytes()
    found = document(mc_inside("auto", "model.safetensors", "-n", "--plan", "plan.json", "--json", cwd=place))
    assert found["packed_bytes"] == (place / "a.mc.safetensors").stat().st_size and found["target"] is None
    told = (Path(__file__).resolve().parent.parent / "AUTO.md").read_text()
    assert [key for key in found if f"`{key}`" not in told] == []


def test_lossless_and_in_pipes(mc: Command, mc_inside: Command, place: Path, model: bytes) -> None:
    done = mc("auto", "-", "-o", "-", "--lossless", cwd=place, input=model)
    assert done.returncode == 0, done.stderr.decode()
    assert library.decompress(done.stdout) == model
    done = mc_inside("auto", "model.safetensors", "-o", "plain.safetensors", "--bits", "5", "-q", cwd=place)
    assert done.returncode == 0 and (place / "plain.safetensors").stat().st_size < len(model)
    with library.open(place / "plain.safetensors", dequantize=True) as floats:
        assert floats.dtype("half.weight") == "F16"


def test_a_folder_is_one_budget_and_keeps_its_index(mc_inside: Command, place: Path) -> None:
    found = document(mc_inside("auto", "folder", "-o", "small.mc", "--target-ratio", "9", "--json", cwd=place))
    shards = sorted((place / "small.mc").glob("*.mc.safetensors"))
    assert len(shards) == 2 and sum(path.stat().st_size for path in shards) == found["packed_bytes"]
    assert found["packed_bytes"] <= found["bytes"] / 9
    assert mc_inside("verify", "small.mc", "-q", cwd=place).returncode == 0
    assert mc_inside("unpack", "small.mc", "--dequantize", "-o", "back", "-q", cwd=place).returncode == 0
    assert mc_inside("verify", "back", "-q", cwd=place).returncode == 0
    assert (place / "back" / "tokenizer" / "vocab.txt").is_file()


@pytest.mark.parametrize(("source", "out", "written"), [("folder", "small", "small/*"), ("folder", "to/", "to/*"),
                                                         ("model.safetensors", "small.bin", "small.bin")])  # fmt: skip
def test_what_is_not_named_as_a_plain_file_is_packed(
    mc_inside: Command, place: Path, source: str, out: str, written: str
) -> None:
    found = document(mc_inside("auto", source, "-o", out, "--bits", "6", "--json", cwd=place))
    packed = [path for path in place.glob(written) if path.suffix in (".safetensors", ".bin")]
    assert sum(path.stat().st_size for path in packed) == found["packed_bytes"] < found["bytes"] / 3


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("-o", "x.mc.safetensors"), 2, "one goal"),
        (("-o", "x.mc.safetensors", "--bits", "3", "--lossless"), 2, "one goal"),
        (("--bits", "3"), 2, "-o"),
        (("-o", "x.mc.safetensors", "--eval", "true {}"), 2, "--max-drop"),
        (("-o", "x.mc.safetensors", "--eval", "true", "--max-drop", "1%"), 2, "{}"),
        (("-o", "x.mc.safetensors", "--eval", "'true {}", "--max-drop", "1%"), 2, "quotes"),
        (("-o", "x.mc.safetensors", "--eval", "true {}", "--max-drop", "-1"), 2, "no drop"),
        (("-o", "x.mc.safetensors", "--bits", "3", "--lower-is-better"), 2, "--eval"),
        (("-o", "x.mc.safetensors", "--target-size", "3kB"), 4, "The least that"),
        (("-o", "x.mc.safetensors", "--bits", "3", "--keep", "none.such"), 2, "none.such"),
        (("-o", "x.mc.safetensors", "--bits", "3", "--set", "half.*=int9"), 2, "int9"),
        (("-o", "x.mc.safetensors", "--plan", "absent.json"), 1, "absent.json"),
        (("-o", "x.mc.safetensors", "--plan", "model.safetensors"), 3, "model.safetensors"),
        (("-o", "x.mc.safetensors", "--bits", "3", "--plan-out", "model.safetensors", "-f"), 1, "model.safetensors"),
        (
            ("-o", "x.mc.safetensors", "--bits", "3", "--plan-out", "x.mc.safetensors"),
            2,
            "named by -o and by --plan-out",
        ),
        (("-n", "--bits", "3", "--plan-out", "folder/config.json"), 1, "--plan-out names another place"),
    ],
)
def test_refusals_write_nothing(
    mc_inside: Command, place: Path, options: tuple[str, ...], code: int, text: str
) -> None:
    before = {path: path.stat().st_size for path in place.rglob("*")}
    assert text in refused(mc_inside("auto", "model.safetensors", *options, cwd=place), code)
    assert {path: path.stat().st_size for path in place.rglob("*")} == before


def test_what_people_wrote_into_an_explanation_does_no_harm(mc_inside: Command, place: Path) -> None:
    assert mc_inside("auto", "model.safetensors", "-o", "a.mc.safetensors", "--bits", "3", "--plan-out", "p.json",
              "-q", cwd=place).returncode == 0  # fmt: skip
    plan = json.loads((place / "p.json").read_text())
    for entry in plan["tensors"].values():
        entry |= {"next": [1], "bits": "x", "bound": None}
    (place / "q.json").write_text(json.dumps(plan | {"nearby": [[1]], "scores": 3, "alpha": "x"}))
    done = mc_inside("auto", "model.safetensors", "-o", "b.mc.safetensors", "--plan", "q.json", cwd=place)
    assert done.returncode == 0, done.stderr.decode()
    assert mc_inside("analyze", "b.mc.safetensors", cwd=place).returncode == 0
