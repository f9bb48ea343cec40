"""How a float tensor is best coded: its matrix form, its scales, the contexts that pay, the tables.

Two passes over the chunks: scales and row classes; the coding itself. Candidates are compared by counted bits, tables
and side information charged, on a sample of whole rows. The tables are made from its counts too, with codes for what
is near the symbols seen and an escape for the rest; but a pass between counts all words at every level above fast,
and for the narrow dtypes, whose larger alphabets a sample doesn't know well enough. Nothing but the sample is kept
from pass to pass: splitting words again is cheaper than fresh memory.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from mc.codec import entropy, floats, planes, scales
from mc.codec.floats import ALONE, BOTH, CONTEXTS, ROWS, FloatCode
from mc.codec.tables import Tables
from mc.codec.typing import Bytes, Counts, Ints, Scales

PSEUDO_ROW = 512  # words a row where a tensor has no rows of its own
SAMPLE = 1 << 15  # words on which contexts are compared
FACTS = 2  # what scales.scan counts: words that are negative, and whose magnitude is zero
RARE = 64  # one word in so many: below this, words of magnitude zero are left as they are
SAMPLED = 7  # mantissa bits in the heads of bf16 and f32, for whose tables a sample is enough
BELOW, ABOVE = 3, 2  # octaves beyond the symbols of a sample that have codes: rarer ones are escapes
NO_FIELDS: Bytes = np.empty(0, np.uint8)
FEW = 4096  # words below which scales of rows can't pay

Read = Callable[[int, int], Bytes]  # bytes start to stop of a tensor, as u8
Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]  # an ordered map, perhaps on many threads


@dataclass(frozen=True)
class Effort:
    """What a level spends on float tensors."""

    contexts: tuple[int, ...]
    coder: str
    columns_must_save: int  # per mille of the coded bits, for the time that sorting by column costs
    mantissa: dict[int, int]  # mantissa bits in the symbol, by those in the head
    exact: bool = False  # tables from counts of all words, not of the sample
    smallest: int = 1  # bytes of a tensor below which it is left as it is


# Enough mantissa bits to see that a density isn't flat inside an octave, few enough for the tables to stay small. Two
# and three code within .0005 of each other where the head has seven; three of ten leave a field of whole bytes.
JOINT = {7: 2, 10: 3, 4: 2, 3: 3, 2: 2}
# The exponent alone, where the rest then fills bytes: symbols are shorter, so more of them come from one look-up.
EXPONENT = JOINT | {7: 0}

EFFORTS = {
    "fast": Effort((ALONE,), entropy.HUFFMAN, 0, EXPONENT, smallest=4096),
    "default": Effort((ALONE, ROWS, BOTH), entropy.HUFFMAN, 2, JOINT, exact=True),
    "best": Effort((ALONE, ROWS, BOTH), entropy.ANS, 0, JOINT, exact=True),
}


@dataclass(frozen=True)
class Fitted:
    """A tensor's code, ready to code its chunks."""

    code: FloatCode
    head: bytes
    bits: int  # of all symbols and fields, without the head
    why: str
    parts: list[tuple[int, int]]  # first and last word (exclusive) of each chunk
    encode: Callable[[int, Bytes], list[Bytes]]  # (chunk, its bytes) -> pieces


