"""Trellises: the best walk against all walks, floats against the document's formula, rates against Shannon's bound."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from math import log2
from typing import Any

import numpy as np
import pytest

import mc
from anatomy import dissect
from mc.checkpoint import Source
from mc.codec.trellis import MACHINES
from mc.errors import DamagedError
from mc.lossy import arrays, grids, trellises
from mc.lossy.requests import Target, parse_request
from mc.lossy.walks import walk
from mc.schemes import Trellis

Array = np.ndarray[Any, Any]
NONE = np.empty(0)
# FORMAT.md, 7.7: back and ahead.
DOCUMENT = {4: (2, 1), 8: (5, 2), 64: (33, 10), 256: (166, 121)}


def states_of(q: list[int], states: int) -> list[int]:
    """The state of every word of a row, as the document says."""
    back, ahead = DOCUMENT[states]
    found = [0]
    for v in q:
        s = found[-1]
        found.append(s // 2 ^ (back if s % 2 else 0) ^ (ahead if v % 2 else 0))
    return found[:-1]


def gaussian(rows: int, cols: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(rows, cols)).astype(np.float32)


def quantized(w: Array, scheme: str, step: float, objective: str = "plain") -> Any:
    return arrays.quantize("w", w, "F32", w.shape, parse_request(scheme), 0, step, objective)


@pytest.mark.parametrize("states", [4, 8])
@pytest.mark.parametrize("price", [0.0, 0.4])
def test_no_walk_costs_less(states: int, price: float) -> None:
    """Every walk of five steps with integers from -3 to 3 is tried."""
    walks = np.array(list(itertools.product(range(-3, 4), repeat=5)))
    odd = np.array([[s % 2 for s in states_of(line, states)] for line in walks.tolist()])
    half = 4
    values = 2.0 * np.arange(-half, half + 1) + np.arange(2)[:, None]
    lengths = (0.7 * np.abs(values) + 0.2)[None].astype(np.float32)
    w = gaussian(40, 5, states) * 2
    bits = lengths[0, odd, walks + half].sum(axis=1)
    costs = ((w[:, None, :] - (2 * walks + odd)) ** 2).sum(axis=2) + price * bits
    q, counts = np.empty(w.shape, np.int32), np.zeros(lengths.shape, np.int64)
    contexts = np.zeros(40, np.int64), np.zeros(5, np.int64)
    walk(w, 1, np.ones(40), NONE, NONE, contexts, lengths, price, MACHINES[states], states, q, counts)
    for r, line in enumerate(q.tolist()):
        which = np.flatnonzero((walks == line).all(axis=1))
        assert len(which) == 1
        assert costs[r, which[0]] == pytest.approx(costs[r].min())
    assert counts.sum() == w.size


@pytest.mark.parametrize("states", sorted(DOCUMENT))
def test_floats_are_what_the_document_says(states: int) -> None:
    draw = np.random.default_rng(states)
    q = draw.integers(-128, 128, (5, 40)).astype(np.int8)
    rows, columns = draw.integers(0, 256, 5).astype(np.uint8), draw.integers(0, 256, 40).astype(np.uint8)
    out = trellises.dequantize(q, Trellis("I8", 0.37, states, True, True), rows, columns)
    for r in range(5):
        of = states_of(q[r].tolist(), states)
        for c in range(40):
            step = np.float32(0.37 * float(grids.scale(rows[r])) * float(grids.scale(columns[c])))
            assert out[r, c] == np.float32(2 * int(q[r, c]) + of[c] % 2) * step


def test_rates_come_near_shannon_s_bound(built: Callable[..., bytes]) -> None:
    """Within an eighth of a bit with eight states, tables and all; with more states nearer, and grids are farther."""
    w = gaussian(600, 1024)
    for step in (0.15, 0.6):
        gaps = []
        for scheme in ("grid", "trellis,effort=4", "trellis", "trellis,effort=64"):
            found = quantized(w, scheme, step)
            entry = {
                **found.about.scheme.__dict__,
                "scheme": scheme.split(",")[0],
                "dtype": "F32",
                "shape": [600, 1024],
            }
            recipe = json.dumps([{"step": "quantize", "tensors": {"w": {**entry, "error": 0.0}}}])
            packed = mc.compress(built({"w": ("I8", found.stored["w"])}, {"mc.recipe": recipe}))
            gaps.append(8 * len(packed) / w.size - log2(1 / found.about.error) / 2)
        assert gaps == sorted(gaps, reverse=True)
        assert gaps[0] > 0.2 and gaps[2] < 0.125 and gaps[3] < 0.1


def test_columns_that_weigh_more_have_less_error() -> None:
    w = gaussian(200, 256)
    frame = grids.frame(w, "plain", False)
    weights = np.where(np.arange(256) % 2, 1.9, 0.1)
    even, weighed = (
        trellises.dequantize(trellises.quantize(w, frame, 0.5, 8, of), Trellis("I8", 0.5, 8, False, False), None, None)
        for of in (NONE, weights)
    )
    error_even, error_weighed = (((one - w) ** 2).mean(axis=0) for one in (even, weighed))
    assert error_weighed[1::2].mean() < 0.9 * error_even[1::2].mean()
    assert error_weighed[::2].mean() > 1.2 * error_even[::2].mean()
    dead = trellises.quantize(w, frame, 0.5, 8, np.where(np.arange(256) % 2, 2.0, 0.0))
    assert np.abs(dead[:, 1::2] * 1.0 - w[:, 1::2]).max() < 2
    same = trellises.quantize(w, frame, 0.5, 8, np.ones(256))
    assert np.array_equal(same, trellises.quantize(w, frame, 0.5, 8))


def test_weights_far_out_are_kept() -> None:
    w = gaussian(64, 64)
    w[3, 7], w[9, 60] = 5000.0, -70000.0
    found = quantized(w, "trellis", 0.3)
    back = arrays.dequantize("w", found.about, found.stored)
    assert found.about.scheme.to == "I32" and np.abs(back - w).max() < 2


CHECKPOINT = [("a", (200, 300)), ("b", (64, 3, 5, 7)), ("c", (1, 700)), ("d", (900, 1)), ("kept", (40,))]


@pytest.fixture(scope="module")
def plain(built: Callable[..., bytes]) -> bytes:
    made = {name: np.random.default_rng(k).normal(size=shape) for k, (name, shape) in enumerate(CHECKPOINT)}
    return built({name: ("F32", w.astype(np.float32)) for name, w in made.items()})


def through(plain: bytes, limit: Target, scheme: str = "trellis", pack: bool = True, **more: Any) -> tuple[Any, bytes]:
    out = io.BytesIO()
    report = mc.quantize(io.BytesIO(plain), out, scheme=scheme, limit=limit, pack=pack, threads=1, **more)
    return report.files[0], out.getvalue()


@pytest.mark.parametrize("objective", ["plain", "row"])
@pytest.mark.parametrize(
    "limit",
    [
        Target("bits", 4.0), Target("bits", 0.8), Target("size", 40_000), Target("error", 0.01),
        Target("error", 0.05, True), Target("error", 1e-6, True),
    ],
)  # fmt: skip
def test_limits_are_met_and_never_exceeded(plain: bytes, limit: Target, objective: str) -> None:
    file, packed = through(plain, limit, objective=objective)
    worst = max(one.error for one in file.tensors)
    found = {"bits": file.bits, "size": len(packed), "error": file.error if limit.overall else worst}[limit.kind]
    assert 0.994 * limit.value <= found <= limit.value
    again = through(plain, limit, objective=objective)[1]
    assert packed == again
    with mc.open(packed, dequantize=True) as floats, mc.open(plain) as before:
        for one in file.tensors:
            exact, near = before.tensor(one.name).astype(float), floats.tensor(one.name).astype(float)
            assert ((exact - near) ** 2).sum() / (exact**2).sum() == pytest.approx(one.error, rel=1e-5)


def test_the_manifest_says_how_tensors_were_quantized(plain: bytes) -> None:
    file, packed = through(plain, Target("error", 0.01), objective="tensor")
    said = dissect(packed).manifest["quantized"]
    assert list(said) == ["a", "b", "c", "d"]
    for one in file.tensors:
        assert 0 < one.side_bytes < one.bytes / 2
        assert said[one.name]["scheme"] == one.scheme == "trellis 8"
        assert said[one.name]["objective"] == "tensor"
        assert said[one.name]["error"] == pytest.approx(one.error, rel=1e-5)
        assert said[one.name]["bits"] == pytest.approx(one.bits, abs=1e-4)
    assert dict(mc.verify(io.BytesIO(packed)).files[0].quantized) == said


@pytest.mark.parametrize(
    "scheme",
    [
        "trellis,columns=yes", "grid", "grid,columns=yes", "int4,group=32", "int4,symmetric=no", "fp8",
        "fp8,per=tensor", "bf16", "codebook", "codebook,rows=50", "nf4", "mantissa",
    ],
)  # fmt: skip
@pytest.mark.parametrize("pack", [False, True])
def test_rows_are_those_of_the_whole(plain: bytes, scheme: str, pack: bool) -> None:
    stepped = scheme.startswith(("grid", "trellis", "mantissa"))
    out = io.BytesIO()
    limit = Target("error", 0.01) if stepped else None
    mc.quantize(io.BytesIO(plain), out, scheme=scheme, limit=limit, pack=pack, threads=1)
    with mc.open(out.getvalue(), dequantize=True) as floats:
        for name, shape in CHECKPOINT:
            whole = floats.tensor(name)
            for start, stop in ((0, shape[0]), (shape[0] // 3, shape[0] // 2), (shape[0] - 1, shape[0]), (0, 0)):
                found = floats.rows(name, start, stop)
                assert found.dtype == whole.dtype and np.array_equal(found, whole[start:stop])


def test_rows_need_no_chunks_of_others(built: Callable[..., bytes]) -> None:
    w = gaussian(700, 1024)
    packed = bytearray(through(built({"w": ("F32", w)}), Target("error", 0.05))[1])
    packed[len(packed) - 3000] ^= 1  # in the last chunk, which has rows 512 to 699
    with mc.open(bytes(packed), dequantize=True) as floats:
        assert np.abs(floats.rows("w", 100, 110) - w[100:110]).max() < 1.5
        with pytest.raises(DamagedError):
            floats.tensor("w")
        with pytest.raises(DamagedError):
            floats.rows("w", 600, 610)


def test_tensors_of_unknown_dtypes_come_back_beside_floats(built: Callable[..., bytes]) -> None:
    tensors = {"q": ("Q3_K", np.full(999, 3, np.uint8)), "w": ("F32", gaussian(20, 70)), "n": ("I64", np.arange(5))}
    _, packed = through(built(tensors), Target("error", 0.1))
    back = io.BytesIO()
    mc.dequantize(io.BytesIO(packed), back, threads=1)
    with mc.open(back.getvalue()) as floats:
        assert floats.names() == ["q", "w", "n"]
        assert floats.data("q").tobytes() == bytes([3]) * 999 and floats.tensor("n").tolist() == [0, 1, 2, 3, 4]
        assert ((floats.tensor("w") - tensors["w"][1]) ** 2).mean() < 0.12


def test_a_broken_recipe_packs_all_the_same(plain: bytes) -> None:
    _, stored = through(plain, Target("error", 0.01), pack=False)
    with Source.of(stored) as source:
        assert source.size == len(stored)
    broken = stored.replace(b'\\"states\\":8', b'\\"states\\":9')
    assert broken != stored
    assert mc.decompress(mc.compress(broken)) == broken
    assert mc.decompress(mc.compress(stored)) == stored
