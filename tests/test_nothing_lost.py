"""What must never be lost: a source, a folder's other files, a shard that verify doesn't see."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import mc
from mc.errors import McError
from mc.packing import _Digest
from mc.parallel import workers
from mc.source import Source


def small(name: str = "w") -> bytes:
    """A safetensors file with one tensor of that name."""
    header = json.dumps({name: {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"abc"


def test_a_source_is_never_its_own_target(tmp_path: Path) -> None:
    source = tmp_path / "a.safetensors"
    source.write_bytes(small())
    with pytest.raises(McError, match="source and target at once"):
        mc.pack(source, source)
    with pytest.raises(McError, match="source and target at once"), source.open("ab") as same:
        mc.pack(source, same)
    assert source.read_bytes() == small()


def test_a_stream_that_appends_gets_a_whole_file(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(small())
    with (tmp_path / "packed").open("ab") as out:
        mc.pack(tmp_path / "a.safetensors", out)
    assert mc.decompress((tmp_path / "packed").read_bytes()) == small()


def test_a_folder_is_replaced_only_by_all_it_holds(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a.safetensors").write_bytes(small())
    mc.pack(tmp_path / "m", tmp_path / "t")
    mc.pack(tmp_path / "m", tmp_path / "t")  # nothing in it that isn't written again
    (tmp_path / "t" / "keep.txt").write_text("precious")
    with pytest.raises(McError, match=r"holds keep\.txt"):
        mc.pack(tmp_path / "m", tmp_path / "t")
    assert (tmp_path / "t" / "keep.txt").read_text() == "precious"


@pytest.mark.parametrize("lost", ["b.mc.safetensors", "config.json"])
def test_verify_names_what_a_packed_folder_lacks(tmp_path: Path, lost: str) -> None:
    (tmp_path / "m").mkdir()
    for name in ("a", "b"):
        (tmp_path / "m" / f"{name}.safetensors").write_bytes(small(name))
    (tmp_path / "m" / "config.json").write_text("{}")
    mc.pack(tmp_path / "m", tmp_path / "p")
    assert mc.verify(tmp_path / "p", tmp_path / "m").intact
    (tmp_path / "p" / lost).unlink()
    found = mc.verify(tmp_path / "p", tmp_path / "m").findings
    assert [lost.replace(".mc", "") in finding.message for finding in found] == [True]
    shutil.rmtree(tmp_path / "p")


def test_a_tensor_whose_name_has_brackets_is_found_by_it(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(small("a[0]"))
    mc.pack(tmp_path / "a.safetensors", tmp_path / "p.mc.safetensors")
    mc.unpack(tmp_path / "p.mc.safetensors", tmp_path / "one.safetensors", tensors=["a[0]"])
    with mc.open(tmp_path / "one.safetensors") as one:
        assert one.names() == ["a[0]"] and bytes(one.tensor("a[0]")) == b"abc"


@pytest.mark.parametrize("threads", [1, 2])
def test_no_digest_of_a_part_passes_for_that_of_the_whole(threads: int) -> None:
    source = Source.of(small())
    source.close()  # a fault while hashing, other than those that are expected
    with workers(threads, None) as work, _Digest(source, work) as digest, pytest.raises(ValueError, match="is closed"):
        digest.result()


def test_hashing_stops_when_the_wait_for_its_beginning_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    whole = save({"t": np.zeros(1 << 22, np.float32)})
    monkeypatch.setattr("mc.packing.DIGEST_STRIDE", 1 << 20)
    read = Source.read

    def slowly(source: Source, start: int, stop: int) -> memoryview:
        if threading.current_thread() is not threading.main_thread():
            hashed.append(stop - start)
            time.sleep(0.05)
        return read(source, start, stop)

    def interrupted(digest: _Digest) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Source, "read", slowly)
    monkeypatch.setattr(_Digest, "begin", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mc.compress(whole, threads=2)
    assert sum(hashed) < len(whole) / 2


def test_a_shard_is_compared_with_its_original_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a.mc.safetensors.safetensors").write_bytes(small())
    mc.pack(tmp_path / "m", tmp_path / "m.mc")
    assert mc.verify(tmp_path / "m.mc", tmp_path / "m").intact
    mc.unpack(tmp_path / "m.mc", tmp_path / "back", check=True)
    assert (tmp_path / "back" / "a.mc.safetensors.safetensors").read_bytes() == small()
