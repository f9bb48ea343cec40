"""Turns of the tools of bench/lossless.py, each in a process of its own.

How fast a tool is depends on memory as much as on its loops: 45 MB of fresh memory cost 11,000 page faults, 15 ms, and
nothing if the heap has a hole of that size, which only chance decides in a process that many tools share. A new
process for every turn is what a user of one tool has, and the same for all.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import models
from peers import TOOLS, Coder, Tool

TRIES = 3  # of a tool that isn't slow, in each of its turns; the best counts

Answer = TypeVar("Answer")


class Failed(Exception):
    """A tool did not do what it is for."""


@dataclass(frozen=True)
class Model:
    """A safetensors file."""

    path: Path
    size: int
    sha256: str
    dtype: str  # the one that most bytes have
    dtype_bytes: int

    @property
    def name(self) -> str:
        return self.path.stem


def load(path: Path) -> Model:
    try:
        data = path.read_bytes()
        tensors = models.tensors(data)
    except OSError as error:
        raise SystemExit(f"{path} can't be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SystemExit(f"{path} is no safetensors file.") from None
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.stop - tensor.start
    if not sizes.total():
        raise SystemExit(f"{path.name} holds no tensor data, so there is nothing to measure. Leave it out.")
    dtype, most = sizes.most_common(1)[0]
    return Model(path, len(data), hashlib.sha256(data).hexdigest(), dtype, most)


def split(data: bytes, dtype: str) -> tuple[bytes, bytes]:
    """The bytes of all tensors of a dtype, joined; and all other bytes, header first."""
    coded, rest, end = [], [], 0
    for tensor in models.tensors(data):
        if tensor.dtype == dtype:
            rest.append(data[end : tensor.start])
            coded.append(data[tensor.start : tensor.stop])
            end = tensor.stop
    return b"".join(coded), b"".join([*rest, data[end:]])


def join(coded: bytes, rest: bytes, dtype: str) -> bytes:
    """The file that `split` took apart; the header, first in `rest`, says where all of it belongs."""
    pieces, end, taken, kept = [], 0, 0, 0
    for tensor in models.tensors(rest):
        if tensor.dtype == dtype:
            between, size = tensor.start - end, tensor.stop - tensor.start
            pieces += [rest[kept : kept + between], coded[taken : taken + size]]
            kept, taken, end = kept + between, taken + size, tensor.stop
    return b"".join([*pieces, rest[kept:]])


@dataclass(frozen=True)
class Turn:
    """What a tool did in a turn."""

    packed: int  # bytes
    compress: float  # seconds
    decompress: float


def able(tool: Tool, model: Model) -> None:
    """Raise Unsupported or ImportError if the tool can't code the model."""
    _alone(_set_up, tool, model)


def turn(tool: Tool, model: Model) -> Turn:
    """Compress, decompress, compare; Failed if something else comes back."""
    return _alone(_turn, tool, model)


def _alone(function: Callable[[str, Model], Answer], tool: Tool, model: Model) -> Answer:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(function, tool.name, model).result()
        except BrokenProcessPool:
            raise Failed(f"The process of {tool.name} ended while it coded {model.name}.") from None


def _set_up(name: str, model: Model) -> None:
    _tool(name).coder(model.dtype)


def _turn(name: str, model: Model) -> Turn:
    tool = _tool(name)
    coder = tool.coder(model.dtype)
    if tool.slow:
        return _once(tool, coder, model)
    _once(tool, coder, model)  # libraries are loaded, caches and memory found
    tries = [_once(tool, coder, model) for _ in range(TRIES)]
    return Turn(tries[0].packed, min(one.compress for one in tries), min(one.decompress for one in tries))


def _once(tool: Tool, coder: Coder, model: Model) -> Turn:
    # Read anew: a tool may change what it gets, and each begins with memory that was in use a moment ago.
    data, rest = model.path.read_bytes(), b""
    if not tool.whole:
        data, rest = split(data, model.dtype)
    prepared = coder.prepare(data)
    del data
    packed, compress = _timed(coder.compress, prepared)
    del prepared  # by the time of the next call only what it needs is in memory
    size = coder.size(packed) + len(rest)
    unpacked, decompress = _timed(coder.decompress, packed)
    restored = coder.restored(unpacked)
    if not tool.whole:
        restored = join(restored, rest, model.dtype)
    if hashlib.sha256(restored).hexdigest() != model.sha256:
        raise Failed(f"{tool.name} did not restore {model.name} bit for bit.")
    return Turn(size, compress, decompress)


def _tool(name: str) -> Tool:
    return next(tool for tool in TOOLS if tool.name == name)


def _timed(function: Callable[[Any], Any], argument: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    returned = function(argument)
    return returned, time.perf_counter() - start
