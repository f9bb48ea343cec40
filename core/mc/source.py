"""Bytes read by position, from memory or from an open file, without a shared cursor and without a mapping.

A file that shrinks under a mapping kills the process; under `pread` it is an error like any other, and the
memory that is used can be counted. Reads carry their own position, so threads may share a Source.
"""

from __future__ import annotations

import io
import mmap
import os
import stat
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mc.errors import McError, reason

Data = bytes | bytearray | memoryview | mmap.mmap | np.ndarray[Any, Any]


class Source:
    """Positional reads from bytes in memory or from an open regular file; made by `Source.of`."""

    def __init__(self, where: str, content: memoryview | int, owned: io.FileIO | None = None) -> None:
        """Read `content`, flat bytes or a regular file's descriptor; `owned` is closed with the Source."""
        self.where = where
        self._content: memoryview | int | None = content
        self._owned = owned
        if isinstance(content, memoryview):
            self.size = content.nbytes
            self._address = np.frombuffer(content, np.uint8).ctypes.data
        else:
            self.size, self._changed_ns = _stamp(content)

    @classmethod
    def of(cls, data: Data | str | os.PathLike[str] | BinaryIO, where: str | None = None) -> Source:
        """Open `data`: bytes-like (not copied), a path, or a binary file (read whole, wherever its cursor
        stands).

        `where` names it in messages; by default its path, or what it is. A file that was handed in stays open
        on `close`. Raises McError for what cannot be read at random (a pipe, a folder, a compressing wrapper)
        or at all.
        """
        if isinstance(data, str | os.PathLike):
            return cls._of_path(os.fspath(data), where)
        if isinstance(data, bytes | bytearray | memoryview | mmap.mmap | np.ndarray):
            return cls(
                where or "the given bytes",
                _flat(data.data if isinstance(data, np.ndarray) else memoryview(data)).toreadonly(),
            )
        name = getattr(data, "name", None)
        where = where or (name if isinstance(name, str) else "the given stream")
        if isinstance(data, io.BytesIO):
            return cls(where, data.getbuffer().toreadonly())
        # A wrapper such as GzipFile has a descriptor too, but of other bytes than those it reads.
        if not isinstance(getattr(data, "raw", data), io.FileIO):
            raise McError(f"{where} cannot be read by position. Save it as a file first and give that.")
        if data.writable():
            data.flush()
        return cls(where, _regular(data.fileno(), where))

    @classmethod
    def _of_path(cls, path: str, where: str | None) -> Source:
        where = where or path
        try:
            _refuse_irregular(os.stat(path).st_mode, where)  # before opening, which waits for ever on a FIFO
            file = io.FileIO(path, "rb")
        except FileNotFoundError:
            raise McError(f"{where} does not exist. Check the path.") from None
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            found = reason(error) if isinstance(error, OSError) else str(error)
            raise McError(f"{where} cannot be opened: {found}. Check the path and its permissions.") from error
        try:
            return cls(where, _regular(file.fileno(), where), owned=file)
        except BaseException:
            file.close()
            raise

    @property
    def in_memory(self) -> bool:
        """Whether `read` returns views of memory that is there anyway."""
        return isinstance(self._content, memoryview)

    def aligned(self, start: int) -> bool:
        """Whether a word of eight bytes may lie at byte `start` of memory: to ask for the address of each piece would
        take longer than to read it."""
        return (self._address + start) % 8 == 0

    def read(self, start: int, stop: int) -> memoryview:
        """Bytes `start` to `stop` (exclusive) as a read-only view: of the memory itself, or of a fresh
        buffer.

        Raises McError if the file shrank or cannot be read, ValueError if the range is not within `size`.
        """
        content = self._within(start, stop)
        if isinstance(content, memoryview):
            return content[start:stop]
        out = np.empty(stop - start, np.uint8).data  # a bytearray would be filled with zeros first
        self._fill(content, start, out)
        return out.toreadonly()

    def read_into(self, start: int, out: npt.NDArray[np.uint8]) -> None:
        """Fill `out` (contiguous uint8) with the bytes from `start` on. Raises as `read` does."""
        content = self._within(start, start + out.nbytes)
        if isinstance(content, memoryview):
            out.reshape(-1)[:] = np.frombuffer(content[start : start + out.nbytes], np.uint8)
        else:
            self._fill(content, start, _flat(out.data))

    def unchanged(self) -> None:
        """Raise McError if the file's size or time of last change is not what it was at opening."""
        if isinstance(self._content, int) and _stamp(self._content) != (self.size, self._changed_ns):
            raise McError(
                f"{self.where} changed while it was read: its size or time of last change is not what it was "
                "at the start. Run this again when nothing writes to it."
            )

    def close(self) -> None:
        """Close the file if the Source opened it; memory is only let go."""
        self._content = None
        if self._owned is not None:
            self._owned.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _within(self, start: int, stop: int) -> memoryview | int:
        if self._content is None:
            raise ValueError(f"{self.where} is closed")
        if not 0 <= start <= stop <= self.size:
            raise ValueError(f"bytes {start} to {stop} do not lie within the {self.size} bytes of {self.where}")
        return self._content

    def _fill(self, descriptor: int, start: int, out: memoryview) -> None:
        done = 0
        while done < out.nbytes:  # one call reads at most 2 GiB
            try:
                count = os.preadv(descriptor, [out[done:]], start + done)
            except OSError as error:
                raise McError(
                    f"{self.where} cannot be read at byte {start + done}: {reason(error)}. "
                    "Check the disk or the network."
                ) from error
            if count == 0:
                raise McError(
                    f"{self.where} shrank while it was read: it had {self.size} bytes, and now ends at byte "
                    f"{start + done} or before. Run this again when nothing writes to it."
                )
            done += count


def _flat(view: memoryview) -> memoryview:
    """`view` as one row of bytes; an empty one cannot be cast, so it is replaced."""
    return view.cast("B") if view.nbytes else memoryview(b"")


def _stamp(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns


def _regular(descriptor: int, where: str) -> int:
    _refuse_irregular(os.fstat(descriptor).st_mode, where)
    return descriptor


def _refuse_irregular(mode: int, where: str) -> None:
    if stat.S_ISDIR(mode):
        raise McError(f"{where} is a folder, where a file was expected. Give a file in it.")
    if not stat.S_ISREG(mode):
        raise McError(f"{where} is a pipe or a device, which cannot be read by position. Save it as a file first.")