def columns_of(shape: tuple[int, ...], words: int) -> tuple[int, bool]:
    """Columns of the matrix that a tensor is coded as, and whether they are columns of the tensor too.

    The last dimension if it is wide (linear layers, stacked or not), else all but the first (convolutions);
    narrow rows are put side by side."""
    if len(shape) < 2 or words < FEW:
        return min(PSEUDO_ROW, words), False
    cols = shape[-1] if shape[-1] >= floats.NARROWEST else prod(shape[1:])
    if cols == 0:
        return min(PSEUDO_ROW, words), False  # of an unknown dtype, whose shape says nothing about its bytes
    if cols < floats.NARROWEST:
        cols *= -(-floats.NARROWEST // cols)
    if cols > floats.WIDEST or cols > words:
        return PSEUDO_ROW, False
    return cols, words % cols == 0 and cols <= 0xFFFF


def spans(words: int, cols: int) -> list[tuple[int, int]]:
    """First and last word (exclusive) of each chunk."""
    step = floats.rows_in_chunk(cols) * cols
    return [(at, min(at + step, words)) for at in range(0, words, step)]


@dataclass(frozen=True)
class _Scan:
    """What the first pass learns from a chunk."""

    rows: Scales
    columns: Ints
    facts: Counts
    classes: Bytes
    sample: Ints


def fit(
    geometry: planes.Geometry, shape: tuple[int, ...], words: int, read: Read, effort: Effort, each: Each
) -> Fitted:
    """Choose how the tensor with these words (at least one) is coded."""
    width = geometry.width
    mantissa = effort.mantissa[geometry.mantissa]
    cols, has_columns = columns_of(shape, words)
    contexts = [c for c in effort.contexts if (c != BOTH or has_columns) and (c == ALONE or words >= FEW)]
    whole_rows = -(-words // cols)
    stride = max(1, words // SAMPLE)
    step_shift = geometry.mantissa - mantissa + geometry.padding
    parts = spans(words, cols)

    def words_of(part: tuple[int, int]) -> Ints:
        return planes.words_of(read(part[0] * width, part[1] * width), geometry)

    def scan(part: tuple[int, int]) -> _Scan:
        found = words_of(part)
        first, n = part[0] // cols, -(-len(found) // cols)
        rows = np.zeros(n, np.int16)
        sums = np.zeros(cols if BOTH in contexts else 0, np.int32)
        sampled = np.arange(-first % stride, n, stride)
        sample = found if stride == 1 else _rows_at(found, cols, sampled)
        facts = np.zeros(FACTS, np.int64)
        if ROWS in contexts:
            scales.scan(found, cols, step_shift, mantissa, rows, sums, facts)
        else:  # the sampled rows are enough for one scale
            scales.take_stock(found, step_shift, facts)
            few = np.zeros(len(sampled), np.int16)
            scales.scan(sample, cols, step_shift, mantissa, few, sums, np.zeros(FACTS, np.int64))
            rows[sampled] = few
        classes = np.zeros((geometry.tails, n), np.uint8)
        for tail, of_rows in enumerate(classes):
            planes.zero_runs(found, tail, cols, of_rows)
        return _Scan(rows, sums, facts, classes, sample)

    scanned: list[_Scan] = list(each(scan, parts))
    measured = np.concatenate([s.rows for s in scanned])
    classes = np.concatenate([s.classes for s in scanned], axis=1)
    negative, tiny = (int(fact) for fact in np.sum([s.facts for s in scanned], axis=0))
    sample = np.concatenate([s.sample for s in scanned])
    sample.flags.writeable = False
    frequent = frequent_words(sample, step_shift) if tiny * RARE >= words else sample[:0]
    if len(frequent):
        classes[:] = classes.min(axis=1, keepdims=True)
    sampled_rows = np.arange(0, whole_rows, stride)
    rows = scales.known_rows(measured if ROWS in contexts else measured[sampled_rows])
    alone = np.full(whole_rows, int(rows.sum(dtype=np.int64)) // len(rows), np.int16)
    code = FloatCode(
        geometry, mantissa, cols, ALONE, alone, scales.EMPTY_SCALES, scales.EMPTY_WORDS, scales.EMPTY_COUNTS,
        classes, frequent, negative > 0, effort.coder, Tables(np.zeros((1, 256), np.uint8), np.zeros(1, np.int64)),
    )  # fmt: skip
    candidates = {ALONE: (code, b"")}
    if ROWS in contexts:
        by_rows = replace(code, context=ROWS, row_scales=rows)
        candidates[ROWS] = (by_rows, floats.write_rows(rows))
    if BOTH in contexts:
        sums: Counts = np.sum([s.columns for s in scanned], axis=0, dtype=np.int64)
        columns = scales.column_scales(sums, whole_rows, mantissa)
        order, starts = scales.column_order(columns)
        by_both = replace(by_rows, context=BOTH, column_scales=columns, order=order, starts=starts)
        candidates[BOTH] = (by_both, candidates[ROWS][1] + floats.write_columns(columns))
    counted = {context: _count(code, sample, sampled_rows) for context, (code, _) in candidates.items()}
    context, why = _choose(candidates, counted, len(sample), words, effort)
    chosen, side = candidates[context]

    def count(part: tuple[int, int]) -> Counts:
        everything = floats.widest_window(chosen)
        symbols, sizes, _ = floats.symbols_of(chosen, everything, words_of(part), part[0] // cols, NO_FIELDS)
        return _histogram(symbols, sizes)

    counts = counted[context]
    exact = effort.exact or geometry.mantissa != SAMPLED
    if stride > 1:
        counts = np.sum(list(each(count, parts)), axis=0) if exact else _smoothed(counts, chosen)
    plan = entropy.best_plan(effort.coder, counts)
    final = replace(chosen, coder=plan.coder, tables=plan.tables)
    window = floats.window_of(plan.tables.numbers, final)
    encode = entropy.encoder(plan.coder, plan.tables)

    def encode_chunk(k: int, raw: Bytes) -> list[Bytes]:
        return floats.encode_chunk(final, window, encode, raw, parts[k][0] // cols)

    tails = sum(planes.tail_bytes(cols, words, found) for found in classes)
    seen = int(counts.sum())
    repeated = int(counts[:, : len(frequent)].sum())
    escapes = int(counts[:, scales.ESCAPE].sum())
    coded_bits = plan.coded_bits + escapes * floats.ESCAPE_BITS
    bits = (coded_bits * words + (seen - repeated) * (final.field_width * words + 8 * tails)) // seen
    head = floats.write_head(final, entropy.described(plan), side)
    return Fitted(final, head, bits, why, parts, encode_chunk)


def _histogram(symbols: Bytes, sizes: Counts) -> Counts:
    counts = np.zeros((len(sizes), 256), np.int64)
    scales.histogram(symbols, sizes, counts)
    return counts


def _count(code: FloatCode, sample: Ints, sampled_rows: Counts) -> Counts:
    """How often each symbol stands in the sample, [tables, 256]."""
    part = replace(code, row_scales=code.row_scales[sampled_rows])
    symbols, sizes, _ = floats.symbols_of(part, floats.widest_window(code), sample, 0, NO_FIELDS)
    return _histogram(symbols, sizes)


def _smoothed(counts: Counts, code: FloatCode) -> Counts:
    """Counts of a sample, made to serve for all words: every symbol within BELOW and ABOVE octaves of those seen has a
    code, in every table, and so has the escape for what lies beyond."""
    low, high = (int(end) for end in floats.widest_window(code))
    used = np.flatnonzero(counts[:, low : high + 1].any(axis=0))
    first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
    smooth = counts.copy()
    smooth[
        :, max(low + first - (BELOW << code.mantissa), low) : min(low + last + (ABOVE << code.mantissa), high) + 1
    ] += 1
    smooth[:, :low] += 1
    smooth[:, scales.ESCAPE] += 1
    return smooth


def frequent_words(sample: Ints, step_shift: int) -> Ints:
    """Words of magnitude zero (zeros, subnormals such as decayed moments) that make up much of the sample, most
    frequent first; none, if the rarer ones would be so many escapes that it doesn't pay."""
    heads = sample >> (8 * sample.itemsize - 16) if sample.itemsize > 1 else sample.astype(np.uint16) << 8
    of_zero = sample[(heads & 0x7FFF) >> step_shift == 0]
    found, counts = np.unique(of_zero, return_counts=True)
    order = np.argsort(-counts, kind="stable")[: floats.MOST_FREQUENT]
    order = order[counts[order] * RARE * 4 >= len(sample)]
    rest = len(of_zero) - int(counts[order].sum())
    chosen: Ints = found[order] if 8 * rest <= len(of_zero) else found[:0]
    chosen.flags.writeable = False
    return chosen


def _rows_at(words: Ints, cols: int, rows: Counts) -> Ints:
    """The rows with these numbers, one after the other; read-only like all that is read, so that every loop is
    compiled for one kind of array."""
    picked = np.concatenate([words[row * cols : (row + 1) * cols] for row in rows] or [words[:0]])
    picked.flags.writeable = False
    return picked


def _choose(
    candidates: dict[int, tuple[FloatCode, bytes]], counted: dict[int, Counts], sampled: int, words: int, effort: Effort
) -> tuple[int, str]:
    """The context whose coded sample, scaled up, tables and side information are smallest, and the figures that say
    so. candidates: the code of each context with its side information as it stands in a file; counted: the symbols of
    the sample, `sampled` words, in each."""
    if len(candidates) == 1:
        return ALONE, ""
    bits: dict[int, int] = {}
    for context, (_, side) in candidates.items():
        plan = entropy.plan(effort.coder, counted[context])
        coded = plan.coded_bits + int(counted[context][:, scales.ESCAPE].sum()) * floats.ESCAPE_BITS
        bits[context] = plan.bits - plan.coded_bits + coded * words // sampled + 8 * len(side)
    field = candidates[ALONE][0].field_width
    best = min(bits, key=lambda context: bits[context])
    if best == BOTH:
        next_best = min((c for c in bits if c != BOTH), key=lambda context: bits[context])
        if (bits[next_best] - bits[BOTH]) * 1000 < effort.columns_must_save * (bits[BOTH] + field * words):
            best = next_best
    return best, " ".join(f"{CONTEXTS[c]} {b / words + field:.2f}" for c, b in bits.items())
