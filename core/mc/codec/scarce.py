"""Tensors of which hardly any word is left: the gaps between those that are, and their bits, in one arithmetic code.

What `sparse` takes beside the entropy (tables, lanes, four chunks for a million words) weighs more than some of these
words do. Here nothing stands beside them: probabilities are learnt on the way, and a chunk has up to 8 MB of words
(FORMAT.md, 7.9).
"""

import struct
from dataclasses import dataclass

import numpy as np

from mc.codec import groups, planes
from mc.codec.arithmetic import AHEAD, FIRST, begin, chance, finish, learn, models, pop, push
from mc.codec.chunks import CODED
from mc.codec.compiled import inlined, released
from mc.codec.fields import Reader
from mc.codec.fit import JOINT, Each, Read
from mc.codec.fitted import Fitted
from mc.codec.runs import UNSIGNED
from mc.codec.typing import Bytes, Ints
from mc.codec.ways import opened_chunk, raw_chunk
from mc.errors import DamagedError

U64 = np.uint64
CHUNK = 1 << 23  # bytes
MOST_BITS = 2  # of words that are left, for each word: with more, what is fixed in other codings weighs nothing
PLAIN, FLOAT, SIGNED = range(3)  # how a word becomes a number: itself, sign last, zigzag
DEEPEST = 13  # bits of a number that are coded each in the context of all above it
RUNS, DEEP, LOWEST = 4, 3, 24  # contexts of a gap's quotient; bits of its remainder that have some; most of these
OF_GAP, OF_WORD = 0, RUNS + (1 << DEEP)  # where models begin
WIDEST = 64  # words of a group
HALF = U64(1 << 15)
TOGETHER = 4  # times as many neighbours as chance makes
TRIED = 4  # chunks that a tensor is judged by
SEEN = 1 << 18  # words in which groups are looked for


@dataclass(frozen=True)
class ScarceCode:
    """All that a chunk is coded with."""

    width: int  # bytes a word
    kind: int
    deep: int  # highest bits of a number that are coded in the context of all above
    group: int  # words of which `expected` are coded; 0: none, gaps tell
    expected: int
    absent: int  # the word that the others are

    def spans(self, nbytes: int) -> list[tuple[int, int]]:
        """First and last byte (exclusive) of each chunk."""
        step = CHUNK // self.width // max(self.group, 1) * max(self.group, 1) * self.width
        return [(at, min(at + step, nbytes)) for at in range(0, nbytes, step)]


@inlined
def number_of(word, kind, bits):
    """The number that stands for a word u64: the sign of floats comes last, that of integers by zigzag."""
    if kind == PLAIN:
        return word
    sign = word >> U64(bits - 1)
    rest = word ^ sign << U64(bits - 1)
    if kind == SIGNED and sign:
        rest ^= (U64(1) << U64(bits - 1)) - U64(1)
    return rest << U64(1) | sign


@inlined
def word_of(number, kind, bits):
    """Undo `number_of`."""
    if kind == PLAIN:
        return number
    sign, rest = number & U64(1), number >> U64(1)
    if kind == SIGNED and sign:
        rest ^= (U64(1) << U64(bits - 1)) - U64(1)
    return rest | sign << U64(bits - 1)


@inlined
def _model(node, depth, deep):
    """The model of a number's bit at this depth, the highest at 0, below the bits that `node` says."""
    return OF_WORD + (node if depth < deep else (1 << deep) + depth)


@inlined
def _push_word(number, bits, deep, share, seen, low, width, out, at):
    node = 1
    for depth in range(bits):
        bit = np.int64((number >> U64(bits - 1 - depth)) & U64(1))
        k = _model(node, depth, deep)
        low, width, at = push(bit, chance(share, k), low, width, out, at)
        learn(share, seen, k, bit)
        if depth < deep:
            node = 2 * node + bit
    return low, width, at


@inlined
def _pop_word(bits, deep, share, seen, code, width, data, at):
    node, number = 1, U64(0)
    for depth in range(bits):
        k = _model(node, depth, deep)
        bit, code, width, at = pop(chance(share, k), code, width, data, at)
        learn(share, seen, k, bit)
        number = number << U64(1) | U64(bit)
        if depth < deep:
            node = 2 * node + bit
    return number, code, width, at


