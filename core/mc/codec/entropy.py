"""The two entropy coders behind one pair of functions: tables from counts, segments of symbols to bytes and back."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from mc.codec import ans, huffman, huffman_tables
from mc.codec.compiled import compiled, inlined, released
from mc.codec.frequencies import LOG_STATES, STATES, frequencies, steps_for
from mc.codec.lengths import LONGEST, code_lengths
from mc.codec.tables import SEVERAL, Tables, summary, tables_size, write_tables
from mc.codec.typing import Bytes, Counts, Ints
from mc.errors import DamagedError

HUFFMAN, ANS = "huffman", "ans"
CODERS = (HUFFMAN, ANS)  # in the order of their numbers in a file (FORMAT.md, section 5)
TABLE_FAULTS = (
    "",
    "the lengths of a Huffman table make no complete code",
    "a code table lists no symbols",
    "the frequencies of a code table don't add up",
)
NO_CODE, UNLISTED, NO_SUM = range(1, len(TABLE_FAULTS))
HUFFMAN_ARRAYS = 3  # that its encoder has; that of ANS has more
ANS_MUST_SAVE = 3  # per cent of the bits, for the time that it takes
FRACTION = 16  # binary digits after the point in the fixed-point logarithms that code lengths are counted with


@dataclass(frozen=True)
class Plan:
    """Tables for given counts, and what they would cost."""

    coder: str
    tables: Tables
    coded_bits: int  # of all counted symbols, without lanes and tables
    table_bytes: int
    symbols: int  # counted
    likeliest: int  # of these, the ones that are the most frequent of their table

    @property
    def bits(self) -> int:
        """With the tables."""
        return self.coded_bits + 8 * self.table_bytes


@cache
def _bits_of_frequency() -> Counts:
    """Bits, times 2 ** FRACTION, of a symbol with frequency f of 4096: by squaring, so integers decide alone."""
    x = np.arange(1, STATES + 1, dtype=np.uint64)
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
    cost = (LOG_STATES << FRACTION) - logarithm
    return np.concatenate([np.zeros(1, np.int64), cost])


@compiled
def measured(counts, cost, numbers, lone):
    """Fill `numbers` and `lone` as Tables has them; returns what Plan states, in its order. cost: from `costs`."""
    summary(counts, lone)
    if cost is None:
        bits = code_lengths(counts, numbers)
    else:
        steps_for(counts, numbers)
        frequency, bits = np.zeros(counts.shape, np.int64), 0
        frequencies(numbers, frequency)
        for t in range(len(lone)):
            for s in range(256):
                if lone[t] == SEVERAL:
                    bits += counts[t, s] * cost[frequency[t, s]]
                else:
                    numbers[t, s] = 0
        bits >>= FRACTION
    symbols, likeliest = 0, 0
    for t in range(len(lone)):
        most = 0
        for s in range(256):
            symbols += counts[t, s]
            most = max(most, counts[t, s])
        likeliest += most
    return bits, tables_size(numbers, lone, cost is not None), symbols, likeliest


def costs(coder: str) -> Counts | None:
    """What `measured` needs to know of a coder: bits of a frequency, times 2 ** FRACTION; None for Huffman codes."""
    return _bits_of_frequency() if coder == ANS else None


def plan(coder: str, counts: Counts) -> Plan:
    """Tables for counts [tables, 256] i64, and their exact code length."""
    numbers, lone = np.zeros(counts.shape, np.uint8), np.empty(len(counts), np.int64)
    return Plan(coder, Tables(numbers, lone), *measured(counts, costs(coder), numbers, lone))


def best_plan(coder: str, counts: Counts) -> Plan:
    """Tables for `coder`; or for ANS in place of Huffman where a code of whole bits loses much, as it does when one
    symbol is most frequent by far. Never the other way round: Huffman's tables would save a hundred bytes in a small
    tensor, and cost seconds, once, for loops that nothing else in the file may need (see `heading.few_below`)."""
    first = plan(coder, counts)
    if coder == ANS or 5 * first.likeliest < 2 * first.symbols:
        return first
    second = plan(ANS, counts)
    return second if second.bits * 100 < first.bits * (100 - ANS_MUST_SAVE) else first


def thinned(counts: Counts, symbol: int, left: float) -> Counts:
    """The same counts [..., 256] where of one symbol a share is left; it keeps a code, or has none with a share of
    zero."""
    found = counts.copy()
    if left > 0:
        found[..., symbol] = np.maximum((counts[..., symbol] * left).astype(np.int64), counts[..., symbol] > 0)
    else:
        found[..., symbol] = 0
    return found


def described(plan: Plan) -> bytes:
    """The tables as they stand in a file."""
    return write_tables(plan.tables, plan.coder == ANS)


def encoder(coder: str, tables: Tables) -> tuple[Ints, ...]:
    """The arrays with which `code_symbols` works."""
    shape, lone = tables.numbers.shape, tables.lone
    if coder == HUFFMAN:
        singles, pairs = np.empty(shape, np.uint32), np.empty((shape[0], huffman_tables.PAIRS), np.uint32)
        huffman_tables.encoder(tables.numbers, singles, pairs)
        return singles, pairs, lone
    states = np.zeros((shape[0], STATES), np.uint16)
    bits_from, offset = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    frequency = np.zeros(shape, np.int64)
    if frequencies(tables.numbers, frequency) >= 0:
        raise ValueError("the frequencies of a code table don't add up")
    ans.encoder(frequency, states, bits_from, offset)
    return states, bits_from, offset, lone


def decoder(coder: str, tables: Tables, symbols: int) -> tuple[Ints, Counts]:
    """The arrays with which `decode_symbols` works; DamagedError if the tables are none that can be decoded with.
    `symbols` is about how many there are in all: with few of them, look-ups that yield several don't pay."""
    found = look_ups(coder, len(tables.lone))
    fault = look_up(tables.numbers, tables.lone, symbols, found)
    if fault:
        raise DamagedError(TABLE_FAULTS[fault])
    return found, tables.lone


