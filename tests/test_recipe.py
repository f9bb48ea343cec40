"""The recipe comes from outside: it is refused whole where it doesn't fit its file; and a packed file stays one."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mc
from checkpoints import Piece, build
from mc.checkpoint import Source, read_layout
from mc.errors import DamagedError, McError
from mc.recipe import Quantize, Quantized, read_recipe, write_recipe
from mc.schemes import (
    Cast,
    Channel,
    Codebook,
    Fp8,
    Grid,
    Int,
    Mantissa,
    Nf4,
    Scheme,
    Trellis,
    parts,
    read,
    written,
)

ENTRY = {"scheme": "grid", "to": "I8", "step": 0.5, "rows": True, "columns": False, "dtype": "F32", "shape": [3, 4]}
GOOD = [{"step": "quantize", "tensors": {"w": {**ENTRY, "error": 0.01, "objective": "row"}}}]
TENSORS = {"w": ("I8", np.zeros((3, 4), np.int8)), "w_row_scale": ("U8", np.zeros(3, np.uint8))}

schemes = st.one_of(
    st.builds(Cast, st.sampled_from(["BF16", "F16"])),
    st.builds(Fp8, st.sampled_from(["F8_E4M3", "F8_E5M2"]), st.sampled_from(["channel", "tensor"])),
    st.builds(Int, st.integers(2, 8), st.integers(0, 256), st.booleans()),
    st.builds(Codebook, st.integers(2, 256), st.integers(0, 64)),
    st.just(Channel("I8")),
    st.builds(Mantissa, st.floats(1e-300, 1e38)),
    st.builds(Nf4, st.integers(1, 256)),
    st.builds(
        Trellis,
        st.sampled_from(["I8", "I16", "I32"]),
        st.floats(0, 1e38),
        st.sampled_from([4, 8, 64, 256]),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(Grid, st.sampled_from(["I8", "I16", "I32"]), st.floats(0, 1e38), st.booleans(), st.booleans()),
)


def read_back(data: bytes) -> Any:
    with Source.of(data) as source:
        return read_recipe(read_layout(source), source.where)


@given(schemes)
def test_schemes_come_back_as_they_were_written(scheme: Scheme) -> None:
    assert read(json.loads(json.dumps(written(scheme)))) == scheme


def test_a_recipe_comes_back_as_it_was_written(built: Callable[..., bytes]) -> None:
    recipe = (Quantize({"w": Quantized(Grid("I8", 0.5, True, False), "F32", (3, 4), 0.01, "row")}),)
    assert json.loads(write_recipe(recipe)) == GOOD
    assert read_back(built(TENSORS, {"format": "pt", "mc.recipe": write_recipe(recipe)})) == recipe
    assert read_back(built(TENSORS)) == ()


@pytest.mark.parametrize("key", ["shape", "dtype", "scheme", "to", "step", "rows", "error"])
@pytest.mark.parametrize("value", [None, True, "x", -1, [-1], [3, True], [2**63], {}, 1e999, "I16"])
def test_an_entry_of_anything_else_is_refused(built: Callable[..., bytes], key: str, value: object) -> None:
    tensors = {"w": {**ENTRY, "error": 0.01, key: value}}
    if (key, value) == ("rows", True):
        return
    with pytest.raises(DamagedError, match="recipe"):
        text = json.dumps([{"step": "quantize", "tensors": tensors}]).replace("Infinity", "1e999")
        read_back(built(TENSORS, {"mc.recipe": text}))


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '[{"step":"quantize"}]', "[[]]", '[{"step":"quantize","tensors":[]}]']
)
def test_a_text_that_is_no_recipe_is_refused(built: Callable[..., bytes], text: str) -> None:
    with pytest.raises(DamagedError, match=r"mc\.recipe"):
        read_back(built(TENSORS, {"mc.recipe": text}))


def test_recipes_of_many_steps_are_refused(built: Callable[..., bytes]) -> None:
    entry = {"scheme": "cast", "to": "BF16", "dtype": "BF16", "shape": [3, 4], "error": 0}
    steps = [{"step": "quantize", "tensors": {"w": entry}}]
    tensors = {"w": ("BF16", np.zeros((3, 4), np.uint16))}
    with mc.open(built(tensors, {"mc.recipe": json.dumps(16 * steps)}), dequantize=True) as floats:
        assert floats.tensor("w").shape == (3, 4)
    with pytest.raises(DamagedError, match="17 steps"):
        read_back(built(tensors, {"mc.recipe": json.dumps(17 * steps)}))


@pytest.mark.parametrize("rows", [2**31, 2**62, 4 * 4096 + 1])
def test_rows_that_were_taken_out_are_not_more_than_those_left_have_earned(
    rows: int, built: Callable[..., bytes]
) -> None:
    entry = {"scheme": "shrunk", "method": "rows", "axis": 0, "kept": 3, "dtype": "F32", "error": 0}
    tensors = {"w": ("F32", np.ones((3, 4), np.float32)), "w.mc_kept": ("I32", np.array([0, 5, 9], np.int32))}

    def shrunk(rows: int) -> bytes:
        tensor = {**entry, "shape": [rows, 4]}
        return built(tensors, {"mc.recipe": json.dumps([{"step": "prune", "tensors": {"w": tensor}}])})

    with mc.open(shrunk(4 * 4096), dequantize=True) as floats:
        assert floats.tensor("w").sum() == 12
    with pytest.raises(DamagedError, match=rf"of {rows} entries of tensor 'w' 3 are left"):
        mc.open(shrunk(rows), dequantize=True)


LOW_RANK = {"scheme": "low-rank", "residual": False, "dtype": "F32", "error": 0}


@pytest.mark.parametrize(("rank", "size"), [(0, 2500), (0, 1 << 40), (1, 5000)])
def test_weights_that_a_file_has_no_room_for_are_refused(rank: int, size: int) -> None:
    steps = [{"step": "prune", "tensors": {"w": {**LOW_RANK, "rank": rank, "shape": [size, size]}}}]
    factors = [
        Piece("w.mc_left", "F32", (size, rank), bytes(4 * size * rank)),
        Piece("w.mc_right", "F32", (rank, size), bytes(4 * size * rank)),
    ]
    data = build(factors, {"mc.recipe": json.dumps(steps)})
    files = [mc.compress(data)]
    if rank:  # 40 kB have earned 25 million weights, and the kilobyte that they pack to hasn't
        assert read_back(data)
    else:  # factors that are empty, and of any shape
        files.append(data)
    for file in files:
        with pytest.raises(DamagedError, match=rf"gives back {size * size} weights .* a file of {len(file)} bytes"):
            mc.open(file, dequantize=True)


def test_a_shape_of_more_dimensions_than_there_are_is_refused_at_once(built: Callable[..., bytes]) -> None:
    """Their product would have millions of digits."""
    tensors = {"w": {**ENTRY, "shape": [2**62] * 50000, "error": 0}}
    with pytest.raises(DamagedError, match="which no scheme has"):
        read_back(built(TENSORS, {"mc.recipe": json.dumps([{"step": "quantize", "tensors": tensors}])}))


def test_scales_from_outside_may_be_anything(built: Callable[..., bytes], recwarn: pytest.WarningsRecorder) -> None:
    metadata = {"mc.recipe": json.dumps(GOOD).replace("0.5", "1e38")}
    scales = ("U8", np.array([0, 128, 255], np.uint8))
    with mc.open(
        built({**TENSORS, "w": ("I8", np.ones((3, 4), np.int8)), "w_row_scale": scales}, metadata), dequantize=True
    ) as floats:
        assert floats.tensor("w")[:, 0].tolist() == [np.float32(1e38 * 2.0**-16), np.float32(1e38), np.inf]
    assert not recwarn.list


def test_a_step_of_a_later_version_is_refused_as_such(built: Callable[..., bytes]) -> None:
    with pytest.raises(McError, match=r"'distil'.*newer") as caught:
        read_back(built(TENSORS, {"mc.recipe": '[{"step":"distil","tensors":{}}]'}))
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    "tensors",
    [
        {"w": TENSORS["w"]},
        {**TENSORS, "w": ("I8", np.zeros((4, 3), np.int8))},
        {**TENSORS, "w": ("U8", np.zeros((3, 4), np.uint8))},
        {**TENSORS, "w_row_scale": ("U8", np.zeros(4, np.uint8))},
    ],
)
def test_a_recipe_must_fit_the_tensors(built: Callable[..., bytes], tensors: Any) -> None:
    with pytest.raises(DamagedError, match="needs"):
        read_back(built(tensors, {"mc.recipe": json.dumps(GOOD)}))


def test_a_name_given_back_must_be_free(built: Callable[..., bytes]) -> None:
    codes = parts("w", Codebook(2, 0), "F32", (3, 4))
    entry = {**written(Codebook(2, 0)), "dtype": "F32", "shape": [3, 4], "error": 0}
    stored = {
        name: (dtype, np.zeros(shape, np.uint8 if dtype == "U8" else np.float32))
        for name, (dtype, shape) in codes.items()
    }
    metadata = {"mc.recipe": json.dumps([{"step": "quantize", "tensors": {"w": entry}}])}
    assert read_back(built(stored, metadata))
    with pytest.raises(DamagedError, match="already"):
        read_back(built({**stored, "w": TENSORS["w"]}, metadata))


def test_a_file_with_a_recipe_is_plain_and_packs_byte_for_byte(built: Callable[..., bytes]) -> None:
    data = built(TENSORS, {"mc.recipe": json.dumps(GOOD)})
    packed = mc.compress(data)
    assert mc.decompress(packed) == data
    with Source.of(packed) as source:
        assert "mc.recipe" not in read_layout(source).metadata


def test_a_packed_file_with_a_recipe_among_its_marks_is_refused(built: Callable[..., bytes]) -> None:
    """Each mark of a packed file renamed to the exempted key: it must never pass as a plain file."""
    packed = mc.compress(built(TENSORS, {"mc.recipe": json.dumps(GOOD)}))
    for mark in (b'"mc.format"', b'"mc.digest"', b'"mc.manifest"'):
        renamed = packed.replace(mark, b'"mc.recipe"' if len(mark) == 11 else b'"mc.recipe" ', 1)
        prefix = len(renamed) - len(packed)
        renamed = (int.from_bytes(packed[:8], "little") + prefix).to_bytes(8, "little") + renamed[8:]
        with pytest.raises(DamagedError):
            mc.decompress(renamed)
        with pytest.raises(McError):
            mc.compress(renamed)
        assert not mc.verify(io.BytesIO(renamed)).intact


@pytest.mark.parametrize("key", ["mc.", "mc.recip", "mc.recipes", "mc.Recipe", "mc.format"])
def test_any_other_key_of_ours_is_a_mark_still(built: Callable[..., bytes], key: str) -> None:
    with pytest.raises(McError, match="packed already, or marked"):
        mc.compress(built(TENSORS, {key: "1"}))
