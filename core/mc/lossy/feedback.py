"""Rounding column by column, each with what the errors of those before it make of the output: for weights w, integers
with scales q and inputs of Gram matrix H the squared error of outputs is the trace of (w - q) H (w - q)^T.

With H = L L^T it is the sum of squares of (w - q) L, whose column j holds errors of columns from j on alone. So the
last column is rounded first, and column j to where, with the errors e of those behind it, w_j + e M_j lies, M being L
with each column divided by its diagonal. That is GPTQ (Frantar et al. 2023, arXiv 2210.17323) from a Cholesky factor
of H itself, without an inverse. A step of column j that is wide as 1 / L_jj makes errors of all columns count alike
(WaterSIC, arXiv 2603.04956): L_jj^2 is the variance of input j that the inputs before it don't tell.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mc.codec.compiled import released
from mc.lossy.loops import MOST, cheapest

Array = np.ndarray[Any, Any]
F32, F64 = np.float32, np.float64
DAMPING = 0.01  # of the mean of the diagonal, added to it: GPTQ's choice
BLOCK = 64  # columns whose errors are fed back one by one; those of whole blocks by a product of matrices


def factor(gram: Array, damping: float = DAMPING) -> tuple[Array, Array]:
    """M f32 [n, n], lower triangular with ones on its diagonal, and the diagonal of L, f64 [n], for a Gram matrix
    f32 [n, n], whose memory M takes. Damped further where rounding left the matrix indefinite."""
    from scipy.linalg import LinAlgError, cholesky

    size = len(gram)
    diagonal = np.diagonal(gram).astype(np.float64)
    mean = float(np.abs(diagonal).mean()) or 1.0
    more = damping
    while True:
        tried = gram.copy(order="F")
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
    gram[:] = lower
    return gram, scales


def fed_back(
    w: Array, matrix: Array, held: bool, steps: Array, factors: Array, contexts: tuple[Array, Array], lengths: Array,
    weight: float, q: Array, counts: Array,
) -> None:  # fmt: skip
    """`loops.round_grid` of all rows with feedback through `matrix`, the M of `factor`. `held`: zeros stay zero."""
    errors = np.zeros(w.shape, np.float32)
    rows, columns = contexts
    for stop in range(w.shape[1], 0, -BLOCK):
        start = max(0, stop - BLOCK)
        aims = w[:, start:stop].astype(np.float32)
        if stop < w.shape[1]:
            aims += errors[:, stop:] @ matrix[stop:, start:stop]
        inner = np.ascontiguousarray(matrix[start:stop, start:stop].T)
        round_block(w, aims, inner, held, start, steps, factors, (rows, columns), lengths, weight, errors, q, counts)


@released
def round_block(w, aims, inner, held, start, steps, factors, contexts, lengths, weight, errors, q, counts):
    """Round the columns from `start` on for which `aims` f32 [rows, columns] holds w with the errors of later blocks
    fed back. inner f32 [columns, columns]: M of these columns, transposed. The rest is as in `round_grid`; fills
    `errors` f32 [rows, cols] with w less what its integer stands for."""
    rows, columns = contexts
    last, half = lengths.shape[0] - 1, lengths.shape[1] // 2
    width = aims.shape[1]
    for r in range(aims.shape[0]):
        for j in range(width - 1, -1, -1):
            c = start + j
            aim = F64(aims[r, j])
            for i in range(j + 1, width):
                aim += F64(errors[r, start + i]) * F64(inner[j, i])
            step = F64(F32(steps[r] * factors[c]))
            per = 1 / step if step > 0 else 0.0
            x = min(max(aim * per, -F64(MOST)), F64(MOST))
            context = min(max(rows[r] + columns[c], 0), last)
            k = cheapest(x, weight, lengths, context, half)
            if held and w[r, c] == 0:
                k = np.int64(0)
            q[r, c] = k
            errors[r, c] = F32(F64(w[r, c]) - k * step)
            if len(counts):
                counts[context, min(max(k, -half), half) + half] += 1
