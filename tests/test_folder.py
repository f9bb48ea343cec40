"""Folders of shards: what is listed, and what an index and the shards must agree on."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from mc.errors import DamagedError, McError
from mc.folder import PICKLES, check_index, read_folder, refuse_pickle, scan_folder

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def shard(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file({name: np.zeros(2, np.uint8) for name in names}, path)


def index(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 6.0}, "weight_map": weight_map}))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two shards, their index and other files."""
    folder = tmp_path / "model"
    shard(folder / ONE, "a", "b")
    shard(folder / TWO, "c")
    index(folder, {"a": ONE, "b": ONE, "c": TWO})
    (folder / "config.json").write_text("{}")
    shard(folder / "extra" / "deep" / "x.safetensors", "z")
    return folder


OTHERS = ("config.json", "extra/deep/x.safetensors", INDEX)


def packed(model: Path) -> Path:
    for name in (ONE, TWO):
        (model / name).rename(model / name.replace(".safetensors", ".mc.safetensors"))
    return model


def test_a_folder_with_an_index(model: Path) -> None:
    folder = read_folder(model)
    assert (folder.path, folder.shards, folder.others, folder.index) == (model, (ONE, TWO), OTHERS, INDEX)
    assert not folder.packed


def test_a_folder_without_an_index(tmp_path: Path) -> None:
    shard(tmp_path / "b.safetensors", "x")
    (tmp_path / "a.safetensors").write_bytes(b"not looked into")
    (tmp_path / ".hidden").write_bytes(b"")
    folder = read_folder(str(tmp_path))
    assert (folder.shards, folder.others, folder.index) == (
        ("a.safetensors", "b.safetensors"),
        (".hidden",),
        None,
    )


def test_a_packed_folder_stands_for_the_plain_names(model: Path) -> None:
    one, two = (name.replace(".safetensors", ".mc.safetensors") for name in (ONE, TWO))
    packed(model)
    shard(model / two, "c", "__mc__")
    for folder in (read_folder(model), read_folder(model, ".mc.safetensors")):
        assert (folder.shards, folder.others, folder.index) == ((one, two), OTHERS, INDEX)
        assert folder.packed
    (model / one).unlink()
    with pytest.raises(DamagedError, match=f"{one} is missing"):
        read_folder(model)


def test_the_reserved_tensor_counts_in_a_plain_folder(model: Path) -> None:
    shard(model / TWO, "c", "__mc__")
    with pytest.raises(DamagedError, match=r"has the tensor '__mc__', but the index .* does not name it"):
        read_folder(model)


def test_asked_for_packed_shards_plain_ones_do_not_count(tmp_path: Path) -> None:
    shard(tmp_path / "a.safetensors", "x")
    with pytest.raises(McError, match=r"has no file \*\.mc\.safetensors"):
        read_folder(tmp_path, ".mc.safetensors")


def test_packed_and_plain_shards_do_not_mix(model: Path) -> None:
    (model / ONE).rename(model / "model-00001-of-00002.mc.safetensors")
    for suffix in (".safetensors", ".mc.safetensors"):
        with pytest.raises(McError, match=r"both packed shards \(model-00001-of-00002\.mc\.safetensors\) and plain"):
            read_folder(model, suffix)


