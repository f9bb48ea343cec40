"""What is lost, in the units of an objective, so that tensors can be weighed against each other."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
BLOCK = 1 << 20  # weights compared at once


def loss(w: Array, v: Array, objective: str) -> float:
    """What v f32 [rows, cols] lost of w f32 [rows, cols]: for `plain` the squared error; for `tensor` and `row` the
    weights times their squared error relative to the tensor's or their row's power, rows of zeros left out."""
    errors, powers = _by_row(w, v)
    if objective == "plain":
        return float(errors.sum())
    if objective == "tensor":
        return float(w.size * errors.sum() / powers.sum()) if powers.any() else 0.0
    relative = np.divide(errors, powers, out=np.zeros_like(errors), where=powers > 0)
    return float(w.shape[1] * relative.sum())


def most(w: Array, objective: str) -> float:
    """The loss of storing nothing: what makes losses of all tensors relative to a common whole."""
    return loss(w, np.zeros_like(w), objective)


def _by_row(w: Array, v: Array) -> tuple[Array, Array]:
    """Squared errors and powers f64 [rows]."""
    errors, powers = np.empty(len(w)), np.empty(len(w))
    step = max(1, BLOCK // max(1, w.shape[1]))
    for at in range(0, len(w), step):
        exact = w[at : at + step].astype(np.float64)
        away = exact - v[at : at + step]
        errors[at : at + step] = np.einsum("rc,rc->r", away, away)
        powers[at : at + step] = np.einsum("rc,rc->r", exact, exact)
    return errors, powers
