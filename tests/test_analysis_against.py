"""The difference of two checkpoints, against numpy, and what the command makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mc
from conftest import safetensors
from mc.analysis.against import ordered
from mc.dtypes import numpy_dtype

if TYPE_CHECKING:
    import subprocess

Command = Callable[..., "subprocess.CompletedProcess[bytes]"]


def written(folder: Path, name: str, tensors: dict[str, tuple[str, np.ndarray]]) -> Path:
    (folder / name).write_bytes(safetensors(tensors))
    return folder / name


def test_figures_are_those_of_numpy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(300, 40)).astype(np.float32)
    b = np.where(rng.random(a.shape) < 0.5, a, a + rng.normal(0, 0.01, a.shape)).astype(np.float32)
    one = written(tmp_path, "a", {"w": ("F32", a), "gone": ("F32", a[0]), "shape": ("F32", a), "same": ("F32", a)})
    two = written(tmp_path, "b", {"w": ("F32", b), "new": ("F32", a[0]), "shape": ("F32", a[:9]), "same": ("F32", a)})
    found = mc.compare(two, one)
    assert (found.missing, found.extra) == (("gone",), ("new",))
    w, shape, same = found.tensors
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    error = ((y - x) ** 2).sum() / (x**2).sum()
    assert w.relative_squared_error == pytest.approx(error, rel=1e-9)
    assert w.snr_db == pytest.approx(-10 * np.log10(error), rel=1e-9)
    assert w.cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-9)
    assert w.max_difference == pytest.approx(np.abs(x - y).max())
    assert w.identical == pytest.approx((a == b).mean())
    assert w.given_a_bytes is not None and w.alone_bytes is not None and w.given_a_bytes < 0.6 * w.alone_bytes
    assert shape.relative_squared_error is None and shape.shape_of_a == (300, 40)
    assert (same.identical, same.relative_squared_error, same.snr_db, same.given_a_bits) == (1, 0, None, 0)


def test_other_dtypes_and_what_is_not_finite(tmp_path: Path) -> None:
    a = np.linspace(-3, 3, 1000, dtype=np.float32)
    b = a.astype(ml_dtypes.bfloat16)
    odd = a.copy()
    odd[:10], odd[10] = np.nan, np.inf
    one = written(tmp_path, "a", {"cast": ("F32", a), "odd": ("F32", a), "empty": ("F32", a[:0])})
    two = written(tmp_path, "b", {"cast": ("BF16", b.view(np.uint16)), "odd": ("F32", odd), "empty": ("F32", a[:0])})
    cast, odd_found, empty = mc.compare(two, one).tensors
    assert cast.dtype_of_a == "F32" and cast.given_a_bytes is None
    exact = a.astype(float)
    assert cast.relative_squared_error == pytest.approx(((b.astype(float) - a) ** 2).sum() / (exact**2).sum())
    assert odd_found.not_finite == 11 and odd_found.relative_squared_error == 0 and odd_found.cosine == pytest.approx(1)
    assert empty.identical is None and empty.not_finite == 0


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["F16", "BF16", "F32", "F64", "F8_E4M3", "I8", "U16", "I32", "I64"]), st.integers(0, 2**32))
def test_ordered_integers_are_ordered_as_the_numbers_and_all_different(dtype: str, seed: int) -> None:
    kind = numpy_dtype(dtype)
    raw = np.random.default_rng(seed).integers(0, 256, 64 * kind.itemsize, np.uint8)
    words = raw.view(kind)
    with np.errstate(all="ignore"):
        numbers = words.astype(np.float64)
    found = ordered(dtype, raw)
    assert len(np.unique(found)) == len(np.unique(raw.view(f"<u{kind.itemsize}")))
    keep = np.isfinite(numbers)
    order = np.argsort(found[keep], kind="stable")
    assert (np.diff(numbers[keep][order]) >= 0).all()


def test_the_command_compares_plain_with_packed(mc_inside: Command, place: Path) -> None:
    assert mc_inside("pack", "-q", "model.safetensors", cwd=place).returncode == 0
    done = mc_inside("analyze", "model.safetensors", "--against", "model.mc.safetensors", cwd=place)
    lines = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert done.returncode == 0 and lines[0][0] == "tensor" and len(lines) == 10
    assert {line[lines[0].index("identical")] for line in lines[1:]} == {"1", "-"}  # - for the empty one
    assert done.stderr.decode().startswith("0 of 9 tensors differ, ")
    done = mc_inside("analyze", "folder", "--against", "folder", "--json", cwd=place)
    report = json.loads(done.stdout)
    assert report["schema"] == 1 and [t["identical"] for t in report["difference"]["tensors"]] == [1.0, 1.0]


def test_what_cannot_be_compared_is_said(mc_inside: Command, place: Path) -> None:
    done = mc_inside("analyze", "model.safetensors", "--against", "folder", cwd=place)
    assert done.returncode == 1 and b"share no tensor" in done.stderr and b"Traceback" not in done.stderr
    done = mc_inside("analyze", "model.safetensors", "folder", "--against", "folder", cwd=place)
    assert done.returncode == 2
    assert mc_inside("analyze", "-", "--against", "-", cwd=place, input=b"").returncode == 2
