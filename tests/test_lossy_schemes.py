"""Every scheme there and back over odd shapes, against formulas written here, and against published values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mc as library
from mc.dtypes import numpy_dtype
from mc.errors import DamagedError, McError, UsageError
from mc.lossy import arrays, codebooks, grids, loops
from mc.lossy.requests import Request, Target, parse_request
from mc.plan.goals import Goal
from mc.recipe import Quantized
from mc.schemes import Codebook, Grid, Int, Nf4, matrix, parts

SHAPES = [(1, 1), (1, 97), (97, 1), (5, 33), (3, 2, 3, 3), (16, 128), (2, 7, 1), (40,), ()]
SCHEMES = [
    "bf16", "fp16", "fp8", "fp8,format=e5m2", "fp8,per=tensor", "int2", "int3,group=7", "int4,group=32", "int5",
    "int8", "int4,group=5,symmetric=no", "int3,symmetric=no,scales=mse", "int4,scales=mse", "codebook,codes=16",
    "codebook,codes=3,rows=2", "codebook,codes=256", "nf4", "nf4,group=5", "grid", "grid,columns=yes",
    "trellis", "trellis,effort=4,columns=yes", "trellis,effort=64", "trellis,effort=256",
    "mantissa",
]  # fmt: skip


REQUESTS = {**{text: parse_request(text) for text in SCHEMES}, "channel": Request("grid", standard=True)}


def drawn(shape: tuple[int, ...], seed: int, kind: str) -> np.ndarray[Any, Any]:
    """Weights with rows of different size, one zero row, and with `kind` huge a few weights far beyond the others."""
    draw = np.random.default_rng(seed)
    w = draw.normal(size=shape) * np.exp(draw.normal(size=(*shape[:1], *[1] * (len(shape) - 1))))
    if kind == "zero":
        w = w * 0
    elif kind == "huge" and w.size > 3:
        w.reshape(-1)[draw.integers(w.size)] = 3e4
    if len(shape) > 1 and shape[0] > 2:
        w[1] = 0
    return np.asarray(w, np.float32)


def through(
    w: np.ndarray[Any, Any], scheme: str, dtype: str = "F32", objective: str = "row", step: float = 0.05
) -> Any:
    typed = w.astype(numpy_dtype(dtype))
    as_read = arrays.as_matrix(typed.reshape(-1).view(np.uint8), dtype, w.shape)
    result = arrays.quantize(
        "w", as_read, dtype, w.shape, REQUESTS.get(scheme) or parse_request(scheme), 0, step, objective
    )
    back = arrays.dequantize("w", result.about, result.stored)
    return typed, result, back


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(SHAPES),
    st.sampled_from(sorted(REQUESTS)),
    st.sampled_from(["F32", "BF16", "F16", "F64"]),
    st.sampled_from(["plain", "tensor", "row"]),
    st.sampled_from(["usual", "huge", "zero"]),
    st.integers(0, 5),
)
def test_every_scheme_stores_what_it_says_and_comes_back_near(
    shape: tuple[int, ...], scheme: str, dtype: str, objective: str, kind: str, seed: int
) -> None:
    typed, result, back = through(drawn(shape, seed, kind), scheme, dtype, objective)
    listed = parts("w", result.about.scheme, dtype, shape)
    assert {name: (array.dtype, array.shape) for name, array in result.stored.items()} == {
        name: (numpy_dtype(kind), size) for name, (kind, size) in listed.items()
    }
    assert (back.dtype, back.shape) == (typed.dtype, typed.shape)
    exact, near = typed.astype(np.float64), back.astype(np.float64)
    power = float((exact**2).sum())
    error = float(((exact - near) ** 2).sum()) / power if power else 0.0
    assert result.about.error == pytest.approx(error, rel=1e-6, abs=1e-12)
    assert error <= 1.0
    if kind == "zero":
        assert not near.any()
    again = through(drawn(shape, seed, kind), scheme, dtype, objective)[1]
    assert all(np.array_equal(result.stored[name], again.stored[name]) for name in listed)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", ["yes", "no"])
def test_integers_lie_as_compressed_tensors_packs_them(bits: int, symmetric: str) -> None:
    """Words of 32 bits, filled from the lowest along the row with q + 2^(bits - 1); zero points down the column."""
    w = drawn((6, 45), 1, "usual")
    _, result, back = through(w, f"int{bits},group=16,symmetric={symmetric}")
    stored = result.stored

    def unpacked(words: np.ndarray[Any, Any], count: int) -> list[int]:
        stream = int.from_bytes(np.ascontiguousarray(words).tobytes(), "little")
        return [(stream >> bits * k) % (1 << bits) - (1 << bits - 1) for k in range(count)]

    q = np.array([unpacked(row, 45) for row in stored["w_packed"]])
    scales = np.repeat(stored["w_scale"], 16, axis=1)[:, :45]
    assert stored["w_shape"].tolist() == [6, 45]
    assert stored["w_packed"].shape == (6, -(-45 * bits // 32))
    points = np.zeros((6, 3), int)
    if symmetric == "no":
        points = np.array([unpacked(column, 6) for column in stored["w_zero_point"].T]).T
    else:
        assert "w_zero_point" not in stored
        for g in range(3):
            top = np.abs(w[:, 16 * g : 16 * g + 16]).max(axis=1)
            assert stored["w_scale"][:, g] == pytest.approx(top / ((2**bits - 1) / 2))
    expected = (q - np.repeat(points, 16, axis=1)[:, :45]).astype(np.float32) * scales
    assert np.array_equal(back, expected)
    if symmetric == "yes":
        live = scales > 0
        rounded = np.clip(np.rint(w.astype(np.float64)[live] / scales[live]), -(1 << bits - 1), (1 << bits - 1) - 1)
        assert np.array_equal(q[live], rounded)


def test_scales_of_least_error_have_less_error() -> None:
    w = drawn((8, 512), 2, "usual")
    assert through(w, "int3,scales=mse")[1].about.error < 0.8 * through(w, "int3")[1].about.error


def test_nf4_has_the_published_values() -> None:
    """QLoRA, appendix E: what torch tests of bitsandbytes print."""
    assert [f"{x:.4f}" for x in codebooks.NF4.tolist()] == [
        "-1.0000", "-0.6962", "-0.5251", "-0.3949", "-0.2844", "-0.1848", "-0.0911", "0.0000",
        "0.0796", "0.1609", "0.2461", "0.3379", "0.4407", "0.5626", "0.7230", "1.0000",
    ]  # fmt: skip
    w = codebooks.NF4.reshape(1, 16) * np.float32(3)
    _, result, back = through(w, "nf4")
    assert result.stored["w_indices"].tolist() == [list(range(16))] and result.stored["w_absmax"].tolist() == [3.0]
    assert np.array_equal(back, w)
    assert np.array_equal(through(w, f"nf4,group={2**31 - 1}")[2], w)  # which takes no memory for what isn't there


@pytest.mark.parametrize(
    ("form", "largest", "normal", "least", "patterns"),
    [("e4m3", 448.0, 2.0**-6, 2.0**-9, "7e 01 fe 3c 08"), ("e5m2", 57344.0, 2.0**-14, 2.0**-16, "7b 01 fb 3e 04")],
)
def test_fp8_has_the_published_values(form: str, largest: float, normal: float, least: float, patterns: str) -> None:
    """OCP 8-bit floating point specification, tables 1 and 2: the largest number, the least above zero, the least that
    is normal, and the bits of these and of 1.5."""
    w = np.array([[largest, least, -largest, 1.5, normal]], np.float32)
    _, result, back = through(w, f"fp8,format={form}")
    assert result.stored["w_scale"].tolist() == [[1.0]]
    assert result.stored["w"].tobytes().hex(" ") == patterns
    assert np.array_equal(back, w)


def test_a_trained_dictionary_is_that_of_lloyd_and_max() -> None:
    """Max (1960), table I: the error of the best 4 and 8 levels for a Gaussian is 0.1175 and 0.03454."""
    w = np.random.default_rng(0).normal(size=(100, 4000)).astype(np.float32)
    for codes, error in ((4, 0.1175), (8, 0.03454), (16, 0.009497)):
        assert through(w, f"codebook,codes={codes}")[1].about.error == pytest.approx(error, rel=0.015)


@pytest.mark.parametrize("value", [0.0, -3e38, 1e-45])
def test_a_dictionary_of_one_value_holds_it(value: float) -> None:
    w = np.full((2, 3), value, np.float32)
    indices, books = codebooks.quantize(w, Codebook(4, 1), 0)
    assert np.array_equal(codebooks.dequantize(indices, books, Codebook(4, 1)), w)


def test_a_grid_costs_no_more_error_than_its_steps_allow() -> None:
    w = drawn((64, 200), 3, "usual")
    frame = grids.frame(w, "plain", False)
    nearest = grids.quantize(w, frame, 0.1, 0.0)
    assert np.array_equal(nearest, np.rint(w / np.float64(np.float32(0.1))))
    cheap = grids.quantize(w, frame, 0.1)
    assert np.abs(cheap * np.float32(0.1) - w).max() < 0.1 + 1e-6 or (np.abs(cheap) < np.abs(nearest)).any()
    assert (np.abs(cheap) <= np.abs(nearest)).all()


def test_scale_codes_are_eighths_of_an_octave_as_format_says() -> None:
    codes = np.arange(256, dtype=np.uint8)
    assert grids.scale(codes)[[128, 136, 120, 0]].tolist() == [1.0, 2.0, 0.5, 2.0**-16]
    listed = [1, 1.0905077326652577, 1.189207115002721, 1.2968395546510096, 1.4142135623730951, 1.5422108254079407]
    assert list(grids.EIGHTHS) == [*listed, 1.681792830507429, 1.8340080864093424]


@pytest.mark.parametrize("kind", ["I8", "I16", "I32"])
def test_a_grid_takes_the_narrowest_integers(kind: str) -> None:
    step = {"I8": 1.0, "I16": 0.01, "I32": 1e-5}[kind]
    _, result, back = through(np.array([[1.0, -100.0], [3.0, 7.0]], np.float32), "grid", "F32", "plain", step)
    assert result.about.scheme == Grid(kind, step, False, False)
    assert back == pytest.approx(np.array([[1, -100], [3, 7]]), abs=step)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(McError, match="1 number that is NaN or infinite"):
        arrays.as_matrix(np.array([1, bad], np.float32).view(np.uint8), "F32", (2,))


def test_numbers_beyond_the_type_are_refused() -> None:
    with pytest.raises(McError, match="up to 70000"):
        through(np.array([[70000.0]], np.float32), "fp16")
    with pytest.raises(McError, match="beyond f32"):
        arrays.as_matrix(np.array([1e300]).view(np.uint8), "F64", (1,))


@pytest.mark.parametrize(
    ("scheme", "stored"),
    [
        (Codebook(3, 0), {"w_indices": np.array([[3]], np.uint8), "w_codebook": np.zeros((1, 3), np.float32)}),
        (Nf4(64), {"w_indices": np.array([[16]], np.uint8), "w_absmax": np.ones(1, np.float32)}),
        (
            Int(4, 0, True),
            {
                "w_packed": np.zeros((1, 1), np.int32),
                "w_scale": np.ones((1, 1), np.float32),
                "w_shape": np.array([1, 2]),
            },
        ),
    ],
)
def test_stored_numbers_that_contradict_are_damage(scheme: Any, stored: dict[str, Any]) -> None:
    with pytest.raises(DamagedError):
        arrays.dequantize("w", Quantized(scheme, "F32", (1, 1), 0.0, ""), stored)


def test_rows_are_the_first_dimension() -> None:
    assert [matrix(shape) for shape in ((), (4,), (4, 5), (4, 5, 2, 3))] == [(1, 1), (1, 4), (4, 5), (4, 30)]


@pytest.mark.parametrize(
    ("scheme", "error"), [("grid", 0.01), ("grid,columns=yes", 0.5), ("trellis", 0.01), ("codebook", None)]
)
@pytest.mark.filterwarnings("error")
def test_an_outlier_near_the_end_of_f32_comes_back(
    tmp_path: Path, built: Any, scheme: str, error: float | None
) -> None:
    w = np.random.default_rng(0).normal(size=(16, 32)).astype(np.float32)
    w[3, 4] = 3e38
    (tmp_path / "w.safetensors").write_bytes(built({"w": ("F32", w)}))
    limit = Target("error", error) if error else None
    library.quantize(tmp_path / "w.safetensors", tmp_path / "q.safetensors", scheme=scheme, limit=limit)
    with library.open(tmp_path / "q.safetensors", dequantize=True) as floats:
        assert abs(floats.tensor("w")[3, 4] / 3e38 - 1) < 0.8


def test_what_would_come_back_infinite_is_refused_by_name(tmp_path: Path, built: Any) -> None:
    """Masks hold such numbers. The recipe said that the error was infinite, which no reader takes."""
    w = np.full((4, 64), 3.4e38, np.float32)
    w[::2, ::3] *= -1
    data = built({"mask": ("F32", w), "w": ("F32", np.ones((4, 64), np.float32))})
    (tmp_path / "m.safetensors").write_bytes(data)
    for act in (
        lambda **more: library.quantize(tmp_path / "m.safetensors", tmp_path / "q", scheme="int4", **more),
        lambda **more: library.auto(
            tmp_path / "m.safetensors", tmp_path / "q", goal=Goal("bits", 16), sets=[("*", "int4")], **more
        ),
    ):
        with pytest.raises(McError, match=r"m.safetensors: tensor 'mask' has weights so near the end of F32"):
            act()
        assert not (tmp_path / "q").exists()
        act(keep=["mask"])
        (tmp_path / "q").unlink()


@pytest.mark.parametrize("weight", [0.0, grids.SLOPE, 3.0])
def test_thresholds_choose_the_cheapest_of_nearest_next_and_zero(weight: float) -> None:
    """Against costs that are counted out, with code lengths so uneven that all three are taken."""
    draw = np.random.default_rng(6)
    contexts, half, last = 3, 12, 2
    lengths = draw.uniform(0, 30, (contexts, 2 * half + 1)).astype(np.float32)
    w = (draw.normal(size=(40, 500)) * 3).astype(np.float32)
    w[:, :30] = draw.choice([0, 0.5, -1.5, 6, 6.5, -6.25, 1e4, -3e12], (40, 30))
    rows, columns = draw.integers(-1, 3, 40), draw.integers(-1, 3, 500)

    nearest = np.rint(np.clip(w.astype(np.float64) / 0.5, -(2.0**30), 2.0**30))
    tried = np.stack([nearest, nearest - np.sign(nearest), np.zeros_like(nearest)])
    context = np.clip(rows[:, None] + columns, 0, last)
    bits = lengths[context, np.clip(tried, -half, half).astype(int) + half]
    costs = (np.clip(w / 0.5, -(2.0**30), 2.0**30) - tried) ** 2 + weight * bits
    best = np.take_along_axis(tried, costs.argmin(axis=0)[None], axis=0)[0]

    levels = np.empty((contexts, 2 * half + 3)), np.empty((contexts, 2 * half + 3))
    loops.thresholds(lengths, weight, *levels)
    q, counts = np.empty(w.shape, np.int32), np.zeros(lengths.shape, np.int64)
    loops.round_grid(w, 1, np.full(40, 0.5), np.empty(0), (rows, columns), *levels, q, counts)
    assert np.array_equal(q, best)
    assert counts.sum() == w.size and counts[0, half] == ((q == 0) & (context == 0)).sum()
    every = np.empty((14, 500), np.int32)
    loops.round_grid(w, 3, np.full(40, 0.5), np.empty(0), (rows, columns), *levels, every, counts)
    assert np.array_equal(every, best[::3])


@pytest.mark.parametrize("bits", range(2, 9))
def test_packed_words_hold_every_integer_in_its_bits(bits: int) -> None:
    half = 1 << (bits - 1)
    q = np.random.default_rng(bits).integers(-half, half, (3, 37)).astype(np.int8)
    words, back = np.empty((3, -(-37 * bits // 32)), np.uint32), np.empty_like(q)
    loops.pack_bits(q, bits, words)
    for row, packed in zip(q, words, strict=True):
        number = int.from_bytes(packed.astype("<u4").tobytes(), "little")
        assert number == sum((int(k) + half) << (bits * at) for at, k in enumerate(row))
    loops.unpack_bits(words, bits, back)
    assert np.array_equal(back, q)


@pytest.mark.parametrize("nonsense", ["int4,group=8,group=16", f"int4,group={'9' * 5000}", "codebook,rows=3000000000"])
def test_a_key_given_twice_or_a_number_beyond_all_is_refused(nonsense: str) -> None:
    with pytest.raises(UsageError, match=r"twice|from 1 to 2147483647"):
        parse_request(nonsense)
