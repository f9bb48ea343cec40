"""A packed file read front to back, from memory, a file or a pipe."""

from __future__ import annotations

import io
from typing import BinaryIO, Protocol

from mc.errors import DamagedError
from mc.source import Source


class Sequential(Protocol):
    """A packed file read front to back, which may also be looked up again."""

    where: str

    def take(self, size: int) -> memoryview:
        """The next bytes; DamagedError if the file ends before."""


class FromSource:
    """Front to back over a file or memory, with the freedom to go elsewhere."""

    def __init__(self, source: Source, at: int = 0) -> None:
        self.where = source.where
        self.at = at
        self.source = source

    def take(self, size: int) -> memoryview:
        """The next bytes; DamagedError if the file ends before."""
        if self.at + size > self.source.size:
            raise DamagedError(f"{self.where} ends at byte {self.source.size}, before {self.at + size}: it was cut")
        taken = self.source.read(self.at, self.at + size)
        self.at += size
        return taken

    def beyond(self, start: int, stop: int) -> memoryview:
        """Bytes `start` to `stop` counted from the position, which stays; DamagedError if the file ends before."""
        here = self.at
        try:
            self.at += start
            return self.take(stop - start)
        finally:
            self.at = here


class FromMemory:
    """Front to back over a piece of a packed file that is in memory."""

    def __init__(self, data: memoryview, where: str) -> None:
        self.where = where
        self._data, self._at = data, 0

    def take(self, size: int) -> memoryview:
        """The next bytes; DamagedError if the piece ends before."""
        start, self._at = self._at, self._at + size
        if self._at > len(self._data):
            raise DamagedError(f"{self.where} ends {self._at - len(self._data)} bytes too early: it was cut")
        return self._data[start : self._at]

    def beyond(self, start: int, stop: int) -> memoryview:
        """Bytes `start` to `stop` counted from the position, which stays; DamagedError if the piece ends before."""
        here, self._at = self._at, self._at + start
        try:
            return self.take(stop - start)
        finally:
            self._at = here


class FromPipe:
    """Front to back over a stream that can't go back."""

    def __init__(self, stream: BinaryIO, where: str) -> None:
        self.where = where
        self.at = 0
        self._stream = stream
        self._copy: BinaryIO | None = None

    def copy_to(self, copy: BinaryIO | None) -> None:
        """Write all that is taken from now on to `copy` as well, or stop doing so."""
        self._copy = copy

    def at_end(self) -> bool:
        """Whether nothing follows."""
        return not self._stream.read(1)

    def take(self, size: int) -> memoryview:
        """The next bytes; DamagedError if the stream ends before. What is not there is not allocated."""
        parts = io.BytesIO()
        while parts.tell() < size:
            part = self._stream.read(min(size - parts.tell(), 1 << 20))
            if not part:
                raise DamagedError(
                    f"{self.where} ends at byte {self.at + parts.tell()}, where more was expected: it was cut"
                )
            parts.write(part)
        self.at += size
        if self._copy is not None:
            self._copy.write(parts.getbuffer())
        return parts.getbuffer().toreadonly()
