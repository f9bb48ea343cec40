"""Pages of memory that are had while another thread needs the interpreter's lock."""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from mc.codec.compiled import lent
from mc.memory import COLLAPSE, HUGE

COLLAPSED_AFTER = 2  # pages: until then the other thread has begun, which the change of pages would keep waiting


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
def touch(place, small, told):
    """Have the huge pages in which `place` lies one by one, until `told[0]` isn't 0 any more. How many came, from the
    first on.

    place: zeros, u8; small: whether it begins in the first part of a huge page, which is there as a small one; told:
    u8[1], set by another thread. Linux only."""
    count = 0
    for at in range(0, len(place), HUGE):
        if told[0] != 0:
            break
        if at > 0 or not small:
            place[at] = 0
        if small and at == COLLAPSED_AFTER * HUGE:
            _collapse(place)
        count += 1
    return count if not small or count > COLLAPSED_AFTER else 0
