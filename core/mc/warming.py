"""Every loop compiled ahead of time: small checkpoints are packed, quantized, pruned and restored in every way."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import numpy as np

from mc.ahead import all_done
from mc.analysis.examine import analyze
from mc.api import compress, decompress
from mc.codec.pages import touch
from mc.errors import McError
from mc.lossy import arrays, grids
from mc.lossy.requests import Target, parse_request
from mc.memory import WHOLE_FROM, Room
from mc.pruning import prune
from mc.restoring import dequantize
from mc.simplifying import quantize

ROWS, COLS = 96, 192  # enough words for contexts to be compared


def warm() -> None:
    """Compile every loop of every dtype, level, scheme and method, so that no later call has to."""
    for data in samples():
        analyze(io.BytesIO(data), threads=1)
        for level in ("fast", "default", "best"):
            if decompress(compress(data, level=level, threads=1), threads=1) != data:
                raise McError("a loop doesn't give back what it was given. Reinstall mc and numba.")
    Room(WHOLE_FROM, early=True).early(lambda place: touch(place, np.ones(1, np.uint8)))  # by more threads than one
    w = np.random.default_rng(0).normal(size=(64, 128)).astype(np.float32)
    _quantized(w)
    _pruned(w)
    all_done()


def _quantized(w: np.ndarray) -> None:
    raw = w.reshape(-1).view(np.uint8)
    for scheme in (
        "int4",
        "int4,symmetric=no,scales=mse",
        "grid",
        "grid,columns=yes",
        "trellis",
        "trellis,columns=yes",
    ):
        for step in (0.5, 0.01, 1e-5):  # integers of one, two and four bytes
            matrix = arrays.as_matrix(raw, "F32", w.shape)
            found = arrays.quantize("w", matrix, "F32", w.shape, parse_request(scheme), 0, step, "row")
            arrays.dequantize("w", found.about, found.stored)
    tall = np.tile(w, (8, 1))  # so many rows that code lengths come from some of them: feedback has loops for both
    frame = grids.weighed_frame(tall, w.T @ w)
    for scheme in ("grid", "trellis"):
        arrays.quantize("w", tall, "F32", tall.shape, parse_request(scheme), 0, 0.5, "gram", frame)
    plain = _file("F32", w.tobytes(), w.shape)
    for error in (1e-2, 1e-7, 1e-11):  # a trellis of such integers is packed in its own way
        packed = io.BytesIO()
        quantize(io.BytesIO(plain), packed, scheme="trellis", limit=Target("error", error), pack=True, threads=1)
        dequantize(io.BytesIO(packed.getvalue()), io.BytesIO(), threads=1)


def _pruned(w: np.ndarray) -> None:
    for dtype, values in (("F16", w.astype(np.float16)), ("F32", w), ("F64", w.astype(np.float64))):
        plain = _file(dtype, values.tobytes(), w.shape)
        for method in (
            "magnitude,sparsity=0.9",
            "magnitude,sparsity=0.5,scope=row",
            "2:4",
            "block,size=4x4,sparsity=0.5",
        ):
            packed = io.BytesIO()
            prune(io.BytesIO(plain), packed, method=method, pack=True, threads=1)
            dequantize(io.BytesIO(packed.getvalue()), io.BytesIO(), threads=1)


def samples() -> Iterator[bytes]:
    """safetensors files that between them take every path of the codec."""
    for dtype, width in (("BF16", 2), ("F32", 4), ("F64", 8), ("F8_E4M3", 1)):
        yield _file(dtype, _weights(dtype, width), (ROWS, COLS))
        yield _file(dtype, _few(width), (ROWS, COLS))
        if width in (2, 4):
            yield _file(dtype, _mostly(width), (ROWS, COLS))
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


def _mostly(width: int) -> bytes:
    """Weights most of which lie between one and one and a quarter, so that codes of whole bits lose much."""
    rng = np.random.default_rng(2)
    values = np.where(rng.random((ROWS, COLS)) < 0.9, 1 + rng.random((ROWS, COLS)) / 4, rng.normal(size=(ROWS, COLS)))
    bits = values.astype(np.float32).view(np.uint32)
    return (bits if width == 4 else (bits >> 16).astype("<u2")).tobytes()


def _file(dtype: str, data: bytes, shape: tuple[int, ...]) -> bytes:
    header = {"weights": {"dtype": dtype, "shape": list(shape), "data_offsets": [0, len(data)]}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data
