"""Checkpoints to test with: safetensors bytes of every dtype, shape and texture, and hypothesis strategies of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mc.dtypes import DTYPES, element_bits, numpy_dtype

UNKNOWN = "Q3_K"  # a dtype that safetensors doesn't have
FLOATS = ("F64", "F32", "C64", "F16", "BF16", *(name for name in DTYPES if name.startswith("F8")))
WORDS = {"I8": 1, "U8": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4, "I64": 8, "U64": 8}

Array = np.ndarray[Any, Any]
Random = np.random.Generator


@dataclass(frozen=True)
class Piece:
    """A tensor to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class Spacing:
    """How a header is written; any of it is valid, and has to come back."""

    item: str = ","
    key: str = ":"
    behind: int = 0  # spaces after the closing brace
    ascii: bool = False
    metadata_last: bool = False
    shape_first: bool = False
    reverse: bool = False  # names against the order of the data


def build(pieces: Iterable[Piece], metadata: dict[str, str] | None = None, spacing: Spacing | None = None) -> bytes:
    """A safetensors file with these tensors, in this order."""
    spacing = spacing or Spacing()
    pieces = list(pieces)
    listed: list[tuple[str, object]] = []
    at = 0
    for piece in pieces:
        offsets = [at, at + len(piece.data)]
        entry: dict[str, object] = {"dtype": piece.dtype, "shape": list(piece.shape), "data_offsets": offsets}
        listed.append((piece.name, dict(sorted(entry.items(), reverse=True)) if spacing.shape_first else entry))
        at += len(piece.data)
    if spacing.reverse:
        listed.reverse()
    if metadata is not None:
        listed.insert(len(listed) if spacing.metadata_last else 0, ("__metadata__", metadata))
    text = json.dumps(dict(listed), ensure_ascii=spacing.ascii, separators=(spacing.item, spacing.key)).encode()
    text += b" " * spacing.behind
    return len(text).to_bytes(8, "little") + text + b"".join(piece.data for piece in pieces)


def header_of(data: bytes) -> dict[str, Any]:
    """The header of a safetensors file, without its metadata."""
    header: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    header.pop("__metadata__", None)
    return header


# Textures: what the bytes of a tensor look like. Each takes (random, dtype, rows, cols) and gives an array.