@inlined
def _of_group(due, left):
    """The chance that the first of so many words that are left in a group is one of those that are due, of 2^16."""
    return U64((due << 16) // left)


@released
def encode(words, absent, kind, bits, deep, group, expected, low_bits, out):
    """Code the words that aren't `absent`, by gaps of which `low_bits` lie below the quotient, or by groups; the bytes
    that it takes, which may be more than `out` holds, or -1 where a group has more than are expected. Of a group with
    fewer some absent words are coded as if they were left."""
    share, seen = models(OF_WORD + (1 << deep) + bits)
    low, width, at = U64(0), FIRST, np.int64(0)
    last, due = -1, np.int64(expected)
    for i in range(len(words)):
        there = words[i] != absent
        if group:
            left = group - i % group
            if left == group:
                due = np.int64(expected)
            if 0 < due < left:
                low, width, at = push(np.int64(there), _of_group(due, left), low, width, out, at)
            elif due > 0:
                there = True
            elif there:
                return -1
            due -= np.int64(there)
        if not there:
            continue
        if not group:
            gap = i - last - 1
            last = i
            for run in range((gap >> low_bits) + 1):
                k, bit = OF_GAP + min(run, RUNS - 1), np.int64(run < gap >> low_bits)
                low, width, at = push(bit, chance(share, k), low, width, out, at)
                learn(share, seen, k, bit)
            node = 1
            for depth in range(low_bits):
                bit = (gap >> (low_bits - 1 - depth)) & 1
                if depth < DEEP:
                    k = OF_GAP + RUNS + node
                    low, width, at = push(bit, chance(share, k), low, width, out, at)
                    learn(share, seen, k, bit)
                    node = 2 * node + bit
                else:
                    low, width, at = push(bit, HALF, low, width, out, at)
        number = number_of(U64(words[i]), kind, bits)
        low, width, at = _push_word(number, bits, deep, share, seen, low, width, out, at)
        if at > len(out):
            return at
    return finish(low, width, out, at)


@released
def decode(data, count, kind, bits, deep, group, expected, low_bits, words):
    """Undo `encode` into `words`, which all are the absent word before; `count` is of those that aren't, where there
    are no groups. False unless all bytes are used, and no more. Never reads or writes outside its arrays."""
    share, seen = models(OF_WORD + (1 << deep) + bits)
    code, width, at = begin(data)
    i, due, n = -1, np.int64(expected), len(words)
    if group:
        count = n // group * expected
    for _ in range(count):
        if group:
            bit = np.int64(0)
            while bit == 0:
                i += 1
                left = group - i % group
                if left == group:
                    due = np.int64(expected)
                if 0 < due < left:
                    bit, code, width, at = pop(_of_group(due, left), code, width, data, at)
                else:
                    bit = np.int64(due == left)
            due -= 1
        else:
            bit, run = np.int64(1), 0
            while bit:
                k = OF_GAP + min(run, RUNS - 1)
                bit, code, width, at = pop(chance(share, k), code, width, data, at)
                learn(share, seen, k, bit)
                run += bit
                if run << low_bits >= n:
                    return False
            node, gap = 1, run
            for depth in range(low_bits):
                if depth < DEEP:
                    k = OF_GAP + RUNS + node
                    bit, code, width, at = pop(chance(share, k), code, width, data, at)
                    learn(share, seen, k, bit)
                    node = 2 * node + bit
                else:
                    bit, code, width, at = pop(HALF, code, width, data, at)
                gap = 2 * gap + bit
            i += 1 + gap
            if i >= n:
                return False
        number, code, width, at = _pop_word(bits, deep, share, seen, code, width, data, at)
        words[i] = word_of(number, kind, bits)
        if at > len(data) + AHEAD:
            return False
    return at >= len(data)


def fit(dtype: str, cols: int, nbytes: int, width: int, read: Read, each: Each, sample: Bytes) -> Fitted | None:
    """The cheaper of gaps and groups for a tensor in rows of `cols` words of `width` bytes; None unless nearly all
    words of the sample, u8, are one and the same, or nearly all bytes where words of zero aren't many."""
    kind = FLOAT if dtype in planes.GEOMETRIES else SIGNED if dtype in ("I8", "I16", "I32", "I64") else PLAIN
    seen = sample[: len(sample) // width * width].view(UNSIGNED[width])
    absent = 0 if kind != PLAIN or width > 1 else int(np.bincount(seen).argmax())
    if int(np.count_nonzero(seen != absent)) * 8 * width > MOST_BITS * len(seen) or not len(seen):
        return fit("U8", width * cols, nbytes, 1, read, each, sample) if kind != FLOAT and width > 1 else None
    geometry = planes.GEOMETRIES.get(dtype)
    deep = min(8 * width, DEEPEST)
    if geometry is not None:
        deep = min(deep, 15 - geometry.padding - geometry.mantissa + JOINT[geometry.mantissa])
    codes = [ScarceCode(width, kind, deep, 0, 0, absent)]
    first = read(0, min(SEEN // cols * cols or cols, nbytes // width) * width).view(UNSIGNED[width])
    if cols >= 2 * groups.LEAST and len(first) % cols == 0:
        _, group, expected = groups.likely(first.reshape(-1, cols) != absent)
        if group and expected < group and cols % group == 0:
            codes.append(ScarceCode(width, kind, deep, group, expected, absent))
    found = [one for one in (_fitted(code, nbytes, read, each) for code in codes) if one is not None]
    return min(found, key=lambda one: one.bytes)


def _fitted(code: ScarceCode, nbytes: int, read: Read, each: Each) -> Fitted | None:
    """What some chunks make likely for all; None where groups don't hold."""
    spans = code.spans(nbytes)
    some = spans[:: -(-len(spans) // TRIED)]
    sizes = list(each(lambda span: _size(encode_chunk(code, read(*span))), some))
    if None in sizes:
        return None
    coded = sum(size for size in sizes if size is not None)
    head = write_head(code)
    times = nbytes / sum(stop - start for start, stop in some)

    def encode_one(_: int, raw: Bytes) -> Bytes:
        coded = encode_chunk(code, raw)
        return raw_chunk(raw) if coded is None else coded

    return Fitted(head, len(head) + coded * times, "scarce", spans, encode_one)


def _size(coded: Bytes | None) -> int | None:
    return None if coded is None else len(coded)


def encode_chunk(code: ScarceCode, raw: Bytes) -> Bytes | None:
    """The chunk coded; None if it has groups of which more are left than expected."""
    words: Ints = raw.view(UNSIGNED[code.width])
    there = words != code.absent
    count = int(np.count_nonzero(there))
    beside = int(np.count_nonzero(there[1:] & there[:-1]))
    low_bits = max(int((len(words) - count) * 7 // (10 * max(count, 1))).bit_length() - 1, 0)
    best: Bytes | None = None
    # Where many stand side by side, gaps are none or long: quotients alone tell that.
    for tried in (low_bits, 0) if not code.group and beside * len(words) > TOGETHER * count * count else (low_bits,):
        out = np.empty(len(raw), np.uint8)
        absent = words.dtype.type(code.absent)
        size = encode(words, absent, code.kind, 8 * code.width, code.deep, code.group, code.expected, tried, out)
        if size < 0:
            return None
        front = struct.pack("<B", CODED) if code.group else struct.pack("<BI", CODED, count | tried << 24)
        if size + len(front) <= len(raw) and (best is None or size + len(front) < len(best)):
            best = np.concatenate([np.frombuffer(front, np.uint8), out[:size]])
    return raw_chunk(raw) if best is None else best


def write_head(code: ScarceCode) -> bytes:
    """The head of a scarce tensor, after its coding number."""
    numbers = bytes([code.width, code.kind, code.deep, code.group, code.expected])
    return numbers + code.absent.to_bytes(code.width, "little")


def read_head(reader: Reader, nbytes: int) -> ScarceCode:
    """Undo `write_head` for a tensor of `nbytes`; DamagedError for anything that can't have been written."""
    width, kind, deep, group, expected = reader.numbers("BBBBB")
    if width not in UNSIGNED or nbytes % width or kind > SIGNED or deep > min(8 * width, DEEPEST):
        raise DamagedError(f"its head asks for words of {width} bytes, kind {kind}, {deep} bits in contexts")
    if group > WIDEST or (expected >= group if group else expected) or (group and nbytes // width % group):
        raise DamagedError(f"its head says that {expected} of {group} words are left")
    return ScarceCode(width, kind, deep, group, expected, int.from_bytes(reader.take(width), "little"))


def decode_chunk(code: ScarceCode, coded: memoryview, raw: Bytes) -> None:
    """Fill `raw`; DamagedError if `coded` makes no sense."""
    reader = opened_chunk(coded, raw)
    if reader is None:
        return
    words: Ints = raw.view(UNSIGNED[code.width])
    listed = 0 if code.group else reader.u32()
    count, low_bits = listed & 0xFFFFFF, listed >> 24
    if count > len(words) or low_bits >= LOWEST:
        raise DamagedError(f"a chunk of {len(words)} words says that {count} are left, in gaps of {low_bits} bits")
    words[:] = code.absent
    data = reader.bytes(reader.left)
    if not decode(data, count, code.kind, 8 * code.width, code.deep, code.group, code.expected, low_bits, words):
        raise DamagedError("a chunk's code doesn't end where its words do")
