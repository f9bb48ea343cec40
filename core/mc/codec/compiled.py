"""How the loops of the codec are compiled: numba, without the GIL, cached on disk where that is possible."""

from collections.abc import Callable
from typing import TypeVar

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Compile `function` on first use. Where no cache folder can be written (a read-only container),
    numba refuses `cache=True` at once; the loop is then compiled in memory in every process."""
    try:
        loop: F = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        loop = numba.njit(nogil=True)(function)
    return loop


def inlined(function: F) -> F:
    """Compile a piece of a loop that only other loops call; it is compiled into each of them."""
    loop: F = numba.njit(nogil=True)(function)
    return loop
