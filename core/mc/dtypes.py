"""The element types of safetensors 0.8: how many bits an element takes, and which numpy type reads it.

A name that is not here is no error: such a tensor's length in bytes is what the header says, and its bytes
are packed as they are. It only has no numpy type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mc.errors import McError, quote


@dataclass(frozen=True)
class DType:
    """One element type, as a safetensors header names it."""

    name: str
    bits: int  # an element's size; F4 and F6 are packed without gaps, low bits first
    numpy: np.dtype[Any] | None  # None where numpy itself has no such type: ask `numpy_dtype`


_NUMPY: dict[str, tuple[int, str]] = {
    "BOOL": (8, "?"),
    "U8": (8, "u1"),
    "I8": (8, "i1"),
    "U16": (16, "<u2"),
    "I16": (16, "<i2"),
    "F16": (16, "<f2"),
    "U32": (32, "<u4"),
    "I32": (32, "<i4"),
    "F32": (32, "<f4"),
    "U64": (64, "<u8"),
    "I64": (64, "<i8"),
    "F64": (64, "<f8"),
    "C64": (64, "<c8"),  # two F32, real part first
}

_ML_DTYPES: dict[str, tuple[int, str]] = {
    "BF16": (16, "bfloat16"),
    "F8_E4M3": (8, "float8_e4m3fn"),
    "F8_E5M2": (8, "float8_e5m2"),
    "F8_E8M0": (8, "float8_e8m0fnu"),
    "F8_E4M3FNUZ": (8, "float8_e4m3fnuz"),
    "F8_E5M2FNUZ": (8, "float8_e5m2fnuz"),
}

MOST_DIMENSIONS = 64  # of an array of numpy; safetensors allows any number

_SUB_BYTE: dict[str, int] = {"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}

DTYPES: dict[str, DType] = {
    **{name: DType(name, bits, np.dtype(code)) for name, (bits, code) in _NUMPY.items()},
    **{name: DType(name, bits, None) for name, (bits, _) in _ML_DTYPES.items()},
    **{name: DType(name, bits, np.dtype("u1")) for name, bits in _SUB_BYTE.items()},
}


def element_bits(name: str) -> int | None:
    """Bits an element of dtype `name` takes, or None for a name this version does not know."""
    known = DTYPES.get(name)
    return None if known is None else known.bits


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The little-endian numpy type that reads a tensor of dtype `name`.

    F4 and F6 have several elements a byte: they come back as uint8, the packed bytes. BF16 and the F8 types
    are those of `ml_dtypes`, imported on first need. Raises McError for a name this version does not know.
    """
    if name in _ML_DTYPES:
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _ML_DTYPES[name][1]))
        return found
    known = DTYPES.get(name)
    if known is None or known.numpy is None:
        raise McError(
            f"The dtype {quote(name)} is not one of {', '.join(DTYPES)}, so its elements cannot be read "
            "as numbers. Its bytes can still be packed and restored."
        )
    return known.numpy
