"""Streams that can only be read or written once, front to back, as at either end of a shell's pipe."""

from __future__ import annotations

import io
from typing import Any


class Pipe(io.RawIOBase):
    """Gives `data` to who reads, and keeps what is written; it can't seek."""

    def __init__(self, data: bytes = b"") -> None:
        self._inside = io.BytesIO(data)
        self.written = bytearray()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._inside.read(size)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self.written += view
        return view.nbytes
