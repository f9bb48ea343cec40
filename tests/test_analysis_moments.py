"""Moments, quantiles and entropies equal what numpy and scipy say of the same numbers."""

from __future__ import annotations

import tracemalloc
from io import BytesIO
from math import isclose, isfinite

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from checkpoints import Piece, build
from mc.analysis.bits import bits
from mc.analysis.examine import analyze
from mc.analysis.kinds import FLOATS, PACKED, WIDE, kind_of
from mc.analysis.moments import moments, pool_moments, pooled
from mc.analysis.sums import Sums, merged
from mc.analysis.tally import Tally, tally
from mc.dtypes import numpy_dtype

DTYPES = sorted({*FLOATS, *WIDE, "BOOL", "U8", "I8", "U16", "I16"} - set(PACKED))
INTEGERS = [name for name in DTYPES if name not in FLOATS]


def counted(dtype: str, words: np.ndarray, sample: int | None = None, seed: int = 0) -> Tally:
    """The tally of an array whose bytes are those of a tensor of that dtype."""
    raw = np.frombuffer(words.tobytes(), np.uint8)
    return tally(dtype, words.shape, len(raw), lambda start, stop: raw[start:stop], map, sample, seed)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, np.ndarray]:
    """Any words of any dtype, as a vector or a matrix: noise, small numbers, few values, all bits."""
    dtype = draw(st.sampled_from(DTYPES))
    kind = numpy_dtype(dtype)
    shape = draw(st.sampled_from([(), (0,), (1,), (7,), (300,), (3, 5), (40, 70), (2, 3, 4), (5, 0)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    what = draw(st.sampled_from(["normal", "bits", "few", "constant"]))
    n = int(np.prod(shape))
    if what == "bits":
        raw = rng.integers(0, 2 if dtype == "BOOL" else 256, n * kind.itemsize, np.uint8)
        words = raw.view(kind)
    else:
        numbers = {"normal": rng.normal(0, 3, n), "few": rng.integers(0, 3, n) / 2, "constant": np.full(n, 1.0)}[what]
        with np.errstate(invalid="ignore"):
            words = (np.abs(numbers) if dtype in ("F8_E8M0",) or dtype[0] == "U" else numbers).astype(kind)
    return dtype, words.reshape(shape)


@settings(max_examples=250, deadline=None)
@given(tensors())
def test_moments_are_those_of_numpy_and_scipy(drawn: tuple[str, np.ndarray]) -> None:
    dtype, words = drawn
    found = moments(counted(dtype, words))
    with np.errstate(all="ignore"):
        numbers = words.astype(np.float64).reshape(-1)
    x = numbers[np.isfinite(numbers)]
    assert found.count == len(x)
    assert found.nan == np.isnan(numbers).sum() and found.infinite == np.isinf(numbers).sum()
    assert found.zeros == (x == 0).sum()
    if not len(x):
        assert (found.min, found.max, found.mean, found.std, found.quantiles, found.histogram) == (None,) * 6
        return
    assert (found.min, found.max) == (x.min(), x.max())
    with np.errstate(all="ignore"):
        mean, std, scale = x.mean(), x.std(), np.abs(x).max()
    if not (isfinite(std) and isfinite(mean)):
        assert found.std is None or isfinite(found.std)
        return
    assert found.mean is not None and found.std is not None
    assert isclose(found.mean, mean, rel_tol=1e-12, abs_tol=1e-12 * scale)
    assert isclose(found.std, std, rel_tol=1e-9, abs_tol=1e-12 * scale)
    if found.skewness is not None and std > 1e-6 * scale and scale < 1e70:
        assert isclose(found.skewness, stats.skew(x), rel_tol=1e-6, abs_tol=1e-6)
        assert found.excess_kurtosis is not None
        assert isclose(found.excess_kurtosis, stats.kurtosis(x), rel_tol=1e-6, abs_tol=1e-6)
    if std > 1e-6 * scale:
        assert found.beyond_6_sigma == (np.abs(x - mean) > 6 * std).mean()
    assert found.quantiles is not None
    for q, value in found.quantiles.items():
        expected = float(np.quantile(x, float(q), method="inverted_cdf"))
        if kind_of(dtype).exact:
            assert value == expected
        elif abs(expected) < 3e38:
            assert isclose(value, expected, rel_tol=1 / 64, abs_tol=2.0**-125)


@settings(max_examples=150, deadline=None)
@given(tensors())
def test_entropies_are_those_of_the_words(drawn: tuple[str, np.ndarray]) -> None:
    dtype, words = drawn
    found = bits(counted(dtype, words))
    kind = kind_of(dtype)
    if not words.size:
        assert found.joint is None and found.distinct == 0 and not found.constant
        return
    width = words.dtype.itemsize
    pieces = words.reshape(-1).view(f"<u{min(width, 2)}").reshape(words.size, -1)

    def reference(symbols: np.ndarray) -> float:
        return float(stats.entropy(np.unique(symbols, return_counts=True)[1], base=2))

    assert found.joint is not None
    if kind.exact or kind.is_float:
        assert isclose(found.joint, sum(reference(piece) for piece in pieces.T), abs_tol=1e-9)
    elif np.abs(words.astype(np.float64)).max() <= 256:
        assert isclose(found.joint, reference(words), abs_tol=1e-9)
    if kind.is_float:
        top, low = pieces[:, -1].astype(np.int64), pieces[:, :-1]
        mantissa = (16 if width > 1 else 8) - kind.exponent - kind.signed
        assert found.sign is not None and found.exponent is not None and found.mantissa is not None
        assert isclose(found.exponent, reference(top >> mantissa & ((1 << kind.exponent) - 1)), abs_tol=1e-9)
        assert isclose(found.sign, reference(top >> (mantissa + kind.exponent)), abs_tol=1e-9)
        expected = reference(top & ((1 << mantissa) - 1)) + sum(reference(piece) for piece in low.T)
        assert isclose(found.mantissa, expected, abs_tol=1e-9)
    if kind.exact:
        assert found.distinct == len(np.unique(kind.values[words.reshape(-1).view(f"<u{width}")]))


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_the_counts_do_not_depend_on_chunks(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mc.analysis import tally as module

    words = np.random.default_rng(0).normal(size=(300, 50)).astype(numpy_dtype(dtype))
    whole = counted(dtype, words)
    monkeypatch.setattr(module, "CHUNK", 1000)
    parts = counted(dtype, words)
    assert (whole.counts == parts.counts).all() and (whole.given == parts.given).all()
    assert np.array_equal(whole.rows, parts.rows) and np.array_equal(whole.columns, parts.columns)
    assert isclose(whole.sums.m4, parts.sums.m4, rel_tol=1e-12)


def test_row_and_column_scales_are_found_and_save_bits() -> None:
    rng = np.random.default_rng(1)
    rows, columns = np.exp2(rng.normal(0, 1, (400, 1))), np.exp2(rng.normal(0, 0.5, (1, 300)))
    words = (rng.normal(size=(400, 300)) * rows * columns).astype(np.float32)
    found = counted("F32", words)
    true = np.log2(rows[:, 0])
    assert np.corrcoef(found.rows, true)[0, 1] > 0.99
    assert np.corrcoef(found.columns, np.log2(columns[0]))[0, 1] > 0.97
    figures = moments(found)
    assert figures.row_spread is not None and isclose(figures.row_spread, true.std(), rel_tol=0.05)
    where = bits(found)
    assert where.joint is not None and where.given_scales is not None and where.scale_cost is not None
    assert where.given_scales + where.scale_cost < where.joint - 0.15
    flat = bits(counted("F32", rng.normal(size=(400, 300)).astype(np.float32)))
    assert flat.joint is not None and flat.given_scales is not None
    assert abs(flat.joint - flat.given_scales) < 0.05


def test_rows_that_fit_a_narrower_dtype_are_counted() -> None:
    rng = np.random.default_rng(2)
    words = rng.normal(size=(8, 100)).astype(np.float32)
    words[:3] = words[:3].astype(np.float16)
    words[3] = words[3].astype(numpy_dtype("BF16"))
    words[0, 0], words[3, 0] = np.nan, 2.0**60
    found = {one.dtype: (one.rows, one.share) for one in bits(counted("F32", words)).narrower}
    assert found == {"F16": (3, 3 / 8), "BF16": (1, 1 / 8)}
    numbers = np.array([[1, -129], [3, 4]], np.int64)
    found = {one.dtype: (one.rows, one.share) for one in bits(counted("I64", numbers)).narrower}
    assert found == {"I32": (2, 1.0), "I16": (2, 1.0), "I8": (1, 0.5)}


@pytest.mark.parametrize(("dtype", "bits_each"), [("F4", 4), ("F6_E2M3", 6), ("F6_E3M2", 6)])
def test_sub_byte_words_are_unpacked(dtype: str, bits_each: int) -> None:
    codes = np.random.default_rng(3).integers(0, 1 << bits_each, 240)
    flat = (codes[:, None] >> np.arange(bits_each) & 1).astype(np.uint8)
    raw = np.packbits(flat.reshape(-1), bitorder="little")
    found = tally(dtype, (240,), len(raw), lambda start, stop: raw[start:stop], map)
    assert found.words == 240
    assert (found.counts == np.bincount(codes, minlength=1 << bits_each)).all()
    assert moments(found).mean == pytest.approx(kind_of(dtype).values[codes].mean())


def splits() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(4)
    return [
        (rng.normal(5, 1, 1000), rng.normal(-5, 2, 10)),
        (rng.normal(0, 1, 1), rng.normal(0, 1, 1)),
        (rng.normal(0, 1e-30, 50), np.empty(0)),
    ]


@pytest.mark.parametrize(("one", "other"), splits())
def test_merged_sums_are_those_of_both(one: np.ndarray, other: np.ndarray) -> None:
    def sums(x: np.ndarray) -> Sums:
        return counted("F64", x).sums

    both, whole = merged(sums(one), sums(other)), sums(np.concatenate([one, other]))
    for name in ("count", "least", "most", "mean", "m2", "m3", "m4"):
        assert getattr(both, name) == pytest.approx(getattr(whole, name), rel=1e-10, abs=1e-15 * (name != "m2")), name


def test_a_pool_holds_all_its_tensors() -> None:
    one = np.random.default_rng(5).normal(size=400).astype(np.float16)
    other = np.arange(200, dtype=np.int8)
    from mc.analysis.moments import joined

    figures = pool_moments(joined(pooled(counted("F16", one)), pooled(counted("I8", other))))
    every = np.concatenate([one.astype(np.float64), other.astype(np.float64)])
    assert figures.count == 600 and figures.mean == pytest.approx(every.mean())
    assert figures.std == pytest.approx(every.std())
    assert figures.quantiles is not None
    assert figures.quantiles["0.5"] == pytest.approx(np.median(every), abs=0.05)


def test_a_checkpoint_of_very_many_layers_takes_memory_for_what_is_in_them() -> None:
    words = np.arange(3, dtype=np.uint16)
    data = build(Piece(str(number), "BF16", (3,), (number + words).tobytes()) for number in range(200))
    analyze(BytesIO(data), deep=False, threads=1)
    tracemalloc.start()
    try:
        assert len(analyze(BytesIO(data), deep=False, threads=1).groups) == 200
        assert tracemalloc.get_traced_memory()[1] < 40e6  # 65,536 bins for each would be 105e6
    finally:
        tracemalloc.stop()


def test_a_sample_is_whole_rows_chosen_by_its_seed() -> None:
    words = np.random.default_rng(6).normal(size=(2000, 64)).astype(np.float32)
    one, same, other = (counted("F32", words, 20_000, seed) for seed in (1, 1, 2))
    assert one.sampled and 20_000 <= one.words <= 24_200
    assert one.digest == same.digest != other.digest
    assert moments(one).std == pytest.approx(1, abs=0.03)
    assert not counted("F32", words, words.size).sampled


def test_the_histogram_holds_every_number() -> None:
    words = np.random.default_rng(7).normal(size=100_000).astype(np.float16)
    shown = moments(counted("F16", words)).histogram
    assert shown is not None
    assert sum(shown.counts) + shown.below + shown.above == pytest.approx(100_000, abs=1)
    expected, _ = np.histogram(words.astype(float), bins=96, range=(shown.low, shown.high))
    assert np.abs(np.array(shown.counts) - expected).max() < 60
