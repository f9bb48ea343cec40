"""Frames with feedback that a search keeps: the same numbers, whether they fit or not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mc.lossy import arrays, grids
from mc.lossy.frames import Frames
from mc.lossy.requests import Request


def made(size: int, seed: int = 0) -> grids.Frame:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4 * size, size)).astype(np.float32)
    return grids.weighed_frame(rng.normal(size=(8, size)).astype(np.float32), x.T @ x)


def test_a_kept_matrix_is_the_same_and_cannot_be_written() -> None:
    with Frames() as frames:
        wanted = {str(size): made(size) for size in (1, 7, 64, 130)}
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: frames.keep(name, wanted[name]), wanted))
        for name, frame in wanted.items():
            kept = frames.get(name)
            assert kept is not None and kept.matrix is not None and frame.matrix is not None
            assert np.array_equal(kept.matrix, frame.matrix) and kept.unit == frame.unit
            with pytest.raises(ValueError, match="read-only"):
                kept.matrix[0, 0] = 1


def test_what_has_no_room_is_not_kept() -> None:
    with Frames(most=3 * 16 * 16 * 4) as frames:
        for name in "abcd":
            frame = made(16)
            assert frames.keep(name, frame) is not None
        assert [frames.get(name) is not None for name in "abcd"] == [True, True, True, False]


def test_quantized_with_a_kept_frame_it_is_the_same() -> None:
    w, frame = np.random.default_rng(1).normal(size=(8, 70)).astype(np.float32), made(70)
    with Frames() as frames:
        kept = frames.keep("w", frame)
        assert kept is not frame
        assert np.array_equal(grids.quantize(w, kept, 0.3 * frame.unit), grids.quantize(w, frame, 0.3 * frame.unit))


@pytest.mark.parametrize("kind", ["grid", "trellis"])
@pytest.mark.parametrize("deepest", [-7, -14, -30])
def test_rows_far_below_the_others_lose_as_little(kind: str, deepest: int) -> None:
    w = np.random.default_rng(2).normal(size=(16, 300)).astype(np.float32)
    w *= np.exp2(np.linspace(0, deepest, 16)).astype(np.float32)[:, None]
    w[5] = 0
    found = arrays.quantize("w", w, "F32", w.shape, Request(kind), 0, 0.1, "row", grids.frame(w, "row", False))
    v = arrays.dequantize("w", found.about, found.stored)
    assert not v[5].any()
    lost = np.delete(np.square(w - v).sum(axis=1) / np.maximum(np.square(w).sum(axis=1), 1e-30), 5)
    assert lost.max() < 1.5 * lost.min() < 0.002


def test_scales_of_rows_are_the_usual_ones_where_these_reach() -> None:
    w = np.repeat(np.array([[8], [1], [0]], np.float32), 4, axis=1)
    frame = grids.frame(w, "row", False)
    assert frame.rows is not None and frame.rows.tolist() == [128, 104, 65] and frame.unit == 8
