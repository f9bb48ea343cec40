"""Contexts for a grid: how large each row and column is, in integers alone, and how finely to tell them apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from mc.codec import contexts, entropy, grids, trellis
from mc.codec.fields import write_array
from mc.codec.fit import Each, Read
from mc.codec.floats import spans
from mc.codec.grids import MOST_SHIFT, GridCode
from mc.codec.typing import Bytes, Counts

EIGHTHS = 4  # codes for an octave of the mean square: eighths of an octave of the magnitude
DEEPEST = 100  # codes between the least and the largest row, or column
FEWEST_ROWS = 16
# Fewer bits of the codes of rows, and of columns, that are tried: what they tell may be worth less than they take. Of
# rows of one power it is: .004 bits a weight on MiniLM. The last leaves nothing, as codes are below 128.
COARSER = (0, 1, 2, 7)
PIECES, TRIED = 16, 1 << 21  # pieces of whole rows on which this is tried, and words in them, about
FRACTIONS = np.array([2.0 ** (k / EIGHTHS - 1) for k in range(EIGHTHS)])  # that frexp can give, from a half up


@dataclass(frozen=True)
class Fitted:
    """A way to code, and what it costs."""

    code: GridCode
    plan: entropy.Plan
    bytes: int  # with the head and all that goes with segments


def codes_of(energy: Counts, count: int) -> Bytes:
    """Codes u8 for sums of squares over `count` words: eighths of an octave of the magnitude above the least. The
    division and comparisons are exact, so they are the same on every machine."""
    fraction, exponent = np.frexp(energy / count)
    found = EIGHTHS * exponent.astype(np.int64) + np.searchsorted(FRACTIONS, fraction, side="right") - 1
    live = energy > 0
    if not live.any():
        return np.zeros(len(energy), np.uint8)
    least = max(int(found[live].min()), int(found[live].max()) - DEEPEST)
    codes: Bytes = np.where(live, np.maximum(found - least, 0), 0).astype(np.uint8)
    return codes


def fit(
    nbytes: int, width: int, cols: int, coder: str, read: Read, each: Each, states: int = 0, absent: int = 0,
    present: Callable[[int, int], Bytes] | None = None,
) -> Fitted:  # fmt: skip
    """The cheapest contexts for a tensor of signed words of `width` bytes in rows of `cols`, which walk through a
    trellis of `states` if there are any. With `present`, u8 for each word of so many rows from a first one on, words
    that aren't have no symbols; they are all `absent`."""
    words = nbytes // width
    parts = spans(words, cols)
    dtype = f"<i{width}"

    def rows_of(part: tuple[int, int]) -> Counts:
        rows = np.zeros((part[1] - part[0]) // cols, np.int64)
        _energies(_words(read, part, dtype), cols, states, rows, rows[:0], rows[:0])
        return rows

    row_energy = np.concatenate(list(each(rows_of, parts)))
    # Each row weighs as much as any other, down to those whose mean square is 2^-10.
    weights = np.minimum((cols << 16) // np.maximum(row_energy, 1), 1 << 26)

    def columns_of(part: tuple[int, int]) -> Counts:
        rows, columns = np.zeros((part[1] - part[0]) // cols, np.int64), np.zeros(cols, np.int64)
        first = part[0] // cols
        _energies(_words(read, part, dtype), cols, states, rows, columns, weights[first : first + len(rows)])
        return columns

    column_energy: Counts = np.sum(list(each(columns_of, parts)), axis=0)
    rows, columns = codes_of(row_energy, cols), codes_of(column_energy, max(words // cols, 1) << 16)

    def counted(of_rows: Bytes, of_columns: Bytes, among: Sequence[tuple[int, int]]) -> Counts:
        shape = (int(of_rows.max()) + int(of_columns.max()) + 1, 2 if states else 1, 256)

        def count(part: tuple[int, int]) -> Counts:
            counts = np.zeros(shape, np.int64)
            words, of_part = _words(read, part, dtype), of_rows[part[0] // cols : part[1] // cols]
            if states:
                trellis.count_symbols(words, of_part, of_columns, trellis.MACHINES[states], counts)
            else:
                grids.count_symbols(words, of_part, of_columns, counts[:, 0])
            if present is not None:
                all_words, there = np.empty(len(counts), np.int64), np.empty(len(counts), np.int64)
                grids.segment_sizes(of_part, of_columns, 0, all_words)
                grids.present_sizes(of_part, of_columns, 0, present(part[0] // cols, len(of_part)), there)
                counts[:, 0, int(grids.symbol_of(absent))] -= all_words - there
            return counts

        counts = np.zeros(shape, np.int64)
        for one in each(count, among):
            counts += one
        return counts

    some = _some(words // cols, cols)
    times = words / sum(stop - start for start, stop in some)

    @cache
    def tried(by_rows: int, by_columns: int) -> int:
        of_rows, of_columns = _coarser(rows, by_rows), _coarser(columns, by_columns)
        counts = counted(of_rows, of_columns, some)
        return int(sizes(counts, times, of_rows, of_columns, width, coder, len(parts), states).min())

    by_rows = min(COARSER, key=lambda by: tried(by, 0))
    by_columns = min(COARSER, key=lambda by: tried(by_rows, by))
    rows, columns = _coarser(rows, by_rows), _coarser(columns, by_columns)
    return _cheapest(counted(rows, columns, parts), rows, columns, width, cols, coder, len(parts), states)


def _some(rows: int, cols: int) -> list[tuple[int, int]]:
    """First and last word (exclusive) of pieces of whole rows, evenly spread; of all, if they are few."""
    size = max(TRIED // PIECES // cols, 1)
    if rows <= PIECES * size:
        return [(0, rows * cols)]
    starts = ((rows - size) * k // (PIECES - 1) for k in range(PIECES))
    return [(start * cols, (start + size) * cols) for start in starts]


def _coarser(codes: Bytes, by: int) -> Bytes:
    """Codes that tell less, and take fewer bytes."""
    coarse: Bytes = (codes >> by << by).astype(np.uint8)
    return coarse


def _energies(words: Counts, cols: int, states: int, rows: Counts, columns: Counts, weights: Counts) -> None:
    if states:
        trellis.energies(words, cols, trellis.MACHINES[states], rows, columns, weights)
    else:
        grids.energies(words, cols, rows, columns, weights)


def _words(read: Read, part: tuple[int, int], dtype: str) -> Counts:
    width = int(dtype[2:])
    words: Counts = read(part[0] * width, part[1] * width).view(dtype)
    return words


def _cheapest(
    counts: Counts, rows: Bytes, columns: Bytes, width: int, cols: int, coder: str, chunks: int, states: int
) -> Fitted:
    """The best contexts of 2^shift codes each."""
    found = sizes(counts.copy(), 1.0, rows, columns, width, coder, chunks, states)
    shift = int(found.argmin())
    plan = entropy.plan(coder, np.add.reduceat(counts, np.arange(0, len(counts), 1 << shift), axis=0).reshape(-1, 256))
    if shift == MOST_SHIFT:  # all in one context: nothing is known of rows and columns
        rows, columns = np.zeros_like(rows), np.zeros_like(columns)
    return Fitted(GridCode(width, cols, shift, rows, columns, coder, plan.tables, states), plan, int(found[shift]))


def sizes(
    counts: Counts, times: float, rows: Bytes, columns: Bytes, width: int, coder: str, chunks: int, states: int
) -> Counts:
    """Bytes i64 [shifts] of `times` as many words as `counts` i64 [contexts, lattices, 256] has, which is used up, in
    contexts of 2^shift codes each."""
    found = np.empty(MOST_SHIFT + 1, np.int64)
    contexts.measure(counts, entropy.costs(coder), times, width, chunks, 3 if states else 0, found)
    found[:MOST_SHIFT] += len(write_array(rows)) + len(write_array(columns))
    found[MOST_SHIFT] += len(write_array(np.zeros_like(rows))) + len(write_array(np.zeros_like(columns)))
    return found
