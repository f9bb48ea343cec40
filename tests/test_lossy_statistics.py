"""Statistics of layer inputs are read as `mc analyze` writes them; what isn't sound is refused, by file and tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from conftest import safetensors
from mc.errors import DamagedError, McError
from mc.lossy.statistics import open_statistics

if TYPE_CHECKING:
    import subprocess

Command = Callable[..., "subprocess.CompletedProcess[bytes]"]
Tensors = dict[str, tuple[str, np.ndarray]]


def inputs(features: int = 6, samples: int = 50) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(samples, features)).astype(np.float32)


def sound(x: np.ndarray) -> Tensors:
    gram = (x.T @ x).astype(np.float32)
    return {
        "a.weight.in_sum2": ("F32", np.diagonal(gram).copy()),
        "a.weight.counts": ("I64", np.array([len(x)])),
        "a.weight.xtx": ("F32", gram),
    }


def test_what_analyze_writes_is_what_is_read(mc_inside: Command, tmp_path: Path) -> None:
    x = inputs(700)  # more than a block of the check for symmetry
    (tmp_path / "in.safetensors").write_bytes(safetensors({"a.weight": ("F32", x), "b": ("F32", x[:0])}))
    done = mc_inside("analyze", "--inputs", "in.safetensors", "--stats-out", "s.safetensors", "--gram", cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    with open_statistics(tmp_path / "s.safetensors") as found:
        assert found.names == ("a.weight", "b")
        gram, means = found.gram("a.weight", 700), found.mean_squares("a.weight", 700)
        assert gram is not None and means is not None and gram.dtype == means.dtype == np.float32
        np.testing.assert_allclose(gram, x.T @ x / 50, atol=1e-4)
        np.testing.assert_allclose(means, np.square(x).mean(axis=0), rtol=1e-5)
        assert (gram == gram.T).all()
        assert found.mean_squares("b", 700) is None and found.gram("b", 700) is None  # of no samples
        assert found.mean_squares("c", 700) is None and not found.has_gram("c")
        with pytest.raises(McError, match=r"s\.safetensors has statistics of 700 inputs for 'a\.weight'.* 699 weights"):
            found.mean_squares("a.weight", 699)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("in_sum2", ("F64", np.ones(6)), r"'a\.weight\.in_sum2' is F64 \[6\], where F32 \[features\] was expected"),
        ("in_sum2", ("F32", np.ones((2, 3), np.float32)), r"is F32 \[2, 3\]"),
        ("counts", ("F32", np.ones(1, np.float32)), r"'a\.weight\.counts' is F32 \[1\], where I64 \[1\]"),
        ("counts", ("I64", np.ones(2, np.int64)), r"is I64 \[2\]"),
        ("counts", None, r"'a\.weight\.in_sum2' without 'a\.weight\.counts'"),
        ("xtx", ("F32", np.ones((6, 5), np.float32)), r"xtx' is F32 \[6, 5\], where F32 \[6, 6\] was expected"),
    ],
)
def test_a_file_of_other_tensors_is_refused(
    tmp_path: Path, part: str, value: tuple[str, np.ndarray] | None, message: str
) -> None:
    tensors = sound(inputs())
    if value is None:
        del tensors[f"a.weight.{part}"]
    else:
        tensors[f"a.weight.{part}"] = value
    (tmp_path / "s.safetensors").write_bytes(safetensors(tensors))
    with pytest.raises(DamagedError, match=r"s\.safetensors.*" + message):
        open_statistics(tmp_path / "s.safetensors")


def test_a_file_without_statistics_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.safetensors").write_bytes(safetensors({"a.weight": ("F32", inputs())}))
    with pytest.raises(McError, match=r"s\.safetensors holds no statistics: none of its 1 tensors ends in \.in_sum2"):
        open_statistics(tmp_path / "s.safetensors")


@pytest.mark.parametrize(
    ("part", "at", "value", "message"),
    [
        ("in_sum2", 2, -1.0, "'a.weight.in_sum2' holds a negative number"),
        ("in_sum2", 2, np.inf, "'a.weight.in_sum2' holds NaN or infinity"),
        ("in_sum2", 2, np.nan, "'a.weight.in_sum2' holds NaN or infinity"),
        ("in_sum2", 2, 3e38, r"'a.weight.in_sum2' holds 3e\+38"),
        ("counts", 0, -3, "'a.weight.counts' is -3"),
        ("xtx", (1, 2), np.nan, "'a.weight.xtx' holds NaN or infinity"),
        ("xtx", (1, 2), 40.0, "'a.weight.xtx' isn't symmetric"),
        ("xtx", (2, 2), 1.0, "doesn't have the sums of 'a.weight.in_sum2' on its diagonal"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    tmp_path: Path, part: str, at: int | tuple[int, int], value: float, message: str
) -> None:
    tensors = sound(inputs())
    tensors[f"a.weight.{part}"][1][at] = value
    (tmp_path / "s.safetensors").write_bytes(safetensors(tensors))
    with open_statistics(tmp_path / "s.safetensors") as found, pytest.raises(DamagedError, match=message):
        found.gram("a.weight", 6)
