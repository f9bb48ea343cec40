"""XXH3-64, the checksum of every part of a packed file, for loops that hold no lock.

The xxhash package keeps the interpreter's lock: a thread that hashes half a megabyte lets all others wait, and two
threads restored an eighth less.
Source: Y. Collet's specification of XXH3, part of the documentation of xxHash.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from mc.codec.bitstream import U64, load, read32, store
from mc.codec.compiled import inlined

SHORT = 240  # bytes up to which XXH3 works otherwise

LANES, STRIPE, BLOCK = 8, 64, 1024  # lanes of u64; bytes of a stripe, and of the stripes between two scrambles
SECRET = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
        "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
        "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
        "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
    ),
    np.uint8,
)
FIRST = np.array(
    [0xC2B2AE3D, 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x85EBCA77,
     0x27D4EB2F165667C5, 0x9E3779B1], np.uint64,
)  # fmt: skip
PRIME, PRIME_32, PRIME_END = U64(0x9E3779B185EBCA87), 0x9E3779B1, U64(0x165667919E3779F9)
LAST_STRIPE, SCRAMBLE, MERGE = U64(121), 128, U64(11)  # where in the secret what is read for these begins
HALF, LOW = U64(32), U64(0xFFFFFFFF)

# Of inputs up to SHORT bytes.
AVALANCHE, OTHER_AVALANCHE, MIX = U64(0xC2B2AE3D27D4EB4F), U64(0x165667B19E3779F9), U64(0x9FB21C651E98DF25)
PIECE, MIDDLE = 16, 128  # bytes that are mixed at once; up to which pieces are taken from both ends
SHIFTED, END = U64(3), U64(119)  # where the secret begins for the pieces behind MIDDLE, and for the last


def _accumulating(stripes: int, whole: bool) -> Any:
    def accumulate(typing: Any, data: Any, p: Any, secret: Any, q: Any, lanes: Any) -> Any:
        """Take stripes of `data` from byte p on into `lanes` u64 [8], with the secret from byte q on, and scramble them
        behind a `whole` block. It is written out in vectors, since LLVM finds none in a loop over lanes."""

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            word = ir.IntType(64)
            vector = ir.VectorType(word, LANES)
            neighbours = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [lane ^ 1 for lane in range(LANES)])

            def every(number: int) -> Any:
                return ir.Constant(vector, [number] * LANES)

            def vector_at(argument: int, *offsets: Any) -> Any:
                place = context.make_array(signature.args[argument])(context, builder, arguments[argument]).data
                for offset in offsets:
                    place = builder.gep(place, [offset])
                return builder.bitcast(place, vector.as_pointer())

            held = builder.load(vector_at(4), align=8)
            for k in range(stripes):
                words = builder.load(vector_at(0, arguments[1], word(STRIPE * k)), align=1)
                keyed = builder.xor(words, builder.load(vector_at(2, arguments[3], word(LANES * k)), align=1))
                product = builder.mul(builder.and_(keyed, every(0xFFFFFFFF)), builder.lshr(keyed, every(32)))
                held = builder.add(builder.add(held, product), builder.shuffle_vector(words, words, neighbours))
            if whole:
                key = builder.load(vector_at(2, word(SCRAMBLE)), align=1)
                mixed = builder.xor(builder.xor(held, builder.lshr(held, every(47))), key)
                held = builder.mul(mixed, every(PRIME_32))
            builder.store(held, vector_at(4), align=8)
            return context.get_dummy_value()

        return types.void(data, types.uint64, secret, types.uint64, lanes), emit

    return intrinsic(accumulate)


_block: Any = _accumulating(BLOCK // STRIPE, True)
_stripe: Any = _accumulating(1, False)


@inlined
def _folded(a, b):
    """The upper half of a product of 128 bits, xor its lower half."""
    low, high = (a & LOW) * (b & LOW), (a >> HALF) * (b >> HALF)
    one, other = (a >> HALF) * (b & LOW), (a & LOW) * (b >> HALF)
    cross = (low >> HALF) + (one & LOW) + other
    return ((cross << HALF) | (low & LOW)) ^ (high + (one >> HALF) + (cross >> HALF))


@inlined
def _finished(h):
    h = (h ^ h >> U64(37)) * PRIME_END
    return h ^ h >> HALF


@inlined
def _keyed(k):
    """Two words of the secret, one xor the other."""
    return load(SECRET, U64(k)) ^ load(SECRET, U64(k + 8))


@inlined
def _turned(x):
    """The bytes of the low half of a word in the other order."""
    x = (x & U64(0x00FF00FF)) << U64(8) | (x >> U64(8)) & U64(0x00FF00FF)
    return (x & U64(0xFFFF)) << U64(16) | x >> U64(16)


@inlined
def _of_few(data, seed):
    """XXH3-64 of up to PIECE bytes."""
    size = len(data)
    if size > 8:
        low = load(data, U64(0)) ^ _keyed(24) + seed
        high = load(data, U64(size - 8)) ^ _keyed(40) - seed
        turned = _turned(low & LOW) << HALF | _turned(low >> HALF)
        return _finished(U64(size) + turned + high + _folded(low, high))
    if size > 3:
        seed ^= _turned(seed & LOW) << HALF
        h = (read32(data, U64(size - 4)) + (read32(data, U64(0)) << HALF)) ^ _keyed(8) - seed
        h ^= (h << U64(49) | h >> U64(15)) ^ (h << U64(24) | h >> U64(40))
        h *= MIX
        h ^= (h >> U64(35)) + U64(size)
        h *= MIX
        return h ^ h >> U64(28)
    h = seed ^ _keyed(56)
    if size > 0:
        first, middle, last = U64(data[0]), U64(data[size >> 1]), U64(data[size - 1])
        key = (read32(SECRET, U64(0)) ^ read32(SECRET, U64(4))) + seed
        h = (first << U64(16) | middle << U64(24) | last | U64(size) << U64(8)) ^ key
    h = (h ^ h >> U64(33)) * AVALANCHE
    h = (h ^ h >> U64(29)) * OTHER_AVALANCHE
    return h ^ h >> HALF


@inlined
def _mixed(data, p, q, seed):
    """PIECE bytes from byte p on, with those of the secret from byte q on."""
    low = load(data, p) ^ load(SECRET, q) + seed
    return _folded(low, load(data, p + U64(8)) ^ load(SECRET, q + U64(8)) - seed)


@inlined
def _of_some(data, seed):
    """XXH3-64 of more than PIECE and up to SHORT bytes."""
    size = len(data)
    h = U64(size) * PRIME
    if size <= MIDDLE:
        for k in range((size - 1) // (2 * PIECE) + 1):
            h += _mixed(data, U64(PIECE * k), U64(2 * PIECE * k), seed)
            h += _mixed(data, U64(size - PIECE * (k + 1)), U64(2 * PIECE * k + PIECE), seed)
        return _finished(h)
    for k in range(MIDDLE // PIECE):
        h += _mixed(data, U64(PIECE * k), U64(PIECE * k), seed)
    h = _finished(h)
    for k in range(MIDDLE // PIECE, size // PIECE):
        h += _mixed(data, U64(PIECE * k), SHIFTED + U64(PIECE * k - MIDDLE), seed)
    return _finished(h + _mixed(data, U64(size - PIECE), END, seed))


@inlined
def long_checksum(data, seed):
    """XXH3-64 of more than SHORT bytes u8, u64."""
    size = len(data)
    lanes, secret = np.empty(LANES, np.uint64), np.empty(len(SECRET), np.uint8)
    for lane in range(LANES):
        lanes[lane] = FIRST[lane]
    for p in range(0, len(SECRET), 16):
        store(secret, U64(p), load(SECRET, U64(p)) + seed)
        store(secret, U64(p + 8), load(SECRET, U64(p + 8)) - seed)
    blocks = (size - 1) // BLOCK
    for block in range(blocks):
        _block(data, U64(BLOCK * block), secret, U64(0), lanes)
    for stripe in range((size - 1 - BLOCK * blocks) // STRIPE):
        _stripe(data, U64(BLOCK * blocks + STRIPE * stripe), secret, U64(8 * stripe), lanes)
    _stripe(data, U64(size - STRIPE), secret, LAST_STRIPE, lanes)
    found = U64(size) * PRIME
    for lane in range(0, LANES, 2):
        key = MERGE + U64(8 * lane)
        found += _folded(lanes[lane] ^ load(secret, key), lanes[lane + 1] ^ load(secret, key + U64(8)))
    return _finished(found)


@inlined
def checksum(data, seed):
    """XXH3-64 of any bytes u8, u64: for loops that need it of short ones too, as it takes a second longer to compile
    than `long_checksum`."""
    size = len(data)
    if size > SHORT:
        return long_checksum(data, seed)
    return _of_some(data, seed) if size > PIECE else _of_few(data, seed)
