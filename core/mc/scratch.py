"""Temporary files. What goes wrong with them is said of their folder, and never of the output."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from mc.errors import McError, reason

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class _Raw(io.FileIO):
    """The file below the buffer."""

    def write(self, data: bytes | memoryview) -> int | None:  # type: ignore[override]  # typeshed's type of buffers
        """As a file does; McError where there is no room."""
        with temporary():
            return super().write(data)


@contextmanager
def temporary() -> Iterator[None]:
    """McError where there is no room for the temporary files that are written meanwhile."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise McError(
            f"A temporary file in {tempfile.gettempdir()} cannot be written: {reason(error)}. Make room there, or "
            "name another folder in the environment variable TMPDIR."
        ) from error


def scratch() -> BinaryIO:
    """An empty file without a name, to write and read, gone when it is closed. Writing raises McError where its folder
    is full."""
    with tempfile.TemporaryFile(buffering=0) as file:
        return io.BufferedRandom(_Raw(os.dup(file.fileno()), "r+b"))