def cast(values: Array, dtype: str) -> Array:
    """Numbers as a dtype stores them; those without such numbers get bytes of them."""
    if dtype in FLOATS:
        kind = np.dtype("<f4") if dtype == "C64" else numpy_dtype(dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            stored: Array = values.astype(kind)
            return stored
    whole: Array = np.clip(values * 100, -128, 127).astype(f"<i{WORDS.get(dtype, 1)}")
    return whole


def gaussian(random: Random, dtype: str, rows: int, cols: int) -> Array:
    """Weights whose rows and columns differ much in scale."""
    scale = np.exp2(random.normal(0, 3, (rows, 1)) + random.normal(0, 2, (1, cols)))
    return cast(random.normal(0, 0.05, (rows, cols)) * scale, dtype)


def rowwise(random: Random, dtype: str, rows: int, cols: int) -> Array:
    """Weights whose rows differ in scale, and columns don't."""
    return cast(random.normal(0, 0.05, (rows, cols)) * np.exp2(random.normal(0, 2, (rows, 1))), dtype)


def even(random: Random, dtype: str, rows: int, cols: int) -> Array:
    """Weights of one scale."""
    return cast(random.normal(0, 0.02, (rows, cols)), dtype)


def positive(random: Random, dtype: str, rows: int, cols: int) -> Array:
    """Squares of gradients, as an optimiser keeps them; rows that were never used are zero."""
    values = random.normal(0, 1e-3, (rows, cols)) ** 2
    return cast(values * (random.random((rows, 1)) < 0.8), dtype)


def narrow(random: Random, dtype: str, rows: int, cols: int) -> Array:
    """Rows that are exactly bf16, exactly fp16 or full, in turns."""
    values = random.normal(0, 1, (rows, cols)).astype("<f4")
    values[::3].view("<u4")[:] &= np.uint32(0xFFFF0000)
    values[1::3] = values[1::3].astype("<f2")
    return cast(values, dtype)


def short(random: Random, dtype: str, rows: int, cols: int) -> Array:
    """Weights of half as many mantissa bits as their dtype has, but for every hundredth."""
    values = cast(random.normal(0, 1, (rows, cols)), dtype)
    if dtype not in FLOATS or values.itemsize == 1:
        return values
    words = values.view(f"<u{values.itemsize}")
    mantissa = {"F16": 10, "BF16": 7, "F64": 52}.get(dtype, 23)
    rest = words & words.dtype.type((1 << mantissa // 2) - 1)
    words ^= np.where(random.random(words.shape) < 0.01, 0, rest)
    return values


def noise(random: Random, dtype: str, rows: int, cols: int) -> Array:
    """Random bits: every exponent, NaN of every payload."""
    return np.frombuffer(random.bytes(8 * rows * cols), np.uint8)


def special(random: Random, dtype: str, rows: int, cols: int) -> Array:
    """NaN with payloads, infinities, zeros of both signs, subnormals and the largest numbers, by their bits."""
    width = (element_bits(dtype) or 8) // 8 or 1
    ones, sign = (1 << 8 * width) - 1, 1 << 8 * width - 1
    exponents = {8: 11, 4: 8, 2: 8 if dtype == "BF16" else 5, 1: 4}[4 if dtype == "C64" else width]
    width = 4 if dtype == "C64" else width
    mantissa = (1 << 8 * width - 1 - exponents) - 1
    infinity = (sign - 1) & ~mantissa & ones
    few = [0, sign, 1, sign | 1, mantissa, infinity, infinity | sign, infinity | 1, infinity | sign | mantissa]
    payloads = [infinity | int(bits) & mantissa for bits in random.integers(0, 1 << 62, 40)]
    mask = (1 << 8 * width) - 1
    values = np.array([value & mask for value in few + payloads], f"<u{width}")
    ordinary = cast(random.normal(0, 1, rows * cols), dtype).view(f"<u{width}")
    return np.where(random.random(rows * cols) < 0.2, random.choice(values, rows * cols), ordinary)


def constant(random: Random, dtype: str, rows: int, cols: int) -> Array:
    """One number."""
    return np.repeat(cast(random.normal(0, 1, 1), dtype), rows * cols)


def arange(random: Random, dtype: str, rows: int, cols: int) -> Array:
    """Numbers at equal steps, wrapping round where the dtype is too small."""
    start, step = (int(value) for value in random.integers(-300, 300, 2))
    return (start + step * np.arange(rows * cols)).astype(f"<i{WORDS.get(dtype, 1)}")


def few(random: Random, dtype: str, rows: int, cols: int) -> Array:
    """A handful of distinct words."""
    return random.choice(cast(random.normal(0, 1, 1 + int(random.integers(0, 20))), dtype), rows * cols)


def sparse(random: Random, dtype: str, rows: int, cols: int) -> Array:
    """Zeros for the most part, some rows of zeros alone."""
    values = random.normal(0, 1, (rows, cols)) * (random.random((rows, cols)) < 0.1)
    return cast(values * (random.random((rows, 1)) < 0.7), dtype)


def two_of_four(random: Random, dtype: str, rows: int, cols: int) -> Array:
    """Weights of which two of every four are zero, as pruned for sparse matrix units."""
    stays = random.permuted(np.tile([True, True, False, False], (-(-rows * cols // 4), 1)), axis=1)
    mask = stays.reshape(-1)[: rows * cols].reshape(rows, cols)
    return cast(np.where(mask, 8 * even(random, "F32", rows, cols), 0), dtype)


def seldom(random: Random, dtype: str, rows: int, cols: int) -> Array:
    """One weight in fifty, and zeros."""
    values = 8 * random.normal(0, 1, (rows, cols)) * (random.random((rows, cols)) < 0.02)
    return values.astype(f"<i{WORDS.get(dtype, 1)}") if dtype not in FLOATS else cast(values, dtype)


def one_of_sixteen(random: Random, dtype: str, rows: int, cols: int) -> Array:
    """Weights of which one of every sixteen isn't zero."""
    stays = random.permuted(np.tile(np.arange(16) < 1, (-(-rows * cols // 16), 1)), axis=1)
    return cast(
        np.where(stays.reshape(-1)[: rows * cols].reshape(rows, cols), even(random, "F32", rows, cols), 0), dtype
    )


def blocks(random: Random, dtype: str, rows: int, cols: int) -> Array:
    """Weights of which half the blocks of three rows and four columns are zero."""
    stays = random.random((-(-rows // 3), -(-cols // 4))) < 0.5
    whole = np.repeat(np.repeat(stays, 3, axis=0)[:rows], 4, axis=1)[:, :cols]
    return cast(np.where(whole, 8 * even(random, "F32", rows, cols), 0), dtype)


def grid(random: Random, dtype: str, rows: int, cols: int) -> Array:
    """Quantized weights: small integers, each row of its own spread."""
    values = np.round(random.normal(0, 1, (rows, cols)) * random.uniform(1, 60, (rows, 1)))
    return np.clip(values, -127, 127).astype(f"<i{WORDS.get(dtype, 1)}")


def nibbles(random: Random, dtype: str, rows: int, cols: int) -> Array:
    """Two 4-bit numbers a byte, most of them in the middle."""
    both = np.clip(random.normal(8, 1.5, (2, 8 * rows * cols)), 0, 15).astype(np.uint8)
    packed: Array = both[0] | both[1] << 4
    return packed


def text(random: Random, dtype: str, rows: int, cols: int) -> Array:
    """Words of a small vocabulary, for dictionary coding."""
    words = [b"the ", b"attention ", b"weight ", b"of ", b"layer ", b"norm\n", b"\xc3\xbcber "]
    picked = b"".join(words[k] for k in random.integers(0, len(words), 2 * rows * cols + 1))
    return np.frombuffer(picked, np.uint8)


Texture = Callable[[Random, str, int, int], Array]
TEXTURES: tuple[Texture, ...] = (
    short,
    gaussian, rowwise, even, positive, narrow, noise, special, constant, arange, few,
    sparse, two_of_four, seldom, one_of_sixteen, blocks, grid, nibbles, text,
)  # fmt: skip


def piece(name: str, dtype: str, shape: tuple[int, ...], texture: Texture, seed: int = 0) -> Piece:
    """A tensor of a texture, a function of its arguments."""
    bits = (element_bits(dtype) or 8) * prod(shape)
    size = -(-bits // 8)
    if size == 0:
        return Piece(name, dtype, shape, b"")
    cols = shape[-1] if shape else 1
    values = texture(np.random.default_rng(seed), dtype, -(-prod(shape) // cols) * (2 if dtype == "C64" else 1), cols)
    return Piece(name, dtype, shape, np.resize(np.frombuffer(values.tobytes(), np.uint8), size).tobytes())


def zoo() -> bytes:
    """A checkpoint of some 100 kB that takes every path of the codec, with twins, across dtypes too."""
    pieces = [
        piece(f"{dtype}.{texture.__name__}", dtype, (24, 200), texture, number)
        for number, (dtype, texture) in enumerate(
            [("F32", gaussian), ("F32", narrow), ("BF16", gaussian), ("BF16", rowwise), ("BF16", positive),
             ("F32", sparse), ("BF16", noise), ("F16", special), ("F64", narrow), ("F8_E4M3", even),
             ("F8_E5M2", special), ("C64", even), ("I8", grid), ("U8", nibbles),
             ("U8", text), ("I16", grid), ("I64", arange), ("I32", few),
             ("F32", constant), ("F4", noise), ("BOOL", few)]
        )
    ]  # fmt: skip
    pieces.append(Piece("tied", "F32", (24, 200), pieces[0].data))
    pieces.append(Piece("tied as integers", "U32", (4800,), pieces[0].data))
    pieces.append(Piece("scalar", "F32", (), b"\0\0\x80?"))
    pieces.append(Piece("empty", "F32", (0, 7), b""))
    return build(pieces, {"format": "pt"})


# Strategies.

ODD_NAMES = ("", "a" * 500, "😀", '"quoted"', "back\\slash", "new\nline", "\0", "__mc", "mc.format", "a/b", "\u202e")
names = st.one_of(
    st.sampled_from(ODD_NAMES),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.from_regex(r"\A(encoder|decoder)\.[0-9]{1,2}\.weight\Z"),
).filter(lambda name: name not in ("__metadata__", "__mc__"))

sizes = st.one_of(st.sampled_from([0, 1, 1, 2, 3]), st.integers(1, 9), st.sampled_from([31, 64, 65, 100, 257]))
shapes = st.lists(sizes, max_size=4).map(tuple).filter(lambda shape: prod(shape) <= 40_000)
spacings = st.builds(
    Spacing, st.sampled_from([",", ", ", ",\n  "]), st.sampled_from([":", ": "]), st.integers(0, 11),
    st.booleans(), st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
metadatas = st.none() | st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda key: not key.startswith("mc.")),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    max_size=3,
)


@st.composite
def pieces_of(draw: st.DrawFn, name: str, dtypes: tuple[str, ...]) -> Piece:
    """A tensor of any dtype, shape and texture."""
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(shapes)
    if (element_bits(dtype) or 8) * prod(shape) % 8:
        shape = (*shape, 8)
    return piece(name, dtype, shape, draw(st.sampled_from(TEXTURES)), draw(st.integers(0, 1 << 30)))


@st.composite
def checkpoints(draw: st.DrawFn, dtypes: tuple[str, ...] = (*DTYPES, UNKNOWN)) -> bytes:
    """A whole file of up to six tensors, some of which may have the bytes of another."""
    pieces: list[Piece] = []
    for name in draw(st.lists(names, max_size=6, unique=True)):
        earlier = [p for p in pieces if p.data]
        if earlier and draw(st.integers(0, 4)) == 0:
            twin = draw(st.sampled_from(earlier))
            as_bytes = draw(st.booleans())
            dtype, shape = ("U8", (len(twin.data),)) if as_bytes else (twin.dtype, twin.shape)
            pieces.append(Piece(name, dtype, shape, twin.data))
        else:
            pieces.append(draw(pieces_of(name, dtypes)))
    return build(pieces, draw(metadatas), draw(spacings))
