"""Pruning as arithmetic: exact counts, patterns with their tails, discarded spectra, least squares, shared limits."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mc
from mc.errors import DamagedError, UsageError
from mc.lossy import lowrank, masks, obs
from mc.lossy.methods import Method, parse_method
from mc.lossy.requests import Target

Array = np.ndarray[Any, Any]
SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 70))


def drawn(shape: tuple[int, int], seed: int, ties: bool = False) -> Array:
    w = np.random.default_rng(seed).normal(size=shape)
    return (np.rint(w * 2) if ties else w).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.floats(0, 1), st.integers(0, 9), st.booleans())
def test_as_many_weights_go_as_asked_and_the_least_ones(
    shape: tuple[int, int], sparsity: float, seed: int, ties: bool
) -> None:
    w = drawn(shape, seed, ties)
    of = masks.units(w, Method("magnitude"), shape, None, None)
    count = masks.wanted(sparsity, w.size)
    kept, _ = masks.above(of, masks.ranked(masks.leading(of), [of], count))
    assert int((kept == 0).sum()) == count
    if 0 < count < w.size:
        assert np.abs(w[kept == 0]).max() <= np.abs(w[kept == 1]).min()
    by_row = masks.of_rows(of, sparsity)
    assert ((by_row == 0).sum(axis=1) == masks.wanted(sparsity, shape[1])).all()
    for line, stays in zip(w, by_row, strict=True):
        if stays.any() and not stays.all():
            assert np.abs(line[stays == 0]).max() <= np.abs(line[stays == 1]).min()


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(2, 16), st.data())
def test_patterns_hold_in_every_group_tails_included(shape: tuple[int, int], m: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, m - 1))
    w = drawn(shape, m, ties=data.draw(st.booleans()))
    kept = masks.patterned(masks.units(w, Method("pattern"), shape, None, None), n, m)
    for start in range(0, shape[1], m):
        group = kept[:, start : start + m]
        assert (group.sum(axis=1) == min(n, group.shape[1])).all()
        for line, stays in zip(np.abs(w[:, start : start + m]), group == 1, strict=True):
            assert stays.all() or line[~stays].max() <= line[stays].min()


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(1, 9), st.integers(1, 9), st.floats(0, 1))
def test_blocks_go_as_one(shape: tuple[int, int], height: int, width: int, sparsity: float) -> None:
    w = drawn(shape, 3)
    method = Method("block", size=(height, width))
    of = masks.units(w, method, shape, None, None)
    count = masks.wanted(sparsity, of.weights)
    assert of.weights == w.size
    mask = masks.whole(masks.above(of, masks.ranked(masks.leading(of), [of], count))[0], of)
    assert mask.shape == w.shape and count <= (mask == 0).sum() < count + height * width
    for r in range(0, shape[0], height):
        for c in range(0, shape[1], width):
            assert len(np.unique(mask[r : r + height, c : c + width])) == 1


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(0, 20), st.integers(0, 5))
def test_the_error_of_a_low_rank_is_the_discarded_spectrum(shape: tuple[int, int], rank: int, seed: int) -> None:
    w = drawn(shape, seed)
    found = lowrank.decomposed(w)
    rank = min(rank, len(found.values))
    after = lowrank.product(*lowrank.factors(found, rank), None)
    discarded = float((np.linalg.svd(w.astype(np.float64), compute_uv=False)[rank:] ** 2).sum())
    assert float(((w.astype(np.float64) - after) ** 2).sum()) == pytest.approx(discarded, rel=1e-3, abs=1e-9 * w.size)


def test_a_randomized_low_rank_is_nearly_the_best() -> None:
    draw = np.random.default_rng(0)
    w = ((draw.normal(size=(700, 60)) * np.geomspace(1, 0.05, 60)) @ draw.normal(size=(60, 640))).astype(np.float32)
    w += 0.05 * draw.normal(size=w.shape).astype(np.float32)
    found, exact = lowrank.decomposed(w, rank=40), np.linalg.svd(w, compute_uv=False)
    assert len(found.values) == 40 and np.allclose(found.values, exact[:40], rtol=1e-3)
    assert found.whole == pytest.approx(float((exact.astype(np.float64) ** 2).sum()), rel=1e-5)


def test_a_whitened_low_rank_is_closest_on_the_inputs() -> None:
    draw = np.random.default_rng(1)
    w, x = drawn((30, 50), 2), draw.normal(size=(400, 50)) @ draw.normal(size=(50, 50))
    gram = (x.T @ x / len(x)).astype(np.float32)
    on_inputs = []
    for weigh in (None, gram):
        delta = w - lowrank.product(*lowrank.factors(lowrank.decomposed(w, weigh), 10), None)
        on_inputs.append(float(((x @ delta.T) ** 2).sum()))
    best = np.linalg.svd(x @ w.T, compute_uv=False)
    assert on_inputs[1] == pytest.approx(float((best[10:] ** 2).sum()), rel=1e-2) and on_inputs[1] < on_inputs[0]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(2, 24), st.floats(0, 1), st.integers(0, 9))
def test_compensation_is_the_least_squares_of_what_stays(rows: int, cols: int, sparsity: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    w, x = drawn((rows, cols), seed), draw.normal(size=(4 * cols, cols)) @ (np.eye(cols) + 0.3)
    gram = (x.T @ x / len(x)).astype(np.float32)
    mask, after = obs.prune(w, gram, sparsity, 0, 0)
    assert ((mask == 0).sum(axis=1) == masks.wanted(sparsity, cols)).all() and not after[mask == 0].any()
    h = gram.astype(np.float64)
    for line, stays, found in zip(w.astype(np.float64), mask == 1, after, strict=True):
        direct = np.zeros(cols)
        if stays.any():
            direct[stays] = np.linalg.solve(h[np.ix_(stays, stays)], h[stays] @ line)
        assert np.allclose(found, direct, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cols", [64, 384, 640])
@pytest.mark.parametrize("pattern", [(0.5, 0, 0), (0.0, 2, 4)])
def test_compensation_is_no_worse_than_none_where_inputs_are_few(cols: int, pattern: tuple[float, int, int]) -> None:
    """The Gram matrix of few samples says nothing of most directions, along which steps had no end."""
    draw = np.random.default_rng(cols)
    x = draw.normal(size=(cols // 8, cols // 16)) @ draw.normal(size=(cols // 16, cols))
    gram = (x.T @ x / len(x)).astype(np.float32)
    unseen = np.linalg.svd(x)[2][cols // 16 :]  # what inputs have nothing of
    for w in (drawn((24, cols), 0), (draw.normal(size=(24, len(unseen))) @ unseen).astype(np.float32)):
        mask, after = obs.prune(w, gram, *pattern)
        lost, alone = (float((((w - v) @ x.T) ** 2).mean()) for v in (after, w * mask))
        assert lost <= alone and np.abs(after).max() < 100 * np.abs(w).max()


def test_obs_keeps_patterns() -> None:
    w = drawn((20, 200), 0)
    mask, after = obs.prune(w, np.eye(200, dtype=np.float32), 0.0, 2, 4)
    assert (mask.reshape(20, 50, 4).sum(axis=2) == 2).all() and np.allclose(after, w * mask, atol=1e-6)


@pytest.mark.parametrize(
    "text",
    ["none", "mask", "4:4", "0:4", "1:65", "2:4,scope=row", "magnitude,sparsity=1.1", "magnitude,sparsity=nan",
     "magnitude,scope=all", "block", "block,size=0x3", "heads,size=3x3", "heads,size=8,axis=up", "low-rank,rank=0",
     "low-rank,rank=3,share=.5", "obs,pattern=5:4", "wanda,sparsity", "pattern"],
)  # fmt: skip
def test_what_is_no_method_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_method(text)


def test_a_multiplier_for_all_beats_the_same_share_in_each(tmp_path: Path, built: Callable[..., bytes]) -> None:
    draw = np.random.default_rng(0)
    tensors = {f"{k}.weight": ("F32", (draw.normal(size=(64, 64)) * 2.0**-k).astype(np.float32)) for k in range(4)}
    data = tmp_path / "m.safetensors"
    data.write_bytes(built(tensors))
    found = {}
    for scope in ("global", "tensor", "row"):
        report = mc.prune(data, tmp_path / "p.safetensors", method=f"magnitude,sparsity=0.5,scope={scope}")
        found[scope] = report.files[0].error
        assert report.files[0].zeros == 64 * 64 * 2
    assert found["global"] < found["tensor"] < found["row"]
    for method in ("magnitude", "block,size=4x4", "low-rank", "magnitude,scope=row"):
        report = mc.prune(data, tmp_path / "p.safetensors", method=method, limit=Target("error", 0.1, overall=True))
        assert 0.09 <= report.files[0].error <= 0.1
        report = mc.prune(data, tmp_path / "p.safetensors", method=method, limit=Target("error", 0.1))
        assert all(0.05 < one.error <= 0.1 for one in report.files[0].tensors)
    report = mc.prune(data, tmp_path / "p.mc.safetensors", method="magnitude", limit=Target("size", 30_000), pack=True)
    assert 29_000 <= (tmp_path / "p.mc.safetensors").stat().st_size == report.files[0].packed_bytes <= 30_000


@pytest.mark.parametrize("objective", ["diag", "gram", "none"])
def test_objectives_that_pruning_does_not_have_are_refused(objective: str, built: Callable[..., bytes]) -> None:
    data = io.BytesIO(built({"w": ("F32", drawn((8, 8), 0))}))
    with pytest.raises(UsageError, match="isn't one of plain, tensor, row"):
        mc.prune(data, io.BytesIO(), method="magnitude,sparsity=0.5", objective=objective)


def test_entries_that_lie_outside_are_damage() -> None:
    left = np.ones((2, 3), np.float32)
    for places in ([0, 9], [1, 1], [-1, 2], [3, 1]):
        with pytest.raises(DamagedError):
            masks.put_back(left, np.array(places, np.int32), (5, 3), 0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [-0.0, 1e-42, 3.4028235e38])
def test_matrices_of_one_odd_number_meet_a_size_by_rank(value: float, built: Callable[..., bytes]) -> None:
    """A zero with a sign has no singular values above it, and the largest number has some beyond f32."""
    data = io.BytesIO(built({"w": ("F32", np.full((32, 64), value, np.float32))}))
    out = io.BytesIO()
    mc.prune(data, out, method="low-rank", limit=Target("size", 3000), objective="row", threads=1)
    with mc.open(out.getvalue(), dequantize=True) as back:
        assert back.tensor("w") == pytest.approx(value, rel=1e-6)
