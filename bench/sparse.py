"""What `mc pack` makes of sparse tensors, beside the entropy of mask and values.

The mask's entropy is that of its pattern: a share p that stays, in any places, takes p log2(1/p) + (1-p) log2(1/(1-p))
bits a weight, n of m log2 C(m, n) / m. The values' is what `mc pack` takes a weight for the same distribution without
zeros, of a tensor large enough for side information to be nothing. Normal weights, one seed.

    python bench/sparse.py [--dtypes F32,BF16] [--masks 0.5,2:4] [--sides 1024,256] [--level best]
"""

from __future__ import annotations

import argparse
import io
import json
from functools import cache
from math import comb, log2
from typing import Any

import ml_dtypes
import numpy as np

import mc
from mc.api import Level

TYPES = {
    "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn, "I8": np.int8,
}  # fmt: skip
MASKS = ("0.001", "0.01", "0.1", "0.5", "0.9", "2:4", "4:8", "1:16", "1:64")
LARGE = 2048  # rows and columns of the tensor without zeros
STEPS = 6  # of an integer, to a standard deviation

Array = np.ndarray[Any, Any]


def weights(dtype: str, side: int) -> Array:
    """Normal weights [side, side], none of them zero."""
    values = np.random.default_rng(side).normal(size=(side, side))
    if dtype == "I8":
        values = np.rint(values * STEPS)
    found: Array = values.astype(TYPES[dtype])
    found[found == 0] = 1
    return found


def mask(kind: str, side: int) -> tuple[Array, float]:
    """Which weights stay, bool [side, side], and the entropy of that in bits."""
    draw = np.random.default_rng(side + 1)
    if ":" in kind:
        n, m = map(int, kind.split(":"))
        order = draw.random((side, side // m, m)).argsort(axis=2).argsort(axis=2)
        return (order < n).reshape(side, -1), log2(comb(m, n)) * side * side / m
    share = float(kind)
    bits = share * log2(1 / share) + (1 - share) * log2(1 / (1 - share))
    return draw.random((side, side)) < share, bits * side * side


def packed(dtype: str, array: Array, level: Level) -> int:
    """Bytes that this tensor takes in a packed file, its tables included; the header of a file takes more."""
    tensor = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [0, array.nbytes]}
    header = json.dumps({"w": tensor}).encode()
    plain = io.BytesIO(len(header).to_bytes(8, "little") + header + array.tobytes())
    return mc.pack(plain, io.BytesIO(), level=level).files[0].tensors[0].packed_bytes


@cache
def bits_of_values(dtype: str, level: Level) -> float:
    """Bits a weight without zeros."""
    dense = weights(dtype, LARGE)
    return 8 * packed(dtype, dense, level) / dense.size


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack sparse tensors; compare with the entropy of mask and values.")
    parser.add_argument("--dtypes", default=",".join(TYPES))
    parser.add_argument("--masks", default=",".join(MASKS), help="shares that stay, or n:m")
    parser.add_argument("--sides", default="1024", help="rows and columns")
    parser.add_argument("--level", choices=("fast", "default", "best"), default="default")
    given = parser.parse_args()
    print("| dtype | stays | side | bytes | entropy | more | in bytes |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for dtype in given.dtypes.split(","):
        for kind in given.masks.split(","):
            for side in map(int, given.sides.split(",")):
                stays, bits = mask(kind, side)
                w = np.where(stays, weights(dtype, side), np.zeros((), TYPES[dtype]))
                found = packed(dtype, w, given.level)
                ideal = (bits + int(stays.sum()) * bits_of_values(dtype, given.level)) / 8
                row = (dtype, kind, side, found, f"{ideal:.0f}", f"{found / ideal - 1:+.1%}", f"{found - ideal:+.0f}")
                print("|", " | ".join(map(str, row)), "|", flush=True)


if __name__ == "__main__":
    main()
