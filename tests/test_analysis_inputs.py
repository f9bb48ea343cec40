"""Recorded layer inputs become the statistics file: sums against numpy, imatrix files, what is refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from conftest import safetensors
from mc.errors import DamagedError
from mc.lossy.imatrix import read_imatrix

if TYPE_CHECKING:
    import subprocess

Command = Callable[..., "subprocess.CompletedProcess[bytes]"]
NAME = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def acts(tmp_path: Path) -> dict[str, np.ndarray]:
    """Two files of inputs in `tmp_path`: one layer in both, in f32 and bf16, another in one of them."""
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(500, 24)).astype(np.float32), rng.normal(size=(3, 40, 24)).astype(ml_dtypes.bfloat16)
    other = rng.laplace(size=(70, 8)).astype(np.float16)
    first: dict[str, tuple[str, np.ndarray]] = {"a.weight": ("F32", one), "b.weight": ("F16", other)}
    (tmp_path / "1.safetensors").write_bytes(safetensors(first))
    (tmp_path / "2.safetensors").write_bytes(safetensors({"a.weight": ("BF16", two.view(np.uint16))}))
    return {
        "a.weight": np.concatenate([one.astype(np.float64), two.astype(np.float64).reshape(-1, 24)]),
        "b.weight": other.astype(np.float64),
    }


def both(*more: str) -> tuple[str, ...]:
    named = ("--inputs", "1.safetensors", "--inputs", "2.safetensors")
    return ("analyze", *named, "--stats-out", "stats.safetensors", *more)


def test_sums_over_all_files_are_those_of_numpy(
    mc_inside: Command, tmp_path: Path, acts: dict[str, np.ndarray]
) -> None:
    done = mc_inside(*both("--gram", "--json"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    stats = load_file(tmp_path / "stats.safetensors")
    assert sorted(stats) == [f"{name}.{part}" for name in sorted(acts) for part in ("counts", "in_sum2", "xtx")]
    for name, x in acts.items():
        assert stats[f"{name}.counts"].dtype == np.int64 and stats[f"{name}.counts"].tolist() == [len(x)]
        assert stats[f"{name}.in_sum2"].dtype == np.float32
        np.testing.assert_allclose(stats[f"{name}.in_sum2"], (x**2).sum(axis=0), rtol=1e-6)
        np.testing.assert_allclose(stats[f"{name}.xtx"], x.T @ x, rtol=1e-5, atol=1e-4)
    report = json.loads(done.stdout)
    assert [one["name"] for one in report["statistics"]] == ["a.weight", "b.weight"]
    assert report["checkpoints"][0]["tensors"][1]["fits"][0]["model"] in ("laplace", "generalized gaussian")


def test_a_sample_of_rows_is_seeded_and_scales(mc_inside: Command, tmp_path: Path, acts: dict[str, np.ndarray]) -> None:
    found = []
    for seed in ("1", "1", "2"):
        done = mc_inside(*both("--quick", "--sample", "2400", "--seed", seed, "-f", "-q"), cwd=tmp_path)
        assert done.returncode == 0, done.stderr.decode()
        found.append((tmp_path / "stats.safetensors").read_bytes())
    assert found[0] == found[1] != found[2]
    stats = load_file(tmp_path / "stats.safetensors")
    assert stats["a.weight.counts"].tolist() == [200] and stats["b.weight.counts"].tolist() == [70]


def imatrix(path: Path, tensors: dict[str, np.ndarray]) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "imatrix")
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_an_imatrix_is_converted_and_its_names_mapped(mc_inside: Command, tmp_path: Path) -> None:
    sums, experts = np.arange(1, 9, dtype=np.float32), np.ones((2, 4), np.float32)
    imatrix(tmp_path / "m.gguf", {
        "blk.0.attn_q.weight.in_sum2": sums, "blk.0.attn_q.weight.counts": np.array([[12]], np.float32),
        "blk.1.odd.weight.in_sum2": experts, "blk.1.odd.weight.counts": np.array([[3], [4]], np.float32),
    })  # fmt: skip
    line = ("analyze", "--inputs", "m.gguf", "--stats-out", "s.safetensors")
    assert mc_inside(*line, cwd=tmp_path).returncode == 0
    stats = load_file(tmp_path / "s.safetensors")
    assert stats[f"{NAME}.in_sum2"].tolist() == sums.tolist() and stats[f"{NAME}.counts"].tolist() == [12]
    assert stats["blk.1.odd.weight.in_sum2"].tolist() == [2] * 4 and stats["blk.1.odd.weight.counts"].tolist() == [7]
    bare = NAME.removeprefix("model.")
    (tmp_path / "model.safetensors").write_bytes(safetensors({bare: ("F32", np.ones((2, 8), "f4"))}))
    assert mc_inside(*line, "-f", "model.safetensors", cwd=tmp_path).returncode == 0
    assert f"{bare}.in_sum2" in load_file(tmp_path / "s.safetensors")


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"x": ("F32", np.ones(3, "f4"))}, "[samples, features]"),
        ({"x": ("F32", np.full((3, 2), np.nan, "f4"))}, "NaN or infinity"),
        ({"x": ("F32", np.full((3, 2), 3e38, "f4"))}, "F32 can't hold"),
        ({"x": ("BOOL", np.ones((3, 2), np.uint8))}, "BOOL"),
    ],
)
def test_what_are_no_inputs_is_refused_by_name(
    mc_inside: Command, tmp_path: Path, recwarn: pytest.WarningsRecorder, tensors: dict[str, Any], said: str
) -> None:
    (tmp_path / "x.safetensors").write_bytes(safetensors(tensors))
    done = mc_inside("analyze", "--quick", "--inputs", "x.safetensors", "--stats-out", "s", cwd=tmp_path)
    message = done.stderr.decode()
    assert done.returncode == 1 and said in message and "'x'" in message and not recwarn.list
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]  # nothing half-written


def test_damaged_and_odd_imatrix_files(mc_inside: Command, tmp_path: Path) -> None:
    imatrix(tmp_path / "no.gguf", {"some.weight": np.ones(4, np.float32)})
    whole = (tmp_path / "no.gguf").read_bytes()
    line = ("--stats-out", "s.safetensors")
    assert mc_inside("analyze", "--inputs", "no.gguf", *line, cwd=tmp_path).returncode == 1
    for name, content in (("empty", b""), ("cut", whole[:60]), ("short", whole[:-20]), ("text", b"not at all")):
        (tmp_path / f"{name}.gguf").write_bytes(content)
        done = mc_inside("analyze", "--inputs", f"{name}.gguf", *line, cwd=tmp_path)
        assert done.returncode == 3 and name in done.stderr.decode(), done.stderr.decode()
    assert mc_inside("analyze", "--inputs", "no.gguf", cwd=tmp_path).returncode == 2
    assert not (tmp_path / "s.safetensors").exists()


def gguf(*tensors: tuple[str, tuple[int, ...], int, bytes]) -> bytes:
    """An imatrix as llama.cpp writes it: no architecture, dimensions innermost first, data in steps of 32 bytes."""

    def text(words: str) -> bytes:
        return struct.pack("<Q", len(words)) + words.encode()

    keys = text("general.type") + struct.pack("<I", 8) + text("imatrix")
    keys += text("imatrix.datasets") + struct.pack("<IIQ", 9, 8, 1) + text("wiki.txt")
    keys += text("imatrix.chunk_count") + struct.pack("<II", 4, 5)
    keys += text("imatrix.chunk_size") + struct.pack("<II", 4, 512)
    head, data = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 4) + keys, b""
    for name, dims, kind, raw in tensors:
        head += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, len(data))
        data += raw + bytes(-len(raw) % 32)
    return head + bytes(-len(head) % 32) + data


def floats(*numbers: float) -> bytes:
    return np.array(numbers, "<f4").tobytes()


def test_an_imatrix_as_llama_cpp_lays_it_out(mc_inside: Command, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf(
        ("blk.0.attn_q.weight.in_sum2", (4, 1), 0, floats(1, 2, 3, 4)),
        ("blk.0.attn_q.weight.counts", (1, 1), 0, floats(7)),
        ("blk.0.ffn_down_exps.weight.in_sum2", (2, 3), 0, floats(1, 2, 0, 0, 5, 6)),
        ("blk.0.ffn_down_exps.weight.counts", (1, 3), 0, floats(1, 0, 2)),  # one expert was never asked
    ))  # fmt: skip
    done = mc_inside("analyze", "--inputs", "m.gguf", "--stats-out", "s.safetensors", cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    stats = load_file(tmp_path / "s.safetensors")
    assert stats[f"{NAME}.in_sum2"].tolist() == [1, 2, 3, 4] and stats[f"{NAME}.counts"].tolist() == [7]
    experts = "model.layers.0.mlp.experts.down_proj.weight"
    assert stats[f"{experts}.in_sum2"].tolist() == [6, 8] and stats[f"{experts}.counts"].tolist() == [3]


LAYER = "blk.0.attn_q.weight"


@pytest.mark.parametrize(
    ("sums", "counts"),
    [
        (((2, 1), 0, floats(1, 2)), ((1, 1), 0, floats(1e30))),  # more samples than an integer holds
        (((2, 1), 0, floats(-1, 2)), ((1, 1), 0, floats(3))),
        (((2, 1), 0, floats(1, np.inf)), ((1, 1), 0, floats(3))),
        (((2, 1), 0, floats(1, 2)), ((1, 1), 0, floats(np.nan))),
        (((), 0, floats(1)), ((), 0, floats(3))),
        (((0, 1), 0, b""), ((1, 1), 0, floats(3))),
        (((2, 2), 0, floats(1, 2, 3, 4)), ((1, 3), 0, floats(1, 2, 3))),
        (((32, 1), 8, bytes(34)), ((1, 1), 0, floats(3))),  # Q8_0, whose bytes are no numbers
        (((2, 1), 26, bytes(8)), ((1, 1), 0, floats(3))),  # I32
        (((2**62, 4), 0, floats(1)), ((1, 1), 0, floats(3))),
    ],
)
def test_an_imatrix_of_odd_numbers_is_damaged(tmp_path: Path, sums: Any, counts: Any) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(gguf((f"{LAYER}.in_sum2", *sums), (f"{LAYER}.counts", *counts)))
    with pytest.raises(DamagedError, match=r"odd\.gguf"):
        read_imatrix(path)


def test_gguf_files_that_claim_too_much(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    nested = struct.pack("<IQ", 9, 1) * 5000  # arrays in arrays
    key = struct.pack("<Q", 1) + b"a" + struct.pack("<I", 9)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key + nested)
    with pytest.raises(DamagedError, match="sound GGUF"):
        read_imatrix(path)
    far = "blk.99999999.attn_q.weight"  # a name for each of so many layers would take minutes
    path.write_bytes(gguf((f"{far}.in_sum2", (1, 1), 0, floats(1)), (f"{far}.counts", (1, 1), 0, floats(2))))
    assert [one.name for one in read_imatrix(path)] == [far]


def test_the_old_format_of_imatrix_files_is_told_apart(mc_inside: Command, tmp_path: Path) -> None:
    content = struct.pack("<ii", 1, len(LAYER)) + LAYER.encode() + struct.pack("<ii", 7, 4) + floats(1, 2, 3, 4)
    (tmp_path / "imatrix.dat").write_bytes(content)
    done = mc_inside("analyze", "--inputs", "imatrix.dat", "--stats-out", "s.safetensors", cwd=tmp_path)
    assert done.returncode == 1 and "llama-imatrix --in-file" in done.stderr.decode(), done.stderr.decode()
