"""What is lost, in the units of an objective, so that tensors can be weighed against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mc.lossy.grids import objective_of
from mc.lossy.passes import USUAL, is_embedding
from mc.lossy.statistics import Statistics
from mc.recipe import WEIGHED
from mc.twins import tied_with

Array = np.ndarray[Any, Any]
BLOCK = 1 << 20  # weights compared at once


@dataclass(frozen=True)
class Measure:
    """How the losses of one tensor are measured."""

    objective: str  # that of `loss`
    inputs: Array | None  # of the layer: mean squares f32 [cols], or the Gram matrix f32 [cols, cols]
    factor: float  # that losses are multiplied with

    def lost(self, w: Array, v: Array, share: float = 1.0) -> float:
        """What v f32 [rows, cols] lost of w, rows that stand for `share` times as many."""
        return share * self.factor * loss(w, v, self.objective, self.inputs)

    def most(self, w: Array) -> float:
        """The loss of storing nothing: what makes losses of all tensors relative to a common whole."""
        return self.lost(w, np.zeros_like(w))


def measure_of(
    name: str, shape: tuple[int, int], objective: str, statistics: Statistics | None, twins: Mapping[str, str]
) -> Measure:
    """How the losses of a matrix [rows, cols] are measured, by the statistics of the first of those tied to it that has
    any. With statistics layers count alike whatever their size, as `passes.USUAL` has it; without, weights do."""
    if objective not in WEIGHED or statistics is None:
        return Measure(objective_of(objective, shape[1]), None, 1.0)
    factor = USUAL / max(shape[0] * shape[1], 1)
    tied = tied_with(name, twins)
    for one in tied if objective == "gram" else ():
        if (gram := statistics.gram(one, shape[1])) is not None:
            return Measure("row", gram, factor)
    for one in tied:
        if (squares := statistics.mean_squares(one, shape[1])) is not None:
            return Measure("row", squares, factor)
    return Measure("column" if is_embedding(tied) else objective_of("row", shape[1]), None, factor)


def loss(w: Array, v: Array, objective: str, inputs: Array | None = None) -> float:
    """What v f32 [rows, cols] lost of w f32 [rows, cols]: for `plain` the squared error; for `tensor`, `row` and
    `column` the weights times their squared error relative to the power of all, their row or their column, those of
    zeros left out. With the mean squares f32 [cols] or the Gram matrix f32 [cols, cols] of the layer's inputs, errors
    and powers are those of a row's output."""
    if objective == "column":
        errors, powers = _by_column(w, v)
    else:
        errors, powers = _by_row(w, v, inputs)
    if objective == "plain":
        return float(errors.sum())
    if objective == "tensor":
        return float(w.size * errors.sum() / powers.sum()) if powers.any() else 0.0
    relative = np.divide(errors, powers, out=np.zeros_like(errors), where=powers > 0)
    return float(w.size * relative.sum() / max(len(relative), 1))


def _by_column(w: Array, v: Array) -> tuple[Array, Array]:
    """Squared errors and powers f64 [cols]."""
    errors, powers = np.zeros(w.shape[1]), np.zeros(w.shape[1])
    step = max(1, BLOCK // max(1, w.shape[1]))
    for at in range(0, len(w), step):
        exact = w[at : at + step].astype(np.float64)
        errors += np.square(exact - v[at : at + step]).sum(axis=0)
        powers += np.square(exact).sum(axis=0)
    return errors, powers


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
