"""Quantized files: tensors out of a safetensors file through their schemes into another, and floats back out of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from math import prod
from typing import Any, Literal, Protocol, overload

import numpy as np

from mc import loader
from mc.checkpoint import Layout, Source, Tensor, read_layout, write_prefix
from mc.dtypes import element_bits, numpy_dtype
from mc.errors import McError, quote
from mc.loader import Checkpoint
from mc.lossy import arrays
from mc.lossy.slices import as_cut, by_rows
from mc.manifest import RECIPE_KEY, is_packed
from mc.parallel import Workers
from mc.recipe import MOST_STEPS, Quantize, Recipe, read_recipe, undone
from mc.schemes import FLOATS, Int, parts
from mc.scratch import scratch

Array = np.ndarray[Any, Any]
Step = Callable[[int], None]
COPIED = 1 << 22  # bytes at once
ADDED = 2  # steps, at most, of one command: a plan may prune and quantize


class Target(Protocol):
    """What a file is written to."""

    def write(self, data: bytes | memoryview, /) -> int: ...


class Writer:
    """A safetensors file whose tensors are known one after the other; the data wait in a temporary file until the
    header is."""

    def __init__(self) -> None:
        self._listed: dict[str, object] = {}
        self._sizes: dict[str, int] = {}
        self._data: Any = scratch()
        self._at = 0

    def add(self, name: str, dtype: str, shape: tuple[int, ...], data: Array) -> None:
        """Append a tensor, whose bytes are those of `data`; McError if the name is taken."""
        if name in self._listed:
            raise McError(f"Two tensors would have the name {quote(name)}. Rename the one in the original.")
        end = self._at + data.nbytes
        self._listed[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [self._at, end]}
        if data.nbytes:
            self._data.write(data.reshape(-1).view(np.uint8).data)
        self._sizes[name] = data.nbytes
        self._at = end

    @property
    def listed(self) -> tuple[tuple[str, int], ...]:
        """Every tensor so far, with its bytes."""
        return tuple(self._sizes.items())

    def finish(self, out: Target, metadata: Mapping[str, str]) -> tuple[int, str]:
        """Write the file with this `__metadata__` to `out`; bytes written and their sha256."""
        prefix = write_prefix(metadata, self._listed)
        digest = hashlib.sha256(prefix)
        out.write(prefix)
        self._data.seek(0)
        for piece in iter(lambda: self._data.read(COPIED), b""):
            digest.update(piece)
            out.write(piece)
        return len(prefix) + self._at, digest.hexdigest()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._data.close()


def read_array(source: Source, tensor: Tensor) -> Array:
    """The bytes of a tensor."""
    raw = np.empty(tensor.stop - tensor.start, np.uint8)
    source.read_into(tensor.start, raw)
    return raw


class Floats:
    """A quantized checkpoint, packed or not, seen as what it was made from: floats under the original names. The
    interface is that of `mc.loader.Checkpoint`."""

    def __init__(self, checkpoint: Checkpoint, dtype: str | None = None, since: int = 0) -> None:
        """`dtype`: of the floats that were quantized; by default what each was. The first `since` steps of the recipe
        are not undone. DamagedError for a recipe that doesn't fit the file."""
        where = checkpoint.where
        self._checkpoint, self._where, self._dtype = checkpoint, where, dtype
        self._recipe = read_recipe(checkpoint.layout, where, checkpoint.size)[since:]
        stored = {tensor.name: (tensor.dtype, tensor.shape) for tensor in checkpoint.layout.tensors}
        self._listed = undone(self._recipe, stored, where)
        self._sizes = {tensor.name: tensor.stop - tensor.start for tensor in checkpoint.layout.tensors}

    @property
    def where(self) -> str:
        """The file's name for messages."""
        return self._where

    @property
    def metadata(self) -> dict[str, str]:
        """The original's `__metadata__`."""
        return {key: value for key, value in self._checkpoint.metadata.items() if key != RECIPE_KEY}

    @property
    def recipe(self) -> Recipe:
        """How the tensors were made; empty if the file isn't quantized."""
        return self._recipe

    def names(self) -> list[str]:
        """All tensors, in the order of what is stored of them."""
        return list(self._listed)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the tensor `name`."""
        return self._about(name)[1]

    def dtype(self, name: str) -> str:
        """Of the tensor `name` as it comes back."""
        dtype = self._about(name)[0]
        return self._dtype if self._dtype and dtype in FLOATS else dtype

    def nbytes(self, name: str) -> int:
        """Bytes of the tensor `name` as it comes back, whether its dtype is known or not."""
        if self.dtype(name) in FLOATS:
            return prod(self.shape(name)) * (element_bits(self.dtype(name)) or 0) // 8
        return self._sizes[name]

    def tensor(self, name: str) -> Array:
        """The whole tensor; see `Checkpoint.tensor` for the errors."""
        self._about(name)
        return self._cast(name, self._tensor(name, 0))

    def data(self, name: str) -> Array:
        """The tensor's elements, or its bytes where numpy may have no type for them."""
        return self.tensor(name) if self.dtype(name) in FLOATS else self._checkpoint.data(name)

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Entries `start` to `stop` (exclusive) along the first dimension. Only the chunks that hold them are decoded,
        but for nf4, asymmetric integers and codebooks of some rows, which are decoded whole."""
        shape = self.shape(name)
        if not shape or not 0 <= start <= stop <= shape[0]:
            raise McError(f"tensor {quote(name)} of shape {list(shape)} has no rows {start} to {stop}")
        return self._cast(name, self._rows(name, 0, start, stop))

    def close(self) -> None:
        """Close the file."""
        self._checkpoint.close()

    def __enter__(self) -> Floats:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _about(self, name: str) -> tuple[str, tuple[int, ...]]:
        if name not in self._listed:
            raise McError(f"{self._where} has no tensor {quote(name)}")
        return self._listed[name]

    def _cast(self, name: str, found: Array) -> Array:
        if self.dtype(name) in FLOATS and found.dtype != numpy_dtype(self.dtype(name)):
            with np.errstate(over="ignore"):
                found = found.astype(numpy_dtype(self.dtype(name)))
        return found

    def _rows(self, name: str, first: int, start: int, stop: int) -> Array:
        """Rows of the tensor as it was before step `first`, all later ones undone."""
        for number, step in enumerate(self._recipe[first:], first):
            about = step.tensors.get(name)
            if about is not None:
                found = by_rows(name, about, start, stop)
                if found is None:
                    return self._tensor(name, number)[start:stop].copy()
                cut, needed = found
                stored = {
                    part: self._rows(part, number + 1, start, stop) if sliced else self._tensor(part, number + 1)
                    for part, sliced in needed.items()
                }
                if isinstance(about.scheme, Int):
                    stored[f"{name}_shape"] = as_cut(stored[f"{name}_shape"], about.shape[0], stop - start)
                with naming(self._where, name):
                    return arrays.dequantize(name, cut, stored)
        return self._checkpoint.rows(name, start, stop)

    def _tensor(self, name: str, first: int) -> Array:
        """The tensor as it was before step `first`, all later ones undone."""
        for number, step in enumerate(self._recipe[first:], first):
            about = step.tensors.get(name)
            if about is not None:
                needed = parts(name, about.scheme, about.dtype, about.shape)
                stored = {part: self._tensor(part, number + 1) for part in needed}
                with naming(self._where, name):
                    return arrays.dequantize(name, about, stored)
        return self._checkpoint.tensor(name)


@contextmanager
def naming(where: str, name: str) -> Iterator[None]:
    """Say in an error which file and tensor it is about; but not in one that is a sentence of its own, about
    another file."""
    try:
        yield
    except McError as error:
        if str(error).endswith("."):
            raise
        raise type(error)(f"{where}: tensor {quote(name)} {error}.") from error


def dequantize_file(floats: Floats, out: Target, work: Workers, step: Step) -> tuple[int, str]:
    """Write all tensors as plain floats; bytes written and their sha256. Errors as `Floats.tensor` has them."""

    def restored(name: str) -> tuple[str, Array]:
        return name, floats.data(name)

    listed: dict[str, object] = {}
    end = 0
    for name in floats.names():
        dtype, shape = floats.dtype(name), floats.shape(name)
        begin, end = end, end + floats.nbytes(name)
        listed[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    prefix = write_prefix(floats.metadata, listed)
    digest = hashlib.sha256(prefix)
    out.write(prefix)
    for _, array in work.each(restored, floats.names()):
        data = array.reshape(-1).view(np.uint8).data if array.nbytes else b""
        digest.update(data)
        out.write(data)
        step(array.nbytes)
    return len(prefix) + end, digest.hexdigest()


def plain_layout(source: Source) -> Layout:
    """The layout of a file that is to be quantized or pruned; McError if it is packed, or quantized already."""
    layout = read_layout(source)
    if is_packed(layout, source.where):
        raise McError(f"{source.where} is packed. Unpack it first.")
    recipe = read_recipe(layout, source.where)
    if any(isinstance(step, Quantize) for step in recipe):
        raise McError(f"{source.where} is quantized already. Quantize what it was made from; dequantize gives floats.")
    if len(recipe) > MOST_STEPS - ADDED:
        raise McError(
            f"{source.where} was pruned {len(recipe)} times, and a recipe has at most {MOST_STEPS} steps. Prune what "
            "it was made from; `mc unpack --dequantize` gives it as plain floats."
        )
    return layout


@overload
def open_checkpoint(
    path: str | os.PathLike[str] | bytes, *, threads: int | None = ..., executor: Executor | None = ...,
    dequantize: Literal[False] = ...,
) -> Checkpoint: ...  # fmt: skip


@overload
def open_checkpoint(
    path: str | os.PathLike[str] | bytes, *, threads: int | None = ..., executor: Executor | None = ...,
    dequantize: Literal[True],
) -> Floats: ...  # fmt: skip


def open_checkpoint(
    path: str | os.PathLike[str] | bytes, *, threads: int | None = 1, executor: Executor | None = None,
    dequantize: bool = False,
) -> Checkpoint | Floats:  # fmt: skip
    """Open a packed or plain file for reading tensors, with `dequantize` as floats under the original names;
    DamagedError if its headers, or the recipe, aren't sound."""
    checkpoint = loader.open_checkpoint(path, threads=threads, executor=executor)
    if not dequantize:
        return checkpoint
    try:
        return Floats(checkpoint)
    except BaseException:
        checkpoint.close()
        raise
