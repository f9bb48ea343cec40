"""The entropy coders: codes as short as theory allows, every segment comes back, and no bytes lead a decoder astray."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mc.codec import ans, entropy, huffman, huffman_tables
from mc.codec.fields import Reader, write_array
from mc.codec.frequencies import STATES, frequencies
from mc.codec.lengths import code_lengths
from mc.codec.tables import EMPTY, SEVERAL, Tables
from mc.errors import DamagedError

Array = np.ndarray[Any, Any]
CODERS = [entropy.HUFFMAN, entropy.ANS]
LIMIT = 12
GUARD = 64  # bytes around an array that nothing may change

# The counts of the symbols of a table, from few and equal to many and skewed.
countings = st.one_of(
    st.lists(st.integers(1, 5000), min_size=2, max_size=256),
    st.lists(st.sampled_from([1, 1, 1, 10, 100_000]), min_size=2, max_size=256),
    st.integers(2, 30).map(lambda n: [2**k for k in range(n)]),  # skewed: the longest codes there are
    st.integers(2, 256).map(lambda n: [1] * n),
)


def counted(symbols: list[int], counts: list[int]) -> Array:
    """Counts of a table, [1, 256]."""
    table = np.zeros((1, 256), np.int64)
    table[0, symbols] = counts
    return table


def lengths_of(counts: Array) -> Array:
    lengths = np.zeros(counts.shape, np.uint8)
    code_lengths(counts, lengths)
    return lengths


def package_merge(counts: list[int], limit: int) -> int:
    """Bits that the best code of at most `limit` bits a word takes (Larmore and Hirschberg, 1990)."""
    coins = sorted(counts)
    packages = coins
    for _ in range(limit - 1):
        pairs = [sum(packages[k : k + 2]) for k in range(0, len(packages) - 1, 2)]
        packages = sorted(coins + pairs)
    return sum(packages[: 2 * len(counts) - 2])


def entropy_of(counts: Array) -> float:
    """Bits that an ideal coder takes for all counted symbols."""
    some = counts[counts > 0].astype(float)
    return float(-(some * np.log2(some / some.sum())).sum())


def draw_symbols(counts: Array, n: int, seed: int = 0) -> Array:
    """n symbols of the frequencies that these counts have."""
    return np.random.default_rng(seed).choice(256, n, p=counts[0] / counts.sum()).astype(np.uint8)


@given(countings, st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_huffman_codes_are_as_short_as_can_be(counts: list[int], random: Any) -> None:
    table = counted(random.sample(range(256), len(counts)), counts)
    lengths = lengths_of(table)
    bits, best = int((table * lengths).sum()), package_merge(counts, LIMIT)
    assert ((lengths > 0) == (table > 0)).all() and lengths.max() <= LIMIT
    assert sum(2.0 ** -int(length) for length in lengths[lengths > 0]) == 1  # Kraft's sum: a complete code
    free = package_merge(counts, 256)
    assert bits == best if best == free else best <= bits <= best + 0.005 * best


@given(countings, st.randoms(use_true_random=False), st.integers(1, huffman_tables.MOST))
@settings(max_examples=100, deadline=None)
def test_a_look_up_yields_the_symbols_that_fit_and_no_more(counts: list[int], random: Any, most: int) -> None:
    lengths = lengths_of(counted(random.sample(range(256), len(counts)), counts))
    codes, pairs = np.zeros((1, 256), np.uint32), np.zeros((1, huffman_tables.PAIRS), np.uint32)
    huffman_tables.encoder(lengths, codes, pairs)
    symbol_of = {(int(codes[0, s]) >> 8, int(lengths[0, s])): int(s) for s in np.flatnonzero(lengths[0])}
    lookups = np.zeros((1, huffman_tables.WITH_BITS), np.uint64)
    assert huffman_tables.decoder(lengths, np.array([SEVERAL]), most, lookups) == -1
    for at in random.sample(range(huffman_tables.LOOKUP), 100):
        found: list[tuple[int, int]] = []  # symbols, and the bits of each
        used, length = 0, 1
        while len(found) < most and used + length <= LIMIT:
            if ((at >> used) & ((1 << length) - 1), length) in symbol_of:
                found.append((symbol_of[(at >> used) & ((1 << length) - 1), length], length))
                used, length = used + length, 0
            length += 1
        entry = int(lookups[0, at])
        assert list((entry & 0xFFFFFFFFFF).to_bytes(5, "little"))[: len(found)] == [s for s, _ in found]
        assert (entry >> 48 & 0xFF, entry >> 40 & 0xFF, entry >> 56) == (used, found[0][1], len(found))
        assert lookups.view(np.uint8)[0, int(huffman_tables.BITS_AT) + at] == used


def test_a_symbol_alone_or_none_takes_no_bits() -> None:
    assert not lengths_of(counted([7], [1000])).any() and not lengths_of(counted([], [])).any()
    for coder in CODERS:
        plan = entropy.plan(coder, counted([7], [1000]))
        assert plan.coded_bits == 0 and plan.tables.lone.tolist() == [7]


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("symbols", [2, 3, 17, 256])
@pytest.mark.parametrize("skew", [0.0, 0.5, 1.0, 2.0])
def test_planned_bits_are_the_bits_that_are_written(coder: str, symbols: int, skew: float) -> None:
    counts = counted(list(range(symbols)), [int(1e6 / (1 + k) ** skew) + 1 for k in range(symbols)])
    drawn = draw_symbols(counts, 100_000)
    seen = np.bincount(drawn, minlength=256)[None].astype(np.int64)
    plan = entropy.plan(coder, seen)
    written = 8 * len(entropy.encode(drawn, np.array([len(drawn)]), entropy.encoder(coder, plan.tables)))
    assert abs(written - plan.coded_bits) < 1000 + 0.002 * len(drawn)  # lanes have heads; ANS ends in a state
    assert plan.coded_bits >= int(entropy_of(seen)) - 1
    assert plan.bits - plan.coded_bits == 8 * len(entropy.described(plan))


@pytest.mark.parametrize("likeliest", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("symbols", [2, 20, 60])
def test_ans_comes_within_a_hundredth_of_a_bit_of_the_entropy(likeliest: float, symbols: int) -> None:
    others = [max(1, int(1e6 * (1 - likeliest) * 0.9**k)) for k in range(symbols - 1)]
    likely = int(sum(others) * likeliest / (1 - likeliest))
    counts = counted(list(range(10, 10 + symbols)), [likely, *others])
    total = int(counts.sum())
    assert entropy.plan(entropy.ANS, counts).coded_bits / total <= entropy_of(counts) / total + 0.01


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("distinct", [1, 2, 5, 256])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 8, 100, 4095, 4096, 4097, 4103, 70_000])
def test_segments_come_back(coder: str, distinct: int, n: int) -> None:
    random = np.random.default_rng(n + distinct)
    segments = [
        (random.geometric(0.3, size) % distinct if distinct < 256 else random.integers(0, 256, size)).astype(np.uint8)
        for size in (n, 0, 1, 300)
    ]
    sizes = np.array([len(segment) for segment in segments], np.int64)
    counts = np.stack([np.bincount(segment, minlength=256) for segment in segments]).astype(np.int64)
    plan = entropy.plan(coder, counts)
    reader = Reader(memoryview(entropy.described(plan)))
    read = reader.tables(len(segments), coder)
    reader.end()
    symbols = np.concatenate(segments)
    coded = entropy.encode(symbols, sizes, entropy.encoder(coder, plan.tables))
    assert (entropy.decode(coded, sizes, entropy.decoder(coder, read, len(symbols))) == symbols).all()


@given(st.binary(max_size=3000), st.sampled_from([0, 1, 5, 400]))
@settings(max_examples=100, deadline=None)
def test_arrays_in_heads_come_back(data: bytes, repeat: int) -> None:
    values = np.frombuffer(data * max(repeat // 100, 1), np.uint8)
    reader = Reader(memoryview(write_array(values)))
    assert (reader.array(len(values)) == values).all()
    reader.end()


# Decoders under fire: whatever the bytes, they say yes or no, and touch nothing but their array.


def guarded_decode(coder: str, tables: Tables, data: bytes, sizes: Array) -> tuple[bool, Array]:
    """Decode into the middle of an array, see that its edges stay, and return what it says and what it wrote."""
    n = int(sizes.sum())
    room = np.full(n + 2 * GUARD, 0xA5, np.uint8)
    out, array = room[GUARD : GUARD + n], np.frombuffer(data, np.uint8)
    if coder == entropy.HUFFMAN:
        lookups = np.zeros((len(sizes), huffman_tables.WITH_BITS), np.uint64)
        assert (
            huffman_tables.decoder(
                tables.numbers, tables.lone, huffman_tables.MOST if n >= huffman.LANED else 1, lookups
            )
            == -1
        )
        sound = huffman.decode(array, sizes, lookups, tables.lone, out)
    else:
        frequency = np.zeros((len(sizes), 256), np.int64)
        entries = np.zeros((len(sizes), STATES), np.uint32)
        assert frequencies(tables.numbers, frequency) == -1
        ans.decoder(frequency, entries)
        sound = ans.decode(array, sizes, entries, tables.lone, out)
    assert (room[:GUARD] == 0xA5).all() and (room[GUARD + n :] == 0xA5).all()
    return bool(sound), out


def sample(coder: str, n: int, distinct: int, seed: int) -> tuple[Tables, bytes, Array, Array]:
    """Tables, coded bytes, sizes and symbols of two segments."""
    random = np.random.default_rng(seed)
    symbols = np.minimum(random.geometric(0.2, n + 50), distinct).astype(np.uint8)
    sizes = np.array([n, 50], np.int64)
    counts = np.stack([np.bincount(part, minlength=256) for part in np.split(symbols, [n])]).astype(np.int64)
    plan = entropy.plan(coder, counts)
    return plan.tables, entropy.encode(symbols, sizes, entropy.encoder(coder, plan.tables)).tobytes(), sizes, symbols


@pytest.mark.parametrize("coder", CODERS)
@given(
    n=st.sampled_from([1, 60, 4095, 4096, 9000]),
    distinct=st.sampled_from([2, 9, 250]),
    seed=st.integers(0, 50),
    noise=st.binary(max_size=4000),
)
@settings(max_examples=150, deadline=None)
def test_random_bytes_are_withstood(coder: str, n: int, distinct: int, seed: int, noise: bytes) -> None:
    tables, coded, sizes, _ = sample(coder, n, distinct, seed)
    guarded_decode(coder, tables, noise, sizes)
    heads = coded[:32]  # sizes of lanes that are true, so that the loops are reached
    guarded_decode(coder, tables, (heads + noise * 9)[: len(coded)].ljust(len(coded), b"\xff"), sizes)


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("n", [60, 4200])
def test_truncations_are_refused_or_harmless(coder: str, n: int) -> None:
    tables, coded, sizes, symbols = sample(coder, n, 60, 1)
    sound, decoded = guarded_decode(coder, tables, coded, sizes)
    assert sound and (decoded == symbols).all()
    for cut in [*range(min(len(coded), 200)), *range(200, len(coded), 17)]:
        sound, _ = guarded_decode(coder, tables, coded[:cut], sizes)
        assert not sound
    assert not guarded_decode(coder, tables, coded + b"\0", sizes)[0]


@pytest.mark.parametrize("coder", CODERS)
def test_flipped_bits_are_withstood(coder: str) -> None:
    tables, coded, sizes, _ = sample(coder, 4200, 60, 2)
    for bit in [*range(8 * 48), *range(8 * 48, 8 * len(coded), 101)]:
        flipped = bytearray(coded)
        flipped[bit // 8] ^= 1 << bit % 8
        guarded_decode(coder, tables, bytes(flipped), sizes)


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("lone", [SEVERAL, EMPTY, 9])
@given(numbers=st.dictionaries(st.integers(0, 255), st.integers(1, 255), max_size=12))
@settings(max_examples=150, deadline=None)
def test_any_table_is_refused_or_sound(coder: str, lone: int, numbers: dict[int, int]) -> None:
    table = counted(list(numbers), list(numbers.values())).astype(np.uint8)
    try:
        entropy.decoder(coder, Tables(table, np.array([lone], np.int64)), 1000)
    except DamagedError:
        return
    if lone != SEVERAL:
        return
    assert numbers  # a table of several symbols has some
    if coder == entropy.HUFFMAN:
        assert sum(2.0**-length for length in numbers.values()) == 1


@pytest.mark.parametrize("coder", CODERS)
def test_a_table_of_several_symbols_without_any_is_refused(coder: str) -> None:
    with pytest.raises(DamagedError):
        entropy.decoder(coder, Tables(np.zeros((1, 256), np.uint8), np.array([SEVERAL], np.int64)), 1000)


@given(st.binary(max_size=400), st.integers(1, 5), st.sampled_from(CODERS))
@settings(max_examples=200, deadline=None)
def test_random_bytes_as_tables_are_read_or_refused(data: bytes, count: int, coder: str) -> None:
    try:
        tables = Reader(memoryview(data)).tables(count, coder)
    except DamagedError:
        return
    assert tables.numbers.shape == (count, 256) and tables.lone.shape == (count,)
