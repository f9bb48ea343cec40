"""How the loops of the codec are compiled: numba, without the GIL, cached on disk where that is possible."""

from collections.abc import Callable
from typing import Any

import numba

Loop = Callable[..., Any]


def compiled(function: Loop) -> Loop:
    """Compile `function` on first use. Where no cache folder can be written (a read-only container),
    numba refuses `cache=True` at once; the loop is then compiled in memory in every process."""
    try:
        loop: Loop = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        loop = numba.njit(nogil=True)(function)
    return loop


def inlined(function: Loop) -> Loop:
    """Compile a piece of a loop that only other loops call; it is compiled into each of them."""
    loop: Loop = numba.njit(nogil=True)(function)
    return loop
