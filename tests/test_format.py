"""FORMAT.md says what `mc` writes: a decoder made from the document alone restores what was packed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np
import pytest
import zstandard

import mc
from mc.lossy import arrays
from mc.lossy.requests import parse_request
from mc.recipe import Quantize, Quantized, write_recipe
from spec_decoder import unpack

HERE = Path(__file__).resolve().parent
Array = np.ndarray[Any, Any]
LEVELS = ("fast", "default", "best")

# What the checkpoint has to make the decoder see, over all levels; "context 2" is rows and columns.
WANTED = {
    *(f"context {context}, coder {coder}" for context in range(3) for coder in range(2)),
    *(f"floats method {method}, context {context}" for method in (1, 3) for context in range(3)),
    *(f"form {form}, coder {coder}" for form in range(4) for coder in range(2)),
    *(f"coding 1 of {dtype}" for dtype in ("F64", "F32", "C64", "F16", "BF16", "F8_E4M3", "F8_E5M2FNUZ")),
    *("floats method 0, context 0", "raw planes 1", "class 0", "class 1", "class 2"),
    *("coding 0 of U8", "coding 2 of I32", "coding 2 of Q3_K", "coding 3 of F32", "coding 4 of U8"),
    *(f"flags {flags}, frequent {frequent}" for flags in range(2) for frequent in range(3)),
    *("sparse 1, form 1, blocks 1 1", "sparse 5, form 1, blocks 1 1", "coding 7 of I8"),
    *("sparse 1, form 0, blocks 2 2", "coding 7 of U8", "coding 7 of BF16"),
    *(f"sparse {words}, form 2, blocks 1 1" for words in (1, 8, 9)),
    *(f"packed integers of {bits} bits" for bits in (4, 5, 6, 7, 8)),
    *(f"scarce, kind {kind}, groups False" for kind in range(3)),
    *("scarce, kind 1, groups True", "coding 15 of F64", "coding 15 of I8"),
    *("grid of 1", "grid of 2", "grid of 4", "grid escapes", "coding 5 of I8"),
    *("trellis of 4", "trellis of 8", "trellis of 64", "trellis of 256", "trellis escapes", "coding 6 of I16"),
    *(f"split of {dtype}" for dtype in ("F16", "BF16", "F32", "F64", "C64")),
    *("one chunk", "many chunks", "same", "empty", "reserved 1"),
}


@pytest.fixture(scope="module")
def checkpoint(built: Callable[..., bytes]) -> bytes:
    """A checkpoint that takes every part of the format."""
    draw = np.random.default_rng(5)

    def normal(rows: int, cols: int, row_octaves: float = 0, column_octaves: float = 0) -> Array:
        by_row = 2 ** draw.uniform(-row_octaves, row_octaves, size=(rows, 1))
        by_column = 2 ** draw.uniform(-column_octaves, column_octaves, size=(1, cols))
        return draw.normal(size=(rows, cols)) * by_row * by_column * 0.02

    def cast_to(values: Array, dtype: str, word: str) -> Array:
        return values.astype(getattr(ml_dtypes, dtype)).view(word)

    def outliers(values: Array) -> Array:
        values.flat[::997] = np.inf
        values.flat[5::1409] = -0.0
        values.flat[11::1013] = 1e-30
        return values

    narrow = normal(96, 128).astype(np.float32)
    narrow[:40] = narrow[:40].astype(np.float16)
    narrow[60:90] = (cast_to(normal(30, 128), "bfloat16", "u2").astype(np.uint32) << 16).view(np.float32)
    chunks = cast_to(normal(1100, 256) * 40, "float8_e4m3fn", "u1")
    chunks[1024:] = draw.integers(0, 256, size=(76, 256))
    both = outliers(normal(160, 192, 3, 3).astype(np.float32))
    few = draw.choice(draw.normal(size=9).astype(np.float32), size=(40, 30), p=np.arange(1, 10) / 45)
    pruned = np.where(draw.random((90, 100)) < 0.7, 0, normal(90, 100, 1)).astype(np.float32)
    decayed = np.where(draw.random((90, 100)) < 0.3, np.float32(1e-45), pruned)
    pruned.flat[3::1500] = -0.0
    halves = [draw.binomial(15, chance, size=(30, 50)).astype(np.uint8) for chance in (0.3, 0.6)]
    blocks = np.repeat(np.repeat(draw.random((22, 24)) < 0.5, 3, axis=0), 4, axis=1)
    wide = np.tile(blocks, (2, 2))
    patterns = draw.permuted(np.tile([True, True, False, False], (90 * 32, 1)), axis=1).reshape(90, 128)
    many = draw.permuted(np.tile([True, True, False, False], (180 * 48, 1)), axis=1).reshape(180, 192)
    text = np.frombuffer(b"".join(b"layer.%d.weight, " % k for k in draw.integers(0, 400, 700)), np.uint8)
    apart = np.random.default_rng(6)  # so that all others stay what they are
    groups = (apart.random((90, 26, 5)).argsort(axis=2) < 3).reshape(90, 130)
    rounded = np.random.default_rng(8).normal(size=(90, 128))
    short = rounded.astype(np.float32).view(np.uint32) & np.uint32(0xFFFFFF80)
    short.flat[::900] |= np.uint32(0x55)
    some = np.array([0x0F, 0x51, 0xC3, 0x01], np.uint8)  # of no one number of bits
    bytes_of_masks = np.unpackbits(apart.choice(some, (90, 16)), axis=1)
    seldom = apart.random((70, 100)) < 0.02
    one_of_many = apart.random((64, 2, 64)).argsort(axis=2).reshape(64, 128) < 1
    tensors = {
        "both": ("F32", both),
        "both.double": ("F64", normal(80, 96, 2, 3)),
        "both.half": ("F16", normal(100, 128, 2, 2).astype(np.float16)),
        "rows": ("BF16", cast_to(outliers(normal(130, 256, 6)), "bfloat16", "u2")),
        "rows.short": ("F32", (normal(1, 5000)[0] * np.geomspace(1e-6, 1, 5000)).astype(np.float32)),
        "rows.half": ("F16", normal(70, 72, 2).astype(np.float16)),
        "alone": ("BF16", cast_to(outliers(normal(60, 64)), "bfloat16", "u2")),
        "alone.few": ("F32", normal(5, 9).astype(np.float32)),
        "pruned": ("F32", pruned),
        "pruned.unsigned": ("BF16", cast_to(np.abs(pruned), "bfloat16", "u2")),
        "decayed": ("F32", decayed),
        "decayed.unsigned": ("F32", np.abs(decayed)),
        "unsigned": ("F64", normal(70, 64, 1) ** 2),
        "unsigned.without.fields": ("F8_E4M3", cast_to(np.abs(normal(70, 64)), "float8_e4m3fn", "u1")),
        "complex": ("C64", (normal(40, 128) + 1j * apart.normal(size=(40, 128))).astype(np.complex64)),
        "tails": ("F32", narrow),
        "tails.double": ("F64", narrow[::2].astype(np.float64)),
        "chunks": ("F8_E4M3", chunks),
        "e5m2": ("F8_E5M2FNUZ", cast_to(normal(64, 128, 3), "float8_e5m2fnuz", "u1")),
        "noise": ("BF16", draw.integers(0, 1 << 16, size=(50, 50), dtype=np.uint16)),
        "random": ("U8", draw.integers(0, 256, size=700, dtype=np.uint8)),
        "twin": ("F32", both),
        "twin.as.words": ("U32", both.view(np.uint32)),
        "empty": ("F32", np.zeros((0, 4), np.float32)),
        "scalar": ("F32", np.array(1.5, np.float32)),
        "bytes": ("I32", draw.integers(-1000, 1000, size=(300, 7), dtype=np.int32)),
        "nibbles": ("U8", halves[0] | halves[1] << 4),
        "grid": ("I8", np.rint(normal(128, 200, 4) * 500).clip(-127, 127).astype(np.int8)),
        "grid.wide": ("I16", np.rint(normal(64, 130, 3, 3) * 900).astype(np.int16)),
        "grid.wider": ("I32", np.rint(normal(72, 130, 2, 2) * 200).astype(np.int32)),
        "sparse": ("F32", np.where(patterns, normal(90, 128, 1), 0).astype(np.float32)),
        "sparse.blocks": ("BF16", cast_to(np.where(blocks, outliers(normal(66, 96, 2)), 0), "bfloat16", "u2")),
        "sparse.grid": ("I8", (wide * np.rint(normal(132, 192) * 90)).clip(-127, 127).astype(np.int8)),
        "sparse.grid.eights": ("I16", np.where(many, np.rint(normal(180, 192) * 90), 0).astype(np.int16)),
        "sparse.bytes": ("F32", np.where(bytes_of_masks, apart.normal(size=(90, 128)), 0).astype(np.float32)),
        "sparse.groups": ("F32", np.where(groups, apart.normal(size=groups.shape), 0).astype(np.float32)),
        "sparse.fours": ("I32", as_fields(1.2 * apart.normal(size=(80, 512)), apart, 4)),
        "sparse.eights": ("I32", as_fields(18 * apart.normal(size=(80, 256)), apart, 8)),
        **{f"sparse.of.{bits}": ("I32", dense_fields(apart, bits)) for bits in (2, 3, 5, 6, 7)},
        "sparse.indices": ("U8", np.where(many, draw.integers(0, 16, size=(180, 192)), 7).astype(np.uint8)),
        "split": ("F16", cast_to(rounded, "bfloat16", "u2").view(ml_dtypes.bfloat16).astype(np.float16)),
        "split.eighth": ("BF16", cast_to(rounded, "bfloat16", "u2") & np.uint16(0xFFF8)),
        "split.single": ("F32", short),
        "split.double": ("F64", short.view(np.float32).astype(np.float64) * (1 + 2.0**-40)),
        "split.complex": ("C64", short[::-1].copy().view(np.complex64)),
        "scarce": ("F32", np.where(seldom, apart.normal(size=seldom.shape), 0).astype(np.float32)),
        "scarce.double": ("F64", np.where(seldom, apart.normal(size=seldom.shape), 0)),
        "scarce.grid": ("I8", np.where(seldom, np.rint(9 * apart.normal(size=seldom.shape)), 0).astype(np.int8)),
        "scarce.indices": ("U8", np.where(seldom, apart.integers(0, 99, size=seldom.shape), 7).astype(np.uint8)),
        "scarce.groups": ("F16", np.where(one_of_many, apart.normal(size=one_of_many.shape), 0).astype(np.float16)),
        "rows.of.bytes": ("U8", np.rint(normal(128, 200, 4) * 500).clip(-127, 127).astype(np.int8).view(np.uint8)),
        "palette": ("F32", few),
        "text": ("U8", text),
        "positions": ("I64", np.arange(512)),
        "falling": ("I32", 7 - 3 * np.arange(100, dtype=np.int32)),
        "unknown": ("Q3_K", np.full(999, 3, np.uint8)),
        "flags": ("BOOL", draw.random(2000) < 0.1),
        "empty.last": ("I64", np.zeros((3, 0), np.int64)),
    }
    trellises, about = trellised(normal)
    note = 'Überschrift "and" \\ more'
    return built(tensors | trellises, {"format": "pt", "note": note, "mc.recipe": write_recipe((Quantize(about),))})


def as_fields(values: Array, draw: np.random.Generator, bits: int) -> Array:
    """Two of every four values [rows, cols] as integers of so many bits, packed in words of 32."""
    most = (1 << bits - 1) - 1
    stays = draw.random((len(values), values.shape[1] // 4, 4)).argsort(axis=2) < 2
    q = np.where(stays.reshape(values.shape), np.rint(values).clip(-most, most), 0).astype(np.int64) + most + 1
    per = 32 // bits
    words = (q.reshape(len(values), -1, per) << bits * np.arange(per)).sum(axis=2)
    packed: Array = words.astype(np.uint32).view(np.int32)
    return packed


def dense_fields(draw: np.random.Generator, bits: int) -> Array:
    """Normal integers of so many bits, packed in rows of words whose last bits are left over."""
    most, cols = (1 << bits - 1) - 1, 250
    q = np.rint(draw.normal(size=(160, cols)) * most / 4).clip(-most, most).astype(np.int64) + most + 1
    each = (q[:, :, None] >> np.arange(bits) & 1).reshape(160, -1).astype(np.uint8)
    lines = np.packbits(np.pad(each, ((0, 0), (0, -cols * bits % 32))), axis=1, bitorder="little")
    packed: Array = np.ascontiguousarray(lines).view("<i4")
    return packed


def trellised(normal: Callable[..., Array]) -> tuple[dict[str, tuple[str, Array]], dict[str, Quantized]]:
    """Integers of trellises of every kind, coarse enough for the states to be worth their tables."""
    tensors: dict[str, tuple[str, Array]] = {}
    about: dict[str, Quantized] = {}
    for states in (4, 8, 64, 256):
        w = normal(160, 160, 1).astype(np.float32)
        w[3, 5:7] = 9.0
        name, request = f"trellis.{states}", parse_request(f"trellis,effort={states}")
        found = arrays.quantize(name, w, "F32", w.shape, request, 0, 0.03, "plain")
        tensors[name], about[name] = (found.about.scheme.to, found.stored[name]), found.about  # type: ignore[union-attr]
    return tensors, about


@pytest.fixture(scope="module")
def decoded(checkpoint: bytes) -> dict[str, tuple[bytes, set[str]]]:
    """What the decoder makes of the checkpoint packed at each level."""
    return {level: unpack(mc.compress(checkpoint, level=cast(Any, level))) for level in LEVELS}


@pytest.mark.parametrize("level", LEVELS)
def test_the_decoder_of_the_document_restores_every_byte(
    decoded: dict[str, tuple[bytes, set[str]]], checkpoint: bytes, level: str
) -> None:
    assert decoded[level][0] == checkpoint


def test_every_part_of_the_format_was_decoded(decoded: dict[str, tuple[bytes, set[str]]]) -> None:
    seen = set.union(*(seen for _, seen in decoded.values()))
    assert sorted(WANTED - seen) == []


def test_the_decoder_of_the_document_restores_a_file_without_tensors(built: Callable[..., bytes]) -> None:
    for original in (built({}), built({}, {"format": "pt"}), built({"none": ("F16", np.zeros(0, np.float16))})):
        assert unpack(mc.compress(original))[0] == original


def test_the_decoder_of_the_document_rejects_flipped_bits(built: Callable[..., bytes]) -> None:
    weights = np.random.default_rng(1).normal(size=(8, 64)).astype(np.float16)
    original = built({"w": ("F16", weights), "step": ("I32", np.array(3, np.int32))})
    packed = mc.compress(original)
    for at in range(0, len(packed), 7):
        damaged = bytearray(packed)
        damaged[at] ^= 1 << at % 8
        try:
            assert unpack(bytes(damaged))[0] == original, at
        except (ValueError, LookupError, TypeError, OverflowError, zstandard.ZstdError):
            continue


def test_the_example_of_the_document_is_a_packed_file() -> None:
    text = (HERE.parent / "FORMAT.md").read_text(encoding="utf-8").split("\n## 10 ")[1]
    header = re.findall(r"^```json\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[0].replace("\n", "")
    dump = re.findall(r"^```hex\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[0]
    data = bytes.fromhex("".join(line.partition("#")[0] for line in dump.splitlines()))
    length = int.from_bytes(data[:8], "little")
    packed = data[:8] + header.encode().ljust(length) + data[8:]
    words = np.array([0x3C00 + 37 * i % 160 + (0x8000 if i % 3 == 0 else 0) for i in range(40)], "<u2")
    words[[7, 12]] = 0x7F80, 0
    original, seen = unpack(packed)
    assert original.endswith(words.tobytes()) and len(original) == 152
    assert mc.decompress(packed) == original
    assert "floats method 3, context 0" in seen
