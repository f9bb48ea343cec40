"""Rounding column by column, each with what the errors of those before it make of the output: for weights w, what is
stored for them q, and inputs of Gram matrix H the squared error of outputs is the trace of (w - q) H (w - q)^T.

With H = U U^T, U upper triangular, it is the sum of squares of (w - q) U, whose column j holds errors of columns up to
j alone. So the first column is rounded first, and column j to where, with the errors e of those before it, w_j + e M_j
lies, M being U with each column divided by its diagonal. That is GPTQ (Frantar et al. 2023, arXiv 2210.17323) from a
Cholesky factor of H itself, without an inverse. A step of column j that is wide as 1 / U_jj makes errors of all columns
count alike (WaterSIC, arXiv 2603.04956): U_jj^2 is the variance of input j that the inputs behind it don't tell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mc.codec.compiled import released
from mc.lossy.loops import cheapest, class_of, push

Array = np.ndarray[Any, Any]
# Rounds the columns from `start` on: takes where they lie with earlier errors, f32 [rows, columns], M of these columns,
# f32 [columns, columns], and `start`; puts the errors that they get into f32 [rows, cols].
Rounding = Callable[[Array, Array, int, Array], None]
F32, F64 = np.float32, np.float64
DAMPING = 0.01  # of the mean of the diagonal, added to it: GPTQ's choice


def factor(gram: Array, damping: float = DAMPING) -> tuple[Array, Array]:
    """M f32 [n, n], upper triangular with ones on its diagonal, and the diagonal of U, f64 [n], for a Gram matrix
    f32 [n, n], whose memory M takes. Damped further where rounding left the matrix indefinite."""
    from scipy.linalg import LinAlgError, cholesky

    size = len(gram)
    diagonal = np.diagonal(gram)[::-1].astype(np.float64)
    mean = float(np.abs(diagonal).mean()) or 1.0
    more = damping
    while True:
        tried = gram[::-1, ::-1].copy(order="F")  # from the last input to the first, its factor is lower triangular
        tried[np.diag_indices(size)] = diagonal + more * mean
        try:
            lower: Array = cholesky(tried, lower=True, overwrite_a=True, check_finite=False)
            break
        except LinAlgError:  # ends: a diagonal that outweighs all else is definite
            more *= 4
    scales = np.diagonal(lower).astype(np.float64)
    for start in range(0, size, 512):  # by parts, so that no third matrix is needed
        part = lower[:, start : start + 512]
        part /= scales[start : start + 512].astype(np.float32)
    gram[:] = lower[::-1, ::-1]
    return gram, scales[::-1].copy()


def fed_back(w: Array, matrix: Array, block: int, rounding: Rounding) -> Array:
    """Round the columns of w f32 [rows, cols] with feedback through `matrix`, the M of `factor`. `block`: columns whose
    errors the rounding feeds back one by one; those of whole blocks are, by a product of matrices.
    Returns the errors, f32 [rows, cols]."""
    errors = np.zeros(w.shape, np.float32)
    for start in range(0, w.shape[1], block):
        stop = min(start + block, w.shape[1])
        aims = w[:, start:stop].astype(np.float32)
        if start:
            aims += errors[:, :start] @ matrix[:start, start:stop]
        rounding(aims, np.ascontiguousarray(matrix[start:stop, start:stop]), start, errors)
    return errors


@released
def round_block(w, held, steps, factors, contexts, lower, upper, q, counts, aims, inner, start, errors):
    """`loops.round_grid` of all rows as a `Rounding`, whose arguments are the last four. `held`: zeros stay zero."""
    rows, columns = contexts
    last, edge = lower.shape[0] - 1, np.int32(lower.shape[1] // 2)
    lower, upper = lower.reshape(-1), upper.reshape(-1)
    half = np.int64(edge - 1)
    width = aims.shape[1]
    for r in range(aims.shape[0]):
        for j in range(width):
            c = start + j
            aim = aims[r, j]
            step = F64(F32(steps[r] * factors[c]))
            per = 1 / step if step > 0 else 0.0
            context = class_of(rows[r], columns[c], last)
            middle = np.int32(context * (2 * edge + 1) + edge)
            k = np.int64(cheapest(F64(aim) * per, middle, edge, lower, upper))
            if held and w[r, c] == 0:
                k = np.int64(0)
            q[r, c] = k
            error = F32(F64(w[r, c]) - k * step)
            errors[r, c] = error
            push(aims[r, j + 1 :], error, inner[j, j + 1 :], aims[r, j + 1 :])
            if len(counts):
                counts[context, min(max(k, -half), half) + half] += 1
