"""Small checkpoints of unlike layers, and `mc.auto` run on them in memory: for the tests of plans."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

import mc
from checkpoints import Piece, build
from mc.automatic import AutoReport, auto
from mc.plan.goals import Goal

Array = np.ndarray[Any, Any]
MATRICES = [f"layers.{number}.weight" for number in range(3)]


def piece(name: str, dtype: str, array: Array) -> Piece:
    return Piece(name, dtype, array.shape, array.tobytes())


def layered(seed: int = 0, scale: int = 1) -> bytes:
    """Layers whose weights differ in scale, spread and heaviness of tails, as those of a net do."""
    random = np.random.default_rng(seed)
    pieces = []
    for number, (rows, cols, spread) in enumerate([(96, 128, 0.0), (64, 192, 1.0), (160, 64, 0.3)]):
        rows, cols = scale * rows, scale * cols
        w = random.standard_t(4 + 3 * number, (rows, cols)) * np.exp2(random.normal(number - 1, spread, (rows, 1)))
        pieces.append(piece(f"layers.{number}.weight", "F32", (w * 0.03).astype("<f4")))
        pieces.append(piece(f"layers.{number}.bias", "F32", random.normal(0, 1, rows).astype("<f4")))
    pieces.append(piece("final_norm.weight", "F32", np.ones((32, 32), "<f4")))
    pieces.append(piece("ids", "I64", np.arange(64, dtype="<i8")))
    return build(pieces, {"format": "pt"})


def tensors(data: bytes) -> dict[str, Array]:
    """Of a file, packed or not, floats under their own names."""
    with mc.open(data, dequantize=True) as found:
        return {name: found.tensor(name) for name in found.names()}


def run(data: bytes, goal: Goal | None = None, **more: Any) -> tuple[AutoReport, bytes]:
    out = io.BytesIO()
    report = auto(io.BytesIO(data), out, goal=goal, threads=1, **more)
    assert len(out.getvalue()) == report.packed_bytes
    return report, out.getvalue()


def lost(original: bytes, packed: bytes, names: list[str], objective: str) -> float:
    """By the definitions of the objectives, from the decoded numbers alone."""
    before, after = tensors(original), tensors(packed)
    found = whole = 0.0
    for name in names:
        w, v = before[name].astype(np.float64), after[name].astype(np.float64)
        if objective == "plain":
            found, whole = found + float(((w - v) ** 2).sum()), whole + float((w**2).sum())
        elif objective == "tensor":
            found, whole = found + w.size * float(((w - v) ** 2).sum() / (w**2).sum()), whole + w.size
        else:
            relative = ((w - v) ** 2).sum(axis=1) / (w**2).sum(axis=1)
            found, whole = found + w.shape[1] * float(relative.sum()), whole + w.size
    return found / whole
