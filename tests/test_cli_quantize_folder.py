"""Folders that `mc quantize` makes: config.json and index, and what readers of compressed-tensors load."""

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
from conftest import document, refused, relative

Command = Callable[..., Any]


def model_folder(place: Path, built: Callable[..., bytes]) -> None:
    """`net`: an embedding that a head is tied to, a linear layer, a norm, a convolution, and config.json."""
    draw = np.random.default_rng(5)
    shapes = {"embed_tokens.weight": (12, 96), "up.weight": (8, 96), "norm.weight": (8,), "conv.weight": (4, 8, 3, 4)}
    (place / "net").mkdir()
    tensors = {name: ("F32", draw.normal(size=shape).astype(np.float32)) for name, shape in shapes.items()}
    (place / "net" / "model.safetensors").write_bytes(built(tensors))
    (place / "net" / "config.json").write_text('{"model_type": "some"}')


def test_a_folder_is_quantized_with_its_config_and_index(mc_inside: Command, place: Path) -> None:
    done = mc_inside("quantize", "folder", "-o", "q", "--scheme", "int4", "--group", "32", "-q", cwd=place)
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
    assert mc_inside("pack", "q", "-q", cwd=place).returncode == 0
    assert mc_inside("verify", "q.mc", "q", "-q", cwd=place).returncode == 0
    for packed in ("q", "q.mc"):
        line = ("unpack", packed, "-o", "back", "-f", "--dequantize", "--dtype", "bf16", "-q")
        done = mc_inside(*line, cwd=place)
        assert done.returncode == 0, done.stderr.decode()
        assert (place / "back" / "config.json").read_text() == "{}\n"
        assert mc_inside("verify", "back", "-q", cwd=place).returncode == 0
        shard = "model-00001-of-00002.safetensors"
        original = load_file(place / "folder" / shard)["layer.1.weight"]
        with library.open(place / "back" / shard) as back:
            assert back.dtype("layer.1.weight") == "BF16"
            assert relative(original, back.tensor("layer.1.weight")) < 0.02


def test_a_grid_of_bytes_is_a_standard_file_and_packs_to_its_entropy(mc_inside: Command, place: Path) -> None:
    """int-quantized of compressed-tensors: X.weight int8, X.weight_scale [out, 1], dequantized by their product."""
    options = ("--scheme", "grid", "--bits", "3", "--format", "compressed-tensors", "--json")
    found = document(mc_inside("quantize", "folder", "-o", "q", *options, cwd=place))
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


def test_what_is_allowed_and_not_used_is_said(mc_inside: Command, place: Path) -> None:
    def said(*target: str) -> str:
        done = mc_inside("quantize", "folder", "-f", "-o", "q", "--scheme", "grid", *target, cwd=place)
        assert done.returncode == 0
        return str((done.stdout + done.stderr).decode())

    assert "allowed" not in said("--bits", "4", "--format", "compressed-tensors")
    found = said("--bits", "10", "--format", "compressed-tensors")
    assert re.search(r"10 bits a weight were allowed and [78]\.\d+ are taken: integers of a byte", found)
    assert re.search(r"1\.00 GB were allowed and .* are taken: no step comes nearer", said("--target-size", "1GB"))


@pytest.mark.parametrize("scheme", [("int4", "--group", "32"), ("fp8",), ("grid", "--bits", "4")])
def test_what_readers_of_compressed_tensors_load_as_floats_stays(
    mc_inside: Command, place: Path, built: Callable[..., bytes], scheme: tuple[str, ...]
) -> None:
    model_folder(place, built)
    line = ("quantize", "net", "-fo", "q", "--scheme", *scheme, "--format", "compressed-tensors")
    done = mc_inside(*line, cwd=place)
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
    done = mc_inside(*line, "--keep", "embed*", cwd=place)
    assert b"1 tensors stay, which readers load as floats: conv.weight" in done.stderr
    rehearsed = mc_inside(*line, "-n", cwd=place).stdout.decode()
    listed = dict(row.split("\t")[1:] for row in rehearsed.splitlines()[1:])
    kept = {"embed_tokens.weight": "kept", "norm.weight": "kept", "conv.weight": "kept"}
    assert listed == kept | {"up.weight": scheme[0]}


def test_what_readers_of_compressed_tensors_cannot_load_is_warned_of(
    mc_inside: Command, place: Path, built: Callable[..., bytes]
) -> None:
    model_folder(place, built)
    asked = ("--format", "compressed-tensors", "--set", "embed*=int8")
    for options, warned in [
        ((), "embed_tokens.weight, conv.weight"),
        (asked, "embed_tokens.weight"),
    ]:
        done = mc_inside("quantize", "net", "-fo", "q", "--scheme", "int4", *options, cwd=place)
        text = done.stderr.decode()
        assert done.returncode == 0 and f"load these as floats, and won't find them: {warned}." in text
        assert "asymmetric" not in text
        assert "embed_tokens.weight_packed" in load_file(place / "q" / "model.safetensors")
    uneven = ("quantize", "net", "-fo", "q", "--scheme", "int4,symmetric=no", "--format", "compressed-tensors")
    assert b"transformers does not load asymmetric" in mc_inside(*uneven, cwd=place).stderr
    assert mc_inside(*uneven, "-q", cwd=place).stderr == b""
    plain = mc_inside("quantize", "net/model.safetensors", "-fo", "q.safetensors", "--scheme", "int4", cwd=place)
    assert plain.returncode == 0 and b"Warning" not in plain.stderr
    for scheme, text in [
        ("int4,group=64", "'up.weight' has 96 columns, which groups of 64"), ("fp8,format=e5m2", "no fp8 but e4m3"),
    ]:  # fmt: skip
        line = ("quantize", "net", "-o", "no", "--scheme", scheme)
        assert text in refused(mc_inside(*line, "--format", "compressed-tensors", cwd=place), 2)
        assert not (place / "no").exists()
    assert (
        mc_inside("quantize", "net", "-fo", "q", "--scheme", "int4,group=128", *asked, "-q", cwd=place).returncode == 0
    )


def test_a_head_of_its_own_is_quantized_and_not_ignored(
    mc_inside: Command, place: Path, built: Callable[..., bytes]
) -> None:
    model_folder(place, built)
    head = np.random.default_rng(6).normal(size=(12, 96)).astype(np.float32)
    (place / "net" / "model.safetensors").write_bytes(built({"lm_head.weight": ("F32", head)}))
    assert mc_inside("quantize", "net", "-o", "q", "--scheme", "int4", "-q", cwd=place).returncode == 0
    assert json.loads((place / "q" / "config.json").read_text())["quantization_config"]["ignore"] == []
