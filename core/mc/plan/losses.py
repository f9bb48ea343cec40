"""What is lost, in the units of an objective, so that tensors can be weighed against each other."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
BLOCK = 1 << 20  # weights compared at once


def loss(w: Array, v: Array, objective: str, inputs: Array | None = None, share: float = 1.0) -> float:
    """What v f32 [rows, cols] lost of w f32 [rows, cols]: for `plain` the squared error; for `tensor` and `row` the
    weights times their squared error relative to the tensor's or their row's power, rows of zeros left out.

    With the mean squares f32 [cols] or the Gram matrix f32 [cols, cols] of the layer's inputs, whatever the objective,
    the weights times the squared error of their row's output relative to its power. `share` is what it is multiplied
    with."""
    errors, powers = _by_row(w, v, inputs)
    if objective == "plain" and inputs is None:
        return share * float(errors.sum())
    if objective == "tensor" and inputs is None:
        return share * float(w.size * errors.sum() / powers.sum()) if powers.any() else 0.0
    relative = np.divide(errors, powers, out=np.zeros_like(errors), where=powers > 0)
    return share * float(w.shape[1] * relative.sum())


def most(w: Array, objective: str, inputs: Array | None = None, share: float = 1.0) -> float:
    """The loss of storing nothing: what makes losses of all tensors relative to a common whole."""
    return loss(w, np.zeros_like(w), objective, inputs, share)


def _by_row(w: Array, v: Array, inputs: Array | None) -> tuple[Array, Array]:
    """Squared errors and powers f64 [rows], of outputs if there are inputs."""
    errors, powers = np.empty(len(w)), np.empty(len(w))
    step = max(1, BLOCK // max(1, w.shape[1]))
    for at in range(0, len(w), step):
        exact = w[at : at + step]
        away = exact.astype(np.float64) - v[at : at + step]
        errors[at : at + step] = _squares(away, inputs)
        powers[at : at + step] = _squares(exact.astype(np.float64), inputs)
    return errors, powers


def _squares(rows: Array, inputs: Array | None) -> Array:
    """f64 [rows]."""
    if inputs is None:
        return np.asarray(np.einsum("rc,rc->r", rows, rows))
    if inputs.ndim == 1:
        return np.asarray(np.square(rows) @ inputs.astype(np.float64))
    narrow = rows.astype(np.float32)
    return np.asarray(np.maximum(np.einsum("rc,rc->r", narrow @ inputs, narrow).astype(np.float64), 0))
