"""Small checkpoints that make every loop compile: each dtype, each context, each coding."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

ROWS, COLS = 96, 192  # enough words for contexts to be compared


def samples() -> Iterator[bytes]:
    """safetensors files that between them take every path of the codec."""
    for dtype, width in (("BF16", 2), ("F32", 4), ("F64", 8), ("F8_E4M3", 1)):
        yield _file(dtype, _weights(dtype, width), (ROWS, COLS))
        yield _file(dtype, _few(width), (ROWS, COLS))
    numbers = np.random.default_rng(0).integers(-8, 8, (ROWS, COLS)) * (1 + np.arange(ROWS)[:, None] % 9)
    for dtype, kind in (("I8", "<i1"), ("I16", "<i2"), ("I32", "<i4"), ("I64", "<i8")):
        yield _file(dtype, numbers.astype(kind).tobytes(), (ROWS, COLS))
    yield _file("I64", np.arange(1000, dtype="<i8").tobytes(), (1000,))


def _weights(dtype: str, width: int) -> bytes:
    """Gaussian weights whose rows and columns differ in scale; of wide types, half of the rows are exactly narrow."""
    rng = np.random.default_rng(0)
    scale = np.exp2(rng.normal(0, 1, (ROWS, 1)) + rng.normal(0, 1, (1, COLS)))
    values = rng.normal(0, 0.02, (ROWS, COLS)) * scale
    values[0, :4] = [0.0, 1e30, -1e-30, np.inf]
    if width == 8:
        values[::2] = values[::2].astype(np.float32)
        return values.astype("<f8").tobytes()
    singles = values.astype("<f4")
    singles[::2].view(np.uint32)[:] &= np.uint32(0xFFFFE000)
    bits = singles.view(np.uint32)
    return {4: singles, 2: (bits >> 16).astype("<u2"), 1: (bits >> 24).astype(np.uint8)}[width].tobytes()


def _few(width: int) -> bytes:
    """Words of which hardly any is left."""
    rng = np.random.default_rng(1)
    left = rng.random((ROWS, COLS, 1)) < 0.02
    return np.where(left, rng.integers(0, 256, (ROWS, COLS, width)), 0).astype(np.uint8).tobytes()


def _file(dtype: str, data: bytes, shape: tuple[int, ...]) -> bytes:
    header = {"weights": {"dtype": dtype, "shape": list(shape), "data_offsets": [0, len(data)]}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data
