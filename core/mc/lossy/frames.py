"""Frames with feedback, kept from one trial of a search to the next: factoring a Gram matrix costs about as much as
rounding with it, and no trial changes it. Their matrices lie in a temporary file up to a limit; beyond that they are
made anew each time, so that memory and disk stay bounded whatever the model."""

from __future__ import annotations

from dataclasses import replace
from threading import Lock
from types import TracebackType

import numpy as np

from mc.lossy.grids import Frame
from mc.scratch import scratch

MOST = 2 << 30  # bytes of matrices: 128 layers of 2048 inputs


class Frames:
    """Frames by tensor, while there is room. Threads may share it."""

    def __init__(self, most: int = MOST) -> None:
        self._most, self._used, self._lock = most, 0, Lock()
        self._frames: dict[str, Frame] = {}
        self._file = scratch()  # closed with this

    def get(self, name: str) -> Frame | None:
        """The frame that is kept for the tensor `name`, if any. Its matrix can't be written to."""
        return self._frames.get(name)

    def keep(self, name: str, made: Frame) -> Frame:
        """The same frame, its matrix in the file if there is room for it."""
        matrix = made.matrix
        if matrix is None:
            return made
        with self._lock:
            if self._used + matrix.nbytes > self._most:
                return made
            self._file.seek(self._used)
            self._file.write(np.ascontiguousarray(matrix).data)
            self._file.flush()
            mapped = np.memmap(self._file, matrix.dtype, "r", self._used, matrix.shape)
            self._used += matrix.nbytes
            self._frames[name] = replace(made, matrix=mapped.view(np.ndarray))
            return self._frames[name]

    def close(self) -> None:
        """Take the file away."""
        self._file.close()

    def __enter__(self) -> Frames:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
