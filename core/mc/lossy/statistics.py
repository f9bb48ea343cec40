"""Second moments of layer inputs, by which lossy methods weigh errors: a statistics file, opened and checked here.

For a weight NAME whose layer takes `features` inputs the file holds `NAME.in_sum2` F32 [features], sums of squares,
and `NAME.counts` I64 [1], over how many samples; it may hold `NAME.xtx` F32 [features, features], the Gram matrix. Of
a convolution the inputs are the unfolded ones. llama.cpp's importance matrices (GGUF) hold the first two. The header
is checked when the file is opened; numbers are read and checked tensor by tensor, as a Gram matrix of a layer with
4096 inputs takes 64 MiB.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mc.checkpoint import Source, Tensor, read_layout
from mc.errors import DamagedError, McError, quote
from mc.lossy.imatrix import MOST, Importance, read_imatrix

Singles = NDArray[np.float32]

SUMS, COUNTS, GRAM = ".in_sum2", ".counts", ".xtx"
DTYPES = {SUMS: "F32", COUNTS: "I64", GRAM: "F32"}
UNEVEN = 1e-3  # how far a Gram matrix, relative to its largest number, may be from symmetric and from its sums
WRITTEN_BY = "Write it with 'mc analyze --inputs INPUTS --stats-out FILE'."


@dataclass(frozen=True)
class Layer:
    """Where the statistics of one layer's inputs lie in a file."""

    features: int
    sums: Tensor
    counts: Tensor
    gram: Tensor | None


class Statistics:
    """The statistics of the inputs of layers, under their weights' names; made by `open_statistics`. Threads may share
    it."""

    def __init__(self, where: str, layers: dict[str, Layer], source: Source | None, given: dict[str, Importance]):
        """Those of an open file (`source`, closed with this), or those `given`, which are in memory already."""
        self.where = where
        self._layers, self._source, self._given = layers, source, given

    @property
    def names(self) -> tuple[str, ...]:
        """The weights that have statistics."""
        return (*self._layers, *self._given)

    def has_gram(self, name: str) -> bool:
        """Whether there is a Gram matrix for the weight `name`."""
        return name in self._layers and self._layers[name].gram is not None

    def mean_squares(self, name: str, features: int) -> Singles | None:
        """Mean square of each of the `features` inputs that the weight `name` takes, f32 [features]; None if there are
        none, or of no samples. McError if they have another number of features, DamagedError for impossible ones."""
        if name in self._given:
            one = self._given[name]
            self._fits(name, len(one.sums), features)
            return self._means(name, one.sums, one.count)
        if name not in self._layers:
            return None
        self._fits(name, self._layers[name].features, features)
        layer = self._layers[name]
        return self._means(name, self._numbers(layer.sums, np.float32), self._count(layer))

    def gram(self, name: str, features: int) -> Singles | None:
        """Mean products of the inputs that the weight `name` takes, f32 [features, features], a copy of its own,
        symmetric; None if there are none, or of no samples. Raises as `mean_squares` does."""
        layer = self._layers.get(name)
        if layer is None or layer.gram is None:
            return None
        sums = self.mean_squares(name, features)
        if sums is None:
            return None
        found = np.array(self._numbers(layer.gram, np.float32)).reshape(features, features)
        found /= np.float32(self._count(layer))
        at = f"{self.where}: tensor {quote(layer.gram.name)}"
        largest = float(np.abs(found).max(initial=0.0))
        if not np.isfinite(largest):
            raise DamagedError(f"{at} holds NaN or infinity. {WRITTEN_BY}")
        if float(np.abs(np.diagonal(found) - sums).max(initial=0.0)) > UNEVEN * largest:
            raise DamagedError(f"{at} doesn't have the sums of {quote(layer.sums.name)} on its diagonal. {WRITTEN_BY}")
        _symmetric(found, UNEVEN * largest, f"{at} isn't symmetric, as a Gram matrix is. {WRITTEN_BY}")
        _bounded(found, UNEVEN * largest, f"{at} has products that are larger than their squares allow. {WRITTEN_BY}")
        return found

    def close(self) -> None:
        """Close the file."""
        if self._source is not None:
            self._source.close()

    def __enter__(self) -> Statistics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fits(self, name: str, found: int, features: int) -> None:
        if found != features:
            raise McError(
                f"{self.where} has statistics of {found} inputs for {quote(name)}, whose rows have {features} weights. "
                "Record the inputs of this model."
            )

    def _means(self, name: str, sums: NDArray[Any], count: int) -> Singles | None:
        least, most = float(sums.min(initial=0.0)), float(sums.max(initial=0.0))
        if not (least >= 0 and most < MOST):
            found = "a negative number" if least < 0 else f"{most:g}" if MOST <= most < inf else "NaN or infinity"
            raise DamagedError(
                f"{self.where}: tensor {quote(name + SUMS)} holds {found} among its sums of squares. {WRITTEN_BY}"
            )
        return (sums / count).astype(np.float32) if count else None

    def _count(self, layer: Layer) -> int:
        count = int(self._numbers(layer.counts, np.int64)[0])
        if count < 0:
            raise DamagedError(
                f"{self.where}: tensor {quote(layer.counts.name)} is {count}, where a number of samples was expected. "
                f"{WRITTEN_BY}"
            )
        return count

    def _numbers(self, tensor: Tensor, dtype: type[Any]) -> NDArray[Any]:
        if self._source is None:
            raise ValueError(f"{self.where} holds no tensors")
        return np.frombuffer(self._source.read(tensor.start, tensor.stop), np.dtype(dtype).newbyteorder("<"))


