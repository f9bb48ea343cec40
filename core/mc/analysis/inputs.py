"""Second moments of recorded layer inputs, written as the statistics file that lossy methods weigh errors with.

It is a safetensors file. For a weight NAME whose layer takes `features` inputs: `NAME.in_sum2` F32 [features], sums of
squares; `NAME.counts` I64 [1], over how many samples; and if asked for `NAME.xtx` F32 [features, features], the Gram
matrix. Inputs are recorded as tensors NAME [samples, features], in any number of files; further dimensions count as
samples. llama.cpp's importance matrices (GGUF) hold the first two already.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from mc.analysis.kinds import PACKED, Floats, kind_of, known, numbers_of
from mc.analysis.reading import Item, opened
from mc.analysis.tally import CHUNK
from mc.errors import McError, quote
from mc.lossy.imatrix import Importance, read_imatrix

SUFFIX = ".gguf"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class InputStatistics:
    """What was written of one layer's inputs."""

    name: str
    samples: int
    features: int
    rms: float | None  # of all its inputs; None without any
    largest_share: float | None  # of the squares that the strongest feature has; 1 / features if all are alike


def gather(
    sources: Sequence[str | os.PathLike[str]], target: BinaryIO, *, gram: bool = False, sample: int | None = None,
    seed: int = 0, names: Sequence[str] = (), progress: Progress | None = None,
) -> tuple[InputStatistics, ...]:  # fmt: skip
    """Write the statistics file of all inputs in `sources` to `target`.

    `sample` is a count of numbers of each layer and file, taken in whole samples that `seed` picks; `names` are a
    checkpoint's tensors, by which those of an imatrix are named. Raises McError, naming file and tensor, for inputs
    that are no numbers or don't fit together, DamagedError for bytes that aren't sound."""
    with ExitStack() as stack:
        recorded: dict[str, list[Item]] = {}
        known_sums: dict[str, Importance] = {}
        for source in sources:
            if os.fspath(source).lower().endswith(SUFFIX):
                if gram:
                    raise McError(f"{os.fspath(source)} is an importance matrix, which holds no Gram matrices.")
                for one in read_imatrix(source, names):
                    known_sums[one.name] = _added(known_sums.get(one.name), one)
                continue
            for file in stack.enter_context(opened(source)):
                for item in file.items:
                    recorded.setdefault(item.name, []).append(item)
        if both := sorted(set(recorded) & set(known_sums)):
            raise McError(f"{quote(both[0])} has recorded inputs and an importance matrix. Give one of them.")
        features = {name: _features(items) for name, items in recorded.items()}
        sizes = features | {name: len(one.sums) for name, one in known_sums.items()}
        target.write(_header(sizes, gram))
        total, done = sum(item.nbytes for items in recorded.values() for item in items), 0
        found = []
        for name, width in sizes.items():
            if name in known_sums:
                sums, count, matrix = known_sums[name].sums, known_sums[name].count, None
            else:
                sums, count = np.zeros(width), 0
                matrix = np.zeros((width, width)) if gram else None
                for item in recorded[name]:
                    for block in _blocks(item, width, sample, seed):
                        sums += np.square(block).sum(axis=0)
                        count += len(block)
                        if matrix is not None:
                            matrix += block.T @ block
                    done += item.nbytes
                    if progress is not None:
                        progress(done, total)
            for part in (sums.astype("<f4"), np.array([count], "<i8"), *([matrix] if matrix is not None else ())):
                target.write(np.ascontiguousarray(part if part.dtype != np.float64 else part.astype("<f4")).tobytes())
            power = float(sums.sum())
            rms = float(np.sqrt(power / count / width)) if count else None
            found.append(InputStatistics(name, count, width, rms, float(sums.max()) / power if power > 0 else None))
    return tuple(found)


def _added(one: Importance | None, other: Importance) -> Importance:
    if one is None:
        return other
    if len(one.sums) != len(other.sums):
        raise McError(f"{quote(one.name)} has {len(one.sums)} features in one imatrix, {len(other.sums)} in another.")
    return Importance(one.name, one.sums + other.sums, one.count + other.count)


def _features(items: Sequence[Item]) -> int:
    """The last dimension, which all recordings of a layer must share."""
    for item in items:
        if len(item.shape) < 2:
            raise McError(
                f"{item.file}: tensor {quote(item.name)} has shape {list(item.shape)}, where inputs have two "
                "dimensions, [samples, features]."
            )
        if item.dtype in PACKED or item.dtype != known(item.dtype) or item.dtype == "BOOL":
            raise McError(f"{item.file}: tensor {quote(item.name)} is {item.dtype}, which inputs of a layer aren't.")
        if item.shape[-1] != items[0].shape[-1]:
            raise McError(
                f"{item.file}: tensor {quote(item.name)} has {item.shape[-1]} features, and {items[0].shape[-1]} in "
                f"{items[0].file}. Record both from one model."
            )
    return items[0].shape[-1]


def _blocks(item: Item, features: int, sample: int | None, seed: int) -> Iterator[Floats]:
    """The samples of a recording, block by block, as f64: all, or those that `seed` picks."""
    size = features * kind_of(item.dtype).width
    count = item.nbytes // size if size else 0
    picked = None
    rows = count if sample is None else -(-sample // max(1, features))
    if rows < count:
        picked = np.sort(np.random.default_rng(seed).choice(count, rows, replace=False))
    step = max(1, CHUNK // max(1, features))
    for at in range(0, count, step):
        stop = min(at + step, count)
        here = None
        if picked is not None:
            first, last = np.searchsorted(picked, [at, stop])
            if first == last:
                continue
            here = picked[first:last] - at
        block = numbers_of(item.dtype, item.read(at * size, stop * size)).astype(np.float64).reshape(-1, features)
        block = block if here is None else block[here]
        if not np.isfinite(block).all():
            raise McError(
                f"{item.file}: tensor {quote(item.name)} holds NaN or infinity among samples {at} to {stop}, which "
                "would spoil all sums. Leave such samples out when recording."
            )
        yield block


def _header(features: dict[str, int], gram: bool) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "mc.statistics"}}
    at = 0
    for name, width in features.items():
        parts: list[tuple[str, str, list[int], int]] = [("in_sum2", "F32", [width], 4), ("counts", "I64", [1], 8)]
        if gram:
            parts.append(("xtx", "F32", [width, width], 4))
        for part, dtype, shape, itemsize in parts:
            size = int(np.prod(shape, dtype=object)) * itemsize
            header[f"{name}.{part}"] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
            at += size
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
