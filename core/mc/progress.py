"""How far a call has come, as its caller is told: bytes done, of bytes in all."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]  # (bytes done, bytes in all), called from the caller's thread only


class Done:
    """Progress in bytes over one file or several: steps in, sums out."""

    def __init__(self, whole: int, progress: Progress | None) -> None:
        self._whole, self._progress, self._done = whole, progress, 0

    def step(self, count: int) -> None:
        """Count bytes that are done."""
        self._done = min(self._done + count, self._whole)
        if self._progress is not None:
            self._progress(self._done, self._whole)
