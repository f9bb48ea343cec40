"""Formats of fixed rate that bench/lossy.py compares with: those that the gguf package can write, int4 and NF4."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mc.lossy import codebooks, integers
from mc.schemes import Int, Nf4

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Format:
    """How a matrix f32 [rows, cols] is stored, and given back."""

    name: str
    encode: Callable[[Array], Any]
    decode: Callable[[Any, tuple[int, int]], Array]
    size: Callable[[Any], float]  # bytes
    block: int = 1  # what columns have to be a multiple of


# Bits a weight and error of formats that gguf can read, but not write, measured on MiniLM's matrices with llama.cpp,
# and of NF4 with doubly quantized scales: quoted, not run.
QUOTED = (
    ("GGUF Q6_K", 6.56, 0.00033), ("GGUF Q5_K", 5.50, 0.00135), ("GGUF Q4_K", 4.50, 0.00526),
    ("NF4, double", 4.13, 0.00865), ("GGUF Q3_K", 3.44, 0.0235), ("GGUF Q2_K", 2.63, 0.0904),
)  # fmt: skip


def formats() -> list[Format]:
    """All of them; without those of gguf where that isn't installed."""
    return [*_gguf(), _int4("int4 g128", False), _int4("int4 g128, MSE", True), _nf4()]


def _gguf() -> list[Format]:
    try:
        from gguf import GGMLQuantizationType as Type
        from gguf.quants import dequantize, quantize
    except ImportError:
        return []

    def one(name: str) -> Format:
        kind = Type[name]
        return Format(
            f"GGUF {name}",
            lambda w: quantize(w, kind),
            lambda stored, _: dequantize(stored, kind),
            lambda stored: float(stored.nbytes),
            32,
        )

    return [one(name) for name in ("Q8_0", "Q5_0", "Q4_1", "Q4_0")]


def _int4(name: str, least: bool) -> Format:
    """Symmetric, scales f16, as compressed-tensors stores it."""
    scheme = Int(4, 128, True)
    return Format(
        name,
        lambda w: integers.quantize(w, scheme, "F16", least),
        lambda stored, shape: integers.dequantize(stored, scheme, shape),
        lambda stored: float(stored.words.nbytes + stored.scales.nbytes),
    )


def _nf4() -> Format:
    """Groups of 64, scales f32; half a byte an index, which lies in a byte of its own here."""
    scheme = Nf4(64)
    return Format(
        "NF4 g64",
        lambda w: codebooks.quantize_nf4(w, scheme),
        lambda stored, _: codebooks.dequantize_nf4(stored[0], stored[1], scheme),
        lambda stored: stored[0].size / 2 + stored[1].nbytes,
    )
