"""Masks of several chunks: what the first chunk shows, and what later ones bring."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import mc

Array = np.ndarray[Any, Any]


def there_and_back(q: Array, dtype: str) -> bytes:
    header = json.dumps({"w": {"dtype": dtype, "shape": list(q.shape), "data_offsets": [0, q.nbytes]}}).encode()
    data = len(header).to_bytes(8, "little") + header + q.tobytes()
    packed = mc.compress(data, threads=1)
    assert mc.decompress(packed, threads=1) == data
    return packed


def test_zeros_within_blocks_that_only_later_chunks_have_come_back() -> None:
    rng = np.random.default_rng(0)
    rows, cols = 4096, 384
    there = np.repeat(rng.random((rows, cols // 8)) < 0.1, 8, axis=1)
    q = np.where(there, rng.choice([-2, -1, 1, 2], (rows, cols)), 0).astype(np.int8)
    q[-256:][rng.random((256, cols)) < 0.1] = 0
    assert b"sparse+grid" in there_and_back(q, "I8")


def test_rows_that_were_never_trained_do_not_set_the_price_of_all() -> None:
    """Nearly whole rows are zero in the first chunk, single words in all others: an embedding in wide steps."""
    rng = np.random.default_rng(5)
    rows, cols = 6820, 384
    q = rng.choice([-2, -1, 0, 1, 2], (rows, cols), p=[0.05, 0.15, 0.6, 0.15, 0.05]).astype(np.int8)
    q[:682][np.repeat(rng.random(682) < 0.97, cols).reshape(682, cols)] = 0
    _, counts = np.unique(q, return_counts=True)
    share = counts / q.size
    entropy = -float((share * np.log2(share)).sum()) / 8
    assert len(there_and_back(q, "I8")) < 1.05 * entropy * q.size


@pytest.mark.parametrize("dtype", ["I8", "F32"])
@pytest.mark.parametrize("height", [16, 3000])
def test_blocks_that_two_chunks_share_come_back(dtype: str, height: int) -> None:
    """682 rows of 384 columns are a chunk: the row of blocks at its end is cut, and may be empty on one side."""
    rng = np.random.default_rng(height)
    rows, cols = 3000, 384
    there = np.repeat(rng.random((-(-rows // height), cols)) < 0.3, height, axis=0)[:rows]
    there[640:682] = False  # of blocks that go on behind the chunk's end, nothing stands in front of it
    there[2720:2728] = False
    values = rng.choice([-2, -1, 1, 2], (rows, cols)) if dtype == "I8" else rng.normal(size=(rows, cols))
    q = np.where(there, values, 0).astype(np.int8 if dtype == "I8" else np.float32)
    assert b"sparse+" in there_and_back(q, dtype)
