"""Low rank: a matrix as a product of two thin ones, by its singular values (Eckart and Young, 1936).

With the Gram matrix X^T X of a layer's inputs the product is closest on these inputs: W L is decomposed, L L^T being
the Gram matrix, and L undone on the right (SVD-LLM, arXiv 2403.07378). Component k costs rows + cols numbers and saves
its squared singular value, which is what an allocation weighs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mc.lossy.cuts import multiply
from mc.lossy.moments import damped_root

Array = np.ndarray[Any, Any]
SMALL = 512  # rows or columns up to which all is decomposed, whatever rank is wanted
OVERSAMPLED, ROUNDS = 32, 4  # of the randomized decomposition
DAMPED = 1e-6  # share of the mean of a Gram matrix's diagonal that is added to it


@dataclass(frozen=True)
class Components:
    """The singular value decomposition of W, or of W L."""

    left: Array  # [rows, k], orthonormal columns
    values: Array  # [k], falling
    right: Array  # [k, cols]; with L undone
    whole: float  # sum of all squared singular values, those that aren't here too


def decomposed(w: Array, gram: Array | None = None, rank: int | None = None, seed: int = 0) -> Components:
    """Of f32 [rows, cols]: all components, or at least the first `rank`, randomized where that is much quicker (Halko,
    Martinsson and Tropp, arXiv 0909.4061, algorithm 4.4)."""
    factor = None if gram is None else damped_root(gram, DAMPED)
    a = w.astype(np.float64) if factor is None else w.astype(np.float64) @ factor
    whole = float(np.einsum("ij,ij->", a, a))
    least = min(a.shape)
    if rank is not None and least > SMALL and 2 * (rank + OVERSAMPLED) < least:
        left, values, right = _randomized(a, rank + OVERSAMPLED, seed)
        left, values, right = left[:, :rank], values[:rank], right[:rank]
    else:
        left, values, right = _exact(a)
    if factor is not None:
        from scipy.linalg import solve_triangular

        right = solve_triangular(factor, right.T, lower=True, trans="T").T
    return Components(left, values, right, whole)


def _exact(a: Array) -> tuple[Array, Array, Array]:
    """All components. A small matrix is decomposed itself; of a large one the Gram matrix of its shorter side, in a
    third of the time and, in doubles, exact enough to be rounded to f32 (squares down to 1e-15 of the largest)."""
    if min(a.shape) <= SMALL:
        left, values, right = np.linalg.svd(a, full_matrices=False)
        return left, values, right
    if a.shape[0] < a.shape[1]:
        left, values, right = _exact(a.T)
        return right.T, values, left.T
    from scipy.linalg import eigh

    squares, vectors = eigh(a.T @ a, driver="evd", check_finite=False)
    values, right = np.sqrt(np.maximum(squares[::-1], 0)), vectors[:, ::-1].T
    scaled = np.divide(1.0, values, out=np.zeros_like(values), where=values > 0)
    return (a @ right.T) * scaled, values, right


def _randomized(a: Array, count: int, seed: int) -> tuple[Array, Array, Array]:
    narrow = a.astype(np.float32)
    basis = narrow @ np.random.default_rng(seed).standard_normal((a.shape[1], count), np.float32)
    for _ in range(ROUNDS):
        basis = np.linalg.qr(basis)[0]
        basis = narrow @ np.linalg.qr(narrow.T @ basis)[0]
    basis = np.linalg.qr(basis.astype(np.float64))[0]
    small, values, right = _exact(basis.T @ a)
    return basis @ small, values, right


def rank_for(found: Components, shape: tuple[int, int], energy: float | None, share: float | None) -> int:
    """The rank that keeps a share of the squares, at least; or the one with a share of the parameters, at most."""
    if share is not None:
        return min(int(share * shape[0] * shape[1] / (shape[0] + shape[1])), min(shape))
    kept = np.cumsum(found.values**2)
    limit = (energy if energy is not None else 1.0) * found.whole
    return int(np.searchsorted(kept, limit * (1 - 1e-12))) + 1 if limit > 0 and len(kept) else 0


def factors(found: Components, rank: int) -> tuple[Array, Array]:
    """Left f64 [rows, rank] and right [rank, cols], each with the root of the singular values."""
    roots = np.sqrt(found.values[:rank])
    return found.left[:, :rank] * roots, found.right[:rank] * roots[:, None]


def product(left: Array, right: Array, beside: Array | None) -> Array:
    """f32 [rows, cols] of factors, the same on every machine (FORMAT.md, section 11)."""
    out = np.zeros((left.shape[0], right.shape[1]))
    multiply(left.astype(np.float64), right.astype(np.float64), out)
    if beside is not None:
        out += beside.astype(np.float64)
    with np.errstate(over="ignore"):
        return out.astype(np.float32)
