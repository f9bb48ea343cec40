"""Large results in memory, filled in place and handed over without a copy; and memory that is kept for the next."""

from __future__ import annotations

import ctypes
import io
import mmap

import numpy as np
from numpy.typing import NDArray

from mc.errors import McError

KEPT = 1 << 24  # bytes
HUGE = 1 << 22  # bytes from which huge pages are worth asking for


class Room:
    """A stream over `size` zero bytes that is filled in place and handed over as bytes without a copy."""

    def __init__(self, size: int) -> None:
        """McError if there isn't so much memory."""
        self._stream, self.place, self._at = *_blank(size), 0

    def write(self, data: bytes | memoryview) -> int:
        """Put `data` at the position, which moves behind it. Without the interpreter's lock, other than BytesIO."""
        end = self._at + len(data)
        if end > len(self.place):  # a small file whose headers outweigh what coding saves
            before = self.place
            self._stream, self.place = _blank(2 * end)
            self.place[: len(before)] = before
        self.place[self._at : end] = np.frombuffer(data, np.uint8)
        self._at = end
        return len(data)

    def seek(self, position: int) -> int:
        """Set the position."""
        self._at = position
        return position

    def tell(self) -> int:
        """The position."""
        return self._at

    def result(self, size: int) -> bytes:
        """The first `size` bytes. The stream is empty then, and no view of it may be left."""
        self.place = self.place[:0].copy()
        self._stream.truncate(size)
        return self._stream.getvalue()


def _blank(size: int) -> tuple[io.BytesIO, NDArray[np.uint8]]:
    """A stream over zero bytes, and its bytes as an array. They are allocated as zero pages, so not touched yet, and
    nobody else holds them, so that `getvalue` copies nothing."""
    try:
        stream = io.BytesIO(bytes(size))
    except MemoryError:
        raise McError(f"{size} bytes are more than there is memory. Use files instead of bytes.") from None
    place: NDArray[np.uint8] = np.frombuffer(stream.getbuffer(), np.uint8)
    _ask_for_huge_pages(place)
    return stream, place


def _ask_for_huge_pages(room: NDArray[np.uint8]) -> None:
    """Have the system back `room` by pages of 2 MiB where it can: filled the first time, pages of 4 KiB cost more
    than all the coding (2 GB/s, and 10 with huge ones). Only a hint; without it all is as before, but slower."""
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None:  # no Linux
        return
    start = room.ctypes.data + -room.ctypes.data % mmap.PAGESIZE
    size = (room.ctypes.data + room.nbytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
    if size >= HUGE:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), advice)


def keep_freed() -> None:
    """Teach the C library to keep freed memory for what is allocated next.

    glibc gives a free block at the top of its heap back to the system once it exceeds twice the largest block that
    was mapped and freed so far. The loops take and free some hundred KiB a chunk, and a third of their time went into
    fetching them back, page by page. Taking and freeing one larger block, which is never touched, ends that."""
    np.empty(KEPT, np.uint8)
