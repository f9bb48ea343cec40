"""What an analysis found, as plain data: `dataclasses.asdict` of any of these is what --json prints (ANALYZE.md)."""

from __future__ import annotations

from dataclasses import dataclass

from mc.analysis.bits import Bits
from mc.analysis.bounds import Bounds
from mc.analysis.fits import Fit
from mc.analysis.moments import Moments
from mc.analysis.structure import Structure


@dataclass(frozen=True)
class ScaleMap:
    """Mean binary logarithms of magnitude of blocks of rows (outer) by blocks of columns; None where all are zero."""

    octaves: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class TensorAnalysis:
    """All that was found out about one tensor. None stands for what could not be computed, or was not asked for."""

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    parameters: int
    bytes: int
    counted: int  # words that the figures rest on: fewer than there are if a sample was asked for
    moments: Moments
    bits: Bits
    fits: tuple[Fit, ...] | None  # the one that loses fewest bits first
    structure: Structure | None
    bounds: Bounds | None
    predicted_bytes: dict[str, int] | None  # level -> bytes after `mc pack`, header apart
    scales: ScaleMap | None
    advice: tuple[str, ...]


@dataclass(frozen=True)
class GroupAnalysis:
    """Several tensors taken together: a layer, or all."""

    name: str
    tensors: int
    parameters: int
    bytes: int
    moments: Moments  # of its float tensors; without any, of all
    joint: float | None  # bits per word, the mean over all words
    given_scales: float | None  # likewise; joint where a tensor has no scales
    bounds: Bounds | None  # of the tensors that have any, the mean over their words
    predicted_bytes: dict[str, int] | None  # of the whole: of the packed files, headers included


@dataclass(frozen=True)
class FileFacts:
    """One file that was read."""

    path: str
    kind: str  # plain, packed, array
    bytes: int
    tensors: int


@dataclass(frozen=True)
class Analysis:
    """One checkpoint."""

    path: str
    files: tuple[FileFacts, ...]
    tensors: tuple[TensorAnalysis, ...]
    groups: tuple[GroupAnalysis, ...]
    whole: GroupAnalysis
