"""Indices into a dictionary of values: one trained on the weights, or the fixed one of NF4."""

from __future__ import annotations

from typing import Any

import numpy as np

from mc.errors import DamagedError
from mc.schemes import Codebook, Nf4

Array = np.ndarray[Any, Any]
SAMPLE = 1 << 20  # weights that a dictionary is trained on
ROUNDS = 60  # of Lloyd's iteration; a Gaussian's error moves by less than 1e-4 of itself after them
BINS = 1 << 12

# QLoRA (arXiv 2305.14314), appendix E.
NF4 = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip


def quantize(w: Array, scheme: Codebook, seed: int, held: bool = False) -> tuple[Array, Array]:
    """Of f32 [rows, cols], indices u8 and codebooks f32 [blocks, codes], rising, for each block of rows. `held`: zero
    is among the values, so that zeros stay what they are."""
    block = scheme.rows or len(w)
    indices = np.empty(w.shape, np.uint8)
    books = np.empty((-(-len(w) // block), scheme.codes), np.float32)
    for k in range(len(books)):
        part = w[k * block : (k + 1) * block]
        books[k] = train(part.ravel(), scheme.codes, seed)
        if held:
            books[k, np.abs(books[k]).argmin()] = 0
        indices[k * block : (k + 1) * block] = nearest(part, books[k])
    return indices, books


def train(w: Array, codes: int, seed: int) -> Array:
    """The dictionary, f32 [codes], rising, of least squared error for flat weights, as far as Lloyd's iteration
    (Least squares quantization in PCM, 1982) finds it from points as dense as the cube root of the weights' density
    (Panter and Dite, 1951). Many weights are sampled, with `seed`."""
    if len(w) > SAMPLE:
        w = w[np.random.default_rng(seed).integers(0, len(w), SAMPLE)]
    values = np.sort(w.astype(np.float64))
    if values[0] == values[-1]:  # no range that a histogram could be of
        return np.full(codes, values[0], np.float32)
    sums = np.concatenate([np.zeros(1), np.cumsum(values)])
    counts, edges = np.histogram(values, BINS)
    density = np.cumsum(np.cbrt(counts))
    wanted = (np.arange(codes) + 0.5) / codes * density[-1]
    book = edges[np.searchsorted(density, wanted)]
    for _ in range(ROUNDS):
        bounds = np.searchsorted(values, (book[1:] + book[:-1]) / 2)
        ends = np.concatenate([[0], bounds, [len(values)]])
        sizes = np.diff(ends)
        book = np.where(sizes > 0, np.diff(sums[ends]) / np.maximum(sizes, 1), book)
    return np.sort(book).astype(np.float32)


def nearest(w: Array, book: Array) -> Array:
    """Indices u8 of the nearest values in a rising dictionary."""
    middles = book[1:] / 2 + book[:-1] / 2  # halved first: the sum of two may be beyond f32
    return np.searchsorted(middles, w).astype(np.uint8)


def dequantize(indices: Array, books: Array, scheme: Codebook) -> Array:
    """f32 [rows, cols]; DamagedError for an index that no code has."""
    _refuse_beyond(indices, scheme.codes)
    block = scheme.rows or len(indices)
    out: Array = books[np.arange(len(indices))[:, None] // block, indices]
    return out


def quantize_nf4(w: Array, scheme: Nf4) -> tuple[Array, Array]:
    """Of f32 [rows, cols], indices u8 and the largest magnitude of each group f32."""
    flat = w.ravel()
    size = min(scheme.group, len(flat))  # a larger group is all there is
    groups = -(-len(flat) // size)
    padded = np.zeros(groups * size, np.float32)
    padded[: len(flat)] = flat
    each = padded.reshape(groups, size)
    top = np.abs(each).max(axis=1)
    units = np.divide(each, top[:, None], out=np.zeros_like(each), where=top[:, None] > 0)
    return nearest(units, NF4).ravel()[: len(flat)].reshape(w.shape), top


def dequantize_nf4(indices: Array, top: Array, scheme: Nf4) -> Array:
    """f32 [rows, cols]; DamagedError for an index above 15."""
    _refuse_beyond(indices, len(NF4))
    flat = NF4[indices.ravel()]
    flat *= np.repeat(top, min(scheme.group, len(flat)))[: len(flat)]
    return flat.reshape(indices.shape)


def _refuse_beyond(indices: Array, codes: int) -> None:
    if indices.size and int(indices.max()) >= codes:
        raise DamagedError(f"has an index {int(indices.max())}, and its dictionary has {codes} values")
