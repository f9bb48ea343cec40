"""Arithmetic coding of single bits, whose probabilities are learnt on the way: for numbers too few to pay for tables.

A range coder as that of LZMA (Martin, "Range encoding", 1979; Pavlov), with probabilities of 16 bits that move by
1 / (n + 2) after n bits, as Krichevsky and Trofimov (1981) estimate them. FORMAT.md, 6.4.
"""

import numpy as np

from mc.codec.compiled import inlined

U64 = np.uint64
WHOLE = U64(1 << 32)  # of a model's probability
HALF = U64(1 << 31)
LEAST, MOST = U64(32), U64((1 << 16) - 32)  # a bit takes .0007 bits or more, so that no bytes become endlessly many
LEARNT = 1022  # bits after which a model moves no slower
FIRST = U64((1 << 32) - 1)  # range of a coder
NARROW = U64(1 << 24)  # a range below this is made wider by a byte
AHEAD = 4  # bytes that a decoder has read before they decide anything


@inlined
def models(count):
    """Probabilities of a one, and how many bits each has seen."""
    return np.full(count, HALF, np.uint64), np.zeros(count, np.int64)


@inlined
def chance(share, k):
    """The probability of a one by model k, of 2^16."""
    return min(max(share[k] >> U64(16), LEAST), MOST)


@inlined
def learn(share, seen, k, bit):
    """Move a model towards the bit."""
    rate = U64((1 << 16) // (seen[k] + 2))
    if bit:
        share[k] += (U64(1 << 16) - (share[k] >> U64(16))) * rate
    else:
        share[k] -= (share[k] >> U64(16)) * rate
    if seen[k] < LEARNT:
        seen[k] += 1


@inlined
def push(bit, ones, low, width, out, at):
    """Code a bit that is one with probability ones / 2^16; the coder's state comes back. Bytes beyond the end of `out`
    are counted, and not written."""
    bound = (width >> U64(16)) * ones
    if bit:
        width = bound
    else:
        low += bound
        width -= bound
        if low >= WHOLE:
            low -= WHOLE
            carry(out, at)
    while width < NARROW:
        if at < len(out):
            out[at] = np.uint8(low >> U64(24))
        at += 1
        low = (low << U64(8)) & FIRST
        width <<= U64(8)
    return low, width, at


@inlined
def carry(out, at):
    """Add one to the number whose last byte is in front of `at`."""
    k = at - 1
    if at <= len(out):
        while k >= 0 and out[k] == 255:
            out[k] = 0
            k -= 1
        if k >= 0:
            out[k] += np.uint8(1)


@inlined
def finish(low, width, out, at):
    """Write as many bytes as tell the last range from others; the end comes back."""
    for zeros in range(AHEAD, -1, -1):  # as many bytes as can be are left out: they count as zero
        step = U64(1) << U64(8 * zeros)
        value = (low + step - U64(1)) // step * step
        if value < low + width:
            break
    if value >= WHOLE:
        value -= WHOLE
        carry(out, at)
    for k in range(AHEAD - zeros):
        if at < len(out):
            out[at] = np.uint8((value >> U64(24 - 8 * k)) & U64(255))
        at += 1
    return at


@inlined
def byte_at(data, at):
    """A byte; zero beyond the end."""
    return U64(data[at]) if at < len(data) else U64(0)


@inlined
def begin(data):
    """A decoder's state: number, range, next byte."""
    code = U64(0)
    for k in range(AHEAD):
        code = code << U64(8) | byte_at(data, k)
    return code, FIRST, np.int64(AHEAD)


@inlined
def pop(ones, code, width, data, at):
    """Undo `push`: the bit, and the decoder's state."""
    bound = (width >> U64(16)) * ones
    bit = np.int64(code < bound)
    if bit:
        width = bound
    else:
        code -= bound
        width -= bound
    while width < NARROW:
        code = (code << U64(8) | byte_at(data, at)) & FIRST
        width <<= U64(8)
        at += 1
    return bit, code, width, at
