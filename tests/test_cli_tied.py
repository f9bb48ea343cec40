"""What is asked of a tensor that is another once more: it goes for both, in every command, unless both are asked
for different things."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mc as library
from conftest import document, refused

Command = Callable[..., Any]
Array = np.ndarray[Any, Any]
FIRST, LATER, OTHER = "a.weight", "b.weight", "o.weight"
BOTH = {FIRST, LATER}
# A command, a way to change all, and a way to change those named; what is asked for by name is another thing.
WAYS = {
    "prune": (("--method", "2:4"), "rows,sparsity=0.5", "4:8"),
    "quantize": (("--scheme", "int8"), "int4", "int2"),
    "auto": (("--bits", "6"), "int4", "int2"),
}
COMMANDS = pytest.mark.parametrize("command", WAYS)


@pytest.fixture
def at(tmp_path: Path, built: Callable[..., bytes]) -> Path:
    draw = np.random.default_rng(0)
    w, other = (draw.normal(size=(32, 32)).astype(np.float32) for _ in range(2))
    (tmp_path / "m.safetensors").write_bytes(built({FIRST: ("F32", w), LATER: ("F32", w), OTHER: ("F32", other)}))
    return tmp_path


def came(mc_inside: Command, at: Path, command: str, *line: str, tied: bool = True) -> tuple[dict[str, Array], str]:
    """The floats that came out, the first and the later one the same if `tied`; and what was said."""
    found = mc_inside(command, "m.safetensors", "-f", "-o", "p.mc.safetensors", *WAYS[command][0], *line, cwd=at)
    said: str = found.stderr.decode()
    assert found.returncode == 0, said
    with library.open(at / "p.mc.safetensors", dequantize=True) as back:
        after = {name: back.tensor(name) for name in back.names()}
    assert not tied or after[FIRST].tobytes() == after[LATER].tobytes()
    return after, said


@COMMANDS
def test_what_is_set_for_one_is_set_for_both(mc_inside: Command, at: Path, command: str) -> None:
    usual = came(mc_inside, at, command)[0]
    both = came(mc_inside, at, command, "--set", f"[ab].*={WAYS[command][1]}")[0]
    assert not np.array_equal(usual[FIRST], both[FIRST])
    for name in BOTH:
        one = came(mc_inside, at, command, "--set", f"{name}={WAYS[command][1]}")[0]
        assert np.array_equal(one[FIRST], both[FIRST])


@COMMANDS
@pytest.mark.parametrize("kept", [FIRST, LATER])
def test_what_is_kept_keeps_both(mc_inside: Command, at: Path, command: str, kept: str) -> None:
    with library.open(at / "m.safetensors") as before:
        w, other = before.tensor(FIRST), before.tensor(OTHER)
    (stays,) = BOTH - {kept}
    for more in ((), ("--set", f"{stays}={WAYS[command][1]}")):
        after, said = came(mc_inside, at, command, "--keep", kept, *more)
        assert after[FIRST].tobytes() == w.tobytes() and after[OTHER].tobytes() != other.tobytes()
        assert command == "auto" or f"{stays} stays, tied to {kept}" in said
    if command == "auto":
        after, _ = came(mc_inside, at, command, "--set", f"{kept}=lossless")
        assert after[FIRST].tobytes() == w.tobytes()
    else:
        line = (command, "m.safetensors", "-o", "q.safetensors", *WAYS[command][0], "--keep", kept, "--keep", OTHER)
        assert f"'{stays}' stays, tied to '{kept}'" in refused(mc_inside(*line, cwd=at), 2)


@COMMANDS
def test_two_things_part_what_is_tied(mc_inside: Command, at: Path, command: str) -> None:
    _, one, other = WAYS[command]
    alone = {wish: came(mc_inside, at, command, "--set", f"[ab].*={wish}")[0][FIRST] for wish in (one, other)}
    for ours, theirs in ((one, other), (other, one)):
        sets = ("--set", f"{FIRST}={ours}", "--set", f"{LATER}={theirs}")
        after, _ = came(mc_inside, at, command, *sets, tied=False)
        assert np.array_equal(after[FIRST], alone[ours]) and np.array_equal(after[LATER], alone[theirs])
        assert not np.array_equal(after[FIRST], after[LATER])
    sets = ("--set", f"{FIRST}={one}", "--set", f"{LATER}={one}")
    assert np.array_equal(came(mc_inside, at, command, *sets)[0][FIRST], alone[one])


def test_a_plan_tells_of_every_tensor_and_may_part_the_tied(mc_inside: Command, at: Path) -> None:
    line = ("auto", "m.safetensors", "-o", "p.mc.safetensors", "--bits", "6", "--plan-out", "p.json")
    done = mc_inside(*line, cwd=at)
    assert done.returncode == 0
    assert any(row.startswith(f"{LATER}\ttied to {FIRST}\t") for row in done.stdout.decode().splitlines())
    assert f"{LATER} that of {FIRST}" in done.stderr.decode()
    plan = json.loads((at / "p.json").read_text())
    assert plan["tied"] == {LATER: FIRST} and set(plan["tensors"]) == {FIRST, OTHER}
    found = document(mc_inside("analyze", "p.mc.safetensors", "--json", cwd=at))["checkpoints"][0]["plan"]
    assert found["plans"][0]["tied"] == {LATER: FIRST} and any(f"{LATER} that of {FIRST}" in one for one in
                                                               found["explanation"])  # fmt: skip
    first = (at / "p.mc.safetensors").read_bytes()
    ours = plan["tensors"][FIRST]
    for more in ({}, {LATER: ours}):
        (at / "q.json").write_text(json.dumps(plan | {"tensors": plan["tensors"] | more, "tied": {"x": 3}}))
        again = ("auto", "m.safetensors", "-f", "-o", "q.mc.safetensors", "--plan", "q.json", "--json")
        assert document(mc_inside(*again, cwd=at))["plan"]["tied"] == {LATER: FIRST}
        assert (at / "q.mc.safetensors").read_bytes() == first
    int4 = {"as": "int4"}
    finer = {FIRST: ours, LATER: ours | {"step": 2.0}}
    for entries in ({LATER: int4, FIRST: ours}, {LATER: int4}, {LATER: {"as": "lossless"}, FIRST: ours}, finer):
        (at / "q.json").write_text(json.dumps(plan | {"tensors": entries}))
        found = document(mc_inside(*again, cwd=at))["plan"]
        assert {name: (one["as"], one.get("step")) for name, one in found["tensors"].items()} == {
            name: (one["as"].replace("int4", "int4,symmetric=yes,scales=absmax"), one.get("step"))
            for name, one in entries.items()
        }
        assert "tied" not in found
        with library.open(at / "q.mc.safetensors", dequantize=True) as back, library.open(at / "m.safetensors") as was:
            stays = back.tensor(FIRST).tobytes() == was.tensor(FIRST).tobytes()
            assert stays == (FIRST not in entries) and back.tensor(FIRST).tobytes() != back.tensor(LATER).tobytes()


def test_whatever_stays_is_listed_with_what_is_tied_to_it(mc_inside: Command, at: Path) -> None:
    for kept, why in ((FIRST, f"tied to {FIRST}"), (LATER, f"tied to {LATER}")):
        line = ("auto", "m.safetensors", "-n", "--bits", "6", "--keep", kept, "--json")
        found = document(mc_inside(*line, cwd=at))
        assert found["kept"] == {kept: "kept as asked", (BOTH - {kept}).pop(): why}
        assert "tied" not in found["plan"]


def test_a_head_brings_no_embeddings_into_compressed_tensors(
    mc_inside: Command, tmp_path: Path, built: Callable[..., bytes]
) -> None:
    w = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    names = "embed_tokens.weight", "lm_head.weight", "o.weight"
    (tmp_path / "m.safetensors").write_bytes(built({name: ("F32", w[::-1] if name[0] == "o" else w) for name in names}))
    line = ("quantize", "m.safetensors", "-f", "-o", "q.safetensors", "--scheme", "int8", "--json")
    standard = (*line, "--format", "compressed-tensors")
    report = document(mc_inside(*standard, cwd=tmp_path))["files"][0]
    assert [one["name"] for one in report["tensors"]] == ["o.weight"]
    text = mc_inside(*standard, "--set", "lm_head.weight=int8", cwd=tmp_path)
    assert text.returncode == 2 and b"'lm_head.weight' is tied to 'embed_tokens.weight', which readers" in text.stderr
    report = document(mc_inside(*standard, "--set", "lm_head.*=int8", "--keep", "embed*", cwd=tmp_path))["files"][0]
    assert report["tied"] == [["lm_head.weight", "embed_tokens.weight"]] and len(report["tensors"]) == 1
    for more in (standard, line):
        sets = ("--set", "lm_head.weight=int8", *(("--set", "embed*=int8") if more is standard else ()))
        report = document(mc_inside(*more, *sets, cwd=tmp_path))["files"][0]
        assert {one["name"] for one in report["tensors"]} == set(names)
