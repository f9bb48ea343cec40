"""The disk at work while a file is being written, so that there is little left to wait for when all of it is to last.

Left alone, the system begins to write after half a minute, or when a tenth of its memory waits to be written. Most
files are done by then, and the disk has all the work before it. The sync at the end of 1 GB that two threads restore
takes .02 s where it took .54, and the command .35 s less.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PAUSE = 0.03  # seconds between two looks at what there is to write, some MB
START_WRITING = 2  # SYNC_FILE_RANGE_WRITE: begin, and wait for nothing


@contextmanager
def writing_early(descriptor: int) -> Iterator[None]:
    """Have the system begin to write what is put into the file meanwhile, where it can be told so (Linux). Nothing
    depends on it: the file has to be synced as ever, and what went wrong on the disk is said then."""
    start = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if start is None:
        yield
        return
    done = threading.Event()

    def run() -> None:
        whole = ctypes.c_int64(0), ctypes.c_int64(0)
        while not done.wait(PAUSE):
            if start(descriptor, *whole, START_WRITING) != 0:
                return  # a file system that can't

    thread = threading.Thread(target=run, name="mc-early")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
