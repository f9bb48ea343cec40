"""Sparse tensors packed: byte for byte over dtypes and masks, near the entropy of both, hostile bytes refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from math import comb, log2
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mc
from anatomy import dissect, struck
from conftest import safetensors
from mc.codec import entropy, gridfit, masks, sparse
from mc.errors import DamagedError

Array = np.ndarray[Any, Any]


def stored(values: Array, dtype: str) -> Array:
    """Numbers as the words of a dtype."""
    if dtype == "BF16":
        return values.astype(ml_dtypes.bfloat16).view(np.uint16)
    if dtype == "F8_E4M3":
        return values.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    kind = {"F32": "<f4", "F16": "<f2", "I8": "<i1", "I16": "<i2", "U8": "<u1"}[dtype]
    return (values if dtype[0] == "F" else np.rint(values * 6)).astype(kind)


def mask_of(kind: str, draw: np.random.Generator, rows: int, cols: int) -> Array:
    """True where a word stays."""
    match kind:
        case "2:4" | "1:8" | "3:5" | "8:16":
            n, m = map(int, kind.split(":"))
            order = draw.random((rows, -(-cols // m), m)).argsort(axis=2) < n
            return order.reshape(rows, -1)[:, :cols]
        case "block":
            stays = draw.random((-(-rows // 5), -(-cols // 3))) < 0.4
            return np.repeat(np.repeat(stays, 5, axis=0)[:rows], 3, axis=1)[:, :cols]
        case "rows":
            return np.repeat(draw.random((rows, 1)) < 0.5, cols, axis=1)
        case "columns":
            return np.repeat(draw.random((1, cols)) < 0.5, rows, axis=0)
    return draw.random((rows, cols)) < float(kind)


def weights(dtype: str, kind: str, rows: int, cols: int, seed: int = 0) -> Array:
    draw = np.random.default_rng(seed)
    values = draw.normal(size=(rows, cols)) * np.exp(0.3 * draw.normal(size=(rows, 1)))
    return stored(np.where(mask_of(kind, draw, rows, cols), np.abs(values) if dtype == "U8" else values, 0), dtype)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["F32", "F16", "BF16", "F8_E4M3", "I8", "I16", "U8"]),
    st.sampled_from(["2:4", "1:8", "3:5", "8:16", "block", "rows", "columns", "0.5", "0.02", "0"]),
    st.sampled_from([(64, 96), (37, 130), (300, 1000), (16, 64)]),
    st.integers(0, 3),
)
def test_there_and_back(dtype: str, kind: str, shape: tuple[int, int], seed: int) -> None:
    data = safetensors({"w": (dtype, weights(dtype, kind, *shape, seed))})
    packed = mc.compress(data, threads=1)
    assert mc.decompress(packed, threads=1) == data


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F8_E4M3", "I8"])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 3), (8, 16)])
def test_a_pattern_costs_its_entropy(dtype: str, n: int, m: int) -> None:
    rows, cols = 1024, 512 // m * m
    draw = np.random.default_rng(1)
    values = draw.normal(size=(rows, cols))
    values += 0.1 * np.sign(values)  # of which none is zero as an integer either
    mask = (draw.random((rows, cols // m, m)).argsort(axis=2) < n).reshape(rows, cols)
    whole = len(mc.compress(safetensors({"w": (dtype, stored(values, dtype))})))
    packed = mc.compress(safetensors({"w": (dtype, stored(np.where(mask, values, 0), dtype))}))
    ideal = rows * cols * log2(comb(m, n)) / m / 8 + whole * n / m
    assert dissect(packed).manifest["tensors"]["w"][2].startswith("sparse")
    assert len(packed) < 1.02 * ideal


@pytest.mark.parametrize("kind", ["block", "rows", "columns", "0.01"])
def test_structure_costs_next_to_nothing(kind: str) -> None:
    rows, cols = 900, 600
    draw = np.random.default_rng(2)
    mask = mask_of(kind, draw, rows, cols)
    values = draw.normal(size=(rows, cols))
    whole = len(mc.compress(safetensors({"w": ("BF16", stored(values, "BF16"))})))
    packed = len(mc.compress(safetensors({"w": ("BF16", stored(np.where(mask, values, 0), "BF16"))})))
    share = float(mask.mean())
    entropy = {"block": 0.971 / 15, "0.01": 0.0808}.get(kind, 0.0) * rows * cols / 8
    assert packed < 1.02 * (whole * share + entropy) + 1500


def test_dense_tensors_and_scattered_zeros_are_coded_as_before() -> None:
    draw = np.random.default_rng(3)
    for share in (1.0, 0.5):
        values = np.where(draw.random((400, 512)) < share, draw.normal(size=(400, 512)), 0).astype(np.float32)
        packed = mc.compress(safetensors({"w": ("F32", values)}))
        assert not dissect(packed).manifest["tensors"]["w"][2].startswith("sparse")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5), st.integers(0, 40))
def test_blocks_are_found(height: int, width: int, first: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    stays = draw.random((12, 12)) < 0.5
    whole = np.repeat(np.repeat(stays, height, axis=0), width, axis=1)
    down, across = masks.blocks_of(whole[first:], first)
    assert down % height == 0 and across % width == 0
    step = down or len(whole)
    units = masks.units_of(whole[first:], step, across or whole.shape[1], first)
    back = np.repeat(np.repeat(units, step, axis=0)[first % step :], across or whole.shape[1], axis=1)
    assert np.array_equal(back[: len(whole) - first, : whole.shape[1]], whole[first:])


def test_damage_below_true_checksums_is_refused_or_decoded() -> None:
    draw = np.random.default_rng(4)
    for dtype, kind in (("BF16", "2:4"), ("I8", "block"), ("F32", "block")):
        packed = mc.compress(safetensors({"w": (dtype, weights(dtype, kind, 240, 192))}), threads=1)
        assert dissect(packed).manifest["tensors"]["w"][2].startswith("sparse")
        for _ in range(150):
            try:
                mc.decompress(struck(packed, "w", draw, front=400), threads=1)
            except DamagedError:
                continue


def test_rows_of_a_sparse_tensor_are_read_alone(built: Callable[..., bytes]) -> None:
    w = weights("F32", "block", 1200, 600)
    with mc.open(mc.compress(built({"w": ("F32", w)}))) as packed:
        assert np.array_equal(packed.rows("w", 430, 900), w[430:900])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", ["2:4", "block", "rows"])
def test_integers_packed_in_words_are_coded_by_their_mask(bits: int, kind: str) -> None:
    rows, cols = 512, 512
    draw = np.random.default_rng(7)
    values = np.rint(draw.normal(size=(rows, cols)) * 2).clip(-7, 7)
    values[values == 0] = 3
    mask = mask_of(kind, draw, rows, cols)
    q = np.where(mask, values, 0).astype(np.int64) + (1 << bits - 1)
    per = 32 // bits
    words = (q.reshape(rows, -1, per) << bits * np.arange(per)).sum(axis=2).astype(np.uint32).view(np.int32)
    data = safetensors({"w_packed": ("I32", words)})
    packed = mc.compress(data)
    assert mc.decompress(packed) == data
    assert dissect(packed).manifest["tensors"]["w_packed"][2].startswith("sparse")
    counts = np.unique(values[mask], return_counts=True)[1]
    shares = counts / counts.sum()
    of_mask = {"2:4": log2(6) / 4, "block": 0.971 / 15, "rows": 0.0}[kind] * rows * cols
    assert len(packed) < 1.02 * (of_mask - float((counts * np.log2(shares)).sum())) / 8 + 1500


@pytest.mark.parametrize("bits", [2, 3, 5, 6, 7])
@pytest.mark.parametrize("kind", ["1", "0.5", "2:4"])
def test_integers_that_lie_across_bytes_cost_their_entropy(bits: int, kind: str) -> None:
    # A row of two bits is whole words: four in a byte are coded as bytes, to which zeros at the end would be bytes too.
    rows, cols, most = 512, 512 if bits == 2 else 500, (1 << bits - 1) - 1
    draw = np.random.default_rng(9)
    values = np.rint(draw.normal(size=(rows, cols)) * most / 1.5).clip(-most, most)
    if kind != "1":
        values[values == 0] = 1
    mask = mask_of(kind, draw, rows, cols)
    q = np.where(mask, values, 0).astype(np.int64) + (1 << bits - 1)
    each = (q[:, :, None] >> np.arange(bits) & 1).reshape(rows, -1).astype(np.uint8)
    each = np.pad(each, ((0, 0), (0, -cols * bits % 32)))
    words = np.packbits(each, axis=1, bitorder="little").view("<i4")
    data = safetensors({"w_packed": ("I32", words)})
    packed = mc.compress(data)
    assert mc.decompress(packed) == data
    counts = np.unique(values[mask], return_counts=True)[1]
    shares = counts / counts.sum()
    of_mask = {"1": 0.0, "0.5": 1.0, "2:4": log2(6) / 4}[kind] * rows * cols
    assert len(packed) < 1.02 * (of_mask - float((counts * np.log2(shares)).sum())) / 8 + 1000


def test_bits_behind_packed_integers_are_kept() -> None:
    """Rows whose last bits aren't filled with zeros come back as they were."""
    draw = np.random.default_rng(10)
    q = draw.binomial(7, 0.5, size=(300, 106)).astype(np.int64)
    each = np.pad((q[:, :, None] >> np.arange(3) & 1).reshape(300, -1).astype(np.uint8), ((0, 0), (0, 2)))
    each[7, -1] = 1
    words = np.packbits(each, axis=1, bitorder="little").view("<i4")
    data = safetensors({"w_packed": ("I32", words)})
    assert mc.decompress(mc.compress(data)) == data


