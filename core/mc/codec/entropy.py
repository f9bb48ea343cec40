"""The two entropy coders behind one pair of functions: tables from counts, segments of symbols to bytes and back."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from mc.codec import ans, huffman
from mc.codec.tables import SEVERAL, Tables, summary, tables_size, write_tables
from mc.codec.typing import Bytes, Counts
from mc.errors import DamagedError

HUFFMAN, ANS = "huffman", "ans"
CODERS = (HUFFMAN, ANS)  # in the order of their numbers in a file (FORMAT.md, section 5)
ANS_MUST_SAVE = 3  # per cent of the bits, for the time that it takes
FRACTION = 16  # binary digits after the point in the fixed-point logarithms that code lengths are counted with

Encode = Callable[[Bytes, Counts], Bytes]
Decode = Callable[[Bytes, Counts], Bytes]


@dataclass(frozen=True)
class Plan:
    """Tables for given counts, and what they would cost."""

    coder: str
    tables: Tables
    counted: Counts
    coded_bits: int  # of all counted symbols, without lanes and tables

    @property
    def bits(self) -> int:
        """With the tables."""
        return self.coded_bits + 8 * int(tables_size(self.tables.numbers, self.tables.lone, self.coder == ANS))


@cache
def _bits_of_frequency() -> Counts:
    """Bits, times 2 ** FRACTION, of a symbol with frequency f of 4096: by squaring, so integers decide alone."""
    x = np.arange(1, ans.STATES + 1, dtype=np.uint64)
    whole = np.zeros(len(x), np.int64)
    for shift in (8, 4, 2, 1):
        big = x >= (np.uint64(1) << np.uint64(shift)) << whole.astype(np.uint64)
        whole += np.where(big, shift, 0)
    logarithm = whole << FRACTION
    # x / 2 ** whole lies in [1, 2): thirty binary digits of it are squared, again and again.
    fraction = (x << np.uint64(30)) >> whole.astype(np.uint64)
    for digit in range(FRACTION - 1, -1, -1):
        fraction = (fraction * fraction) >> np.uint64(30)
        carry = fraction >= np.uint64(2 << 30)
        logarithm += carry.astype(np.int64) << digit
        fraction >>= carry.astype(np.uint64)
    cost = (ans.LOG_STATES << FRACTION) - logarithm
    return np.concatenate([np.zeros(1, np.int64), cost])


def plan(coder: str, counts: Counts) -> Plan:
    """Tables for counts [tables, 256] i64, and their exact code length."""
    lone = np.empty(len(counts), np.int64)
    summary(counts, lone)
    numbers = np.zeros(counts.shape, np.uint8)
    if coder == HUFFMAN:
        huffman.code_lengths(counts, numbers)
        bits = int((counts * numbers).sum())
    else:
        ans.steps_for(counts, numbers)
        numbers[lone != SEVERAL] = 0
        cost = _bits_of_frequency()[_frequency(numbers)]
        bits = int((counts * cost).sum()) >> FRACTION
    tables = Tables(numbers, lone)
    return Plan(coder, tables, counts, bits)


def _frequency(steps: Bytes) -> Counts:
    frequency = np.zeros(steps.shape, np.int64)
    if ans.frequencies(steps, frequency) >= 0:
        raise DamagedError("the frequencies of a code table don't add up")
    return frequency


def best_plan(coder: str, counts: Counts) -> Plan:
    """Tables for `coder`; or for ANS in place of Huffman where a code of whole bits loses much, as it does when one
    symbol is most frequent by far."""
    first = plan(coder, counts)
    if coder == ANS or 5 * int(counts.max(axis=1).sum()) < 2 * int(counts.sum()):
        return first
    second = plan(ANS, counts)
    return second if second.bits * 100 < first.bits * (100 - ANS_MUST_SAVE) else first


def described(plan: Plan) -> bytes:
    """The tables as they stand in a file."""
    return write_tables(plan.tables, plan.coder == ANS)


def encoder(coder: str, tables: Tables) -> Encode:
    """A function (symbols, segment sizes) -> bytes."""
    shape, lone = tables.numbers.shape, tables.lone
    if coder == HUFFMAN:
        entries = np.zeros(shape, np.uint32)
        huffman.encoder(tables.numbers, entries)

        def encode_huffman(symbols: Bytes, counts: Counts) -> Bytes:
            out = np.empty(huffman.capacity(counts), np.uint8)
            return out[: huffman.encode(symbols, counts, entries, lone, out, 0)]

        return encode_huffman
    states = np.zeros((shape[0], ans.STATES), np.uint16)
    bits_from, offset = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    ans.encoder(_frequency(tables.numbers), states, bits_from, offset)

    def encode_ans(symbols: Bytes, counts: Counts) -> Bytes:
        out = np.empty(ans.capacity(counts), np.uint8)
        return out[: ans.encode(symbols, counts, states, bits_from, offset, lone, out, 0)]

    return encode_ans


def decoder(coder: str, tables: Tables, symbols: int) -> Decode:
    """A function (bytes, segment sizes) -> symbols; both it and this raise DamagedError for what can't be decoded.
    `symbols` is about how many there are in all: with few of them, look-ups that yield several don't pay."""
    count, lone = len(tables.lone), tables.lone
    # A table is either listed or has a lone symbol, or none: the loops look up nothing for the latter two.
    if (tables.numbers.any(axis=1) != (lone == SEVERAL)).any():
        raise DamagedError("a code table lists no symbols")
    if coder == HUFFMAN:
        lookups = np.empty((count, huffman.LOOKUP), np.uint64)
        if huffman.decoder(tables.numbers, 4 if symbols >= huffman.LANED else 1, lookups) >= 0:
            raise DamagedError("the lengths of a Huffman table make no complete code")

        def decode_huffman(data: Bytes, counts: Counts) -> Bytes:
            out = np.empty(int(counts.sum()), np.uint8)
            if not huffman.decode(data, counts, lookups, lone, out):
                raise DamagedError("a Huffman-coded segment doesn't end where it should")
            return out

        return decode_huffman
    frequency = _frequency(tables.numbers)
    entries = np.empty((count, ans.STATES), np.uint32)
    ans.decoder(frequency, entries)

    def decode_ans(data: Bytes, counts: Counts) -> Bytes:
        out = np.empty(int(counts.sum()), np.uint8)
        if not ans.decode(data, counts, entries, lone, out):
            raise DamagedError("an ANS-coded segment doesn't end where it should")
        return out

    return decode_ans
