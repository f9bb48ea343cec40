"""How a float tensor is best coded: its matrix form, its scales, the contexts that pay, the tables.

One pass over the chunks measures scales and row classes and keeps a sample of whole rows. On the sample, contexts are
compared by counted bits, tables and side information charged, and from its counts the tables are made, with codes for
what is near the symbols seen and an escape for the rest. The second pass is the coding itself.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from mc.codec import chunks, entropy, floats, planes, scales, symbols, tails
from mc.codec.floats import ALONE, BOTH, CONTEXTS, ROWS, FloatCode
from mc.codec.tables import Tables
from mc.codec.typing import Bytes, Counts, Ints, Scales

PSEUDO_ROW = 512  # words a row where a tensor has no rows of its own
LEAST_ROWS = 64  # of the sample, where there are so many
MOST_SAMPLED = 1 << 22  # words of the sample, all the same
RARE = 64  # one word in so many: below this, words of magnitude zero are left as they are
FEW = 4096  # words below which scales of rows can't pay
ENOUGH = 1 << 13  # words for tables: those of 40 symbols made from so many cost .0035 bits a word more than exact ones
SPREAD = 4, 10  # octaves above and below the mean magnitude of a row in which nearly all of its words lie
MANY = 100  # one word in so many: as many escapes take half a bit a word
NO_TABLES = Tables(np.zeros((1, 256), np.uint8), np.zeros(1, np.int64))

Read = Callable[[int, int], Bytes]  # bytes start to stop of a tensor, as u8
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
    "fast": Effort((ALONE,), entropy.HUFFMAN, 1 << 13, 0, 0, EXPONENT),
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
    encode: Callable[[int, Bytes], Bytes]  # (chunk, its bytes) -> coded
    sample: Ints  # words of rows from all over the tensor
    counts: Counts  # that the tables are made from
    plan: entropy.Plan
    side: bytes  # scales as they stand in the head


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


@dataclass(frozen=True)
class _Matrix:
    """A float tensor as rows and columns, and what is looked at of it."""

    geometry: planes.Geometry
    words: int
    cols: int
    step_shift: int
    mantissa: int
    every: int  # rows are measured whose number is a multiple of this
    stride: int  # and these are sampled
    column_stride: int  # and of these the columns are measured; 0: of none

    @property
    def rows(self) -> int:
        """Rows, of which the last may be shorter."""
        return -(-self.words // self.cols)

    @property
    def reach(self) -> tuple[int, int]:
        """How far above and below a scale a row may lie for its words to have symbols, in eighths of an octave."""
        steps = symbols.ESCAPE - 1 - symbols.CENTRE, symbols.CENTRE
        above, below = ((most >> self.mantissa) - own for most, own in zip(steps, SPREAD, strict=True))
        return above * scales.OCTAVE, below * scales.OCTAVE


@dataclass(frozen=True)
class _Scan:
    """What the first pass learns from a chunk."""

    rows: Scales
    columns: Ints
    column_rows: int
    classes: Bytes
    sample: Ints
    positive: bool


def _scan(matrix: _Matrix, words: Ints, first: int) -> _Scan:
    """Measure a chunk whose first row has that number."""
    n = -(-len(words) // matrix.cols)
    rows = np.empty(_multiples(first, n, matrix.every), np.int16)
    columns = np.zeros(matrix.cols if matrix.column_stride else 0, np.int32)
    classes = np.empty((matrix.geometry.tails, n), np.uint8)
    sample = np.empty(_multiples(first, n, matrix.stride) * matrix.cols, words.dtype)
    column_rows, sampled, positive = scales.scan(
        words, matrix.cols, first, matrix.step_shift, matrix.mantissa, matrix.every, matrix.stride,
        max(matrix.column_stride, 1), rows, columns, classes, sample,
    )  # fmt: skip
    return _Scan(rows, columns, column_rows, classes, sample[:sampled], positive)


def _multiples(first: int, n: int, step: int) -> int:
    """Multiples of `step` among the n numbers from `first` on."""
    return -(-(first + n) // step) - -(-first // step)


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
    contexts = [c for c in effort.contexts if (c != BOTH or has_columns) and (c == ALONE or words >= FEW)]
    rows = -(-words // cols)
    stride = max(1, min(words // (effort.sample << mantissa), rows // LEAST_ROWS), words // MOST_SAMPLED)
    stride -= 1 - stride % 2  # odd: what comes again every so many rows, such as heads, does so at powers of two
    matrix = _Matrix(
        geometry, words, cols, geometry.mantissa - mantissa + geometry.padding, mantissa,
        1 if ROWS in contexts else stride, stride, -(-rows // scales.COLUMN_ROWS) if BOTH in contexts else 0,
    )  # fmt: skip
    parts = floats.spans(words, cols)

    def scan(part: tuple[int, int]) -> _Scan:
        raw = read(part[0] * geometry.width, part[1] * geometry.width)
        return _scan(matrix, planes.words_of(raw, geometry), part[0] // cols)

    scanned: list[_Scan] = list(each(scan, parts))
    sample = scanned[0].sample if len(scanned) == 1 else np.concatenate([s.sample for s in scanned])
    sample.flags.writeable = False
    measured = np.concatenate([s.rows for s in scanned])
    known = scales.known_rows(measured, *matrix.reach)
    code = _alone(matrix, scanned, known, int(measured.max()), sample, effort)
    candidates = _candidates(matrix, code, scanned, known, contexts, effort)
    counted = {context: _count(candidate, sample, stride) for context, (candidate, _) in candidates.items()}
    context, why = _choose(candidates, counted, len(sample), words, effort)
    chosen, side = candidates[context]
    counts = counted[context]
    if stride > 1:
        symbols.smooth(counts, *floats.widest_window(chosen).tolist())
    plan = entropy.best_plan(effort.coder, counts)
    final = replace(chosen, coder=plan.coder, tables=plan.tables)
    window = floats.window_of(final)
    coder = entropy.encoder(plan.coder, plan.tables)
    if effort.coder == entropy.ANS:
        coder = entropy.either(coder)  # Huffman's tables are best for small tensors

    def encode_chunk(k: int, raw: Bytes) -> Bytes:
        return floats.encode_chunk(final, window, coder, raw, parts[k][0] // cols)

    head = floats.write_head(final, entropy.described(plan), side)
    bits = _bits(final, plan, counts, words)
    return Fitted(final, head, bits, why, parts, encode_chunk, sample, counts, plan, side)


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
        return _count(replace(code, row_scales=rows), found, 1)

    total: Counts = np.sum(list(each(count, fitted.parts)), axis=0)
    return total


def _alone(
    matrix: _Matrix, scanned: list[_Scan], rows: Scales, highest: int, sample: Ints, effort: Effort
) -> FloatCode:
    """The code with one scale for all words, without tables yet: the mean of the known scales of `rows`, if symbols
    reach the `highest` that was measured from there."""
    classes = np.concatenate([s.classes for s in scanned], axis=1)
    frequent = frequent_words(sample, matrix.step_shift)
    if len(frequent):
        classes[:] = classes.min(axis=1, keepdims=True)
    mean, (above, _) = int(rows.sum(dtype=np.int64)) // len(rows), matrix.reach
    alone = np.full(matrix.rows, max(mean, highest - above), np.int16)
    signed = not all(s.positive for s in scanned)
    return FloatCode(
        matrix.geometry, matrix.mantissa, matrix.cols, ALONE, alone, symbols.EMPTY_SCALES, symbols.EMPTY_WORDS,
        symbols.EMPTY_COUNTS, classes, frequent, signed, effort.coder, NO_TABLES,
    )  # fmt: skip


def _candidates(
    matrix: _Matrix, code: FloatCode, scanned: list[_Scan], rows: Scales, contexts: list[int], effort: Effort
) -> dict[int, tuple[FloatCode, bytes]]:
    """The codes to compare, by context, each with its side information as it stands in a file; `rows`: known scales."""
    candidates = {ALONE: (code, b"")}
    if ROWS in contexts:
        candidates[ROWS] = (replace(code, context=ROWS, row_scales=rows), floats.write_rows(rows))
    if BOTH in contexts:
        sums: Counts = sum((s.columns for s in scanned[1:]), scanned[0].columns.astype(np.int64))
        columns = scales.column_scales(sums, sum(s.column_rows for s in scanned), matrix.mantissa)
        variance = int((columns.astype(np.int64) ** 2).sum()) * 4 // len(columns)
        if variance >= effort.columns_must_vary:
            by_rows, side = candidates[ROWS]
            order, starts = scales.column_order(columns)
            by_both = replace(by_rows, context=BOTH, column_scales=columns, order=order, starts=starts)
            candidates[BOTH] = (by_both, side + floats.write_columns(columns))
    return candidates


def _count(code: FloatCode, sample: Ints, stride: int) -> Counts:
    """How often each symbol stands in the sample, [tables, 256]."""
    counts = np.zeros((code.tables_wanted, 256), np.int64)
    symbols.tally(
        sample, code.cols, code.step_shift, code.mantissa, code.frequent_if_any, floats.widest_window(code),
        np.ascontiguousarray(code.row_scales[::stride]), code.column_scales, counts,
    )  # fmt: skip
    return counts


def _bits(code: FloatCode, plan: entropy.Plan, counts: Counts, words: int) -> int:
    """Bits that all words take, going by the counts of the sample, without the head."""
    tail_bytes = sum(int(tails.tail_bytes(code.cols, words, found)) for found in code.classes)
    seen = plan.symbols
    repeated = int(counts[:, : len(code.frequent)].sum())
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
    order = np.argsort(-counts, kind="stable")[: floats.MOST_FREQUENT]
    order = order[counts[order] * RARE * 4 >= len(sample)]
    rest = zero - int(counts[order].sum())
    chosen: Ints = found[order] if 8 * rest <= zero else found[:0]
    chosen.flags.writeable = False
    return chosen


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
        coded = plan.coded_bits + int(counted[context][:, symbols.ESCAPE].sum()) * 8 * chunks.ESCAPE_BYTES
        bits[context] = plan.bits - plan.coded_bits + coded * words // sampled + 8 * len(side)
    field = candidates[ALONE][0].field_width
    best = min(bits, key=lambda context: bits[context])
    if best == BOTH:
        next_best = min((c for c in bits if c != BOTH), key=lambda context: bits[context])
        if (bits[next_best] - bits[BOTH]) * 1000 < effort.columns_must_save * (bits[BOTH] + field * words):
            best = next_best
    return best, " ".join(f"{CONTEXTS[c]} {b / words + field:.2f}" for c, b in bits.items())
