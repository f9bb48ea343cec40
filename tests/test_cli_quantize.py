"""`mc quantize` and `mc unpack --dequantize` at their boundary: files, folders, limits, refusals, exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import mc as library
from checkpoints import Piece, build
from conftest import document, refused, relative
from mc.errors import McError

Command = Callable[..., Any]


@pytest.mark.parametrize("scheme", ["bf16", "fp8", "int3,group=32,symmetric=no", "codebook"])
def test_schemes_there_and_back_packed_or_not(mc: Command, place: Path, scheme: str) -> None:
    found = document(
        mc("quantize", "model.safetensors", "-o", "q.safetensors", "--scheme", scheme, "--json", cwd=place)
    )
    assert (
        mc("quantize", "model.safetensors", "-o", "q.mc.safetensors", "--scheme", scheme, "-q", cwd=place).returncode
        == 0
    )
    assert mc("unpack", "q.mc.safetensors", "-o", "same.safetensors", "-q", cwd=place).returncode == 0
    assert (place / "same.safetensors").read_bytes() == (place / "q.safetensors").read_bytes()
    for name in ("q.safetensors", "q.mc.safetensors"):
        assert mc("unpack", name, "-f", "-o", "back.safetensors", "--dequantize", "-q", cwd=place).returncode == 0
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


def test_a_grid_meets_what_is_asked_and_never_exceeds_it(mc: Command, place: Path) -> None:
    def run(*target: str) -> Any:
        options = ("-o", "g.mc.safetensors", "-f", "--scheme", "grid", "--json")
        return document(mc("quantize", "model.safetensors", *options, *target, cwd=place))["files"][0]

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


def test_a_limit_that_cant_be_met_is_exit_code_4_and_writes_nothing(mc: Command, place: Path) -> None:
    before = sorted(place.iterdir())
    done = mc(
        "quantize", "model.safetensors", "-o", "q.safetensors", "--scheme", "int2", "--max-error", "1e-4", cwd=place
    )
    assert "above the limit 0.0001" in refused(done, 4)
    done = mc(
        "quantize", "model.safetensors", "-o", "q.safetensors", "--scheme", "grid", "--target-size", "900", cwd=place
    )
    assert "takes at least" in refused(done, 4)
    assert sorted(place.iterdir()) == before


def test_keep_and_set_choose_tensors_and_must_fit_one(mc: Command, place: Path) -> None:
    options = ("--keep", "half.*", "--set", r"re:decoder\..*=int8,group=64", "--set", "*.bias=bf16")
    line = ("quantize", "model.safetensors", "-o", "q.safetensors", "--scheme", "int4")
    planned = document(mc(*line, *options, "-n", "--json", cwd=place))["tensors"]
    assert not (place / "q.safetensors").exists()
    expected = {
        "encoder.dense.weight": "int4", "encoder.dense.bias": "bf16", "decoder.dense.weight": "int8",
        "decoder.tied.weight": "int8",
    }  # fmt: skip
    assert {one["tensor"]: one["scheme"] for one in planned if one["scheme"]} == expected
    found = document(mc(*line, *options, "--json", cwd=place))["files"][0]
    assert {one["name"]: one["scheme"] for one in found["tensors"]} == {
        "encoder.dense.weight": "int4", "encoder.dense.bias": "bf16", "decoder.dense.weight": "int8 g64",
        "decoder.tied.weight": "int8 g64",
    }  # fmt: skip
    assert "fits 'no.such'" in refused(mc(*line, "-f", "--keep", "no.such", cwd=place), 2)
    assert "tensor of floats whose name fits 'step'" in refused(mc(*line, "-f", "--set", "step=int8", cwd=place), 2)
    for bad in ("x", "a=int9", "a=int4,group=0", "a=int4,size=3", "a=bf16,group=3", "re:(=int4"):
        refused(mc(*line, "-f", "--set", bad, cwd=place), 2)


def test_tied_tensors_stay_tied(mc: Command, place: Path) -> None:
    line = ("quantize", "model.safetensors", "-o", "q.mc.safetensors", "--scheme", "int4")
    assert mc(*line, "--set", "decoder.tied.weight=int8", "-q", cwd=place).returncode == 0
    with library.open(place / "q.mc.safetensors") as packed:
        ends = ("packed", "scale", "shape")
        for end in ends:
            one, other = (packed.tensor(f"decoder.{name}.weight_{end}") for name in ("dense", "tied"))
            assert np.array_equal(one, other)


def test_the_bytes_are_the_same_at_any_thread_count(mc: Command, place: Path) -> None:
    trellis = ("trellis", "--bits", "3", "--effort", "4")
    for scheme in (("grid", "--bits", "3"), trellis, ("int4", "--group", "32"), ("codebook",)):
        for threads in ("1", "3"):
            line = ("-o", f"{threads}.safetensors", "-f", "-q", "--scheme", *scheme, "-T", threads)
            assert mc("quantize", "model.safetensors", *line, cwd=place).returncode == 0
        assert (place / "1.safetensors").read_bytes() == (place / "3.safetensors").read_bytes()


def test_not_finite_weights_are_refused_by_name_unless_kept(
    mc: Command, place: Path, built: Callable[..., bytes]
) -> None:
    w = np.ones((4, 4), np.float32)
    w[1, 1] = np.nan
    fine = np.ones((4, 4), np.float32)
    (place / "nan.safetensors").write_bytes(built({"a.weight": ("F32", w), "b.weight": ("F32", fine)}))
    line = ("quantize", "nan.safetensors", "-o", "q.safetensors", "--scheme", "int4")
    text = refused(mc(*line, cwd=place), 1)
    assert "nan.safetensors" in text and "'a.weight'" in text and "NaN" in text
    assert mc(*line, "--keep", "a.*", "-q", cwd=place).returncode == 0


def test_a_folder_is_quantized_with_its_config_and_index(mc: Command, place: Path) -> None:
    done = mc("quantize", "folder", "-o", "q", "--scheme", "int4", "--group", "32", "-q", cwd=place)
    assert done.returncode == 0, done.stderr.decode()
    config = json.loads((place / "q" / "config.json").read_text())["quantization_config"]
    assert config["format"] == "pack-quantized" and config["quant_method"] == "compressed-tensors"
    assert config["config_groups"]["group_0"]["targets"] == ["Linear"]
    assert config["config_groups"]["group_0"]["weights"] == {
        "num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32, "dynamic": False,
    }  # fmt: skip
    index = json.loads((place / "q" / "model.safetensors.index.json").read_text())
    for name, shard in index["weight_map"].items():
        assert name in load_file(place / "q" / shard)
    assert mc("pack", "q", "-q", cwd=place).returncode == 0
    assert mc("verify", "q.mc", "q", "-q", cwd=place).returncode == 0
    for packed in ("q", "q.mc"):
        line = ("unpack", packed, "-o", "back", "-f", "--dequantize", "--dtype", "bf16", "-q")
        done = mc(*line, cwd=place)
        assert done.returncode == 0, done.stderr.decode()
        assert (place / "back" / "config.json").read_text() == "{}\n"
        assert mc("verify", "back", "-q", cwd=place).returncode == 0
        shard = "model-00001-of-00002.safetensors"
        original = load_file(place / "folder" / shard)["layer.1.weight"]
        with library.open(place / "back" / shard) as back:
            assert back.dtype("layer.1.weight") == "BF16"
            assert relative(original, back.tensor("layer.1.weight")) < 0.02


def test_a_grid_of_bytes_is_a_standard_file_and_packs_to_its_entropy(mc: Command, place: Path) -> None:
    """int-quantized of compressed-tensors: X.weight int8, X.weight_scale [out, 1], dequantized by their product."""
    options = ("--scheme", "grid", "--bits", "3", "--format", "compressed-tensors", "--json")
    found = document(mc("quantize", "folder", "-o", "q", *options, cwd=place))
    config = json.loads((place / "q" / "config.json").read_text())["quantization_config"]
    assert config["format"] == "int-quantized"
    group = config["config_groups"]["group_0"]
    assert group["weights"] == {
        "num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False,
    }  # fmt: skip
    assert group["input_activations"]["dynamic"] and group["input_activations"]["strategy"] == "token"
    for number, file in enumerate(found["files"], 1):
        shard, name = Path(file["target"]).name, f"layer.{number}.weight"
        stored = load_file(place / "q" / shard)
        assert stored[name].dtype == np.int8 and stored[f"{name}_scale"].shape == (64, 1)
        original = load_file(place / "folder" / shard)[name]
        error = relative(original, stored[name] * stored[f"{name}_scale"])
        assert error == pytest.approx(file["error"], rel=1e-5) and file["bits"] <= 3 and error < 0.08
        assert (np.abs(original).max(axis=1) <= 127.5 * stored[f"{name}_scale"][:, 0]).all()


def test_what_is_allowed_and_not_used_is_said(mc: Command, place: Path) -> None:
    def said(*target: str) -> str:
        done = mc("quantize", "folder", "-f", "-o", "q", "--scheme", "grid", *target, cwd=place)
        assert done.returncode == 0
        return str((done.stdout + done.stderr).decode())

    assert "allowed" not in said("--bits", "4", "--format", "compressed-tensors")
    found = said("--bits", "10", "--format", "compressed-tensors")
    assert re.search(r"10 bits a weight were allowed and [78]\.\d+ are taken: integers of a byte", found)
    assert re.search(r"1\.00 GB were allowed and .* are taken: no step comes nearer", said("--target-size", "1GB"))


def model_folder(place: Path, built: Callable[..., bytes]) -> None:
    """`net`: an embedding that a head is tied to, a linear layer, a norm, a convolution, and config.json."""
    draw = np.random.default_rng(5)
    shapes = {"embed_tokens.weight": (12, 96), "up.weight": (8, 96), "norm.weight": (8,), "conv.weight": (4, 8, 3, 4)}
    (place / "net").mkdir()
    tensors = {name: ("F32", draw.normal(size=shape).astype(np.float32)) for name, shape in shapes.items()}
    (place / "net" / "model.safetensors").write_bytes(built(tensors))
    (place / "net" / "config.json").write_text('{"model_type": "some"}')


@pytest.mark.parametrize("scheme", [("int4", "--group", "32"), ("fp8",), ("grid", "--bits", "4")])
def test_what_readers_of_compressed_tensors_load_as_floats_stays(
    mc: Command, place: Path, built: Callable[..., bytes], scheme: tuple[str, ...]
) -> None:
    model_folder(place, built)
    line = ("quantize", "net", "-fo", "q", "--scheme", *scheme, "--format", "compressed-tensors")
    done = mc(*line, cwd=place)
    assert done.returncode == 0, done.stderr.decode()
    said = "2 tensors stay, which readers load as floats: embed_tokens.weight, conv.weight"
    assert said in done.stderr.decode() and b"Warning" not in done.stderr
    with (
        library.open(place / "net" / "model.safetensors") as original,
        library.open(place / "q" / "model.safetensors") as stored,
    ):
        for name in ("embed_tokens.weight", "conv.weight", "norm.weight"):
            assert stored.dtype(name) == "F32" and stored.tensor(name).tobytes() == original.tensor(name).tobytes()
        assert "up.weight_scale" in stored.names()
    config = json.loads((place / "q" / "config.json").read_text())["quantization_config"]
    assert config["ignore"][:-1] == ["conv", "embed_tokens", "norm"]
    ties = config["ignore"][-1]
    assert ties.startswith("re:")
    for head in ("lm_head", "model.lm_head", "cls.predictions.decoder"):
        assert re.match(ties[3:], head)
    assert not re.match(ties[3:], "lm_head.dense") and not re.match(ties[3:], "up")
    done = mc(*line, "--keep", "embed*", cwd=place)
    assert b"1 tensors stay, which readers load as floats: conv.weight" in done.stderr
    rehearsed = mc(*line, "-n", cwd=place).stdout.decode()
    listed = dict(row.split("\t")[1:] for row in rehearsed.splitlines()[1:])
    kept = {"embed_tokens.weight": "kept", "norm.weight": "kept", "conv.weight": "kept"}
    assert listed == kept | {"up.weight": scheme[0]}


def test_what_readers_of_compressed_tensors_cannot_load_is_warned_of(
    mc: Command, place: Path, built: Callable[..., bytes]
) -> None:
    model_folder(place, built)
    asked = ("--format", "compressed-tensors", "--set", "embed*=int8")
    for options, warned in [
        ((), "embed_tokens.weight, conv.weight"),
        (asked, "embed_tokens.weight"),
    ]:
        done = mc("quantize", "net", "-fo", "q", "--scheme", "int4", *options, cwd=place)
        text = done.stderr.decode()
        assert done.returncode == 0 and f"load these as floats, and won't find them: {warned}." in text
        assert "asymmetric" not in text
        assert "embed_tokens.weight_packed" in load_file(place / "q" / "model.safetensors")
    uneven = ("quantize", "net", "-fo", "q", "--scheme", "int4,symmetric=no", "--format", "compressed-tensors")
    assert b"transformers does not load asymmetric" in mc(*uneven, cwd=place).stderr
    assert mc(*uneven, "-q", cwd=place).stderr == b""
    plain = mc("quantize", "net/model.safetensors", "-fo", "q.safetensors", "--scheme", "int4", cwd=place)
    assert plain.returncode == 0 and b"Warning" not in plain.stderr
    for scheme, text in [
        ("int4,group=64", "'up.weight' has 96 columns, which groups of 64"), ("fp8,format=e5m2", "no fp8 but e4m3"),
    ]:  # fmt: skip
        line = ("quantize", "net", "-o", "no", "--scheme", scheme)
        assert text in refused(mc(*line, "--format", "compressed-tensors", cwd=place), 2)
        assert not (place / "no").exists()
    assert mc("quantize", "net", "-fo", "q", "--scheme", "int4,group=128", *asked, "-q", cwd=place).returncode == 0


def test_a_head_of_its_own_is_quantized_and_not_ignored(mc: Command, place: Path, built: Callable[..., bytes]) -> None:
    model_folder(place, built)
    head = np.random.default_rng(6).normal(size=(12, 96)).astype(np.float32)
    (place / "net" / "model.safetensors").write_bytes(built({"lm_head.weight": ("F32", head)}))
    assert mc("quantize", "net", "-o", "q", "--scheme", "int4", "-q", cwd=place).returncode == 0
    assert json.loads((place / "q" / "config.json").read_text())["quantization_config"]["ignore"] == []


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        (("m.safetensors", "--scheme", "grid"), 2, "need a target"),
        (("m.safetensors", "--scheme", "int4", "--bits", "3"), 2, "grid and trellis alone"),
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
def test_refusals(mc: Command, place: Path, line: tuple[str, ...], code: int, text: str) -> None:
    (place / "model.safetensors").rename(place / "m.safetensors")
    if "q.safetensors" in line:
        library.quantize(place / "m.safetensors", place / "q.safetensors", scheme="int8")
    library.pack(place / "m.safetensors", place / "m.mc.safetensors")
    assert text in refused(mc("quantize", *line, "-o", "out.safetensors", cwd=place), code)
    assert not (place / "out.safetensors").exists()


def test_dequantize_of_what_isnt_quantized_is_refused(mc: Command, place: Path) -> None:
    done = mc("unpack", "model.safetensors", "-o", "x.safetensors", "--dequantize", cwd=place)
    assert "no recipe" in refused(done, 1)
    refused(mc("unpack", "model.safetensors", "-o", "x.safetensors", "--dtype", "bf16", cwd=place), 2)


def test_in_pipes(mc: Command, place: Path, model: bytes) -> None:
    done = mc("quantize", "-", "-o", "-", "--scheme", "int8", cwd=place, input=model)
    assert done.returncode == 0, done.stderr.decode()
    back = mc("unpack", "-", "--dequantize", cwd=place, input=done.stdout)
    assert back.returncode == 0, back.stderr.decode()
    with library.open(back.stdout) as floats, library.open(model) as plain:
        assert relative(plain.tensor("half.weight"), floats.tensor("half.weight")) < 1e-4


def test_damage_in_a_packed_quantized_file_is_found(mc: Command, place: Path) -> None:
    library.quantize(place / "model.safetensors", place / "q.mc.safetensors", scheme="int4", pack=True)
    data = bytearray((place / "q.mc.safetensors").read_bytes())
    for at in (9, 100, len(data) // 2, len(data) - 1):
        data[at] ^= 4
        (place / "bad.mc.safetensors").write_bytes(data)
        data[at] ^= 4
        done = mc("unpack", "bad.mc.safetensors", "-o", "x.safetensors", "--dequantize", cwd=place)
        refused(done, 3)
        assert not (place / "x.safetensors").exists()


def test_verify_against_recomputes_every_error(mc: Command, place: Path) -> None:
    for name, scheme in (("q.mc.safetensors", ("int4",)), ("g.safetensors", ("grid", "--max-error", "0.01"))):
        line = ("quantize", "model.safetensors", "-o", name, "--json", "--scheme", *scheme)
        made = {one["name"]: one for one in document(mc(*line, cwd=place))["files"][0]["tensors"]}
        done = mc("verify", name, "--against", "model.safetensors", "--json", cwd=place)
        found = {one["name"]: one for one in document(done)["tensors"]}
        for tensor, one in found.items():
            assert one["error"] == pytest.approx(made[tensor]["error"] if tensor in made else 0, rel=1e-6)
    line = ("verify", "g.safetensors", "--against", "model.safetensors", "--max-error")
    assert mc(*line, "0.0101", "-q", cwd=place).returncode == 0
    for more in ((), ("--overall",)):
        done = mc(*line, "0.005", "-q", *more, cwd=place)
        assert done.returncode == 4 and b"Traceback" not in done.stderr


def test_verify_against_another_model_is_no_match(mc: Command, place: Path, built: Callable[..., bytes]) -> None:
    library.quantize(place / "model.safetensors", place / "q.safetensors", scheme="int4")
    (place / "other.safetensors").write_bytes(built({"half.weight": ("F16", np.zeros((3, 3), np.float16))}))
    done = mc("verify", "q.safetensors", "--against", "other.safetensors", cwd=place)
    assert done.returncode == 3 and b"Its shape is [32, 192], and the original's [3, 3]." in done.stdout
    for line in (("--max-error", "1"), ("--against", "m", "--overall"), ("model.safetensors", "--against", "m")):
        refused(mc("verify", "q.safetensors", *line, cwd=place), 2)


def test_numbers_that_are_nan_in_both_hide_no_error(
    mc_inside: Command, tmp_path: Path, built: Callable[..., bytes], recwarn: pytest.WarningsRecorder
) -> None:
    weights = np.random.default_rng(0).normal(size=(16, 16))
    odd = np.array([np.nan, np.inf, 1e200])
    (tmp_path / "m.safetensors").write_bytes(built({"w": ("F64", weights), "odd": ("F64", odd)}))
    (tmp_path / "n.safetensors").write_bytes(built({"w": ("F64", weights * 1.1), "odd": ("F64", odd)}))
    line = ("verify", "n.safetensors", "--against", "m.safetensors", "--json")
    assert document(mc_inside(*line, cwd=tmp_path))["error"] == pytest.approx(0.01)
    assert mc_inside(*line, "--max-error", "0.001", "--overall", cwd=tmp_path).returncode == 4
    assert not recwarn.list


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
