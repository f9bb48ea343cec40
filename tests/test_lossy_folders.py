"""Limits of folders: one step, or one threshold, for the tensors of all shards, and never more than was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mc as library
from mc.errors import LimitError, McError, UsageError
from mc.lossy.requests import Target, parse_request

Built = Callable[..., bytes]
SIZES = (90, 160, 40)  # rows of the shards' matrices
DEVIATIONS = (0.02, 0.05, 0.4)  # of their weights, so that limits of each by itself would be met otherwise


@pytest.fixture
def folder(tmp_path: Path, built: Built) -> Path:
    """Three shards with matrices, the last tied to one of the first, and a fourth without any."""
    draw = np.random.default_rng(5)
    shards: dict[str, dict[str, tuple[str, np.ndarray]]] = {}
    for number, (rows, deviation) in enumerate(zip(SIZES, DEVIATIONS, strict=True)):
        w = (draw.standard_t(4, size=(rows, 128)) * deviation).astype(np.float32)
        shards[f"m-{number}.safetensors"] = {
            f"layer.{number}.weight": ("F32", w),
            f"layer.{number}.bias": ("F32", w[0].copy()),
        }
    shards["m-2.safetensors"]["head.weight"] = shards["m-0.safetensors"]["layer.0.weight"]
    shards["m-3.safetensors"] = {"norm.weight": ("F32", draw.normal(size=300).astype(np.float32))}
    return written(tmp_path / "in", shards, built)


def written(path: Path, shards: dict[str, dict[str, tuple[str, np.ndarray]]], built: Built) -> Path:
    path.mkdir()
    for name, tensors in shards.items():
        (path / name).write_bytes(built(tensors))
    listed = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    (path / "config.json").write_text("{}")
    return path


def shards_bytes(path: Path) -> int:
    return sum(one.stat().st_size for one in path.glob("*.mc.safetensors"))


def pooled(before: Path, after: Path) -> float:
    found = [one for one in library.measure(after, before) if one.error]
    weights: dict[str, float] = {}
    for shard in before.glob("*.safetensors"):
        with library.open(shard) as plain:
            weights |= {
                name: float((plain.tensor(name).astype(np.float64) ** 2).sum())
                for name in plain.names()
                if name in {one.name for one in found}
            }
    return sum(one.error * weights[one.name] for one in found) / sum(weights.values())


@pytest.mark.parametrize("scheme", ["grid", "trellis,effort=4"])
def test_quantized_shards_meet_a_size_and_an_error_together(tmp_path: Path, folder: Path, scheme: str) -> None:
    out = tmp_path / "out.mc"
    library.quantize(folder, out, scheme=scheme, limit=Target("size", 30_000), pack=True)
    assert 0.995 * 30_000 <= shards_bytes(out) <= 30_000
    library.quantize(folder, tmp_path / "e.mc", scheme=scheme, limit=Target("error", 0.02, True), pack=True)
    assert 0.99 * 0.02 <= pooled(folder, tmp_path / "e.mc") <= 0.02


def test_quantized_shards_meet_bits_by_one_step(tmp_path: Path, folder: Path) -> None:
    limit = Target("bits", 3.0)
    found = library.quantize(folder, tmp_path / "q.mc", scheme="grid", limit=limit, objective="plain", pack=True).files
    weights = sum(one.weights for one in found)
    bits = sum(one.bits * one.weights for one in found) / weights
    assert 0.995 * 3.0 <= bits <= 3.0
    # By one step, each tensor has the bits that its weights are worth: an octave of deviation is a bit.
    each = [file.tensors[0].bits for file in found[:3]]
    assert each[1] - each[0] == pytest.approx(np.log2(2.5), abs=0.3)
    assert each[2] - each[1] == pytest.approx(3, abs=0.6)  # a small one: its tables weigh more
    assert [one.weights for one in found] == [90 * 128, 160 * 128, (40 + 90) * 128, 0]


def test_a_folder_of_one_shard_is_quantized_as_its_file(tmp_path: Path, folder: Path, built: Built) -> None:
    w = np.random.default_rng(1).normal(size=(64, 96)).astype(np.float32)
    one = written(tmp_path / "one", {"m.safetensors": {"a.weight": ("F32", w)}}, built)
    for limit in (Target("size", 3000), Target("error", 0.01, True)):
        library.quantize(one, tmp_path / "folder", scheme="grid", limit=limit)
        library.quantize(one / "m.safetensors", tmp_path / "file.safetensors", scheme="grid", limit=limit)
        assert (tmp_path / "folder" / "m.safetensors").read_bytes() == (tmp_path / "file.safetensors").read_bytes()


@pytest.mark.parametrize("method", ["magnitude", "low-rank"])
def test_pruned_shards_meet_a_size_and_an_error_together(tmp_path: Path, folder: Path, method: str) -> None:
    full = tmp_path / "full.mc"
    library.pack(folder, full)
    limit = int(0.6 * shards_bytes(full))
    library.prune(folder, tmp_path / "p.mc", method=method, limit=Target("size", limit), pack=True)
    fine = 0.995 if method == "magnitude" else 0.97  # a component is 1 % of the file
    assert fine * limit <= shards_bytes(tmp_path / "p.mc") <= limit
    library.prune(folder, tmp_path / "e", method=method, limit=Target("error", 0.1, True))
    assert (0.099 if method == "magnitude" else 0.09) <= pooled(folder, tmp_path / "e") <= 0.1


def test_a_sparsity_for_all_is_shared_out_over_shards(tmp_path: Path, folder: Path) -> None:
    found = library.prune(folder, tmp_path / "p", method="magnitude,sparsity=0.5").files
    listed = {one.name: one for file in found for one in file.tensors}
    free = [one for name, one in listed.items() if name != "head.weight"]  # tied: as layer.0 has it
    assert sum(one.zeros for one in free) == round(0.5 * sum(one.weights for one in free))
    assert listed["layer.0.weight"].sparsity > 0.6 > 0.2 > listed["layer.2.weight"].sparsity
    assert listed["head.weight"].zeros == listed["layer.0.weight"].zeros


def test_what_is_tied_across_shards_stays_tied(tmp_path: Path, folder: Path) -> None:
    sets = [("head.weight", "int8")]
    library.quantize(folder, tmp_path / "q", scheme="int4", sets=sets)
    with (
        library.open(tmp_path / "q" / "m-0.safetensors") as one,
        library.open(tmp_path / "q" / "m-2.safetensors") as two,
    ):
        for end in ("packed", "scale"):
            assert np.array_equal(one.tensor(f"layer.0.weight_{end}"), two.tensor(f"head.weight_{end}"))
    report = library.quantize(folder, tmp_path / "k", scheme="int4", keep=["layer.0.*"])
    assert [one.tied for one in report.files] == [(), (), (("head.weight", "layer.0.weight"),), ()]


def test_what_all_shards_cant_meet_writes_nothing(tmp_path: Path, folder: Path) -> None:
    for limit in (Target("size", 900), Target("bits", 1e-4)):
        with pytest.raises(LimitError, match=r"in takes at least \d+ bytes"):
            library.quantize(folder, tmp_path / "out", scheme="grid", limit=limit)
    with pytest.raises(LimitError, match=r"in: the error over all is .*, above the limit 0.0001"):
        library.quantize(folder, tmp_path / "out", scheme="int2", limit=Target("error", 1e-4, True))
    with pytest.raises(LimitError, match=r"in takes at least \d+ bytes"):
        library.prune(folder, tmp_path / "out", method="magnitude", limit=Target("size", 900))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_two_checkpoints_in_one_folder_are_done_one_by_one(tmp_path: Path, built: Built) -> None:
    (tmp_path / "in").mkdir()
    draw = np.random.default_rng(2)
    for name, shape in (("a", (40, 64)), ("b", (48, 32)), ("c", (33,))):
        tensors = {"w": ("F32", draw.normal(size=shape).astype(np.float32)), name: ("F32", np.ones(3, np.float32))}
        (tmp_path / "in" / f"{name}.safetensors").write_bytes(built(tensors))
    library.prune(tmp_path / "in", tmp_path / "p", method="magnitude,sparsity=0.5")
    library.quantize(tmp_path / "in", tmp_path / "q", scheme="grid", limit=Target("error", 0.01))
    for name in ("a", "b"):
        one = tmp_path / "in" / f"{name}.safetensors"
        library.prune(one, tmp_path / "p.safetensors", method="magnitude,sparsity=0.5")
        library.quantize(one, tmp_path / "q.safetensors", scheme="grid", limit=Target("error", 0.01))
        for made in ("p", "q"):
            alone = (tmp_path / f"{made}.safetensors").read_bytes()
            assert (tmp_path / made / f"{name}.safetensors").read_bytes() == alone
    with library.open(tmp_path / "p" / "c.safetensors") as untouched:
        assert untouched.tensor("w").all()
    for call in (
        lambda: library.quantize(tmp_path / "in", tmp_path / "out", scheme="grid", limit=Target("bits", 3)),
        lambda: library.prune(tmp_path / "in", tmp_path / "out", method="magnitude", limit=Target("error", 0.1, True)),
    ):
        with pytest.raises(McError, match=r"b\.safetensors has a tensor 'w', and so has .*a\.safetensors"):
            call()
    with pytest.raises(McError, match="one file at a time for --mask-out"):
        library.prune(tmp_path / "in", tmp_path / "out", method="2:4", mask_out=tmp_path / "m.safetensors")
    assert not (tmp_path / "out").exists() and not (tmp_path / "m.safetensors").exists()


def test_dequantized_folders_state_the_dtype_that_was_asked_for(tmp_path: Path, folder: Path) -> None:
    inner = {"dtype": "float16", "hidden_size": 8}
    config = {"torch_dtype": "float32", "vision_config": inner, "note": "float32", "size": {"dtype": "int8"}}
    (folder / "config.json").write_text(json.dumps(config))
    library.quantize(folder, tmp_path / "q", scheme=replace(parse_request("int4,group=32"), standard=True))
    stored = json.loads((tmp_path / "q" / "config.json").read_text())
    assert stored.pop("quantization_config") and stored == config

    library.dequantize(tmp_path / "q", tmp_path / "own")
    assert json.loads((tmp_path / "own" / "config.json").read_text()) == config
    library.dequantize(tmp_path / "q", tmp_path / "b", dtype="bf16")
    changed = {**config, "torch_dtype": "bfloat16", "vision_config": {**inner, "dtype": "bfloat16"}}
    assert json.loads((tmp_path / "b" / "config.json").read_text()) == changed
    with library.open(tmp_path / "b" / "m-0.safetensors") as shard:
        assert {shard.dtype(name) for name in shard.names()} == {"BF16"}


def test_what_readers_load_is_said_where_they_would_load_nothing(built: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "model.safetensors").write_bytes(built({"w": ("F32", np.ones((4, 4), np.float32))}))
    with pytest.raises(UsageError, match=r"a matrix NAME\.weight"):
        library.quantize(tmp_path / "f", tmp_path / "q", scheme=replace(parse_request("int4"), standard=True))
