"""What `mc prune` does to tensors that are one another's copies, to the masks and statistics that name one of them, and
to tensors that only look alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mc as library
from conftest import document, refused
from mc.errors import McError

Command = Callable[..., Any]
Array = np.ndarray[Any, Any]
FIRST, LATER, OTHER = "a.weight", "b.weight", "o.weight"


@pytest.fixture
def drawn() -> dict[str, Array]:
    draw = np.random.default_rng(0)
    w, other = (draw.normal(size=shape).astype(np.float32) for shape in ((16, 24), (8, 8)))
    return {FIRST: w, LATER: w, OTHER: other, "ids": np.arange(16).reshape(4, 4), "empty": np.zeros((0, 4), np.float32)}


@pytest.fixture
def at(tmp_path: Path, drawn: dict[str, Array]) -> Path:
    save_file(drawn, tmp_path / "m.safetensors")
    return tmp_path


def done(mc_inside: Command, at: Path, *line: str) -> tuple[dict[str, Array], str]:
    """The tensors that came out, and what was said."""
    found = mc_inside("prune", "m.safetensors", "-f", "-o", "p.safetensors", *line, cwd=at)
    assert found.returncode == 0, found.stderr.decode()
    return load_file(at / "p.safetensors"), found.stderr.decode()


@pytest.mark.parametrize("method", ["2:4", "low-rank,rank=2", "rows,sparsity=0.5"])
def test_equal_bytes_of_another_dtype_or_shape_are_no_tie(
    mc_inside: Command, tmp_path: Path, built: Callable[..., bytes], method: str
) -> None:
    def zeros(kind: type, *shape: int) -> Array:
        return np.zeros(shape, kind)

    alike = {
        "first": ("I32", zeros(np.int32, 8, 16)), "w": ("F32", zeros(np.float32, 8, 16)),
        "turned": ("F32", zeros(np.float32, 16, 8)), "half": ("F16", zeros(np.uint16, 16, 16)),
        "bias": ("F32", zeros(np.float32, 128)), "count": ("I64", zeros(np.int64, 8, 8)),
        "mask": ("BOOL", zeros(np.uint8, 64, 8)), "wave": ("C64", zeros(np.complex64, 8, 8)),
        "eight": ("F8_E4M3", zeros(np.uint8, 16, 32)),
    }  # fmt: skip
    (tmp_path / "m.safetensors").write_bytes(built(alike))
    for command in (("prune", "--method", method), ("quantize", "--scheme", "int4")):
        line = (command[0], "m.safetensors", "-f", "-o", "p.safetensors", *command[1:], "--json")
        report = document(mc_inside(*line, cwd=tmp_path))["files"][0]
        assert {one["name"] for one in report["tensors"]} == {"w", "turned", "half"}
        with library.open(tmp_path / "p.safetensors", dequantize=True) as back:
            assert {name: (back.dtype(name), back.shape(name)) for name in back.names()} == {
                name: (dtype, array.shape) for name, (dtype, array) in alike.items()
            }


@pytest.mark.parametrize("kept", [FIRST, LATER])
def test_what_is_tied_to_a_kept_tensor_stays_and_is_named(
    mc_inside: Command, at: Path, drawn: dict[str, Array], kept: str
) -> None:
    after, said = done(mc_inside, at, "--method", "2:4", "--keep", kept)
    stays = LATER if kept == FIRST else FIRST
    assert f"{stays} stays, tied to {kept}" in said and (after[OTHER] == 0).any()
    assert all(np.array_equal(after[name], drawn[name]) for name in (FIRST, LATER))
    found = mc_inside("prune", "m.safetensors", "-o", "q.safetensors", "--set", f"{stays}=2:4", "--keep", kept, cwd=at)
    assert f"'{stays}' stays, tied to '{kept}'" in refused(found, 2) and not (at / "q.safetensors").exists()


@pytest.mark.parametrize("listed", [FIRST, LATER])
def test_a_mask_is_for_all_that_is_tied(mc_inside: Command, at: Path, drawn: dict[str, Array], listed: str) -> None:
    mask = np.random.default_rng(1).random((16, 24)) < 0.5
    save_file({listed: mask, "empty": np.ones((0, 4), bool)}, at / "masks.safetensors")
    after, _ = done(mc_inside, at, "--mask", "masks.safetensors", "--mask-out", "out.safetensors")
    assert all(np.array_equal(after[name], drawn[name] * mask) for name in (FIRST, LATER))
    again = load_file(at / "out.safetensors")
    assert set(again) == {FIRST, LATER} and all(np.array_equal(one, mask) for one in again.values())
    save_file({listed: mask, OTHER: np.zeros((8, 8), bool)}, at / "masks.safetensors")
    after, _ = done(mc_inside, at, "--mask", "masks.safetensors", "--keep", "[ab]*")
    assert np.array_equal(after[FIRST], drawn[FIRST]) and not after[OTHER].any()


def test_masks_that_fit_nothing_are_refused_by_name(mc_inside: Command, at: Path) -> None:
    for name, mask, said in (
        ("ids", np.ones((4, 4), bool), "is I64: only F64, F32, F16 and BF16"),
        (OTHER, np.ones((4, 16), bool), "BOOL of shape [4, 16], where BOOL of shape [8, 8] was expected"),
        (OTHER, np.ones((8, 8), np.uint8), "U8 of shape [8, 8], where BOOL"),
    ):
        save_file({name: mask}, at / "masks.safetensors")
        found = mc_inside("prune", "m.safetensors", "-o", "p.safetensors", "--mask", "masks.safetensors", cwd=at)
        text = refused(found, 1)
        assert said in text and f"'{name}'" in text and "masks.safetensors" in text
    assert not (at / "p.safetensors").exists()


def statistics(name: str, gram: Array) -> dict[str, Array]:
    return {
        f"{name}.in_sum2": np.diagonal(gram).copy(),
        f"{name}.xtx": gram,
        f"{name}.counts": np.array([60], np.int64),
    }


@pytest.mark.parametrize("method", ["wanda,sparsity=0.5", "obs,sparsity=0.5", "low-rank,rank=3"])
def test_statistics_of_one_are_those_of_all_that_is_tied(mc_inside: Command, at: Path, method: str) -> None:
    draw = np.random.default_rng(2)
    x = draw.normal(size=(60, 24)) * np.exp(draw.normal(size=24))
    save_file(statistics(LATER, (x.T @ x).astype(np.float32)), at / "s.safetensors")
    line = ("--set", f"[ab]*={method}", "--stats", "s.safetensors")
    after, said = done(mc_inside, at, *line)
    assert "without statistics" not in said
    pairs = [(name, name.replace(FIRST, LATER)) for name in after if name.startswith(FIRST)]
    assert pairs and all(np.array_equal(after[one], after[other]) for one, other in pairs)


def test_a_gram_matrix_of_no_inputs_is_refused(mc_inside: Command, at: Path) -> None:
    x = np.random.default_rng(3).normal(size=(60, 24))
    gram = (x.T @ x).astype(np.float32)
    roots = np.sqrt(np.diagonal(gram))
    for i, j, sign in [(0, 1, 1), (0, 2, 1), (1, 2, -1)]:  # each may be alike, or the reverse, and not all of them
        gram[i, j] = gram[j, i] = 0.999 * sign * roots[i] * roots[j]
    save_file(statistics(FIRST, gram), at / "s.safetensors")
    line = ("--set", f"{FIRST}=obs,sparsity=0.5", "--stats", "s.safetensors", "-o", "p.safetensors")
    text = refused(mc_inside("prune", "m.safetensors", *line, cwd=at), 1)
    assert f"'{FIRST}'" in text and "positive semidefinite" in text
    gram[0, 1] = gram[1, 0] = 1.1 * roots[0] * roots[1]
    save_file(statistics(FIRST, gram), at / "s.safetensors")
    for command in (("prune", *line), ("auto", "--bits", "6", *line[2:]),
                    ("quantize", "--scheme", "grid", "--bits", "6", "--objective", "gram", *line[2:])):  # fmt: skip
        text = refused(mc_inside(command[0], "m.safetensors", *command[1:], cwd=at), 3)
        assert f"'{FIRST}.xtx' has products that are larger" in text and "s.safetensors" in text
    save_file(statistics("another", gram), at / "s.safetensors")
    for command in (("prune", *line), ("auto", "--bits", "6", *line[2:]),
                    ("quantize", "--scheme", "grid", "--bits", "6", "--objective", "gram", *line[2:])):  # fmt: skip
        text = refused(mc_inside(command[0], "m.safetensors", *command[1:], cwd=at), 1)
        assert "s.safetensors has statistics of 'another'" in text and "another model's" in text
    assert not (at / "p.safetensors").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("--method", "2:4", "--dense"), "no method is low-rank"),
        (("--method", "low-rank", "--rank", "2", "--shrink"), "a low rank has none"),
        (("--method", "low-rank", "--rank", "2", "--mask-out", "k.safetensors"), "a low rank has no mask"),
    ],
)
def test_options_that_no_method_heeds_are_refused(
    mc_inside: Command, at: Path, line: tuple[str, ...], said: str
) -> None:
    assert said in refused(mc_inside("prune", "m.safetensors", "-o", "p.safetensors", *line, cwd=at), 2)
    assert [path.name for path in at.iterdir()] == ["m.safetensors"]


def test_output_and_masks_are_both_written_or_neither(mc_inside: Command, at: Path, place: Path) -> None:
    before = {path.name for path in place.iterdir()}
    for source, target in (("m.safetensors", "p.safetensors"), ("folder", "p")):
        line = ("prune", source, "-o", target, "--method", "2:4", "--mask-out", "/dev/full")
        assert "/dev/full" in refused(mc_inside(*line, cwd=at), 1)
    full = ("prune", "m.safetensors", "-q", "-o", "/dev/full", "--method", "2:4", "--mask-out", "k.safetensors")
    text = refused(mc_inside(*full, cwd=at), 1)
    assert "/dev/full" in text and "k.safetensors" not in text
    assert {path.name for path in place.iterdir()} == before


def test_a_recipe_is_never_longer_than_readers_take(at: Path) -> None:
    here, there = at / "m.safetensors", at / "p.safetensors"
    for times in range(1, 30):
        try:
            library.prune(here, there, method="2:4", keep=("o*",), threads=1)
        except McError as error:
            assert f"pruned {times - 1} times" in str(error)
            break
        there.rename(here)
        with library.open(here, dequantize=True) as back:
            assert len(back.recipe) == times
    assert 10 < times < 17
