"""`mc prune` at its boundary: files, folders, pipes, limits, masks, factors, refusals and exit codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mc as library
from conftest import document, refused, relative

Command = Callable[..., Any]
PRUNED = {"encoder.dense.weight", "decoder.dense.weight", "decoder.tied.weight", "half.weight"}


@pytest.mark.parametrize("method", ["magnitude,sparsity=0.4", "4:8", "block,size=2x8,sparsity=0.3,scope=tensor"])
def test_what_is_left_keeps_its_bits_and_what_went_is_zero(mc_inside: Command, place: Path, method: str) -> None:
    line = ("prune", "model.safetensors", "-o", "p.safetensors", "--set", f"*={method}", "--json")
    found = document(mc_inside(*line, cwd=place))["files"][0]
    listed = {one["name"]: one for one in found["tensors"]}
    assert set(listed) == PRUNED
    with library.open(place / "model.safetensors") as plain, library.open(place / "p.safetensors") as pruned:
        assert plain.names() == pruned.names()
        assert pruned.tensor("decoder.dense.weight").tobytes() == pruned.tensor("decoder.tied.weight").tobytes()
        for name in plain.names():
            before, after = plain.tensor(name), pruned.tensor(name)
            assert before.dtype == after.dtype and before.shape == after.shape
            if name in listed:
                gone = after == 0
                assert np.array_equal(before[~gone], after[~gone]) and not after[gone].view(f"u{after.itemsize}").any()
                assert int(gone.sum()) == listed[name]["zeros"]
                assert relative(before, after) == pytest.approx(listed[name]["error"], rel=1e-6)
            else:
                assert before.tobytes() == after.tobytes()
    done = document(mc_inside("verify", "p.safetensors", "--against", "model.safetensors", "--json", cwd=place))
    for one in done["tensors"]:
        assert one["error"] == pytest.approx(listed.get(one["name"], {"error": 0})["error"], rel=1e-6)


def test_a_chain_of_pipes(mc: Command, place: Path, model: bytes) -> None:
    data = model
    for line in (
        ("prune", "-", "-o", "-", "--method", "2:4"), ("quantize", "-", "-o", "-", "--scheme", "grid", "--bits", "3"),
        ("pack", "-"),
    ):  # fmt: skip
        done = mc(*line, cwd=place, input=data)
        assert done.returncode == 0, done.stderr.decode()
        data = done.stdout
    with library.open(data, dequantize=True) as floats, library.open(model) as plain:
        assert floats.names() == plain.names()
        assert [type(step).__name__ for step in floats.recipe] == ["Prune", "Quantize"]
        after = floats.tensor("encoder.dense.weight")
        assert ((after.reshape(-1, 4) != 0).sum(axis=1) <= 2).all()
        assert relative(plain.tensor("encoder.dense.weight"), after) < 0.2


def test_factors_multiply_out_and_can_be_quantized(mc_inside: Command, place: Path) -> None:
    line = (
        "prune",
        "model.safetensors",
        "--method",
        "low-rank",
        "--share",
        "0.5",
        "--set",
        "half.*=low-rank,residual=0.05,rank=4",
    )
    found = document(mc_inside(*line, "-o", "f.safetensors", "--json", cwd=place))["files"][0]
    stored = load_file_names(place / "f.safetensors")
    assert {"encoder.dense.weight.mc_left", "encoder.dense.weight.mc_right", "half.weight.mc_sparse"} <= stored
    assert not stored & PRUNED
    assert mc_inside(*line, "-o", "d.safetensors", "--dense", "-q", cwd=place).returncode == 0
    assert mc_inside("unpack", "f.safetensors", "--dequantize", "-o", "u.safetensors", "-q", cwd=place).returncode == 0
    with library.open(place / "d.safetensors") as dense, library.open(place / "u.safetensors") as back:
        for name in PRUNED:
            assert np.array_equal(dense.tensor(name), back.tensor(name))
    options = ("-o", "q.mc.safetensors", "--scheme", "int8", "-q")
    assert mc_inside("quantize", "f.safetensors", *options, cwd=place).returncode == 0
    again = document(mc_inside("verify", "q.mc.safetensors", "--against", "model.safetensors", "--json", cwd=place))
    errors = {one["name"]: one["error"] for one in again["tensors"]}
    for one in found["tensors"]:
        assert errors[one["name"]] == pytest.approx(one["error"], rel=0.02)


def load_file_names(path: Path) -> set[str]:
    with library.open(path) as checkpoint:
        return set(checkpoint.names())


def test_masks_go_out_and_are_applied(mc_inside: Command, place: Path) -> None:
    line = ("prune", "model.safetensors", "--method", "magnitude", "--sparsity", "0.7", "-o", "a.safetensors", "-q")
    assert mc_inside(*line, "--mask-out", "m.safetensors", cwd=place).returncode == 0
    assert "-f replaces it" in refused(mc_inside(*line, "--mask-out", "m.safetensors", cwd=place), 1)
    assert load_file_names(place / "m.safetensors") == PRUNED
    assert all(mask.dtype == np.bool_ for mask in load_file(place / "m.safetensors").values())
    done = mc_inside("prune", "model.safetensors", "--mask", "m.safetensors", "-o", "b.safetensors", "-q", cwd=place)
    assert done.returncode == 0, done.stderr.decode()
    with library.open(place / "a.safetensors") as one, library.open(place / "b.safetensors") as other:
        for name in PRUNED:
            assert one.tensor(name).tobytes() == other.tensor(name).tobytes()
    save_file({"half.weight": np.ones((3, 3), bool)}, place / "bad.safetensors")
    done = mc_inside("prune", "model.safetensors", "--mask", "bad.safetensors", "-o", "c.safetensors", cwd=place)
    assert "'half.weight' has a mask" in refused(done, 1)


def test_masks_of_tensors_that_are_not_there_are_refused_by_name(mc_inside: Command, place: Path) -> None:
    masks = {"half.weight": np.ones((64, 48), bool)} | {f"other.{i}": np.ones((2, 2), bool) for i in range(7)}
    save_file(masks, place / "m.safetensors")
    for line in (("-o", "a.safetensors"), ("-o", "a.safetensors", "-n"), ("-o", "a.safetensors", "--method", "2:4")):
        text = refused(mc_inside("prune", "model.safetensors", "--mask", "m.safetensors", *line, cwd=place), 1)
        assert "'other.0'" in text and "2 more" in text and "m.safetensors" in text
    done = mc_inside("prune", "folder", "--mask", "m.safetensors", "-o", "b", cwd=place)
    assert "'other.0'" in refused(done, 1)
    assert not (place / "a.safetensors").exists() and not (place / "b").exists()


def test_shrinking_takes_entries_out_and_dequantize_puts_them_back(mc_inside: Command, place: Path) -> None:
    line = ("prune", "model.safetensors", "--method", "rows", "--sparsity", "0.25", "--scope", "tensor")
    assert mc_inside(*line, "-o", "z.safetensors", "-q", cwd=place).returncode == 0
    assert mc_inside(*line, "-o", "s.safetensors", "--shrink", "-q", cwd=place).returncode == 0
    with library.open(place / "z.safetensors") as zeros, library.open(place / "s.safetensors") as short:
        assert short.shape("encoder.dense.weight") == (96, 192)
        with library.open(place / "s.safetensors", dequantize=True) as back:
            for name in PRUNED:
                assert back.tensor(name).tobytes() == zeros.tensor(name).tobytes()
    done = mc_inside("prune", "model.safetensors", "--method", "2:4", "--shrink", "-o", "x.safetensors", cwd=place)
    assert "'encoder.dense.weight'" in refused(done, 1) and not (place / "x.safetensors").exists()


def test_statistics_lower_the_error_on_inputs(mc_inside: Command, place: Path) -> None:
    draw = np.random.default_rng(0)
    x = (
        draw.normal(size=(600, 192))
        * np.exp(draw.normal(size=192))
        @ (np.eye(192) + 0.05 * draw.normal(size=(192, 192)))
    )
    gram = (x.T @ x).astype(np.float32)
    save_file(
        {"encoder.dense.weight.in_sum2": np.diagonal(gram).copy(), "encoder.dense.weight.xtx": gram,
         "encoder.dense.weight.counts": np.array([600], np.int64)},
        place / "stats.safetensors",
    )  # fmt: skip
    found = {}
    for method in ("magnitude,scope=row", "wanda", "obs"):
        line = ("--set", f"encoder*weight={method},sparsity=0.5", "--stats", "stats.safetensors", "--json")
        report = document(mc_inside("prune", "model.safetensors", "-f", "-o", "p.safetensors", *line, cwd=place))[
            "files"
        ][0]
        found[method] = report["tensors"][0]["weighted"]
        assert report["tensors"][0]["zeros"] == 128 * 96
    assert found["obs"] < 0.7 * found["wanda"] < 0.7 * found["magnitude,scope=row"]
    every = ("prune", "model.safetensors", "-o", "x.safetensors", "--method", "obs", "--sparsity", "0.5")
    assert "needs them" in refused(mc_inside(*every, "--stats", "stats.safetensors", cwd=place), 1)
    assert "--stats FILE" in refused(mc_inside(*every, cwd=place), 2)


def test_a_folder_and_any_thread_count(mc_inside: Command, place: Path) -> None:
    for threads in ("1", "3"):
        line = (
            "prune",
            "folder",
            "-o",
            f"p{threads}",
            "--method",
            "magnitude",
            "--sparsity",
            "0.5",
            "-q",
            "-T",
            threads,
        )
        assert mc_inside(*line, cwd=place).returncode == 0
    for path in (place / "p1").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (place / "p3" / path.relative_to(place / "p1")).read_bytes()
    planned = document(mc_inside("prune", "folder", "-o", "p", "--method", "2:4", "-n", "--json", cwd=place))["tensors"]
    assert [one["method"] for one in planned] == ["2:4", "2:4"] and not (place / "p").exists()


def test_not_finite_weights_are_refused_by_name(mc_inside: Command, place: Path, built: Callable[..., bytes]) -> None:
    (place / "nan.safetensors").write_bytes(built({"a.weight": ("F32", np.full((4, 4), np.nan, np.float32))}))
    text = refused(mc_inside("prune", "nan.safetensors", "-o", "q.safetensors", "--method", "2:4", cwd=place), 1)
    assert "nan.safetensors" in text and "'a.weight'" in text and "NaN" in text


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        (("m.safetensors", "--method", "magnitude"), 2, "needs a target"),
        (("m.safetensors", "--method", "low-rank"), 2, "needs a target"),
        (("m.safetensors", "--method", "nothing"), 2, "isn't one of"),
        (("m.safetensors", "--method", "2:4", "--sparsity", "0.5"), 2, "of no use"),
        (("m.safetensors", "--method", "2:4", "--max-error", "0.5"), 2, "already"),
        (("m.safetensors", "--method", "magnitude", "--sparsity", "0.5", "--max-error", "0.1"), 2, "Only one"),
        (("m.safetensors", "--method", "2:4", "--keep", "*"), 2, "no tensor that is to be"),
        (("m.safetensors", "--method", "2:4", "--keep", "no.such"), 2, "fits 'no.such'"),
        (("m.safetensors", "--method", "2:4", "--set", "*.bias=4:8"), 2, "no matrix of floats whose name fits"),
        (("m.safetensors", "--method", "2:4,scope=row"), 2, "it has no keys."),
        (("m.safetensors", "--method", "magnitude", "--target-size", "900"), 4, "takes at least"),
        (("m.safetensors",), 2, "Nothing says"),
        (("m.safetensors", "--mask", "-"), 2, "--mask wants a file"),
        (("m.safetensors", "--method", "2:4", "--mask-out", "-"), 2, "--mask-out wants a file"),
        (("m.safetensors", "--method", "2:4", "-o", "out/"), 1, "names a folder"),
        (("m.mc.safetensors", "--method", "2:4"), 1, "is packed"),
        (("q.safetensors", "--method", "2:4"), 1, "quantized already"),
        (("none.safetensors", "--method", "2:4"), 1, "not exist"),
    ],
)  # fmt: skip
def test_refusals(mc_inside: Command, place: Path, line: tuple[str, ...], code: int, text: str) -> None:
    (place / "model.safetensors").rename(place / "m.safetensors")
    if "q.safetensors" in line:
        library.quantize(place / "m.safetensors", place / "q.safetensors", scheme="int8")
    if "m.mc.safetensors" in line:
        library.pack(place / "m.safetensors", place / "m.mc.safetensors")
    before = {path.name for path in place.iterdir()}
    assert text in refused(mc_inside("prune", "-o", "out.safetensors", *line, cwd=place), code)
    assert {path.name for path in place.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("-o", "out.safetensors", "--mask-out", "out.safetensors"), "would overwrite it"),
        (("-o", "out.safetensors", "--mask-out", "./model.safetensors"), "is the source itself"),
        (("-o", "out.safetensors", "--mask-out", "folder"), "is a folder"),
        (("-o", "out.safetensors", "--mask-out", "none/m.safetensors"), "does not exist"),
        (("-o", "m.safetensors", "--mask", "m.safetensors"), "would overwrite it"),
        (("-o", "out.safetensors", "--mask", "m.safetensors", "--mask-out", "m.safetensors"), "would overwrite it"),
        (("-o", "m.safetensors", "--stats", "m.safetensors"), "would overwrite it"),
    ],
)  # fmt: skip
def test_no_file_is_named_twice(mc_inside: Command, place: Path, options: tuple[str, ...], text: str) -> None:
    save_file({"half.weight": np.ones((64, 48), bool)}, place / "m.safetensors")
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    done = mc_inside("prune", "model.safetensors", "--method", "2:4", "-f", *options, cwd=place)
    assert done.returncode in (1, 2) and text in done.stderr.decode()
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_a_full_disk_is_said_of_the_output(mc_inside: Command, place: Path) -> None:
    for command in (("prune", "--method", "2:4"), ("quantize", "--scheme", "int8")):
        done = mc_inside(command[0], "model.safetensors", "-o", "/dev/full", *command[1:], "-q", cwd=place)
        assert "/dev/full" in refused(done, 1) and b"model.safetensors" not in done.stderr
