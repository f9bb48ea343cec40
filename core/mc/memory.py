"""Large results in memory: bytes that are filled in place and handed over without a copy."""

from __future__ import annotations

import ctypes
import io
import mmap

import numpy as np

from mc.errors import McError

# Below this, asking for huge pages isn't worth the call; numpy draws the same line for its arrays.
LARGE = 1 << 22
KEPT = 1 << 24  # bytes


def blank(size: int) -> io.BytesIO:
    """A stream over `size` zero bytes, which works in place: nobody else holds them, so that neither writing to it
    nor `getvalue` at the end copies anything. Large ones ask for huge pages, without which a third of the time that
    decoding takes is spent on page faults (4 KiB each, 2 GB/s, on the machine of bench/README.md)."""
    try:
        held = bytes(size)  # allocated as zero pages, so not touched yet
    except MemoryError:
        raise McError(f"{size} bytes are more than there is memory. Use files instead of bytes.") from None
    if size >= LARGE and hasattr(mmap, "MADV_HUGEPAGE"):
        start = int(np.frombuffer(held, np.uint8).__array_interface__["data"][0])
        aligned = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (start + size - aligned) // mmap.PAGESIZE * mmap.PAGESIZE
        # Advice only: where it isn't taken, nothing changes.
        ctypes.CDLL(None).madvise(ctypes.c_void_p(aligned), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
    return io.BytesIO(held)


def keep_freed() -> None:
    """Teach the C library to keep freed memory for what is allocated next.

    glibc gives a free block at the top of its heap back to the system once it exceeds twice the largest block that
    was mapped and freed so far. The loops take and free some hundred KiB a chunk, and a third of their time went into
    fetching them back, page by page. Taking and freeing one larger block, which is never touched, ends that."""
    np.empty(KEPT, np.uint8)