def test_speed_first_sees_patterns_too() -> None:
    data = safetensors({"w": ("F8_E4M3", weights("F8_E4M3", "2:4", 1024, 512))})
    assert len(mc.compress(data, level="fast")) < 1.02 * len(mc.compress(data))


def test_zstd_is_judged_by_all_chunks() -> None:
    """The first quarter has many more whole rows of zeros than the rest, and so many repetitions."""
    draw = np.random.default_rng(8)
    values = draw.normal(size=(1024, 1024)).astype(np.float16)
    values[draw.random(1024) < np.where(np.arange(1024) < 256, 0.7, 0.4)] = 0
    alive = np.ascontiguousarray(values[values.any(axis=1)])
    packed, without = (len(mc.compress(safetensors({"w": ("F16", w)}))) for w in (values, alive))
    assert packed < 1.02 * without + 500


def test_groups_of_a_tensor_of_many_chunks() -> None:
    """Large tensors are looked at by chunks side by side, on several threads."""
    data = safetensors({"w": ("F32", weights("F32", "3:5", 3000, 1500))})
    packed = mc.compress(data, threads=2)
    assert dissect(packed).manifest["tensors"]["w"][2].startswith("sparse")
    assert mc.decompress(packed, threads=2) == data


def test_zeros_are_counted_where_they_stand() -> None:
    """Whole rows are absent in the first chunk alone; everywhere else zeros are as frequent as any integer."""
    draw = np.random.default_rng(0)
    q = np.rint(draw.normal(size=(4096, 256))).astype(np.int8)
    q[:1000] = 0
    raw = q.reshape(-1).view(np.uint8)
    found = sparse.fit_grid(raw.size, 1, 256, lambda a, b: raw[a:b].copy(), map, 0)
    assert found is not None
    coded = sum(len(found.encode(k, raw[a:b])) for k, (a, b) in enumerate(found.spans))
    assert abs(coded + len(found.head) - found.bytes) < 0.01 * found.bytes
    dense = gridfit.fit(raw.size, 1, 256, entropy.ANS, lambda a, b: raw[a:b], map)
    assert found.bytes < 1.01 * dense.bytes


@pytest.mark.parametrize(("kind", "bits"), [("0.001", 13.5), ("1:64", 13.5)])
def test_few_words_cost_their_entropy_and_a_hundred_bytes_a_chunk(kind: str, bits: float) -> None:
    """Tables of words that are scarce are made from all of them, those of their places no more than pay."""
    draw = np.random.default_rng(2)
    values = draw.normal(size=(1024, 1024)).astype(np.float16)
    if kind == "1:64":
        stays, of_mask = draw.random((1024, 16, 64)).argsort(axis=2).reshape(1024, 1024) < 1, 6 / 64
    else:
        p = float(kind)
        stays, of_mask = draw.random((1024, 1024)) < p, -p * log2(p) - (1 - p) * log2(1 - p)
    values[~stays] = 0
    out = io.BytesIO()
    report = mc.pack(io.BytesIO(safetensors({"w": ("F16", values)})), out, threads=1)
    assert mc.decompress(out.getvalue(), threads=1) == safetensors({"w": ("F16", values)})
    entropy_bytes = (of_mask * values.size + bits * int(stays.sum())) / 8
    assert report.files[0].tensors[0].packed_bytes < 1.02 * entropy_bytes + 4 * 130
