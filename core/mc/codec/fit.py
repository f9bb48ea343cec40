"""How a float tensor is best coded: its matrix form, its scales, the contexts that pay, the tables.

One pass over the chunks measures scales and row classes and keeps a sample of whole rows. On the sample, contexts are
compared by counted bits, tables and side information charged, and from its counts the tables are made, with codes for
what is near the symbols seen and an escape for the rest. The second pass is the coding itself.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from mc.codec import chunks, entropy, fixed, floats, planes, scales, symbols, tails
from mc.codec.fixed import ALONE, BOTH, CONTEXTS, ROWS
from mc.codec.floats import FloatCode
from mc.codec.matrix import FEW, Matrix, Scan, columns_of, measure, sampled
from mc.codec.typing import Bytes, Counts, Ints, Scales

LEAST_ROWS = 64  # of the sample, where there are so many
APART = 3  # of wide rows every third piece is sampled
MOST_SAMPLED = 1 << 22  # words of the sample, all the same
RARE = 64  # one word in so many: below this, words of magnitude zero are left as they are
ENOUGH = 1 << 13  # words for tables: those of 40 symbols made from so many cost .0035 bits a word more than exact ones
MANY = 100  # one word in so many: as many escapes take half a bit a word

Read = Callable[[int, int], Bytes]  # bytes start to stop of a tensor, as u8
Encode = Callable[[int, Bytes, Bytes], Bytes]  # (chunk, its bytes, room) -> coded, in that room or elsewhere
Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]  # an ordered map, perhaps on many threads


@dataclass(frozen=True)
class Effort:
    """What a level spends on float tensors."""

    contexts: tuple[int, ...]
    coder: str
    sample: int  # words, times 2 ** mantissa, on which contexts are compared and from which tables are made
    columns_must_save: int  # per mille of the coded bits, for the time that sorting by column costs
    columns_must_vary: int  # least variance of the columns' scales, in 1/256 of a square octave, for trying them
    mantissa: dict[int, int]  # mantissa bits in the symbol, by those in the head


# Enough mantissa bits to see that a density isn't flat inside an octave, few enough for the tables to stay small. Two
# and three code within .0005 of each other where the head has seven; three of ten leave a field of whole bytes.
JOINT = {7: 2, 10: 3, 4: 2, 3: 3, 2: 2}
OTHERWISE = 2  # for numbers of other widths, which are the upper parts of words
# The exponent alone, where the rest then fills bytes: symbols are shorter, so more of them come from one look-up.
EXPONENT = JOINT | {7: 0}

# A table of 40 symbols made from a sample of n words costs 29 / n bits a word more than an exact one: .004 of 2 ** 15
# in four tables. More mantissa bits make more symbols. Scales that vary by d octaves among columns are worth about
# .7 d ** 2 bits a word.
EFFORTS = {
    "fast": Effort((ALONE,), entropy.HUFFMAN, 1 << 14, 0, 0, EXPONENT),
    "default": Effort((ALONE, ROWS, BOTH), entropy.HUFFMAN, 1 << 13, 3, 10, JOINT),
    "best": Effort((ALONE, ROWS, BOTH), entropy.ANS, 1 << 15, 2, 7, JOINT),
}


@dataclass(frozen=True)
class Fitted:
    """A tensor's code, ready to code its chunks."""

    code: FloatCode
    head: bytes
    bits: int  # of all symbols and fields, without the head
    why: str
    parts: list[tuple[int, int]]  # first and last word (exclusive) of each chunk
    encode: Encode
    sample: Ints  # words of rows from all over the tensor
    counts: Counts  # that the tables are made from
    plan: entropy.Plan
    side: bytes  # scales as they stand in the head


class _Context(NamedTuple):
    """What words may be told by: scales of all rows, those of the columns or none, and how both stand in a file."""

    rows: Scales
    columns: Scales
    side: bytes


def fit(
    geometry: planes.Geometry, shape: tuple[int, ...], words: int, read: Read, effort: Effort, each: Each
) -> Fitted:
    """Choose how the tensor with these words (at least one) is coded: with mantissa bits in the symbol, or where their
    range is too wide for that, without."""
    fitted = _fit(geometry, shape, words, read, effort, each)
    escapes = int(fitted.counts[:, symbols.ESCAPE].sum())
    if fitted.code.mantissa and geometry.mantissa < planes.MOST_FIELD_BITS and escapes * MANY > fitted.plan.symbols:
        none = replace(effort, mantissa=effort.mantissa | {geometry.mantissa: 0})
        return min(fitted, _fit(geometry, shape, words, read, none, each), key=lambda one: one.bits + 8 * len(one.head))
    return fitted


