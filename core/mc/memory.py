"""Large results in memory, filled in place and handed over without a copy; and memory that is kept for the next."""

from __future__ import annotations

import ctypes
import io
import mmap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mc.errors import McError

KEPT = 1 << 24  # bytes
HUGE = 1 << 21  # bytes of a huge page
WHOLE_FROM = 1 << 24  # bytes of a result from which it is allocated in whole huge pages
OVERHEAD = 64  # bytes at most that Python and the C library allocate with those of a result
HUGEPAGE = getattr(mmap, "MADV_HUGEPAGE", None)  # only Linux has these
NOHUGEPAGE = getattr(mmap, "MADV_NOHUGEPAGE", None)
POPULATE = 23  # MADV_POPULATE_WRITE, which Python doesn't name yet: have pages as if they had been written
COLLAPSE = 25  # MADV_COLLAPSE, of Linux 6.1, which Python doesn't name yet: make a huge page of small ones
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # who may have huge pages
SLOW = 0.001  # seconds for a huge page; it usually takes a fifth of this
FEW, MANY = 2, 1 << 20  # slow ones that a result waits for
SOON = 1.0  # seconds after the last result
SHORT = 1 << 12  # bytes whose copying isn't worth letting the interpreter's lock go for


class Room:
    """A stream over `size` zero bytes that is filled in place and handed over as bytes without a copy.

    Where it can, the system backs it by pages of 2 MiB: filled the first time, pages of 4 KiB cost more than all the
    coding (2 GB/s, and 10 with huge ones). But on a virtual machine a huge page may be one that the host has to find
    first, and then takes twenty times as long; so they are given up once a few came slowly. What is in the pages
    doesn't depend on it."""

    def __init__(self, size: int, early: bool = False) -> None:
        """McError if there isn't so much memory. early: `early` is what has its first pages."""
        self._begin(size)
        self._at = 0
        self._asked = 0  # bytes from the front for which huge pages have been asked, or won't be
        self._asking = threading.Lock()
        # The system is told of all pages before the first is had: telling it waits for whoever has one.
        huge = _given() and self._advise(0, HUGEPAGE)
        self._patience = _PATIENCE.next(time.monotonic()) if huge else 0  # slow pages to wait for yet
        if not early:
            self._have_first()

    def _begin(self, size: int) -> None:
        """Have a stream over so many zero bytes."""
        self._stream, whole = _blank(size)
        self._place = whole[:size]
        self._address, self._size = whole.ctypes.data, len(whole)

    def part(self, start: int, stop: int) -> NDArray[np.uint8]:
        """The bytes from `start` to `stop`, to be filled, on any thread."""
        self.ask(stop)
        return self._place[start:stop]

    def early(self, touch: Callable[[NDArray[np.uint8]], int]) -> None:
        """Let `touch` have huge pages of this room, where there are any and it begins with one. It gets all bytes,
        which are blank yet, has one page after the other, from the first on, and returns how many."""
        count = touch(self._place) if self._patience > 0 and self._begins_small() else 0
        if count > 0:
            self._asked = self._end((count - 1) * HUGE)
        else:
            self._have_first()

    def _have_first(self) -> None:
        """Make a huge page of the first small ones, where the system gives any. Not later than it must be: the system
        waits until each processor does something for it, which takes milliseconds where one is busy."""
        if self._patience > 0 and self._begins_small():
            _have(self._address // HUGE * HUGE, HUGE, COLLAPSE)

    def _begins_small(self) -> bool:
        """Whether the room begins where a huge page does. The allocation has written there, so that, unless everybody
        is given huge pages, it is there as a small one."""
        return self._address % HUGE < mmap.PAGESIZE

    def aligned(self, start: int) -> bool:
        """Whether a word of eight bytes may lie at `start`."""
        return (self._address + start) % 8 == 0

    def ask(self, stop: int) -> None:
        """Ask for huge pages up to `stop`, one by one, where that hasn't been done. Whoever hands out work does it for
        all threads: Linux keeps pages that a processor has freed for that one, so what the last result held comes at
        once there, and elsewhere new ones have to be found by the host."""
        if self._asked >= stop:
            return
        with self._asking:
            begin = self._asked
            while self._asked < stop:
                self._asked = self._end(self._asked)
        while begin < stop:
            end = self._end(begin)
            if self._patience > 0 and not _quick(self._place[begin:end]):
                self._patience -= 1
                if self._patience <= 0:  # two threads may find one at the same time
                    self._advise(end, NOHUGEPAGE)
            begin = end

    def _advise(self, begin: int, advice: int | None) -> bool:
        """Tell the system something about the pages from the one on in which `begin` lies; False where that can't be
        (no Linux, too few)."""
        start, stop = (self._address + begin) // mmap.PAGESIZE * mmap.PAGESIZE, self._address + self._size
        return advice is not None and stop - start >= HUGE and _have(start, stop - start, advice)

    def _end(self, begin: int) -> int:
        """Where the huge page ends that `begin` lies in."""
        return begin + HUGE - (self._address + begin) % HUGE

    def ahead(self, skip: int, size: int) -> NDArray[np.uint8]:
        """Up to `size` bytes from `skip` bytes behind the position on. What is put there stays if the position is set
        behind it."""
        start = min(self._at + skip, len(self._place))
        return self.part(start, min(start + size, len(self._place)))

    def write(self, data: bytes | memoryview) -> int:
        """Put `data` at the position, which moves behind it; much of it without the interpreter's lock, other than
        BytesIO does."""
        end = self._at + len(data)
        if end > len(self._place):  # a small file whose headers outweigh what coding saves
            before = self._place
            self._begin(2 * end)
            self._patience = 0  # small pages do for that
            self._place[: len(before)] = before
        if len(data) < SHORT:
            self.part(self._at, end).data[:] = data
        else:
            self.part(self._at, end)[:] = np.frombuffer(data, np.uint8)
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
        if len(self._place) >= HUGE:
            _PATIENCE.done(time.monotonic())
        self._place = self._place[:0].copy()
        self._stream.truncate(size)
        return self._stream.getvalue()


class Patience:
    """How many slow pages results may wait for: twice as many from one to the next, as long as they come in quick
    succession, since pages that were found once are quick for the next one; a few for the first after a pause, in which
    the host may have taken its pages back. Times are in seconds."""

    def __init__(self) -> None:
        self._pages = FEW
        self._done = -SOON  # when the last result was complete

    def next(self, now: float) -> int:
        """Of a result that is begun."""
        self._pages = min(2 * self._pages, MANY) if now < self._done + SOON else FEW
        return self._pages

    def done(self, now: float) -> None:
        """A result is complete."""
        self._done = now


_PATIENCE = Patience()


def _blank(size: int) -> tuple[io.BytesIO, NDArray[np.uint8]]:
    """A stream over `size` zero bytes or some more, and its bytes as an array. They are allocated as zero pages, so not
    touched yet, and nobody else holds them, so that `getvalue` copies nothing.

    Many are allocated as whole huge pages: Linux then has them begin at one, and without that what lies before the
    first and behind the last, a huge page together, comes in small ones, which takes five times as long."""
    whole = -(-(size + OVERHEAD) // HUGE) * HUGE - OVERHEAD if size >= WHOLE_FROM else size
    try:
        stream = io.BytesIO(bytes(whole))
    except (MemoryError, OverflowError):
        raise McError(f"{size} bytes are more than there is memory. Use files instead of bytes.") from None
    return stream, np.frombuffer(stream.getbuffer(), np.uint8)


def _quick(stretch: NDArray[np.uint8]) -> bool:
    """Whether the huge page in which these bytes end comes quickly, if it hasn't come yet; True before Linux 5.14,
    where it can't be had without being written, and others may be writing there.

    It is asked for by its end. Linux clears a huge page from its far end towards the place that was asked for: upwards
    that takes half as long as downwards."""
    last = (stretch.ctypes.data + len(stretch) - 1) // mmap.PAGESIZE * mmap.PAGESIZE
    began = time.perf_counter()
    _have(last, mmap.PAGESIZE, POPULATE)  # without the interpreter's lock
    return time.perf_counter() - began < SLOW


@cache
def _given() -> bool:
    """Whether the system is set to give huge pages to those who ask for them."""
    with suppress(OSError):  # no Linux
        return "[never]" not in SETTING.read_text()
    return False


def _have(address: int, size: int, advice: int) -> bool:
    """Tell the system something about the pages of these addresses; False where that can't be."""
    return bool(_library().madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), advice) == 0)


@cache
def _library() -> ctypes.CDLL:
    """The C library."""
    return ctypes.CDLL(None)


def keep_freed() -> None:
    """Teach the C library to keep freed memory for what is allocated next.

    glibc gives a free block at the top of its heap back to the system once it exceeds twice the largest block that
    was mapped and freed so far. The loops take and free some hundred KiB a chunk, and a third of their time went into
    fetching them back, page by page. Taking and freeing one larger block, which is never touched, ends that."""
    np.empty(KEPT, np.uint8)
