"""Large results in memory, filled in place and handed over without a copy; and memory that is kept for the next."""

from __future__ import annotations

import io

import numpy as np

from mc.errors import McError

KEPT = 1 << 24  # bytes


def blank(size: int) -> io.BytesIO:
    """A stream over `size` zero bytes, which works in place: nobody else holds them, so that neither writing to it
    nor `getvalue` at the end copies anything. McError if there isn't so much memory."""
    try:
        return io.BytesIO(bytes(size))  # allocated as zero pages, so not touched yet
    except MemoryError:
        raise McError(f"{size} bytes are more than there is memory. Use files instead of bytes.") from None


def keep_freed() -> None:
    """Teach the C library to keep freed memory for what is allocated next.

    glibc gives a free block at the top of its heap back to the system once it exceeds twice the largest block that
    was mapped and freed so far. The loops take and free some hundred KiB a chunk, and a third of their time went into
    fetching them back, page by page. Taking and freeing one larger block, which is never touched, ends that."""
    np.empty(KEPT, np.uint8)