def _fit(
    geometry: planes.Geometry, shape: tuple[int, ...], words: int, read: Read, effort: Effort, each: Each
) -> Fitted:
    mantissa = effort.mantissa.get(geometry.mantissa, OTHERWISE)
    cols, has_columns = columns_of(shape, words)
    wanted = [c for c in effort.contexts if (c != BOTH or has_columns) and (c == ALONE or words >= FEW)]
    rows, enough = -(-words // cols), effort.sample << mantissa
    stride = max(1, min(words // enough, rows // LEAST_ROWS), words // MOST_SAMPLED)
    while stride % 2 == 0 or stride % 3 == 0:  # what comes again every so many rows, such as heads, mostly does so at
        stride -= 1  # multiples of two or three: of nine rows, the first was never one of those with small weights
    matrix = Matrix(
        geometry, words, cols, mantissa, 1 if ROWS in wanted else stride, stride,
        APART if words // stride >= APART * enough and cols >= APART * scales.PIECE else 1,
        -(-rows // scales.COLUMN_ROWS) if BOTH in wanted else 0,
    )  # fmt: skip
    parts = floats.spans(words, cols)

    def scan(part: tuple[int, int]) -> Scan:
        raw = read(part[0] * geometry.width, part[1] * geometry.width)
        return measure(matrix, planes.words_of(raw, geometry), part[0] // cols)

    scanned: list[Scan] = list(each(scan, parts))
    sample = _joined([s.sample for s in scanned])
    sample.flags.writeable = False
    frequent = frequent_words(sample, matrix.step_shift)
    candidates = _contexts(matrix, scanned, wanted, effort)
    shape_of = matrix.sampled_cols, matrix.step_shift, mantissa
    counted = {
        number: _count(
            sample, shape_of, frequent, context.rows[::stride], sampled(context.columns, matrix.apart), number
        )
        for number, context in candidates.items()
    }
    signed = not all(s.positive for s in scanned)
    field = geometry.mantissa - mantissa + signed
    number, why = _choose(candidates, counted, field, len(sample), words, effort)
    chosen, counts = candidates[number], counted[number]
    if stride * matrix.apart > 1:
        # Where symbols are octaves, few of them have a code, and one more on either side spares many escapes.
        symbols.smooth(counts, *floats.widest_window(frequent).tolist(), 0 if mantissa else 1)
    plan = entropy.best_plan(effort.coder, counts)
    classes = _joined([s.classes for s in scanned])
    if len(frequent):
        classes[:] = classes.min(axis=1, keepdims=True)
    order, starts = (
        scales.column_order(chosen.columns) if number == BOTH else (symbols.EMPTY_WORDS, symbols.EMPTY_COUNTS)
    )
    code = FloatCode(
        geometry, mantissa, cols, number, chosen.rows, chosen.columns, order, starts, classes, frequent, signed,
        plan.coder, plan.tables,
    )  # fmt: skip
    window = floats.window_of(code)

    @cache
    def coder() -> tuple[Ints, ...]:
        """Made when the first chunk is coded: they are a hundred times as large as all else that a plan holds."""
        return entropy.encoder(plan.coder, plan.tables)

    def encode_chunk(k: int, raw: Bytes, out: Bytes) -> Bytes:
        return floats.encode_chunk(code, window, coder(), raw, parts[k][0] // cols, None, out)

    head = floats.write_head(code, entropy.described(plan), chosen.side)
    bits = _bits(code, plan, counts, words)
    return Fitted(code, head, bits, why, parts, encode_chunk, sample, counts, plan, chosen.side)


def _joined(arrays: list[Any]) -> Any:
    """Arrays whose last axes follow upon each other, as one."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)


def without_zeros(fitted: Fitted, words: int, read: Read, each: Each, left: float) -> Fitted:
    """The same code for the words of a sparse tensor, zero being frequent: of the zeros a share is `left`, the others
    have no symbols. `bits` are those of as many words as the tensor has, were they all like these; `encode` stays that
    of all words."""
    zero, counts = fitted.code.zero_number, fitted.counts
    if int(counts.sum() - counts[:, zero].sum() * (1 - left)) < ENOUGH:
        counts = _count_all(fitted, read, each)
    counts = entropy.thinned(counts, zero, left)
    plan = entropy.best_plan(fitted.code.coder, counts)
    code = replace(fitted.code, coder=plan.coder, tables=plan.tables)
    head = floats.write_head(code, entropy.described(plan), fitted.side)
    return replace(fitted, code=code, head=head, bits=_bits(code, plan, counts, words), counts=counts, plan=plan)


def _count_all(fitted: Fitted, read: Read, each: Each) -> Counts:
    """How often each symbol stands in the whole tensor, [tables, 256]: where hardly any word is left, a sample of rows
    holds too few to make tables from, or to tell what they take."""
    code, width = fitted.code, fitted.code.geometry.width

    def count(part: tuple[int, int]) -> Counts:
        found = planes.words_of(read(part[0] * width, part[1] * width), code.geometry)
        rows = code.row_scales[code.rows_of(part[0] // code.cols, len(found))]
        shape = code.cols, code.step_shift, code.mantissa
        return _count(found, shape, code.frequent, rows, code.column_scales, code.context)

    total: Counts = np.sum(list(each(count, fitted.parts)), axis=0)
    return total


def _contexts(matrix: Matrix, scanned: list[Scan], wanted: list[int], effort: Effort) -> dict[int, _Context]:
    """What the words may be told by, of all that is `wanted`: one scale for all, the mean of those of rows, if symbols
    reach the highest that was measured from there; the scales of rows; these and those of columns that vary."""
    above, below = matrix.reach
    rows, mean, highest = scales.known_rows(_joined([s.rows for s in scanned]), above, below)
    alone = np.full(matrix.rows, max(mean, highest - above), np.int16)
    found = {ALONE: _Context(alone, symbols.EMPTY_SCALES, b"")}
    if ROWS in wanted:
        found[ROWS] = _Context(rows, symbols.EMPTY_SCALES, floats.write_rows(rows))
    if BOTH in wanted:
        sums: Counts = sum((s.columns for s in scanned[1:]), scanned[0].columns.astype(np.int64))
        columns = np.empty(matrix.cols, np.int16)
        variance = scales.column_scales(sums, sum(s.column_rows for s in scanned), matrix.mantissa, columns)
        if variance >= effort.columns_must_vary:
            found[BOTH] = _Context(rows, columns, found[ROWS].side + floats.write_columns(columns))
    return found


def _count(
    words: Ints, shape: tuple[int, int, int], frequent: Ints, rows: Scales, columns: Scales, context: int
) -> Counts:
    """How often each symbol stands in words of these rows and columns, [tables, 256]. shape: columns, bits of the head
    below the symbol, mantissa bits in it."""
    counts = np.zeros((fixed.tables_of(context), 256), np.int64)
    symbols.tally(
        words, *shape, frequent if len(frequent) else None, floats.widest_window(frequent),
        np.ascontiguousarray(rows), columns, counts,
    )  # fmt: skip
    return counts


def _bits(code: FloatCode, plan: entropy.Plan, counts: Counts, words: int) -> int:
    """Bits that all words take, going by the counts of the sample, without the head."""
    tail_bytes = sum(int(tails.tail_bytes(code.cols, words, found)) for found in code.classes)
    seen = plan.symbols
    repeated = int(counts[:, : len(code.frequent)].sum()) if len(code.frequent) else 0
    coded = plan.coded_bits + int(counts[:, symbols.ESCAPE].sum()) * 8 * chunks.ESCAPE_BYTES
    return (coded * words + (seen - repeated) * (code.field_width * words + 8 * tail_bytes)) // max(seen, 1)


def frequent_words(sample: Ints, step_shift: int) -> Ints:
    """Words of magnitude zero (zeros, subnormals such as decayed moments) that make up much of the sample, most
    frequent first; none, if the rarer ones would be so many escapes that it doesn't pay."""
    zero = symbols.of_magnitude_zero(sample, step_shift)
    if zero * RARE < len(sample):
        return sample[:0]
    heads = sample >> (8 * sample.itemsize - 16) if sample.itemsize > 1 else sample.astype(np.uint16) << 8
    found, counts = np.unique(sample[(heads & 0x7FFF) >> step_shift == 0], return_counts=True)
    order = np.argsort(-counts, kind="stable")[: fixed.MOST_FREQUENT]
    order = order[counts[order] * RARE * 4 >= len(sample)]
    rest = zero - int(counts[order].sum())
    chosen: Ints = found[order] if 8 * rest <= zero else found[:0]
    chosen.flags.writeable = False
    return chosen


def _choose(
    candidates: dict[int, _Context], counted: dict[int, Counts], field: int, sampled: int, words: int, effort: Effort
) -> tuple[int, str]:
    """The context whose coded sample, scaled up, tables and side information are smallest, and the figures that say
    so. counted: the symbols of the sample, `sampled` words, in each; field: bits of the raw field."""
    if len(candidates) == 1:
        return ALONE, ""
    bits: dict[int, int] = {}
    for number, context in candidates.items():
        plan = entropy.plan(effort.coder, counted[number])
        coded = plan.coded_bits + int(counted[number][:, symbols.ESCAPE].sum()) * 8 * chunks.ESCAPE_BYTES
        bits[number] = plan.bits - plan.coded_bits + coded * words // sampled + 8 * len(context.side)
    best = min(bits, key=lambda number: bits[number])
    if best == BOTH:
        next_best = min((c for c in bits if c != BOTH), key=lambda context: bits[context])
        if (bits[next_best] - bits[BOTH]) * 1000 < effort.columns_must_save * (bits[BOTH] + field * words):
            best = next_best
    return best, " ".join(f"{CONTEXTS[c]} {b / words + field:.2f}" for c, b in bits.items())
