"""Models, bounds, spectra, predictions and advice: parameters found again, figures against references."""

from __future__ import annotations

import io
import json
from math import isclose, log2
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from threadpoolctl import threadpool_limits

import mc
from conftest import safetensors, weights
from mc.analysis.bits import bits
from mc.analysis.bounds import bounds, rate_of
from mc.analysis.examine import analyze, group_of
from mc.analysis.fits import Fit, fit_all
from mc.analysis.kinds import kind_of
from mc.analysis.structure import Structure, structure
from mc.dtypes import DTYPES
from mc.lossy.requests import Target
from mc_cli.commands.analyze import plain
from mc_cli.overview import large
from test_analysis_moments import counted

N = 100_000


def fits(dtype: str, words: np.ndarray) -> dict[str, Fit]:
    return {fit.model: fit for fit in fit_all(counted(dtype, words))}


def draws() -> dict[str, tuple[np.ndarray, dict[str, float]]]:
    rng = np.random.default_rng(0)
    mixed = np.where(rng.random(N) < 0.8, rng.normal(0, 1, N), rng.normal(0.5, 5, N))
    return {
        "gaussian": (rng.normal(3, 2, N), {"mean": 3, "std": 2}),
        "laplace": (rng.laplace(1, 0.5, N), {"location": 1, "scale": 0.5}),
        "student-t": (0.1 * rng.standard_t(3, N), {"scale": 0.1, "degrees_of_freedom": 3}),
        "generalized gaussian": (
            stats.gennorm.rvs(4, scale=2, size=N, random_state=rng), {"scale": 2, "shape": 4}
        ),
        "uniform": (rng.uniform(-1, 2, N), {"low": -1, "high": 2}),
        "gaussian mixture": (mixed, {"share": 0.8, "std": 1, "mean_2": 0.5, "std_2": 5}),
    }  # fmt: skip


@pytest.mark.parametrize("model", draws())
def test_parameters_are_found_again_and_the_model_is_named(model: str) -> None:
    numbers, parameters = draws()[model]
    found = fits("F32", numbers.astype(np.float32))
    for name, value in parameters.items():
        assert found[model].parameters[name] == pytest.approx(value, rel=0.05, abs=0.07), name
    best = min(fit.lost_bits for fit in found.values())
    assert found[model].lost_bits < best + 0.003
    others = {"gaussian": "laplace", "uniform": "gaussian"}.get(model, "uniform")
    assert found[others].lost_bits > found[model].lost_bits + 0.02


def test_likelihood_and_ks_are_those_of_scipy() -> None:
    words = np.random.default_rng(1).normal(0.3, 0.7, 20_000).astype(np.float16)
    found = fits("F16", words)
    x = words.astype(np.float64)
    mean, std = x.mean(), x.std()
    assert found["gaussian"].log_likelihood == pytest.approx(stats.norm.logpdf(x, mean, std).sum(), rel=1e-9)
    assert found["gaussian"].ks == pytest.approx(stats.kstest(x, "norm", (mean, std)).statistic, abs=2e-3)
    nu, location, scale = (found["student-t"].parameters[k] for k in ("degrees_of_freedom", "location", "scale"))
    expected = stats.t.logpdf(x, nu, location, scale).sum()
    assert found["student-t"].log_likelihood == pytest.approx(expected, rel=1e-9)
    best = stats.laplace.logpdf(x, np.median(x), np.abs(x - np.median(x)).mean()).sum()
    assert found["laplace"].log_likelihood == pytest.approx(best, rel=1e-4)


def test_lost_bits_are_the_cross_entropy_less_the_entropy() -> None:
    words = np.random.default_rng(2).normal(0, 6, N).round().clip(-127, 127).astype(np.int8)
    found = fits("I8", words)["gaussian"]
    values, counts = np.unique(words.astype(float), return_counts=True)
    model = stats.norm(found.parameters["mean"], found.parameters["std"])
    probability = model.cdf(values + 0.5) - model.cdf(values - 0.5)
    cross = -(counts / N * np.log2(probability)).sum()
    assert found.lost_bits == pytest.approx(cross - stats.entropy(counts, base=2), abs=1e-6)


