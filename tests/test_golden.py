"""Golden files: what version 1 wrote decodes for ever, and the files themselves never change unnoticed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import mc
from anatomy import dissect
from checkpoints import UNKNOWN
from mc.dtypes import DTYPES

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "fixtures" / "golden"
LISTING: dict[str, str] = json.loads((FOLDER / "golden.json").read_text())
PACKED = sorted(name for name in LISTING if name.endswith(".mc.safetensors"))


def original_of(name: str) -> Path:
    """The original beside a packed file."""
    return FOLDER / f"{name.partition('.')[0]}.safetensors"


@pytest.mark.parametrize("name", sorted(LISTING))
def test_golden_file_is_there_and_unchanged(name: str) -> None:
    assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == LISTING[name]


def test_no_golden_file_is_missing_or_unlisted() -> None:
    names = ("contexts", "dtypes", "empty", "integers", "oddities", "pruned", "quantized")
    packed = {f"{name}.v1.{level}.mc.safetensors" for name in names for level in ("fast", "default", "best")}
    assert set(LISTING) == packed | {f"{name}.safetensors" for name in names}
    assert {path.name for path in FOLDER.glob("*.safetensors")} == set(LISTING)


@pytest.mark.parametrize("name", PACKED)
def test_golden_file_decodes_to_its_original(name: str, tmp_path: Path) -> None:
    original = original_of(name).read_bytes()
    assert mc.decompress((FOLDER / name).read_bytes(), threads=1) == original
    assert mc.verify(FOLDER / name, original_of(name)).intact
    mc.unpack(FOLDER / name, tmp_path / "out", check=True)
    assert (tmp_path / "out").read_bytes() == original


@pytest.mark.parametrize("name", PACKED)
def test_tensors_of_a_golden_file_are_its_original_s(name: str) -> None:
    with mc.open(FOLDER / name) as packed, mc.open(original_of(name)) as plain:
        assert packed.names() == plain.names()
        for tensor in plain.names():
            if plain.dtype(tensor) != UNKNOWN:
                assert packed.tensor(tensor).tobytes() == plain.tensor(tensor).tobytes()


def test_golden_files_cover_all_codings_and_dtypes() -> None:
    entries = [e for n in PACKED for e in dissect((FOLDER / n).read_bytes()).manifest["tensors"].values()]
    codings = {part for entry in entries for part in entry[2].split("+")}
    assert codings >= {
        "alone", "rows", "both", "bytes", "nibbles", "palette", "huffman", "ans", "affine", "zstd", "raw", "same",
        "empty", "grid", "trellis", "sparse",
    }  # fmt: skip
    assert {entry[0] for entry in entries} >= {*DTYPES, UNKNOWN}


def test_the_script_leaves_golden_files_alone(env: dict[str, str]) -> None:
    before = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    command = [sys.executable, str(ROOT / "fixtures" / "make_golden.py")]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in FOLDER.iterdir()} == before
