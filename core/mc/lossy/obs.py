"""Optimal brain surgeon by layers: weights go so that the layer's outputs change least, and those that stay make up
for them (Hassibi and Stork, 1993).

Which ones go is decided in blocks of columns, each after compensation for all before it (SparseGPT, arXiv 2301.00774).
That compensates rightwards alone; so at the end the weights that stay are moved to the least squares of all of them, by
conjugate gradients in all rows at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mc.lossy.masks import wanted
from mc.lossy.moments import damped_root

Array = np.ndarray[Any, Any]
BLOCK = 128  # columns
DAMPED = 0.01  # share of the mean of the Gram matrix's diagonal, while masks are chosen
MOST_STEPS = 64  # of conjugate gradients
CLOSE = 1e-7  # of what is left of the squared gradient, by row: then no step helps
# Where fewer inputs were recorded than there are, nothing changes along some directions: a curve there, relative to
# that of its weights one by one, is what rounding leaves of zero, and a step by it would be endless.
FLAT = 128.0  # roundings of the Gram matrix, which is in f32
WIDE = 512  # columns from which single precision has to do


def prune(w: Array, gram: Array, sparsity: float, keep: int, of: int) -> tuple[Array, Array]:
    """Of w f32 [rows, cols], given mean products of the inputs f32 [cols, cols]: the mask u8 of what stays, a sparsity
    in every row or `keep` of every `of` columns, and the weights after compensation, zero elsewhere."""
    mask, start = _chosen(w, gram, sparsity, keep, of)
    return mask, compensated(w, gram, mask, start)


def _chosen(w: Array, gram: Array, sparsity: float, keep: int, of: int) -> tuple[Array, Array]:
    """A mask and weights that fit it, column by column."""
    factor = _inverse_factor(gram)
    left = w.astype(np.float64)
    rows, cols = w.shape
    mask = np.ones(w.shape, np.uint8)
    for first in range(0, cols, BLOCK - BLOCK % (of or 1)):
        last = min(first + BLOCK - BLOCK % (of or 1), cols)
        block, errors = left[:, first:last], np.zeros((rows, last - first))
        diagonal = np.diagonal(factor)[first:last]
        if not keep:
            count = wanted(sparsity, last) - wanted(sparsity, first)
            mask[:, first:last] = _largest(np.square(block / diagonal), last - first - count)
        for j in range(last - first):
            if keep and j % of == 0:
                group = slice(j, min(j + of, last - first))
                mask[:, first + group.start : first + group.stop] = _largest(
                    np.square(block[:, group] / diagonal[group]), min(keep, group.stop - group.start)
                )
            error = np.where(mask[:, first + j], 0, block[:, j]) / diagonal[j]
            block[:, j] *= mask[:, first + j]
            block[:, j + 1 :] -= np.outer(error, factor[first + j, first + j + 1 : last])
            errors[:, j] = error
        left[:, last:] -= errors @ factor[first:last, last:]
    return mask, left


def _inverse_factor(gram: Array) -> Array:
    """The upper triangle U with U^T U = the inverse of the damped Gram matrix."""
    # Upside down, H = R R^T with R upper, so its inverse is R^-T R^-1 and U is R^-1.
    inverse: Array = np.linalg.inv(damped_root(gram[::-1, ::-1], DAMPED)[::-1, ::-1])
    return inverse


def _largest(scores: Array, count: int) -> Array:
    """u8: 1 for the `count` largest of each row, the first of equal ones."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    mask = np.zeros(scores.shape, np.uint8)
    np.put_along_axis(mask, order, 1, axis=1)
    return mask


def compensated(w: Array, gram: Array, mask: Array, start: Array) -> Array:
    """The weights within the mask that minimise tr((W - V) H (W - V)^T), from `start` on: conjugate gradients with the
    diagonal as preconditioner (Hestenes and Stiefel, 1952), one system for each row, f32 or f64 [rows, cols]."""
    kind: Any = np.float32 if w.shape[1] >= WIDE else np.float64
    h, free = gram.astype(kind), mask.astype(kind)
    steps = np.divide(1, np.diagonal(h), out=np.zeros(len(h), kind), where=np.diagonal(h) > 0)
    v = start.astype(kind) * free
    gradient = ((w.astype(kind) - v) @ h) * free
    direction = gradient * steps
    size = np.einsum("ij,ij->i", gradient, direction, dtype=np.float64)
    enough = CLOSE**2 * size if kind == np.float64 else CLOSE * size
    flat = FLAT * float(np.finfo(np.float32).eps) * np.diagonal(h)
    for _ in range(MOST_STEPS):
        pushed = (direction @ h) * free
        curve = np.einsum("ij,ij->i", direction, pushed, dtype=np.float64)
        live = (size > enough) & (curve > np.square(direction, dtype=np.float64) @ flat)
        if not live.any():
            break
        length = np.divide(size, curve, out=np.zeros_like(size), where=live).astype(kind)[:, None]
        v += length * direction
        gradient -= length * pushed
        turned = gradient * steps
        now = np.einsum("ij,ij->i", gradient, turned, dtype=np.float64)
        direction = turned + np.divide(now, size, out=np.zeros_like(size), where=live).astype(kind)[:, None] * direction
        size = now
    found: Array = v
    return found