@pytest.mark.parametrize(
    ("model", "words", "parameters"),
    [
        ("poisson", np.random.default_rng(3).poisson(7, N), {"rate": 7}),
        ("geometric", np.random.default_rng(3).geometric(0.3, N) - 1, {"p": 0.3}),
        (
            "two-sided geometric",
            np.random.default_rng(3).geometric(0.3, N) - np.random.default_rng(4).geometric(0.3, N),
            {"centre": 0, "q": 0.7},
        ),
    ],
)
def test_whole_numbers_have_models_of_their_own(model: str, words: np.ndarray, parameters: dict[str, float]) -> None:
    for dtype, kind in (("I16", np.int16), ("I64", np.int64)):
        found = fits(dtype, words.astype(kind))
        assert next(iter(found)) == model and found[model].lost_bits < 0.002 and found[model].ks < 0.01
        for name, value in parameters.items():
            assert found[model].parameters[name] == pytest.approx(value, rel=0.02), name


@pytest.mark.parametrize("words", [np.empty(0), np.full(9, 2.0), np.full(9, np.nan), np.array([1e300, -1e300])])
def test_nothing_is_fitted_where_nothing_can_be(words: np.ndarray) -> None:
    found = counted("F64", words)
    assert fit_all(found) == () and structure(found, "F64", words.shape, _none, None) is None


def _none(start: int, stop: int) -> np.ndarray:
    raise AssertionError("nothing is to be read")


def test_bounds_of_a_gaussian_and_with_known_scales() -> None:
    rng = np.random.default_rng(5)
    flat = counted("F32", rng.normal(0, 0.02, (600, 500)).astype(np.float32))
    found = bounds(flat, bits(flat))
    assert found is not None
    for db in (20, 30, 40):
        exact = db / 20 * log2(10)
        assert found.gaussian[str(db)] == pytest.approx(exact, abs=0.001)
        assert found.empirical[str(db)] == pytest.approx(exact, abs=0.02)
    scaled = rng.normal(0, 1, (600, 500)) * np.exp2(rng.normal(0, 1, (600, 1)))
    tallied = counted("F32", scaled.astype(np.float32))
    known = bounds(tallied, bits(tallied))
    variances = np.exp2(2 * np.log2(np.abs(scaled).mean(axis=1)))
    level = variances.mean() * 1e-3
    for _ in range(100):  # reverse water-filling of independent Gaussians
        level *= variances.mean() * 1e-3 / np.minimum(level, variances).mean()
    exact = np.maximum(0, np.log2(variances / level) / 2).mean()
    assert known is not None and known.empirical["30"] == pytest.approx(exact, abs=0.1)
    assert known.empirical["30"] < known.gaussian["30"] - 0.5


def test_the_bound_never_exceeds_the_entropy() -> None:
    words = np.random.default_rng(6).normal(0, 1, (200, 100)).astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
    tallied = counted("F8_E4M3", words)
    where = bits(tallied)
    rate = rate_of(tallied, where)
    assert rate is not None and where.joint is not None and rate(1e-12) <= where.joint


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (30, 7, 3)])
def test_spectra_are_those_of_numpy(shape: tuple[int, ...]) -> None:
    words = np.random.default_rng(7).normal(size=shape).astype(np.float32)
    found = _built(words)
    energies = np.linalg.svd(words.reshape(shape[0], -1).astype(np.float64), compute_uv=False) ** 2
    shares = energies / energies.sum()
    assert found.exact and found.stable_rank == pytest.approx(1 / shares[0], rel=1e-4)
    assert found.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
    for rank, energy in found.energy.items():
        assert energy == pytest.approx(shares[: int(rank)].sum(), rel=1e-4)
    assert found.rank_90 == int(np.searchsorted(np.cumsum(shares), 0.9)) + 1


def test_large_spectra_are_found_by_sketching(monkeypatch: pytest.MonkeyPatch) -> None:
    from mc.analysis import structure as module

    rng = np.random.default_rng(8)
    words = rng.normal(size=(400, 20)) @ rng.normal(size=(20, 300)) + 0.1 * rng.normal(size=(400, 300))
    exact = _built(words.astype(np.float32))
    monkeypatch.setattr(module, "EXACT", 100)
    sketched = _built(words.astype(np.float32))
    assert exact.exact and not sketched.exact
    assert sketched.stable_rank == pytest.approx(exact.stable_rank, rel=1e-3)
    assert sketched.energy["16"] == pytest.approx(exact.energy["16"], rel=1e-3)
    assert sketched.low_rank_gain is not None and sketched.low_rank_gain > 0 and sketched.low_rank_best is not None
    assert 16 <= sketched.low_rank_best <= 24


