"""Tensors from wherever they are: plain and packed safetensors, folders of these, .npy and .npz files, a stream."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mc.analysis.arrays import OF_NUMPY, read_header, read_npz
from mc.analysis.tally import CHUNK, Read
from mc.checkpoint import Source, Tensor, read_layout
from mc.codec.typing import Bytes
from mc.dtypes import element_bits
from mc.errors import McError, quote
from mc.folder import read_folder, refuse_pickle
from mc.loader import Checkpoint
from mc.manifest import is_packed
from mc.scratch import scratch

STDIN = "<stream>"
LEGACY = ".dat"
ARRAYS = (".npy", ".npz")
KEPT = 4  # decoded chunks of a packed tensor that are kept: whoever reads a few bytes reads those beside them next
MAGIC = {b"\x93NUMPY": ".npy", b"PK\x03\x04": ".npz"}


@dataclass(frozen=True)
class Item:
    """A tensor that can be read, and where it is."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: str
    read: Read


@dataclass(frozen=True)
class File:
    """A file and its tensors, in data order."""

    where: str
    kind: str  # plain, packed, array
    nbytes: int
    prefix: bytes  # header of the safetensors file, of a packed one the original's; empty for arrays
    items: tuple[Item, ...]


@contextmanager
def opened(source: str | os.PathLike[str] | BinaryIO) -> Iterator[tuple[File, ...]]:
    """The files of a checkpoint, open for reading. Raises DamagedError if one isn't sound, McError if it can't be
    read."""
    with ExitStack() as stack:
        if not isinstance(source, str | os.PathLike):
            yield (_spooled(source, STDIN, stack),)
            return
        path = Path(source)
        if path.is_dir():
            folder = read_folder(path)
            yield tuple(_open(path / name, stack) for name in folder.shards)
            return
        refuse_pickle(path)
        if path.suffix == LEGACY:
            raise McError(
                f"{path} has the name of an importance matrix in llama.cpp's old format. Convert it first:\n"
                f"llama-imatrix --in-file {path.name} -o {path.with_suffix('.gguf').name}"
            )
        if path.exists() and not path.is_file():
            with open(path, "rb") as pipe:
                yield (_spooled(pipe, str(path), stack),)
            return
        yield (_open(path, stack),)


def _spooled(stream: BinaryIO, where: str, stack: ExitStack) -> File:
    """A stream is read more than once, so it goes to a temporary file first."""
    spool = stack.enter_context(scratch())
    shutil.copyfileobj(stream, spool, 1 << 20)
    spool.seek(0)
    magic = spool.read(6)
    suffix = next((kind for start, kind in MAGIC.items() if magic.startswith(start)), "")
    if suffix:
        return _arrays(spool, where, suffix, stack)
    spool.flush()
    return _checkpoint(stack.enter_context(Source.of(spool, where)), stack)


def _open(path: Path, stack: ExitStack) -> File:
    if path.suffix in ARRAYS:
        return _arrays(stack.enter_context(open(path, "rb")), str(path), path.suffix, stack)
    return _checkpoint(stack.enter_context(Source.of(path)), stack)


def _checkpoint(source: Source, stack: ExitStack) -> File:
    layout = read_layout(source)
    if not is_packed(layout, source.where):
        items = tuple(_item(tensor, source.where, _plain(source, tensor)) for tensor in layout.tensors)
        return File(source.where, "plain", source.size, layout.prefix, items)
    checkpoint = stack.enter_context(Checkpoint(source))
    opening = checkpoint._opening
    tensors = opening.original.tensors if opening is not None else ()
    prefix = opening.original.prefix if opening is not None else b""
    items = tuple(_item(tensor, source.where, _packed(checkpoint, tensor)) for tensor in tensors)
    return File(source.where, "packed", source.size, prefix, items)


def _item(tensor: Tensor, where: str, read: Read) -> Item:
    return Item(tensor.name, tensor.dtype, tensor.shape, tensor.stop - tensor.start, where, read)


def _plain(source: Source, tensor: Tensor) -> Read:
    def read(start: int, stop: int) -> Bytes:
        raw = np.empty(stop - start, np.uint8)
        source.read_into(tensor.start + start, raw)
        return raw

    return read


def _packed(checkpoint: Checkpoint, tensor: Tensor) -> Read:
    nbytes = tensor.stop - tensor.start
    rows = tensor.shape[0] if len(tensor.shape) > 1 else 1
    row = max(1, nbytes // max(rows, 1))
    width = (element_bits(tensor.dtype) or 8) / 8
    block = max(1, int(CHUNK * width) // row) * row if row <= CHUNK * width else int(CHUNK * width)

    # The loader's own way to a range of bytes, which decodes the chunks that hold it. Its public ways, by tensor and
    # by rows, know no part of a row, and no dtype that numpy has none for.
    @lru_cache(maxsize=KEPT)
    def decoded(number: int) -> Bytes:
        return checkpoint._bytes(tensor, number * block, min((number + 1) * block, nbytes))

    def read(start: int, stop: int) -> Bytes:
        if stop - start > KEPT * block or start == stop:
            return checkpoint._bytes(tensor, start, stop)
        first, last = start // block, (stop - 1) // block
        parts = [decoded(number) for number in range(first, last + 1)]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return whole[start - first * block : stop - first * block].copy()

    return read


def _arrays(stream: BinaryIO, where: str, suffix: str, stack: ExitStack) -> File:
    size = stream.seek(0, os.SEEK_END)
    if suffix == ".npz":
        return File(where, "array", size, b"", tuple(_held(*one, where) for one in read_npz(stream, where)))
    stream.seek(0)
    name = Path(where).stem if where != STDIN else "array"
    header = read_header(stream, size, where)
    if header.dtype.byteorder == ">" or header.fortran:
        return File(where, "array", size, b"", (_held(name, header.values(stream.read(header.nbytes)), where),))
    start = stream.tell()
    source = stack.enter_context(Source.of(stream, where))
    tensor = Tensor(name, OF_NUMPY[str(header.dtype)], header.shape, start, start + header.nbytes)
    return File(where, "array", size, b"", (_item(tensor, where, _plain(source, tensor)),))


def _held(name: str, array: np.ndarray[Any, Any], where: str) -> Item:
    """An array in memory."""
    raw = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))).reshape(-1).view(np.uint8)
    dtype = OF_NUMPY[str(array.dtype.newbyteorder("="))]
    return Item(name, dtype, array.shape, len(raw), where, lambda start, stop: raw[start:stop].copy())


def chosen(files: Sequence[File], globs: Sequence[str], where: str) -> list[Item]:
    """The tensors whose names match any of the globs, all without one; McError for a glob without a match."""
    items = [item for file in files for item in file.items]
    for glob in globs:
        if not any(matches(item.name, glob) for item in items):
            names = ", ".join(quote(item.name) for item in items[:3]) or "none at all"
            raise McError(f"{where} has no tensor that matches {quote(glob)}. Its first ones are {names}.")
    return [item for item in items if not globs or any(matches(item.name, glob) for glob in globs)]


def matches(name: str, glob: str) -> bool:
    """Whether a glob stands for the name, or is the name: brackets are common in names."""
    return name == glob or fnmatchcase(name, glob)