def open_statistics(path: str | os.PathLike[str], names: Sequence[str] = ()) -> Statistics:
    """The statistics in a safetensors file or an imatrix (GGUF), to be closed; `names` are a checkpoint's tensors, if
    known, by which an imatrix' are named. Raises McError for a file without any, or with none of these tensors,
    DamagedError for one whose tensors have other dtypes or shapes, naming file and tensor."""
    where = os.fspath(path)
    if where.lower().endswith(".gguf"):
        return _of(Statistics(where, {}, None, {one.name: one for one in read_imatrix(path, names)}), names)
    source = Source.of(where)
    try:
        return _of(Statistics(where, _layers(source), source, {}), names)
    except BaseException:
        source.close()
        raise


def _of(found: Statistics, names: Sequence[str]) -> Statistics:
    """The statistics, if they are of any of these tensors."""
    if names and set(names).isdisjoint(found.names):
        raise McError(
            f"{found.where} has statistics of {quote(found.names[0])} and {len(found.names) - 1} more, and of no "
            "tensor of this checkpoint: it is another model's. Record the inputs of this one."
        )
    return found


def _layers(source: Source) -> dict[str, Layer]:
    """Every layer that a file has statistics of, dtypes and shapes checked."""
    tensors = {tensor.name: tensor for tensor in read_layout(source).tensors}
    found = {}
    for name, sums in tensors.items():
        if not name.endswith(SUMS):
            continue
        weight = name.removesuffix(SUMS)
        _check(source.where, sums, SUMS, (None,))
        if (counts := tensors.get(weight + COUNTS)) is None:
            raise DamagedError(f"{source.where} has {quote(name)} without {quote(weight + COUNTS)}. {WRITTEN_BY}")
        _check(source.where, counts, COUNTS, (1,))
        features = sums.shape[0]
        if (gram := tensors.get(weight + GRAM)) is not None:
            _check(source.where, gram, GRAM, (features, features))
        found[weight] = Layer(features, sums, counts, gram)
    if not found:
        raise McError(
            f"{source.where} holds no statistics: none of its {len(tensors)} tensors ends in {SUMS}. {WRITTEN_BY}"
        )
    return found


def _check(where: str, tensor: Tensor, part: str, shape: tuple[int | None, ...]) -> None:
    fits = len(tensor.shape) == len(shape) and all(
        wanted in (None, size) for wanted, size in zip(shape, tensor.shape, strict=True)
    )
    if tensor.dtype != DTYPES[part] or not fits:
        wanted = f"{DTYPES[part]} [{', '.join('features' if one is None else str(one) for one in shape)}]"
        raise DamagedError(
            f"{where}: tensor {quote(tensor.name)} is {tensor.dtype} {list(tensor.shape)}, where {wanted} was "
            f"expected. {WRITTEN_BY}"
        )


def _symmetric(matrix: Singles, allowed: float, complaint: str) -> None:
    """Make a matrix symmetric that is so within `allowed`, block by block, in place."""
    size, step = len(matrix), 512
    for i in range(0, size, step):
        for j in range(i, size, step):
            one, other = matrix[i : i + step, j : j + step], matrix[j : j + step, i : i + step].T
            if float(np.abs(one - other).max(initial=0.0)) > allowed:
                raise DamagedError(complaint)
            middle = (one + other) / 2
            one[:], other[:] = middle, middle


def _bounded(matrix: Singles, allowed: float, complaint: str) -> None:
    """DamagedError where the square of a number is beyond the product of those on the diagonal (Cauchy and Schwarz), by
    more than is allowed."""
    roots = np.sqrt(np.maximum(np.diagonal(matrix), 0))
    for start in range(0, len(matrix), 512):
        most = np.outer(roots[start : start + 512], roots) * np.float32(1 + UNEVEN) + np.float32(allowed)
        if (np.abs(matrix[start : start + 512]) > most).any():
            raise DamagedError(complaint)
