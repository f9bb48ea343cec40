"""How the loops of the codec are compiled: numba, kept on disk where that is possible.

numba looks at the file of a function alone to see whether what it kept is still true. Our loops are compiled into each
other across files; so what is kept lies in a folder that is named after the contents of all files with loops.
"""

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import numpy.ma  # noqa: F401 - see below
from numba.core.registry import cpu_target
from numba.extending import overload, register_jitable

Loop = Callable[..., Any]

config: Any = numba.config
njit: Any = numba.njit


@contextmanager
def _blas_as_found() -> Iterator[None]:
    """Let whoever only looks whether scipy has its BLAS find that without loading it, unless another thread might load
    it meanwhile."""
    name = "scipy.linalg.cython_blas"
    if name in sys.modules or "scipy" not in sys.modules or threading.active_count() > 1:
        yield
        return
    sys.modules[name] = ModuleType(name)
    try:
        yield
    finally:
        del sys.modules[name]


# What numba knows of types grows when the first loop is called. A thread that asks for the type of an argument then
# fails ("dictionary changed size during iteration"). So numba learns all of it before there is a loop. On the way it
# looks for scipy's BLAS, which no loop needs, and to load that takes a sixth of a command's start. numpy.ma is another
# thing that it wants with the first array: to load it is to go through a table of numpy's, to which ml_dtypes, which
# another thread may just load, adds its own.
with _blas_as_found():
    cpu_target.target_context.refresh()

HERE = Path(__file__).parent


def _folder() -> str | None:
    """Where loops are kept: in the folder that NUMBA_CACHE_DIR names, else beside the installed package, else with the
    user's other caches; None where nothing can be written (a read-only container)."""
    files = sorted(HERE.glob("*.py"))
    name = f"mc-loops-{hashlib.sha256(b''.join(path.read_bytes() for path in files)).hexdigest()[:16]}"
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    asked: str = config.CACHE_DIR
    for place in [asked] if asked else [str(HERE / "__pycache__"), caches]:
        folder = Path(place, name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return str(folder)
    return None


FOLDER = _folder()


def compiled(function: Loop) -> Loop:
    """Compile `function` on first use, in every process anew if nothing can be kept. It keeps the interpreter's lock:
    for what takes some microseconds, since another thread may take its time to give the lock back."""
    return _kept(function, nogil=False)


def released(function: Loop) -> Loop:
    """`compiled` without the interpreter's lock: for what takes longer, so that threads work side by side."""
    return _kept(function, nogil=True)


def lent(function: Loop) -> Loop:
    """`released` for a loop that makes no arrays and hands none back: all are lent to it, so none is counted."""
    return _kept(function, nogil=True, _nrt=False)


def _kept(function: Loop, **options: bool) -> Loop:
    usual = config.CACHE_DIR
    config.CACHE_DIR = FOLDER or usual
    try:
        loop: Any = njit(**options, error_model="numpy", no_cfunc_wrapper=True, cache=FOLDER is not None)(function)
    finally:
        config.CACHE_DIR = usual
    if FOLDER is not None:
        loop._cache.save_overload = _if_there_is_room(loop._cache.save_overload)
    kept: Loop = loop
    return kept


def _if_there_is_room(save: Callable[..., None]) -> Callable[..., None]:
    """Keep a compiled loop, unless the disk is full: then it is compiled anew by whoever needs it next."""

    def save_overload(*arguments: Any) -> None:
        with suppress(OSError):
            save(*arguments)

    return save_overload


PIECE = {"error_model": "numpy", "no_cfunc_wrapper": True, "no_cpython_wrapper": True}  # of a loop


def inlined(function: Loop) -> Loop:
    """A piece of a loop, compiled into each loop that calls it. Called from Python it stays what it is: slow."""
    loop: Loop = register_jitable(**PIECE)(function)
    return loop


def by_rows(function: Loop) -> Loop:
    """`inlined` for a loop over rows that makes no arrays and hands none back: numba doesn't count who holds them.
    Elsewhere it does, for every slice and every call with an atomic instruction; for a row of some hundred words that
    takes as long as the row."""
    loop: Loop = register_jitable(**PIECE, _nrt=False)(function)
    return loop


def by_type(stub: Loop) -> Callable[[Loop], Loop]:
    """Decorator of a function that gets the types of arguments and returns the piece of a loop that `stub` becomes for
    them, as a piece of `by_rows`."""
    options: Any = {**PIECE, "_nrt": False}
    chosen: Callable[[Loop], Loop] = overload(stub, jit_options=options)
    return chosen
