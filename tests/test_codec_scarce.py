"""Tensors of which hardly any word is left: byte for byte, near the entropy of places and words, hostile bytes
refused."""

from __future__ import annotations

import io
from math import log2
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mc
from anatomy import dissect, struck
from conftest import safetensors
from mc.codec import scarce
from mc.codec.runs import UNSIGNED
from mc.errors import DamagedError

Array = np.ndarray[Any, Any]


def packed_bytes(dtype: str, values: Array) -> tuple[int, str]:
    """Bytes that a tensor takes, and its coding; it comes back."""
    data, out = safetensors({"w": (dtype, values)}), io.BytesIO()
    found = mc.pack(io.BytesIO(data), out, threads=1).files[0].tensors[0]
    assert mc.decompress(out.getvalue(), threads=1) == data
    return found.packed_bytes, found.coding


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([1, 2, 4, 8]), st.integers(0, 2), st.sampled_from([0.0, 0.003, 0.1, 1.0]),
    st.sampled_from([(0, 0), (8, 1), (64, 3)]), st.integers(0, 13), st.integers(1, 900), st.integers(0, 99),
)  # fmt: skip
def test_there_and_back(
    width: int, kind: int, share: float, group: tuple[int, int], deep: int, size: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    many, expected = group
    words = draw.integers(0, 1 << 63, size * max(many, 1), dtype=np.uint64).astype(UNSIGNED[width])
    absent = int(words[0])
    words[words == absent] ^= words.dtype.type(1)
    stays = draw.random((size, many)).argsort(axis=1) < expected if many else draw.random(size) < share
    words[~stays.reshape(-1)] = absent
    words[draw.random(len(words)) < 0.1] = absent
    code = scarce.ScarceCode(width, kind, min(deep, 8 * width), many, expected, absent)
    coded = scarce.encode_chunk(code, words.view(np.uint8))
    assert coded is not None
    back = np.empty_like(words)
    scarce.decode_chunk(code, coded.data, back.view(np.uint8))
    assert np.array_equal(back, words)


def test_groups_with_more_words_than_expected_are_seen() -> None:
    words = np.tile(np.array([0, 0, 5, 0], np.uint8), 50)
    code = scarce.ScarceCode(1, 0, 8, 4, 1, 0)
    assert scarce.encode_chunk(code, words) is not None
    words[103] = 7
    assert scarce.encode_chunk(code, words) is None


# Bits of a normal word, its sign and the bits of its mantissa that are random included.
@pytest.mark.parametrize(("dtype", "bits"), [("F32", 26.56), ("BF16", 10.56), ("F16", 13.55), ("F8_E4M3", 6.62)])
@pytest.mark.parametrize("kind", ["0.001", "0.01", "1:64"])
def test_few_words_cost_two_per_cent_more_than_their_entropy(dtype: str, bits: float, kind: str) -> None:
    draw = np.random.default_rng(2)
    values = draw.normal(size=(1024, 1024)).astype(np.float32)
    if kind == "1:64":
        stays, of_mask = draw.random((1024, 16, 64)).argsort(axis=2).reshape(1024, 1024) < 1, 6 / 64
    else:
        p = float(kind)
        stays, of_mask = draw.random((1024, 1024)) < p, -p * log2(p) - (1 - p) * log2(1 - p)
    types = {"F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn}
    size, coding = packed_bytes(dtype, np.where(stays, values, 0).astype(types[dtype]))
    assert coding == "scarce"
    assert size < 1.02 * (of_mask * values.size + bits * int(stays.sum())) / 8


def test_words_that_stand_together_cost_less() -> None:
    draw = np.random.default_rng(3)
    apart = draw.random(1 << 18) < 0.004
    together = np.zeros(1 << 18, bool)
    for at in draw.integers(0, (1 << 18) - 40, int(apart.sum()) // 32):
        together[at : at + 32] = True
    words = draw.normal(size=1 << 18).astype(np.float16)
    sizes = [packed_bytes("F16", np.where(mask, words, 0).astype(np.float16)) for mask in (apart, together)]
    assert sizes[1][0] / together.sum() < 0.7 * sizes[0][0] / apart.sum()


def test_a_large_tensor_has_chunks_that_are_read_alone() -> None:
    draw = np.random.default_rng(4)
    values = draw.normal(size=(2048, 2048)).astype(np.float32)
    values[draw.random(values.shape) < 0.999] = 0
    packed = mc.compress(safetensors({"w": ("F32", values)}), threads=2)
    assert len(dissect(packed).blobs["w"].chunks) == 2
    with mc.open(packed) as checkpoint:
        assert np.array_equal(checkpoint.rows("w", 1000, 1100), values[1000:1100])


def test_damage_below_true_checksums_is_refused_or_decoded() -> None:
    draw = np.random.default_rng(5)
    stays = draw.random((256, 4, 64)).argsort(axis=2).reshape(256, 256) < 1
    for mask in (draw.random((256, 256)) < 0.01, stays):
        values = np.where(mask, draw.normal(size=(256, 256)), 0).astype(np.float32)
        packed = mc.compress(safetensors({"w": ("F32", values)}), threads=1)
        assert dissect(packed).manifest["tensors"]["w"][2] == "scarce"
        for _ in range(150):
            try:
                mc.decompress(struck(packed, "w", draw), threads=1)
            except DamagedError:
                continue
