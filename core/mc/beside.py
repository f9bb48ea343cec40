"""A file that a command writes besides its output, a plan or masks: both appear, or neither does."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from mc.atomic import refuse_taken, refusing, replacing


@dataclass(frozen=True)
class Beside:
    """The file in the making."""

    target: str | os.PathLike[str]
    out: BinaryIO

    def fill(self, write: Callable[[BinaryIO], object]) -> None:
        """Have all of it written. To be called while the output can still be given up: whatever may go wrong goes
        wrong now, as McError, and to be put in its place is all that is left."""
        name = os.fspath(self.target)
        with refusing(name, name):
            write(self.out)
            self.out.flush()
            if stat.S_ISREG(os.fstat(self.out.fileno()).st_mode):
                os.fsync(self.out.fileno())
        refuse_taken(self.target)


@contextmanager
def beside(target: str | os.PathLike[str]) -> Iterator[Beside]:
    """What becomes the file `target` when the block, in which the output is put in its place, ends well. Raises as
    `replacing` does, at once where it can't be written."""
    with replacing(target, alone=False) as out:
        yield Beside(target, out)