def test_a_rank_that_is_only_a_limit_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mc.analysis import structure as module

    words = np.random.default_rng(13).normal(size=(300, 200)).astype(np.float32)
    (tmp_path / "m").write_bytes(safetensors({"w": ("F32", words)}))
    exact = "\n".join(large(analyze(tmp_path / "m").tensors[0], 100))
    monkeypatch.setattr(module, "EXACT", 100)
    limit = "\n".join(large(analyze(tmp_path / "m").tensors[0], 100))
    assert "effective rank at most" in limit and "effective rank at most" not in exact


def _built(words: np.ndarray) -> Structure:
    tallied = counted("F32", words)
    raw = np.frombuffer(words.tobytes(), np.uint8)
    with threadpool_limits(1, user_api="blas"):  # as `analyze` does it
        found = structure(tallied, "F32", words.shape, lambda a, b: raw[a:b], rate_of(tallied, bits(tallied)))
    assert found is not None
    return found


def test_dense_noise_is_neither_low_rank_nor_sparse_and_sparse_is() -> None:
    rng = np.random.default_rng(9)
    noise = _built(rng.normal(size=(200, 100)).astype(np.float32))
    assert noise.low_rank_gain is not None and noise.low_rank_gain < -1
    assert noise.sparse_gain is not None and noise.sparse_gain < -1
    spikes = np.where(rng.random((200, 100)) < 0.01, 1, 1e-4) * rng.choice([-1, 1], (200, 100)) * rng.normal(1, 0.1)
    found = _built((spikes * rng.normal(1, 0.2, (200, 100))).astype(np.float32))
    assert found.sparse_kept is not None and 0.002 < found.sparse_kept < 0.05


@pytest.mark.parametrize("level", ["fast", "default", "best"])
def test_predicted_bytes_are_those_that_pack_writes(level: mc.Level, tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    bf16 = (rng.normal(size=(2000, 700)) * np.exp2(rng.normal(0, 0.4, (2000, 1)))).astype(ml_dtypes.bfloat16)
    f32 = rng.normal(size=(1500, 400)).astype(np.float32)
    f32[:700] = f32[:700].astype(np.float16)
    tokens = rng.geometric(0.1, 50_000).astype(np.int64)
    data = safetensors(
        {"a": ("BF16", bf16.view(np.uint16)), "b": ("F32", f32), "tied": ("F32", f32), "t": ("I64", tokens)}
    )
    for name, content in (("large", data), ("small", weights())):
        (tmp_path / name).write_bytes(content)
        found = analyze(tmp_path / name).whole
        packed = mc.pack(tmp_path / name, io.BytesIO(), level=level).packed_bytes
        assert found.predicted_bytes is not None
        assert isclose(found.predicted_bytes[level], packed, rel_tol=0.01), name
        assert found.bytes == len(content)


def test_duplicates_are_predicted_as_pack_finds_them(tmp_path: Path) -> None:
    """Of any dtype and shape in a file, each shard of a folder by itself."""
    a = np.random.default_rng(12).normal(size=(300, 100)).astype(np.float32)
    same = {"a": ("F32", a), "flat": ("F32", a.reshape(-1)), "ints": ("I32", a.view("i4")), "other": ("F32", -a[::-1])}
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "1.safetensors").write_bytes(safetensors(same))
    (tmp_path / "m" / "2.safetensors").write_bytes(safetensors({"b": ("F32", a), "c": ("F32", a)}))
    found = analyze(tmp_path / "m")
    duplicates = {tensor.name: tensor.bits.duplicate_of for tensor in found.tensors}
    assert duplicates == {"a": None, "flat": "a", "ints": "a", "other": None, "b": "a", "c": "b"}
    packed = sum(mc.pack(path, io.BytesIO()).packed_bytes for path in (tmp_path / "m").iterdir())
    assert found.whole.predicted_bytes is not None
    assert isclose(found.whole.predicted_bytes["default"], packed, rel_tol=0.01)


