"""llama.cpp's importance matrices: sums of squared inputs, in GGUF files, under llama.cpp's names of tensors.

Read through the `gguf` package (extra `gguf`). Names become a checkpoint's where one is given, else those of
transformers' Llama-like models (`blk.0.attn_q.weight` -> `model.layers.0.self_attn.q_proj.weight`).
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mc.errors import DamagedError, McError

Floats = NDArray[np.float64]
SUMS, COUNTS = ".in_sum2", ".counts"
BLOCK = re.compile(r"^blk\.(\d+)\.")


@dataclass(frozen=True)
class Importance:
    """Sums of squares of a layer's inputs."""

    name: str
    sums: Floats  # [features]
    count: int


def read_imatrix(path: str | os.PathLike[str], names: Sequence[str] = ()) -> tuple[Importance, ...]:
    """What an imatrix holds; experts of one tensor are summed. McError without the `gguf` package or for another GGUF
    file, DamagedError for one that can't be read."""
    where = os.fspath(path)
    try:
        from gguf import GGUFReader
    except ImportError:
        raise McError(
            f"{where} is a GGUF file, which takes the gguf package: pip install 'mc-checkpoint[gguf]'."
        ) from None
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise DamagedError(f"{where} is no GGUF file: it doesn't begin with that word. Fetch it again.")
    try:
        reader = GGUFReader(where)
        tensors = {str(tensor.name): np.array(tensor.data, np.float64) for tensor in reader.tensors}
    except (ValueError, IndexError, KeyError, OverflowError, struct.error) as error:
        raise DamagedError(f"{where} is no sound GGUF file: {error}. Fetch it again.") from error
    stems = [name.removesuffix(SUMS) for name in tensors if name.endswith(SUMS)]
    if not stems:
        raise McError(f"{where} holds no importance matrix: none of its {len(tensors)} tensors ends in {SUMS}.")
    mapped = _mapping(stems, names)
    found = []
    for stem in stems:
        if stem + COUNTS not in tensors:
            raise DamagedError(f"{where} has {stem}{SUMS} without {stem}{COUNTS}. Fetch it again.")
        sums, counts = tensors[stem + SUMS], tensors[stem + COUNTS]
        rows = sums.reshape(-1, sums.shape[-1])
        if not (np.isfinite(rows).all() and np.isfinite(counts).all()):
            raise DamagedError(f"{where}: {stem} holds NaN or infinity. Make it again.")
        found.append(Importance(mapped.get(stem, stem), rows.sum(axis=0), round(float(counts.sum()))))
    return tuple(found)


def _mapping(stems: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """llama.cpp's name -> the checkpoint's."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    blocks = 1 + max((int(found[1]) for stem in stems if (found := BLOCK.match(stem))), default=0)
    table = get_tensor_name_map(MODEL_ARCH.LLAMA, blocks)
    mapped: dict[str, str] = {}
    for name in names:
        theirs = table.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is not None:
            mapped[theirs] = name
    for stem in stems:
        if stem not in mapped and (ours := _usual(table.mapping, stem.removesuffix(".weight"))):
            mapped[stem] = ours + ".weight"
    return mapped


def _usual(mapping: dict[str, Any], theirs: str) -> str | None:
    """The name that transformers' Llama-like models give what llama.cpp calls `theirs`."""
    ours = [name for name, (_, to) in mapping.items() if to == theirs and name != theirs]
    if "lm_head" in ours:
        return "lm_head"
    return next((name for name in ours if name.startswith("model.") and "language" not in name), None)
