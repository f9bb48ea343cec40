"""Shifts that stay as narrow as their words.

numba makes 64 bits of every integer expression, and LLVM gets most of them narrow again, but not those with a shift by
a number it doesn't know. A loop over narrow words with such a shift runs on lanes of 64 bits, a quarter as fast.
"""

from typing import Any

from numba.extending import intrinsic


def _shift_right(typing: Any, word: Any, bits: Any) -> Any:
    """word >> bits for u8 or u16; both of this type, and bits below its width."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.lshr(*arguments)

    return word(word, word), emit


def _shift_left(typing: Any, word: Any, bits: Any) -> Any:
    """word << bits for u8 or u16; both of this type, and bits below its width."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.shl(*arguments)

    return word(word, word), emit


shift_right: Any = intrinsic(_shift_right)
shift_left: Any = intrinsic(_shift_left)
