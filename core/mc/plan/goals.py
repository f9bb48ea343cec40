"""What a plan is to meet."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

from mc.errors import UsageError

WITHOUT = "lossless", "score", "least"  # a value


@dataclass(frozen=True)
class Goal:
    """One limit: `size` bytes of all packed files; `ratio` of the original's bytes to them; `bits` a weight of the
    tensors that may change, packed; `error`, the loss relative to storing nothing; `alpha`, the relative loss that a
    bit a weight is worth; or `lossless`; or `score`, which a search meets; or `least`, the fewest bytes there are.
    UsageError for a limit that is no number above 0."""

    kind: Literal["lossless", "size", "ratio", "bits", "error", "alpha", "score", "least"]
    value: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in WITHOUT and not 0 < self.value < inf:
            raise UsageError(f"The goal {self.kind} is {self.value}, where a number above 0 belongs.")

    def __str__(self) -> str:
        return self.kind if self.kind in WITHOUT else f"{self.kind} {self.value:g}"
