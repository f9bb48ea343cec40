"""A float tensor as a matrix, and what the first pass over its words learns: scales, classes, a sample."""

from math import prod
from typing import NamedTuple

import numpy as np

from mc.codec import fixed, planes, scales, symbols
from mc.codec.typing import Bytes, Ints, Scales

PSEUDO_ROW = 512  # words a row where a tensor has no rows of its own
FEW = 4096  # words below which scales of rows can't pay
SPREAD = 4, 10  # octaves above and below the mean magnitude of a row in which nearly all of its words lie


def columns_of(shape: tuple[int, ...], words: int) -> tuple[int, bool]:
    """Columns of the matrix that a tensor is coded as, and whether they are columns of the tensor too.

    The last dimension if it is wide (linear layers, stacked or not), else all but the first (convolutions);
    narrow rows are put side by side."""
    if len(shape) < 2 or words < FEW:
        return min(PSEUDO_ROW, words), False
    cols = shape[-1] if shape[-1] >= fixed.NARROWEST else prod(shape[1:])
    if cols == 0:
        return min(PSEUDO_ROW, words), False  # of an unknown dtype, whose shape says nothing about its bytes
    if cols < fixed.NARROWEST:
        cols *= -(-fixed.NARROWEST // cols)
    if cols > fixed.WIDEST or cols > words:
        return PSEUDO_ROW, False
    return cols, words % cols == 0 and cols <= 0xFFFF


class Matrix(NamedTuple):
    """A float tensor as rows and columns, and what is looked at of it."""

    geometry: planes.Geometry
    words: int
    cols: int
    mantissa: int
    every: int  # rows are measured whose number is a multiple of this
    stride: int  # and these are sampled
    apart: int  # of these, one piece of scales.PIECE words in so many
    column_stride: int  # and of these the columns are measured; 0: of none

    @property
    def step_shift(self) -> int:
        """Bits of the head below the symbol."""
        return self.geometry.mantissa - self.mantissa + self.geometry.padding

    @property
    def rows(self) -> int:
        """Rows, of which the last may be shorter."""
        return -(-self.words // self.cols)

    @property
    def sampled_cols(self) -> int:
        """Words of a row that are sampled."""
        whole, rest = divmod(self.cols, scales.PIECE * self.apart)
        return whole * scales.PIECE + min(rest, scales.PIECE)

    @property
    def reach(self) -> tuple[int, int]:
        """How far above and below a scale a row may lie for its words to have symbols, in eighths of an octave."""
        steps = symbols.ESCAPE - 1 - symbols.CENTRE, symbols.CENTRE
        above, below = ((most >> self.mantissa) - own for most, own in zip(steps, SPREAD, strict=True))
        return above * scales.OCTAVE, below * scales.OCTAVE


class Scan(NamedTuple):
    """What the first pass learns from a chunk."""

    rows: Scales
    columns: Ints
    column_rows: int
    classes: Bytes
    sample: Ints
    positive: bool


def measure(matrix: Matrix, words: Ints, first: int) -> Scan:
    """Measure a chunk whose first row has that number."""
    n = -(-len(words) // matrix.cols)
    rows = np.empty(_multiples(first, n, matrix.every), np.int16)
    columns = np.zeros(matrix.cols if matrix.column_stride else 0, np.int32)
    classes = np.empty((matrix.geometry.tails, n), np.uint8)
    sample = np.empty(_multiples(first, n, matrix.stride) * matrix.sampled_cols, words.dtype)
    column_rows, sampled, positive = scales.scan(
        words, matrix.cols, first, matrix.step_shift, matrix.mantissa, matrix.every, matrix.stride, matrix.apart,
        max(matrix.column_stride, 1), rows, columns, classes, sample,
    )  # fmt: skip
    return Scan(rows, columns, column_rows, classes, sample[:sampled], positive)


def _multiples(first: int, n: int, step: int) -> int:
    """Multiples of `step` among the n numbers from `first` on."""
    return -(-(first + n) // step) - -(-first // step)


def sampled(columns: Scales, apart: int) -> Scales:
    """The scales of the columns that are sampled."""
    return columns[np.arange(len(columns)) // scales.PIECE % apart == 0] if apart > 1 and len(columns) else columns