def look_ups(coder: str, tables: int) -> Ints:
    """Room for what is looked up to decode with so many tables."""
    if coder == HUFFMAN:
        found: Ints = huffman_tables.room(tables)
        return found
    return np.empty((tables, STATES), np.uint32)


@released
def look_up(numbers, lone, symbols, found):
    """Fill `found`, made by `look_ups`, for these tables and about so many symbols; a fault of the tables, or 0."""
    return _looked_up(numbers, lone, symbols, found)


def _looked_up(numbers: Any, lone: Any, symbols: Any, found: Any) -> Any:
    raise NotImplementedError  # only loops call it: it becomes the loop whose arrays these are


@overload(_looked_up)
def _look_ups(numbers, lone, symbols, found):
    return _look_ups_of_huffman if found.dtype == types.uint64 else _look_ups_of_ans


def _look_ups_of_huffman(numbers, lone, symbols, found):
    most = huffman_tables.most_at_once(symbols // max(len(lone), 1))
    return NO_CODE if huffman_tables.decoder(numbers, lone, most, found) >= 0 else 0


def _look_ups_of_ans(numbers, lone, symbols, found):
    frequency = np.zeros(numbers.shape, np.int64)
    for t in range(len(lone)):  # a table is either listed or has a lone symbol, or none: nothing is looked up for these
        listed = np.uint8(0)
        for s in range(256):
            listed |= numbers[t, s]
        if (listed > 0) != (lone[t] == SEVERAL):
            return UNLISTED
    if frequencies(numbers, frequency) >= 0:
        return NO_SUM
    ans.decoder(frequency, found)
    return 0


@inlined
def capacity(symbols, tables):
    """Bytes that either coder may touch for that many symbols in a segment for each of the tables."""
    return symbols * max(LONGEST, LOG_STATES) // 8 + tables * ans.LANES * 16 + 64


def code_symbols(symbols: Any, sizes: Any, coder: Any, out: Any, at: Any) -> Any:
    """Code segments of `sizes` symbols into `out` u8, which has `capacity` bytes from `at` on; the byte behind."""
    raise NotImplementedError  # only loops call it: it becomes the loop whose arrays these are


@overload(code_symbols)
def _code_symbols(symbols, sizes, coder, out, at):
    if len(coder) == HUFFMAN_ARRAYS:
        return lambda symbols, sizes, coder, out, at: huffman.encode(symbols, sizes, *coder, out, at)
    return lambda symbols, sizes, coder, out, at: ans.encode(symbols, sizes, *coder, out, at)


def decode_symbols(data: Any, sizes: Any, tables: Any, lone: Any, out: Any) -> Any:
    """Undo `code_symbols` into `out`; False if `data` isn't used up exactly or makes no sense."""
    raise NotImplementedError


@overload(decode_symbols)
def _decode_symbols(data, sizes, tables, lone, out):
    if tables.dtype == types.uint64:
        return lambda data, sizes, tables, lone, out: huffman.decode(data, sizes, tables, lone, out)
    return lambda data, sizes, tables, lone, out: ans.decode(data, sizes, tables, lone, out)


@released
def _uncoded(symbols, sizes, numbers, lone):
    at = 0
    for t in range(len(sizes)):
        for i in range(at, at + sizes[t]):
            s = np.int64(symbols[i])
            if lone[t] != s and (lone[t] != SEVERAL or numbers[t, s] == 0):
                return True
        at += sizes[t]
    return False


def uncoded(symbols: Bytes, sizes: Counts, tables: Tables) -> bool:
    """Whether a symbol of the segments has no code in its table, so that `encode` would write what nobody can read.
    Tables made from all symbols leave none out; where that isn't plain to see, it is looked at before anything is
    lost."""
    return bool(_uncoded(symbols, sizes, tables.numbers, tables.lone))


def encode(symbols: Bytes, sizes: Counts, coder: tuple[Ints, ...]) -> Bytes:
    """Segments of `sizes` symbols, coded."""
    out = np.empty(capacity(len(symbols), len(sizes)), np.uint8)
    loop = huffman.encode if len(coder) == HUFFMAN_ARRAYS else ans.encode
    return out[: loop(symbols, sizes, *coder, out, 0)]


def decode(data: Bytes, sizes: Counts, coder: tuple[Ints, Counts]) -> Bytes:
    """Undo `encode`; DamagedError for bytes that can't be decoded."""
    out = np.empty(int(sizes.sum()), np.uint8)
    loop = huffman.decode if coder[0].dtype == np.uint64 else ans.decode
    if not loop(data, sizes, *coder, out):
        raise DamagedError("a segment of symbols doesn't end where it should")
    return out
