"""What a plan is to meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Goal:
    """One limit: `size` bytes of all packed files; `ratio` of the original's bytes to them; `bits` a weight of the
    tensors that may change, packed; `error`, the loss relative to storing nothing; `alpha`, the relative loss that a
    bit a weight is worth; or `lossless`; or `score`, which a search meets."""

    kind: Literal["lossless", "size", "ratio", "bits", "error", "alpha", "score"]
    value: float = 0.0

    def __str__(self) -> str:
        return self.kind if self.kind in ("lossless", "score") else f"{self.kind} {self.value:g}"