def test_advice_names_its_reasons(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    noise = rng.normal(size=(100, 100)).astype(np.float32)
    scaled = noise * np.exp2(rng.normal(0, 2, (100, 1))).astype(np.float32)
    cast = noise.astype(ml_dtypes.bfloat16).astype(np.float32)
    low = (rng.normal(size=(100, 3)) @ rng.normal(size=(3, 100))).astype(np.float32)
    tensors = {
        "noise": noise, "again": noise, "scaled": scaled, "cast": cast, "low": low, "zero": np.zeros((70, 70), "f4"),
        "broken": np.where(noise > 3, np.nan, noise), "one": noise[0, :1], "few": noise[0], "empty": noise[:0],
        "pruned": noise * (np.abs(noise) > 1),
    }  # fmt: skip
    (tmp_path / "m").write_bytes(safetensors({name: ("F32", words) for name, words in tensors.items()}))
    said = {tensor.name: " ".join(tensor.advice) for tensor in analyze(tmp_path / "m").tensors}
    expected = {
        "noise": "Quantize at about 5.2 bits", "again": "same bytes as 'noise'", "scaled": "row contexts",
        "cast": "fits BF16", "low": "Factor at rank 3", "zero": "all 4900 are 0", "broken": "NaN",
        "one": "single number", "few": "only 100 numbers", "empty": "empty", "pruned": "sparse already: 68%",
    }  # fmt: skip
    for name, words in expected.items():
        assert words in said[name], said[name]


SHAPES = [(), (0,), (1,), (5,), (1, 1), (2, 2), (3, 50), (70, 70), (1, 100), (100, 1), (2, 3, 4), (64, 0)]


@pytest.mark.filterwarnings("error")
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(sorted(DTYPES)), st.sampled_from(SHAPES), st.integers(0, 4))
@example(77991502, "F64", (2, 2), 0)  # 1e139 among 1e-203
def test_no_bytes_make_it_fail(seed: int, dtype: str, shape: tuple[int, ...], what: int) -> None:
    bits = DTYPES[dtype].bits
    size = int(np.prod(shape)) * bits // 8
    raw = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    width = max(1, bits // 8)
    raw = {1: raw & 1, 2: np.tile(raw[:width], size // width), 3: raw & 128, 4: raw * (np.arange(size) > size - 3)}.get(
        what, raw
    )
    entry = {"dtype": dtype, "shape": list(shape), "data_offsets": [0, size]}
    if int(np.prod(shape)) * bits % 8:
        return
    header = json.dumps({"layer.0.weight": entry}).encode()
    data = len(header).to_bytes(8, "little") + header + raw.astype(np.uint8).tobytes()
    found = mc.analyze(io.BytesIO(data), threads=1)
    json.dumps(plain(found), allow_nan=False)
    assert found.tensors[0].advice and large(found.tensors[0], 80)


def test_groups_are_layers_and_hold_their_tensors(tmp_path: Path) -> None:
    assert group_of("model.layers.12.mlp.weight") == "model.layers.12" and group_of("head.bias") == "head"
    assert group_of("h.0") == "h.0" and group_of("conv1.weight") == "conv1"
    one, two = np.ones((4, 4), "f4"), np.arange(8, dtype="f4")
    floats = {name: ("F32", words) for name, words in (("l.0.a", one), ("l.0.b", two), ("l.1.a", two))}
    tensors = floats | {"step": ("I32", np.array([9], "i4"))}
    (tmp_path / "m").write_bytes(safetensors(tensors))
    found = analyze(tmp_path / "m")
    groups = {group.name: group for group in found.groups}
    assert list(groups) == ["l.0", "l.1", "step"] and groups["l.0"].parameters == 24
    assert groups["l.0"].moments.mean == pytest.approx((16 + 28) / 24)
    assert groups["step"].moments.mean == 9 and found.whole.moments.max == 7


def test_a_known_kind_of_every_dtype_has_cells_around_its_values() -> None:
    for name in ("F16", "F8_E5M2", "I8", "F4", "F32", "I32"):
        kind = kind_of(name)
        here = kind.order
        assert (kind.low[here] <= kind.values[here]).all() and (kind.values[here] <= kind.high[here]).all()
        gaps = kind.low[here][1:] - kind.high[here][:-1]
        assert name == "I32" or (gaps == 0).all()


@pytest.mark.parametrize("scheme", ["grid", "trellis"])
def test_predicted_bytes_of_a_quantized_file(scheme: str) -> None:
    """Its recipe says which integers are a trellis's, and what the manifest says of each."""
    w = np.random.default_rng(3).normal(size=(300, 128)).astype(np.float32)
    quantized = io.BytesIO()
    mc.quantize(
        io.BytesIO(safetensors({"w": ("F32", w)})), quantized, scheme=scheme, limit=Target("error", 0.03), threads=1
    )
    found = mc.analyze(io.BytesIO(quantized.getvalue()), threads=1).whole.predicted_bytes
    assert found is not None
    levels: tuple[mc.Level, ...] = ("fast", "default", "best")
    assert {level: len(mc.compress(quantized.getvalue(), level=level)) for level in levels} == found
