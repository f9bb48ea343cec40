"""`mc quantize` and `mc unpack --dequantize` at their boundary: limits, refusals, exit codes, pipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mc as library
from checkpoints import Piece, build
from conftest import document, refused, relative
from mc.errors import McError

Command = Callable[..., Any]


@pytest.mark.parametrize("scheme", ["bf16", "fp8", "int3,group=32,symmetric=no", "codebook"])
def test_schemes_there_and_back_packed_or_not(mc_inside: Command, place: Path, scheme: str) -> None:
    line = ("quantize", "model.safetensors", "--scheme", scheme, "-o")
    found = document(mc_inside(*line, "q.safetensors", "--json", cwd=place))
    assert mc_inside(*line, "q.mc.safetensors", "-q", cwd=place).returncode == 0
    assert mc_inside("unpack", "q.mc.safetensors", "-o", "same.safetensors", "-q", cwd=place).returncode == 0
    assert (place / "same.safetensors").read_bytes() == (place / "q.safetensors").read_bytes()
    for name in ("q.safetensors", "q.mc.safetensors"):
        assert (
            mc_inside("unpack", name, "-f", "-o", "back.safetensors", "--dequantize", "-q", cwd=place).returncode == 0
        )
        with library.open(place / "model.safetensors") as plain, library.open(place / "back.safetensors") as back:
            assert set(plain.names()) == set(back.names()) and back.metadata == {"format": "pt"}
            listed = {one["name"]: one for one in found["files"][0]["tensors"]}
            assert set(listed) == {"encoder.dense.weight", "decoder.dense.weight", "decoder.tied.weight", "half.weight"}
            for tensor in plain.names():
                assert (plain.dtype(tensor), plain.shape(tensor)) == (back.dtype(tensor), back.shape(tensor))
                if tensor in listed:
                    error = relative(plain.tensor(tensor), back.tensor(tensor))
                    assert error == pytest.approx(listed[tensor]["error"], rel=1e-5, abs=1e-15) and error < 0.07
                else:
                    assert plain.tensor(tensor).tobytes() == back.tensor(tensor).tobytes()
            with library.open(place / name, dequantize=True) as floats:
                assert floats.names() == back.names()
                assert np.array_equal(floats.tensor("half.weight"), back.tensor("half.weight"))
                assert np.array_equal(floats.rows("half.weight", 3, 9), back.tensor("half.weight")[3:9])


def test_a_grid_meets_what_is_asked_and_never_exceeds_it(mc_inside: Command, place: Path) -> None:
    def run(*target: str) -> Any:
        options = ("-o", "g.mc.safetensors", "-f", "--scheme", "grid", "--json")
        return document(mc_inside("quantize", "model.safetensors", *options, *target, cwd=place))["files"][0]

    for bits in ("2", "3.3", "6"):
        found = run("--bits", bits)
        assert float(bits) * 0.99 <= found["bits"] <= float(bits)
        assert (place / "g.mc.safetensors").stat().st_size == found["packed_bytes"]
    found = run("--target-size", "40kB")
    assert 39_600 <= (place / "g.mc.safetensors").stat().st_size <= 40_000
    for objective in ("plain", "tensor", "row"):
        found = run("--max-error", "0.01", "--objective", objective)
        assert all(0.0098 <= one["error"] <= 0.01 for one in found["tensors"])
    found = run("--snr", "20", "--overall", "--objective", "plain")
    assert 0.0098 <= found["error"] <= 0.01


def test_a_limit_that_cant_be_met_is_exit_code_4_and_writes_nothing(mc_inside: Command, place: Path) -> None:
    before = sorted(place.iterdir())
    done = mc_inside(
        "quantize", "model.safetensors", "-o", "q.safetensors", "--scheme", "int2", "--max-error", "1e-4", cwd=place
    )
    assert "above the limit 0.0001" in refused(done, 4)
    done = mc_inside(
        "quantize", "model.safetensors", "-o", "q.safetensors", "--scheme", "grid", "--target-size", "900", cwd=place
    )
    assert "takes at least" in refused(done, 4)
    assert sorted(place.iterdir()) == before


def test_keep_and_set_choose_tensors_and_must_fit_one(mc_inside: Command, place: Path) -> None:
    options = ("--keep", "half.*", "--set", r"re:decoder\..*=int8,group=64", "--set", "*.bias=bf16")
    line = ("quantize", "model.safetensors", "-o", "q.safetensors", "--scheme", "int4")
    planned = document(mc_inside(*line, *options, "-n", "--json", cwd=place))["tensors"]
    assert not (place / "q.safetensors").exists()
    expected = {
        "encoder.dense.weight": "int4", "encoder.dense.bias": "bf16", "decoder.dense.weight": "int8",
        "decoder.tied.weight": "int8",
    }  # fmt: skip
    assert {one["tensor"]: one["scheme"] for one in planned if one["scheme"]} == expected
    found = document(mc_inside(*line, *options, "--json", cwd=place))["files"][0]
    assert {one["name"]: one["scheme"] for one in found["tensors"]} == {
        "encoder.dense.weight": "int4", "encoder.dense.bias": "bf16", "decoder.dense.weight": "int8 g64",
        "decoder.tied.weight": "int8 g64",
    }  # fmt: skip
    assert "fits 'no.such'" in refused(mc_inside(*line, "-f", "--keep", "no.such", cwd=place), 2)
    assert "tensor of floats whose name fits 'step'" in refused(
        mc_inside(*line, "-f", "--set", "step=int8", cwd=place), 2
    )
    for bad in ("x", "a=int9", "a=int4,group=0", "a=int4,size=3", "a=bf16,group=3", "re:(=int4"):
        refused(mc_inside(*line, "-f", "--set", bad, cwd=place), 2)


def test_an_option_that_no_scheme_has_is_refused(mc_inside: Command, place: Path) -> None:
    line = ("quantize", "model.safetensors", "-o", "q.safetensors", "--scheme", "fp8", "--group", "32")
    assert "--group is for int and nf4" in refused(mc_inside(*line, cwd=place), 2)
    assert not (place / "q.safetensors").exists()
    assert mc_inside(*line, "--set", "decoder.*=int4", "-q", cwd=place).returncode == 0


def test_tied_tensors_stay_tied(mc_inside: Command, place: Path) -> None:
    line = ("quantize", "model.safetensors", "-o", "q.mc.safetensors", "--scheme", "int4")
    assert mc_inside(*line, "--set", "decoder.tied.weight=int8", "-q", cwd=place).returncode == 0
    with library.open(place / "q.mc.safetensors") as packed:
        ends = ("packed", "scale", "shape")
        for end in ends:
            one, other = (packed.tensor(f"decoder.{name}.weight_{end}") for name in ("dense", "tied"))
            assert np.array_equal(one, other)


def test_the_bytes_are_the_same_at_any_thread_count(mc_inside: Command, place: Path) -> None:
    trellis = ("trellis", "--bits", "3", "--effort", "4")
    for scheme in (("grid", "--bits", "3"), trellis, ("int4", "--group", "32"), ("codebook",)):
        for threads in ("1", "3"):
            line = ("-o", f"{threads}.safetensors", "-f", "-q", "--scheme", *scheme, "-T", threads)
            assert mc_inside("quantize", "model.safetensors", *line, cwd=place).returncode == 0
        assert (place / "1.safetensors").read_bytes() == (place / "3.safetensors").read_bytes()


def test_not_finite_weights_are_refused_by_name_unless_kept(
    mc_inside: Command, place: Path, built: Callable[..., bytes]
) -> None:
    w = np.ones((4, 4), np.float32)
    w[1, 1] = np.nan
    fine = np.ones((4, 4), np.float32)
    (place / "nan.safetensors").write_bytes(built({"a.weight": ("F32", w), "b.weight": ("F32", fine)}))
    line = ("quantize", "nan.safetensors", "-o", "q.safetensors", "--scheme", "int4")
    text = refused(mc_inside(*line, cwd=place), 1)
    assert "nan.safetensors" in text and "'a.weight'" in text and "NaN" in text
    assert mc_inside(*line, "--keep", "a.*", "-q", cwd=place).returncode == 0


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        (("m.safetensors", "--scheme", "grid"), 2, "need a target"),
        (("m.safetensors", "--scheme", "int4", "--bits", "3"), 2, "grid, trellis and mantissa alone"),
        (("m.safetensors", "--scheme", "grid", "--bits", "3", "--snr", "20"), 2, "Only one"),
        (("m.safetensors", "--scheme", "grid", "--bits", "3", "--overall"), 2, "--overall"),
        (("m.safetensors", "--scheme", "nf4", "--format", "compressed-tensors"), 2, "no scheme like nf4"),
        (("m.safetensors", "--scheme", "trellis", "--format", "compressed-tensors"), 2, "no scheme like trellis"),
        (("m.safetensors", "--scheme", "trellis,effort=16", "--bits", "3"), 2, "4, 8, 64 or 256"),
        (("m.safetensors", "--scheme", "int4", "--keep", "*"), 2, "no tensor that is to be"),
        (("m.mc.safetensors", "--scheme", "int4"), 1, "is packed"),
        (("q.safetensors", "--scheme", "int4"), 1, "quantized already"),
        (("none.safetensors", "--scheme", "int4"), 1, "not exist"),
    ],
)  # fmt: skip
def test_refusals(mc_inside: Command, place: Path, line: tuple[str, ...], code: int, text: str) -> None:
    (place / "model.safetensors").rename(place / "m.safetensors")
    if "q.safetensors" in line:
        library.quantize(place / "m.safetensors", place / "q.safetensors", scheme="int8")
    library.pack(place / "m.safetensors", place / "m.mc.safetensors")
    assert text in refused(mc_inside("quantize", *line, "-o", "out.safetensors", cwd=place), code)
    assert not (place / "out.safetensors").exists()


def test_dequantize_of_what_isnt_quantized_is_refused(mc_inside: Command, place: Path) -> None:
    done = mc_inside("unpack", "model.safetensors", "-o", "x.safetensors", "--dequantize", cwd=place)
    assert "no recipe" in refused(done, 1)
    refused(mc_inside("unpack", "model.safetensors", "-o", "x.safetensors", "--dtype", "bf16", cwd=place), 2)


def test_in_pipes(mc: Command, place: Path, model: bytes) -> None:
    done = mc("quantize", "-", "-o", "-", "--scheme", "int8", cwd=place, input=model)
    assert done.returncode == 0, done.stderr.decode()
    back = mc("unpack", "-", "--dequantize", cwd=place, input=done.stdout)
    assert back.returncode == 0, back.stderr.decode()
    with library.open(back.stdout) as floats, library.open(model) as plain:
        assert relative(plain.tensor("half.weight"), floats.tensor("half.weight")) < 1e-4


def test_damage_in_a_packed_quantized_file_is_found(mc_inside: Command, place: Path) -> None:
    library.quantize(place / "model.safetensors", place / "q.mc.safetensors", scheme="int4", pack=True)
    data = bytearray((place / "q.mc.safetensors").read_bytes())
    for at in (9, 100, len(data) // 2, len(data) - 1):
        data[at] ^= 4
        (place / "bad.mc.safetensors").write_bytes(data)
        data[at] ^= 4
        done = mc_inside("unpack", "bad.mc.safetensors", "-o", "x.safetensors", "--dequantize", cwd=place)
        refused(done, 3)
        assert not (place / "x.safetensors").exists()


def test_tensors_of_more_dimensions_than_arrays_have_are_refused_by_name(mc_inside: Command, tmp_path: Path) -> None:
    """safetensors allows any number, numpy 64."""
    pieces = [Piece("w", "F32", (4, *[1] * 70, 8), bytes(128)), Piece("v", "F32", (4, 4), bytes(64))]
    (tmp_path / "m.safetensors").write_bytes(build(pieces))
    for line in (("quantize", "--scheme", "int4"), ("prune", "--method", "2:4")):
        text = refused(mc_inside(line[0], "m.safetensors", "-o", "o.safetensors", *line[1:], cwd=tmp_path), 1)
        assert "m.safetensors: tensor 'w' has 72 dimensions" in text
        done = mc_inside(line[0], "m.safetensors", "-o", "o.safetensors", *line[1:], "--keep", "w", cwd=tmp_path)
        assert done.returncode == 0, done.stderr.decode()
        (tmp_path / "o.safetensors").unlink()
    with library.open(tmp_path / "m.safetensors") as plain, pytest.raises(McError, match="'w' has 72 dimensions"):
        plain.tensor("w")