def test_symlinks_as_in_a_hub_cache_are_followed(model: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    model.rename(blobs)
    snapshot.mkdir()
    for name in (ONE, TWO, INDEX, "config.json", "extra"):
        (snapshot / name).symlink_to(f"../blobs/{name}")
    folder = read_folder(snapshot)
    assert (folder.shards, folder.others, folder.index) == ((ONE, TWO), OTHERS, INDEX)


def test_a_shard_is_missing(model: Path) -> None:
    (model / TWO).unlink()
    with pytest.raises(DamagedError, match=f"{TWO} is missing, and the index {INDEX} places 1 tensors in it"):
        read_folder(model)


def test_a_shard_is_too_many(model: Path) -> None:
    shard(model / "stray.safetensors", "s")
    with pytest.raises(DamagedError, match=f"stray.safetensors is named nowhere in the index {INDEX}"):
        read_folder(model)


def test_every_misplaced_tensor_is_found(model: Path) -> None:
    shard(model / ONE, "a")
    shard(model / TWO, "b", "c", "d")
    findings = check_index(scan_folder(model))
    assert [(Path(f.file).name, f.tensor, f.place) for f in findings] == [
        (ONE, "b", "index"),
        (TWO, "b", "index"),
        (TWO, "d", "index"),
    ]
    assert "has no tensor 'b'" in findings[0].message
    assert f"has the tensor 'b', but the index {INDEX} places it in '{ONE}'" in findings[1].message
    assert "does not name it" in findings[2].message
    with pytest.raises(DamagedError, match=r"has no tensor 'b'.*There are 2 more such findings\."):
        read_folder(model)


def test_a_damaged_shard_does_not_hide_the_others(model: Path) -> None:
    (model / ONE).write_bytes(b"")
    (model / TWO).unlink()
    findings = check_index(scan_folder(model))
    assert [(Path(f.file).name, f.place) for f in findings] == [(ONE, "header"), (TWO, "index")]
    assert "is empty" in findings[0].message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        ("\ufeff{}", "not valid JSON"),
        ("[]", "no object 'weight_map'"),
        ('{"weight_map":[]}', "no object 'weight_map'"),
        ('{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}', "key 'a' twice"),
        ('{"weight_map":{"a":1}}', "places the tensor 'a' in 1"),
        (
            '{"weight_map":{"a":"../x.safetensors"}}',
            r"in '\.\./x\.safetensors', where the name of a \.safetensors",
        ),
        ('{"weight_map":{"a":"x.bin"}}', r"in 'x\.bin'"),
        ('{"weight_map":{"a":"x\\u0000.safetensors"}}', "places the tensor 'a' in"),
        ('{"metadata":{"total_size":NaN},"weight_map":{}}', "the word NaN"),
        ('{"a":' * 100_000, "too deeply"),
    ],
)
def test_a_damaged_index_is_refused(model: Path, text: str, words: str) -> None:
    (model / INDEX).write_text(text)
    with pytest.raises(DamagedError, match=words) as caught:
        read_folder(model)
    assert INDEX in str(caught.value)


def test_two_indexes_are_refused(model: Path) -> None:
    (model / "model.fp16.safetensors.index.json").write_text("{}")
    with pytest.raises(McError, match=r"model\.fp16\.safetensors\.index\.json, model\.safetensors\.index\.json"):
        read_folder(model)


def test_a_folder_without_shards_says_what_to_give(model: Path, tmp_path: Path) -> None:
    for path in (model / ONE, model / TWO, model / INDEX):
        path.unlink()
    with pytest.raises(McError, match=r"has no file \*\.safetensors\..*give the folder .*extra/deep\."):
        read_folder(model)
    (tmp_path / "p").mkdir()
    with pytest.raises(McError, match="Give a folder that holds safetensors"):
        read_folder(tmp_path / "p")
    (tmp_path / "p" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(McError, match=r"pytorch_model\.bin is named like a pickle.*python -c"):
        read_folder(tmp_path / "p")


def test_what_is_not_a_readable_folder_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(McError, match="cannot be listed: No such file"):
        read_folder(tmp_path / "none")
    with pytest.raises(McError, match="cannot be listed: Not a directory"):
        read_folder(model / ONE)
    (model / "gone").symlink_to("nowhere")
    with pytest.raises(McError, match="gone cannot be read: No such file or directory; it points to nowhere"):
        read_folder(model)
    (model / "gone").unlink()
    (model / "loop").symlink_to(".")
    with pytest.raises(McError, match="loop is a link to a folder that holds it"):
        read_folder(model)
    (model / "loop").unlink()
    os.mkfifo(model / "fifo")
    with pytest.raises(McError, match="fifo is a pipe"):
        read_folder(model)


@pytest.mark.parametrize("suffix", [*sorted(PICKLES), ".PT"])
def test_a_pickle_is_refused_with_the_line_that_converts_it(suffix: str) -> None:
    path = f"my $model's{suffix}"
    with pytest.raises(McError) as caught:
        refuse_pickle(path)
    assert caught.value.exit_code == 1
    line = str(caught.value).split("Convert it: ")[1]
    assert "\n" not in line
    program, source, target = shlex.split(line)[2:]
    compile(program, "line", "exec")
    assert (source, target) == (path, "my $model's.safetensors")


def test_other_names_are_no_pickles() -> None:
    refuse_pickle("model.safetensors")
    refuse_pickle(Path("bin"))
