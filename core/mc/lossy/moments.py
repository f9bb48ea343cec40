"""What a layer is given, as a weight of errors: mean squares of its inputs, or all their products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mc.lossy.statistics import Statistics

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Moments:
    """Second moments of the inputs of one layer."""

    squares: Array  # f32 [features], means
    gram: Array | None  # f32 [features, features], mean products

    def energy(self, w: Array) -> float:
        """Mean square of the outputs that weights f32 [rows, features] give, summed over rows; with mean squares alone
        as if inputs were uncorrelated."""
        if self.gram is None:
            return float(np.einsum("ij,j->", np.square(w, dtype=np.float64), self.squares))
        return float(np.einsum("ij,ij->", w @ self.gram, w, dtype=np.float64))


def damped_root(gram: Array, damped: float) -> Array:
    """The lower triangle L f64 with L L^T = the Gram matrix, to whose diagonal a share `damped` of its mean is added,
    or ten times as much, until it is positive definite."""
    h = (gram.astype(np.float64) + gram.T) / 2
    mean = max(float(np.trace(h)) / len(h), float(np.finfo(np.float32).tiny))
    while True:
        try:
            root: Array = np.linalg.cholesky(h + damped * mean * np.eye(len(h)))
            return root
        except np.linalg.LinAlgError:
            damped *= 10


def moments_of(statistics: Statistics, names: Sequence[str], features: int) -> Moments | None:
    """Those of the first of these weights, which are tied, that has any; a Gram matrix goes before mean squares."""
    for name in sorted(names, key=lambda one: not statistics.has_gram(one)):
        squares = statistics.mean_squares(name, features)
        if squares is not None:
            return Moments(squares, statistics.gram(name, features))
    return None
