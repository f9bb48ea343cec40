"""Tensors and rows of a checkpoint as numpy arrays, from a packed or a plain file alike, decoding what is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor
from types import TracebackType
from typing import Any

import numpy as np

from mc import blob
from mc.checkpoint import Layout, Source, Tensor, read_layout
from mc.codec.typing import Bytes
from mc.dtypes import MOST_DIMENSIONS, element_bits, numpy_dtype
from mc.errors import DamagedError, McError, quote
from mc.manifest import SAME, is_packed
from mc.opening import Opening, open_packed
from mc.parallel import workers
from mc.streams import FromSource
from mc.units import named


class Checkpoint:
    """An open checkpoint file. Arrays are fresh copies; sub-byte dtypes (F4, F6) come as their packed bytes."""

    def __init__(self, source: Source, threads: int | None = 1, executor: Executor | None = None) -> None:
        """Read the headers; DamagedError if they are no sound file's."""
        layout = read_layout(source)
        self._source, self._threads, self._executor = source, threads, executor
        self._opening: Opening | None = None
        self._numbers: dict[str, int] = {}  # of blobs, by tensor
        if is_packed(layout, source.where):
            self._opening = open_packed(FromSource(source), source.size)
            layout = self._opening.original
            self._numbers = {name: number for number, name in enumerate(self._opening.packed.manifest.entries)}
        self._layout: Layout = layout
        self._tensors = {tensor.name: tensor for tensor in layout.tensors}

    @property
    def metadata(self) -> dict[str, str]:
        """The original's `__metadata__`."""
        return dict(self._layout.metadata)

    @property
    def layout(self) -> Layout:
        """The original's header, as it was read."""
        return self._layout

    @property
    def size(self) -> int:
        """Bytes of the file that is open, packed or not."""
        return self._source.size

    @property
    def where(self) -> str:
        """The file's name for messages."""
        return self._source.where

    def names(self) -> list[str]:
        """All tensors, in data order."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the tensor `name`."""
        return self._named(name).shape

    def dtype(self, name: str) -> str:
        """As safetensors names it."""
        return self._named(name).dtype

    def tensor(self, name: str) -> np.ndarray[Any, Any]:
        """The whole tensor. McError if there is none of that name, or numpy has no type for it or too few dimensions;
        DamagedError if its bytes aren't what was packed."""
        tensor = self._named(name)
        return self._shaped(tensor, self._bytes(tensor, 0, tensor.stop - tensor.start), tensor.shape)

    def data(self, name: str) -> Bytes:
        """The bytes of a whole tensor of any dtype."""
        tensor = self._named(name)
        return self._bytes(tensor, 0, tensor.stop - tensor.start)

    def rows(self, name: str, start: int, stop: int) -> np.ndarray[Any, Any]:
        """Entries `start` to `stop` (exclusive) along the first dimension, decoding the chunks that hold them."""
        tensor = self._named(name)
        if not tensor.shape or not 0 <= start <= stop <= tensor.shape[0]:
            raise McError(f"tensor {quote(name)} of shape {list(tensor.shape)} has no rows {start} to {stop}")
        count = tensor.shape[0]
        size = (tensor.stop - tensor.start) // count if count else 0
        if size * count != tensor.stop - tensor.start:
            raise McError(f"tensor {quote(name)} is {tensor.dtype}, whose rows don't begin on whole bytes")
        return self._shaped(tensor, self._bytes(tensor, start * size, stop * size), (stop - start, *tensor.shape[1:]))

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _named(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise McError(f"{self._source.where} has no tensor {quote(name)}")
        return self._tensors[name]

    def _shaped(self, tensor: Tensor, raw: Bytes, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        if (element_bits(tensor.dtype) or 0) % 8:
            return raw
        if len(shape) > MOST_DIMENSIONS:
            raise McError(
                f"{self.where}: tensor {quote(tensor.name)} has {len(shape)} dimensions, and numpy has at most "
                f"{MOST_DIMENSIONS}. Its bytes can still be packed and restored."
            )
        return raw.view(numpy_dtype(tensor.dtype)).reshape(shape)

    def _bytes(self, tensor: Tensor, start: int, stop: int) -> Bytes:
        try:
            out = np.empty(stop - start, np.uint8)
        except MemoryError:
            raise McError(
                f"tensor {quote(tensor.name)} of {self._source.where} takes {stop - start} bytes, "
                "more than there is memory"
            ) from None
        if start == stop:
            return out
        if self._opening is None:
            self._source.read_into(tensor.start + start, out)
            return out
        try:
            pieces = self._pieces(self._opening, tensor, start, stop)
            with workers(self._threads, self._executor) as work:
                for _ in work.each(lambda piece: _copy_part(piece, out), pieces):
                    pass
        except DamagedError as error:
            raise named(error, self._source.where, tensor) from error
        return out

    def _pieces(self, opening: Opening, tensor: Tensor, start: int, stop: int) -> Iterator[tuple[blob.Chunk, int, int]]:
        """The chunks that hold the bytes from `start` to `stop`, found by the directory."""
        entry = opening.packed.manifest.entries[tensor.name]
        number = self._numbers[entry.why if entry.coding == SAME else tensor.name]
        stored = opening.packed.blobs[number]
        stream = FromSource(self._source, stored.start)
        size = tensor.stop - tensor.start
        dtype = opening.original.tensors[number].dtype  # of the tensor that the blob was made from
        reader = blob.BlobReader(stream, stored.stop - stored.start, number, dtype, size)
        spans = reader.code.spans
        directory = stored.stop - blob.ENTRY.size * len(spans)
        sizes = np.frombuffer(self._source.read(directory, stored.stop), "<u4").astype(np.int64)
        ends = stream.at + np.cumsum(sizes + blob.FRAME.size)
        if int(ends[-1]) != directory:
            raise DamagedError("its directory doesn't agree with its size")
        for number, (first, last) in enumerate(spans):
            if first < stop and last > start:
                at = FromSource(self._source, int(ends[number] - sizes[number] - blob.FRAME.size))
                yield reader.chunk_at(at, number, int(sizes[number])), start, stop


def _copy_part(piece: tuple[blob.Chunk, int, int], out: Bytes) -> None:
    """Put what a chunk has of the bytes from start to stop into `out`: decoded in place where all of it belongs there,
    and words may lie there."""
    chunk, start, stop = piece
    inside = slice(max(chunk.start, start) - start, min(chunk.stop, stop) - start)
    if start <= chunk.start and chunk.stop <= stop and inside.start % 8 == 0:
        chunk.decode(out[inside])
    else:
        out[inside] = blob.decoded(chunk)[max(start - chunk.start, 0) : min(stop, chunk.stop) - chunk.start]


def open_checkpoint(
    path: str | os.PathLike[str] | bytes, *, threads: int | None = 1, executor: Executor | None = None
) -> Checkpoint:
    """Open a packed or plain file for reading tensors; DamagedError if its headers aren't sound."""
    source = Source.of(path)
    try:
        return Checkpoint(source, threads, executor)
    except BaseException:
        source.close()
        raise
