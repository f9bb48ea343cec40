"""Limits met by halves over scores, and by single components where these are coarse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mc
from conftest import document
from mc.lossy.requests import Target
from mc.lossy.thresholds import CLOSE, by_components, settled

Array = np.ndarray[Any, Any]
Command = Callable[..., Any]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 99), st.floats(0.02, 0.98), st.booleans())
def test_many_small_units_come_within_half_a_per_cent(seed: int, share: float, fewer: bool) -> None:
    scores = np.random.default_rng(seed).integers(1 << 20, 1 << 30, 20_000)

    def measure(least: int) -> float:
        return float((scores < least).sum() if fewer else (scores >= least).sum())

    ends = (0, 1 << 30)
    good, bad = ends if fewer else ends[::-1]
    met = settled(measure, share * 20_000, good, bad, lambda low, high: True)
    assert CLOSE * share * 20_000 <= met.reached == measure(met.least) <= share * 20_000


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 99), st.floats(0.1, 0.9), st.booleans())
def test_components_of_small_tensors_fill_what_a_large_one_leaves(seed: int, share: float, fewer: bool) -> None:
    draw = np.random.default_rng(seed)
    sizes = {"large": 400.0, "small": 7.0, "least": 1.0}
    scores = {name: np.sort(draw.integers(1, 1 << 30, 60))[::-1] for name in sizes}
    limit = share * 60 * sum(sizes.values())

    def measure(cuts: Mapping[str, int]) -> float:
        staying = {name: int((bits >= cuts[name]).sum()) for name, bits in scores.items()}
        return sum(size * (60 - staying[name] if fewer else staying[name]) for name, size in sizes.items())

    every = np.sort(np.concatenate(list(scores.values())))
    ends = (0, 1 << 30)
    good, bad = ends if fewer else ends[::-1]
    met = settled(
        lambda least: measure(dict.fromkeys(sizes, least)), limit, good, bad,
        lambda low, high: bool(np.searchsorted(every, low) < np.searchsorted(every, high)),
    )  # fmt: skip
    found = measure(by_components(measure, limit, met, scores, lambda name, _: sizes[name], fewer))
    assert met.reached <= found <= limit
    assert found >= CLOSE * limit or found >= limit - 400


@pytest.mark.parametrize("target", [Target("error", 0.1, True), Target("size", 60_000)])
def test_low_ranks_of_several_tensors_meet_a_limit_closely(
    tmp_path: Path, target: Target, built: Callable[..., bytes]
) -> None:
    draw = np.random.default_rng(3)
    tensors = {
        str(rows): ("F32", (draw.normal(size=(rows, 64)) @ np.diag(np.exp(-np.arange(64) / 9))).astype(np.float32))
        for rows in (9, 20, 33, 48, 90, 300)
    }
    (tmp_path / "m.safetensors").write_bytes(built(tensors))
    report = mc.prune(tmp_path / "m.safetensors", tmp_path / "p.safetensors", method="low-rank", limit=target).files[0]
    reached = report.packed_bytes if target.kind == "size" else report.error
    assert 0.97 * target.value <= reached <= target.value  # a rank of the smallest is a per cent, of the largest five


def test_a_limit_that_ranks_are_too_coarse_for_is_said(mc_inside: Command, place: Path, built: Any) -> None:
    w = np.random.default_rng(4).normal(size=(60, 40)).astype(np.float32)
    (place / "one.safetensors").write_bytes(built({"w": ("F32", w)}))
    line = ("prune", "one.safetensors", "-o", "p.safetensors", "--method", "low-rank", "--target-size", "6000")
    done = mc_inside(*line, cwd=place)
    assert "the limit is met with" in done.stderr.decode() and done.returncode == 0
    assert document(mc_inside(*line, "-f", "--json", cwd=place))["files"][0]["packed_bytes"] <= 6000
