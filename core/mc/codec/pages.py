"""Pages of memory that are had while another thread needs the interpreter's lock."""

import mmap
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from mc.codec.compiled import lent
from mc.memory import COLLAPSE, HUGE

LAST = HUGE - mmap.PAGESIZE  # the last small page of a huge one, by which that comes soonest: see `memory`


@intrinsic
def _collapse(typing: Any, place: Any) -> Any:
    """Make a huge page of the small ones from that of `place` on; not 0 if that can't be. The system's call itself: by
    ctypes it would wait for the interpreter's lock."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number, flag = ir.IntType(64), ir.IntType(32)
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        page = builder.and_(builder.ptrtoint(data, number), number(-HUGE))
        insert: Any = cgutils.get_or_insert_function
        advise = insert(builder.module, ir.FunctionType(flag, [number, number, flag]), "madvise")
        return builder.call(advise, [page, number(HUGE), flag(COLLAPSE)])

    return types.int32(place), emit


@lent
def touch(place, told):
    """Have the huge pages in which `place` lies one by one, from the first on, until `told[0]` isn't 0 any more. How
    many came. What else lies in these pages is had as well.

    place: zeros, u8, from the first small page of a huge one on; told: u8[1], set by another thread. Linux only."""
    count = 0
    for at in range(0, len(place), HUGE):
        if told[0] != 0:
            break
        place[min(at + LAST, len(place) - 1)] = 0
        if at == 0:
            _collapse(place)
        count += 1
    return count
