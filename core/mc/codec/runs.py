"""Affine runs: whole tensors of the form a + b * i, constants and zeros among them (b = 0)."""

import struct
from collections.abc import Iterable
from typing import Any

import numpy as np

from mc.codec.fields import Reader
from mc.codec.typing import Bytes, Ints
from mc.errors import DamagedError

UNSIGNED: dict[int, np.dtype[Any]] = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}


def affine(words: int, width: int, chunks: Iterable[Bytes]) -> bytes | None:
    """The head of a run if the little-endian words of the tensor are one, else None. Arithmetic is modulo the width."""
    first, step, seen = 0, 0, 0
    mask = (1 << 8 * width) - 1
    for raw in chunks:
        values = raw.view(UNSIGNED[width])
        if seen == 0:
            first = int(values[0])
            step = (int(values[1]) - first) & mask if words > 1 else 0
        if not np.array_equal(values, _run(first, step, seen, len(values), width)):
            return None
        seen += len(values)
    return struct.pack("<BQQ", width, first, step)


def read_head(reader: Reader) -> tuple[int, int, int]:
    """Width in bytes, first value and step."""
    width, first, step = reader.numbers("BQQ")
    if width not in UNSIGNED:
        raise DamagedError(f"its head says words of {width} bytes")
    if max(first, step) >> 8 * width:
        raise DamagedError(f"its first word {first} or its step {step} doesn't fit {width} bytes")
    return width, first, step


def fill(head: tuple[int, int, int], first_word: int, raw: Bytes) -> None:
    """Write the part of the run that begins at `first_word`."""
    width, first, step = head
    raw.view(UNSIGNED[width])[:] = _run(first, step, first_word, len(raw) // width, width)


def _run(first: int, step: int, at: int, count: int, width: int) -> Ints:
    kind = UNSIGNED[width].type
    mask = (1 << 8 * width) - 1
    run: Ints = np.arange(count, dtype=kind) * kind(step) + kind((first + step * at) & mask)
    return run
