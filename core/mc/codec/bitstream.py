"""Unaligned little-endian numbers in byte arrays, the ground on which both entropy coders stand.

Bits fill bytes from the lowest upwards (FORMAT.md, section 6). Each of these is one machine instruction on a
little-endian machine, and numba runs on no other.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from mc.codec.compiled import inlined

U8, U64 = np.uint8, np.uint64
BYTE = U64(255)
BITS_IN_BYTE = U64(7)
WHOLE_BYTES = U64(56)  # of a bit count below 64: the part that fills whole bytes, in bits

# A load at byte p reads bytes p to p + 7, a store writes as many: buffers keep this many bytes to spare.
SPARE_BYTES = 8


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any, bits: int) -> Any:
    """Of byte `index` of the array, as that of a number of `bits` bits."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), ir.IntType(bits).as_pointer())


def _loaded(bits: int) -> Any:
    def load_bits(typing: Any, data: Any, p: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array, index = arguments
            number = builder.load(_address(context, builder, signature.args[0], array, index, bits), align=1)
            return builder.zext(number, ir.IntType(64)) if bits < 64 else number

        return types.uint64(data, types.uint64), emit

    return intrinsic(load_bits)


def _byte_address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Of byte `index` of an array of numbers of any width."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(builder.bitcast(data, ir.IntType(8).as_pointer()), [index])


@intrinsic
def byte_of(typing: Any, array: Any, p: Any) -> Any:
    """Byte p, a u64, of an array of any numbers."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _byte_address(context, builder, signature.args[0], *arguments)
        return builder.zext(builder.load(place), ir.IntType(64))

    return types.uint64(array, types.uint64), emit


@intrinsic
def put_byte(typing: Any, array: Any, p: Any, number: Any) -> Any:
    """Make byte p, a u64, of an array of any numbers the low 8 bits of `number`."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _byte_address(context, builder, signature.args[0], *arguments[:2])
        builder.store(builder.trunc(arguments[2], ir.IntType(8)), place)
        return context.get_dummy_value()

    return types.void(array, types.uint64, types.uint64), emit


@intrinsic
def leading_zeros(typing: Any, number: Any) -> Any:
    """How many bits of a u64, which isn't 0, stand above its highest 1."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.IntType(1)(1))

    return types.uint64(types.uint64), emit


def _stored(bits: int) -> Any:
    def store_bits(typing: Any, data: Any, p: Any, number: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array, index, value = arguments
            place = _address(context, builder, signature.args[0], array, index, bits)
            builder.store(builder.trunc(value, ir.IntType(bits)) if bits < 64 else value, place, align=1)
            return context.get_dummy_value()

        return types.void(data, types.uint64, types.uint64), emit

    return intrinsic(store_bits)


# All take a byte array and the byte, a u64, where the number begins; the caller has made sure that it lies within.
load = _loaded(64)  # (data, p) -> u64
read32 = _loaded(32)  # (data, p) -> u64
store = _stored(64)  # (data, p, number)
store32 = _stored(32)  # (data, p, number): its low 32 bits
store16 = _stored(16)  # likewise


@inlined
def load_near_end(data, p, end):
    """Like `load`, with zeros for the bytes at `end` and beyond; safe for every p."""
    bits = U64(0)
    for k in range(8):
        at = p + U64(k)
        if at < end:
            bits |= U64(data[at]) << U64(8 * k)
    return bits
