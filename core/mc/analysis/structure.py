"""How much of a matrix is low rank or sparse, and whether coding it so would beat coding its weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite, log2, sqrt

import numpy as np
from numpy.typing import NDArray

from mc.analysis.bounds import Rate
from mc.analysis.kinds import PACKED, Floats, known, numbers_of
from mc.analysis.tally import CHUNK, Read, Tally, matrix_of

EXACT = 1024  # rows or columns up to which the whole spectrum is computed
WORK = 1 << 33  # multiplications that a spectrum may take; more rows are sampled
POWERS = 2  # times that the directions are turned towards the largest ones
SKETCH, SPARE = 128, 16  # singular values of larger matrices, and directions more to find them with
POINTS = 48  # of a spectrum that is kept
STORED = 16  # bits of a number in a factor or of a weight that is kept
KNOWN_RATE = 0.25  # bits above the bound that entropy-coded scalar quantization needs (Gish and Pierce 1968)


@dataclass(frozen=True)
class Structure:
    """The spectrum of a matrix; other tensors are matrices of their first dimension by all others."""

    rows: int
    columns: int
    exact: bool  # all singular values of all rows; else the largest ones, of rows sampled where there are very many
    stable_rank: float  # squared Frobenius norm / squared spectral norm
    effective_rank: float  # e to the entropy of the squared spectrum (Roy and Vetterli 2007); if inexact, at most
    energy: dict[str, float]  # rank -> share of the squared Frobenius norm
    rank_90: int | None  # that captures 90 %; None if it is beyond what was computed
    rank_99: int | None
    break_even_rank: int  # up to which two factors have fewer numbers than the matrix
    spectrum: tuple[tuple[int, float], ...]  # (number from 1, singular value / largest)
    low_rank_gain: float | None  # bits per weight that the best rank saves over quantizing at equal error
    low_rank_best: int | None  # that rank; None if no rank below break-even is worth comparing
    sparse_gain: float | None  # likewise, for keeping the largest weights
    sparse_kept: float | None  # share of weights then kept


def structure(
    tally: Tally, dtype: str, shape: tuple[int, ...], read: Read, rate: Rate | None, seed: int = 0
) -> Structure | None:
    """The spectrum of a tensor of finite floats with rows and columns that aren't all zero; None for any other."""
    name = known(dtype)
    matrix = matrix_of(name, tally.shape)
    sums = tally.sums
    squares = sums.squares
    broken = sums.nan + sums.above + sums.below
    if matrix is None or rate is None or broken or not squares > 0 or not isfinite(squares):
        return None
    rows, cols = matrix
    most = 1023 if name == "F64" else 127  # others are divided by it as f32
    unit = 2.0 ** min(round(log2(sqrt(squares / sums.count))), most)
    source = _Rows(name, rows, cols, read, unit)
    exact = min(rows, cols) <= EXACT
    values, total, all_rows = _spectrum(source, seed) if exact else _largest(source, seed)
    if not total > 0:
        return None
    energies = values / total
    captured = np.cumsum(energies)
    even = max(1, (rows * cols - 1) // (rows + cols))
    low, best = _low_rank_gain(captured, even, rows, cols, rate)
    sparse, kept = _sparse_gain(tally, rate)
    powers = sorted({*(2**k for k in range(len(values).bit_length()) if 2**k <= len(values)), len(values)})
    picked = np.unique(np.geomspace(1, len(values), POINTS).astype(int))
    return Structure(
        rows, cols, exact and all_rows, float(total / values[0]), _effective(energies, min(rows, cols)),
        {str(k): float(min(1.0, captured[k - 1])) for k in powers}, _rank(captured, 0.9), _rank(captured, 0.99), even,
        tuple((int(k), float(sqrt(max(0.0, values[k - 1] / values[0])))) for k in picked), low, best, sparse, kept,
    )  # fmt: skip


@dataclass(frozen=True)
class _Rows:
    """A matrix read row block by row block, as f32 of about unit size."""

    dtype: str
    rows: int
    cols: int
    read: Read
    unit: float

    def blocks(self, wanted: NDArray[np.int64] | None = None) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Runs of rows, all or the wanted ones, in order."""
        bits = PACKED[self.dtype][1] if self.dtype in PACKED else 8 * _width(self.dtype)
        step = max(1, CHUNK // self.cols)
        for at in range(0, self.rows, step):
            stop = min(at + step, self.rows)
            inside = slice(None)
            here: slice | NDArray[np.int64] = inside
            if wanted is not None:
                first, last = np.searchsorted(wanted, [at, stop])
                if first == last:
                    continue
                here = wanted[first:last] - at
            raw = self.read(at * self.cols * bits // 8, stop * self.cols * bits // 8)
            numbers = numbers_of(self.dtype, raw).reshape(-1, self.cols)
            yield slice(at, stop), (numbers[here] / self.unit).astype(np.float32)


def _width(dtype: str) -> int:
    from mc.analysis.kinds import kind_of

    return kind_of(dtype).width


def _spectrum(source: _Rows, seed: int) -> tuple[Floats, float, bool]:
    """Squared singular values, their sum, and whether all rows and columns were seen."""
    small, large = min(source.rows, source.cols), max(source.rows, source.cols)
    most = max(small, WORK // small**2)
    picked = np.sort(np.random.default_rng(seed).choice(large, min(large, most), replace=False))
    gram = np.zeros((small, small))
    if source.cols <= source.rows:
        for _, block in source.blocks(picked if len(picked) < large else None):
            gram += block.T @ block
    else:
        whole = np.concatenate([block[:, picked] for _, block in source.blocks()])
        gram += whole @ whole.T
    values = np.linalg.eigvalsh(gram)[::-1].clip(0)
    return values, float(values.sum()), len(picked) == large


def _largest(source: _Rows, seed: int) -> tuple[Floats, float, bool]:
    """The largest squared singular values, by randomized subspace iteration (Halko, Martinsson and Tropp 2011,
    algorithm 4.4), and the sum of all."""
    draw = np.random.default_rng(seed)
    probe = draw.standard_normal((source.cols, SKETCH + SPARE), np.float32)
    basis, total = probe, 0.0
    for _ in range(POWERS):
        total, back = 0.0, np.zeros_like(probe)
        for _, block in source.blocks():
            total += float(np.vdot(block, block))
            back += block.T @ (block @ basis)
        basis = np.linalg.qr(back)[0]
    ranged = np.concatenate([block @ basis for _, block in source.blocks()])
    basis = np.linalg.qr(ranged)[0]
    small = np.zeros((basis.shape[1], source.cols))
    for rows, block in source.blocks():
        small += basis[rows].T @ block
    values = np.linalg.svd(small, compute_uv=False)[:SKETCH].astype(np.float64) ** 2
    return values, total, False


def _effective(energies: Floats, most: int) -> float:
    """Of energies that are known up to a rest, which is taken to be spread evenly."""
    rest, left = 1 - float(energies.sum()), most - len(energies)
    p = energies[energies > 0]
    found = float(-(p * np.log(p)).sum())
    if left > 0 and rest > 1e-12:
        found -= rest * float(np.log(rest / left))
    return float(np.exp(found))


def _rank(captured: Floats, share: float) -> int | None:
    return int(np.searchsorted(captured, share * (1 - 1e-9))) + 1 if captured[-1] >= share * (1 - 1e-9) else None


def _low_rank_gain(captured: Floats, even: int, rows: int, cols: int, rate: Rate) -> tuple[float | None, int | None]:
    """Bits per weight that two factors of 16-bit numbers save over quantizing to the same error; the best rank."""
    ranks = np.unique(np.geomspace(1, min(even, len(captured)), 24).astype(int))
    found = [
        (rate(error) + KNOWN_RATE - STORED * int(k) * (rows + cols) / (rows * cols), int(k))
        for k in ranks
        if 1e-9 < (error := 1 - float(captured[k - 1])) < 0.5  # beyond, nothing of the matrix is kept
    ]
    return max(found, default=(None, None))


def _sparse_gain(tally: Tally, rate: Rate) -> tuple[float | None, float | None]:
    """Likewise for the largest weights kept as 16-bit numbers, the place of each coded at its entropy."""
    squares = tally.kind.values[tally.here] ** 2
    order = np.argsort(-squares, kind="stable")
    counts = tally.counts[tally.here][order].astype(np.float64)
    kept, energy = np.cumsum(counts) / counts.sum(), np.cumsum(squares[order] * counts)
    found = []
    for share in np.geomspace(1e-3, 0.9, 24):
        error = 1 - float(np.interp(share, kept, energy)) / float(energy[-1])
        if 1e-9 < error < 0.5:
            places = -share * log2(share) - (1 - share) * log2(1 - share)
            found.append((float(rate(error) + KNOWN_RATE - STORED * share - places), float(share)))
    return max(found, default=(None, None))
