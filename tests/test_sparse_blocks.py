"""Blocks that the first chunk has whole, and later chunks don't."""

from __future__ import annotations

import json

import numpy as np

import mc


def test_zeros_within_blocks_that_only_later_chunks_have_come_back() -> None:
    rng = np.random.default_rng(0)
    rows, cols = 4096, 384
    there = np.repeat(rng.random((rows, cols // 8)) < 0.1, 8, axis=1)
    q = np.where(there, rng.choice([-2, -1, 1, 2], (rows, cols)), 0).astype(np.int8)
    q[-256:][rng.random((256, cols)) < 0.1] = 0
    header = json.dumps({"w": {"dtype": "I8", "shape": [rows, cols], "data_offsets": [0, q.nbytes]}}).encode()
    data = len(header).to_bytes(8, "little") + header + q.tobytes()
    assert mc.decompress(mc.compress(data, threads=1), threads=1) == data
