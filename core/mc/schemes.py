"""The schemes of quantization and pruning as plain data: what undoing each takes to know, and which tensors it stores.

The names that are stored are those of compressed-tensors where it has any: NAME_packed, NAME_scale, NAME_shape,
NAME_zero_point (FORMAT.md, section 11). Rows are entries of the first dimension, columns all others together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import log2, prod
from typing import Any

Shape = tuple[int, ...]
Parts = dict[str, tuple[str, Shape]]  # dtype and shape of each stored tensor, by name

FLOATS = ("F64", "F32", "F16", "BF16")  # what can be quantized
NARROW = ("I8", "I16", "I32")  # types of a grid's integers
MOST_CODES = 256
EFFORTS = (4, 8, 64, 256)  # states of a trellis
BEYOND = 2.0**127  # steps of a grid are below
NF4_GROUP = 64


@dataclass(frozen=True)
class Cast:
    """Floats of a narrower type."""

    to: str  # BF16 or F16


@dataclass(frozen=True)
class Fp8:
    """Floats of eight bits, in units of a scale."""

    to: str  # F8_E4M3 or F8_E5M2
    per: str  # channel or tensor: what has a scale


@dataclass(frozen=True)
class Int:
    """Integers of a few bits, packed into words of 32, in units of a scale for each group of columns."""

    bits: int  # 2 to 8
    group: int  # columns of a group; 0: the whole row
    symmetric: bool  # if not, each group has a zero point too


@dataclass(frozen=True)
class Codebook:
    """Indices into a dictionary of values (Deep Compression, arXiv 1510.00149, section 3)."""

    codes: int  # values, 2 to 256
    rows: int  # rows that share a dictionary; 0: all


@dataclass(frozen=True)
class Nf4:
    """Indices into the 16 quantiles of a Gaussian, in units of the largest magnitude of a group (QLoRA, arXiv
    2305.14314, appendix E)."""

    group: int  # numbers of a group, counted along the flattened tensor


@dataclass(frozen=True)
class Grid:
    """Integers in units of a step, which is one for the tensor, or scaled for each row and column by eighths of an
    octave."""

    to: str  # type of the integers
    step: float
    rows: bool  # whether rows have scales
    columns: bool


@dataclass(frozen=True)
class Trellis:
    """Integers on two interleaved lattices in units of a step like a grid's; which one a weight lies on, the integers
    before it in its row decide."""

    to: str  # type of the integers
    step: float
    states: int  # 4, 8, 64 or 256
    rows: bool  # whether rows have scales
    columns: bool


@dataclass(frozen=True)
class Mantissa:
    """Floats of their own type, whose mantissas were rounded: by a step relative to the power of two below each."""

    step: float


@dataclass(frozen=True)
class Channel:
    """Integers of eight bits in units of a scale for each row, as readers of compressed-tensors know them."""

    to: str  # I8


@dataclass(frozen=True)
class Sparse:
    """The tensor itself, with zeros in the place of what was pruned."""

    method: str  # for people


MOST_TAKEN_OUT = 1 << 12  # entries for each that is kept, and one more


@dataclass(frozen=True)
class Shrunk:
    """A tensor without the entries of one dimension that were pruned."""

    method: str
    axis: int
    kept: int  # entries that are left

    @property
    def most(self) -> int:
        """Entries that there can have been: what is stored must have earned the memory that it comes back in."""
        return MOST_TAKEN_OUT * (self.kept + 1)


@dataclass(frozen=True)
class LowRank:
    """The product of two factors, and perhaps sparse weights beside it."""

    rank: int
    residual: bool


Scheme = Cast | Fp8 | Int | Codebook | Nf4 | Grid | Trellis | Mantissa | Channel | Sparse | Shrunk | LowRank
PRUNED = (Sparse, Shrunk, LowRank)  # of a step `prune`; all others are of `quantize`
SCHEMES: dict[str, type[Any]] = {
    "cast": Cast, "fp8": Fp8, "int": Int, "codebook": Codebook, "nf4": Nf4, "grid": Grid, "trellis": Trellis,
    "mantissa": Mantissa, "channel": Channel, "sparse": Sparse, "shrunk": Shrunk, "low-rank": LowRank,
}  # fmt: skip


def scheme_name(scheme: Scheme) -> str:
    """As the recipe calls it."""
    return next(name for name, kind in SCHEMES.items() if type(scheme) is kind)


def described(scheme: Scheme) -> str:
    """As people call it: int4 g128, fp8 e4m3."""
    match scheme:
        case Cast(to):
            return {"BF16": "bf16", "F16": "fp16"}[to]
        case Fp8(to, per):
            return f"fp8 {to.removeprefix('F8_').lower()} per {per}"
        case Int(bits, group, symmetric):
            return f"int{bits}" + f" g{group}" * bool(group) + " asymmetric" * (not symmetric)
        case Codebook(codes, _):
            return f"codebook {codes}"
        case Nf4(group):
            return f"nf4 g{group}"
        case Grid(to, _, rows, columns):
            return f"grid {to.lower()}" + " rows" * rows + " columns" * columns
        case Trellis(_, _, states, rows, columns):
            return f"trellis {states}" + " rows" * rows + " columns" * columns
        case Mantissa(step):
            return f"mantissa of {max(-log2(step), 0.0):.1f} bits"
        case Channel(to):
            return f"grid {to.lower()} per channel"
        case Sparse(method) | Shrunk(method):
            return method
        case LowRank(rank, residual):
            return f"rank {rank}" + " + sparse" * residual


def written(scheme: Scheme) -> dict[str, object]:
    """The scheme as the recipe holds it."""
    return {"scheme": scheme_name(scheme), **asdict(scheme)}


def read(found: Mapping[str, object]) -> Scheme | None:
    """Undo `written`; None for what it can't have written."""
    match found:
        case {"scheme": "cast", "to": ("BF16" | "F16") as to}:
            return Cast(to)
        case {"scheme": "fp8", "to": ("F8_E4M3" | "F8_E5M2") as to, "per": ("channel" | "tensor") as per}:
            return Fp8(to, per)
        case {"scheme": "int", "bits": bits, "group": group, "symmetric": bool(symmetric)} if _whole(
            bits, 2, 8
        ) and _whole(group, 0, 2**31):
            return Int(int(str(bits)), int(str(group)), symmetric)
        case {"scheme": "codebook", "codes": codes, "rows": rows} if _whole(codes, 2, MOST_CODES) and _whole(
            rows, 0, 2**31
        ):
            return Codebook(int(str(codes)), int(str(rows)))
        case {"scheme": "nf4", "group": group} if _whole(group, 1, 2**31):
            return Nf4(int(str(group)))
        case {
            "scheme": "grid", "to": ("I8" | "I16" | "I32") as to, "step": float(step),
            "rows": bool(rows), "columns": bool(columns),
        } if 0 <= step < BEYOND:  # fmt: skip
            return Grid(to, step, rows, columns)
        case {
            "scheme": "trellis", "to": ("I8" | "I16" | "I32") as to, "step": float(step), "states": states,
            "rows": bool(rows), "columns": bool(columns),
        } if 0 <= step < BEYOND and type(states) is int and states in EFFORTS:  # fmt: skip
            return Trellis(to, step, states, rows, columns)
        case {"scheme": "mantissa", "step": float(step)} if 0 < step < BEYOND:
            return Mantissa(step)
        case {"scheme": "channel", "to": "I8" as to}:
            return Channel(to)
        case {"scheme": "sparse", "method": str(method)}:
            return Sparse(method)
        case {"scheme": "shrunk", "method": str(method), "axis": axis, "kept": kept} if _whole(axis, 0, 63) and _whole(
            kept, 0, 2**31 - 1
        ):
            return Shrunk(method, int(str(axis)), int(str(kept)))
        case {"scheme": "low-rank", "rank": rank, "residual": bool(residual)} if _whole(rank, 0, 2**31 - 1):
            return LowRank(int(str(rank)), residual)
    return None


def _whole(found: object, least: int, most: int) -> bool:
    return type(found) is int and least <= found <= most  # a boolean is an int to isinstance


def matrix(shape: Shape) -> tuple[int, int]:
    """Rows and columns of a tensor; one of a single dimension is one row."""
    return (shape[0], prod(shape[1:])) if len(shape) > 1 else (1, prod(shape))


def scale_dtype(dtype: str) -> str:
    """Of the scales of a tensor of this dtype: its own, since that is what readers make of it; f32 for f64."""
    return "F32" if dtype == "F64" else dtype


def parts(name: str, scheme: Scheme, dtype: str, shape: Shape) -> Parts:
    """The tensors that are stored for a tensor of this name, dtype and shape."""
    rows, cols = matrix(shape)
    scale = scale_dtype(dtype)
    match scheme:
        case Cast(to):
            return {name: (to, shape)}
        case Fp8(to, per):
            return {name: (to, shape), f"{name}_scale": (scale, (rows, 1) if per == "channel" else (1,))}
        case Int(bits, group, symmetric):
            groups = _count(cols, group) if group else 1
            packed: Parts = {
                f"{name}_packed": ("I32", (rows, _count(cols * bits, 32))),
                f"{name}_scale": (scale, (rows, groups)),
                f"{name}_shape": ("I64", (2,)),
            }
            points: Parts = {f"{name}_zero_point": ("I32", (_count(rows * bits, 32), groups))}
            return packed if symmetric else packed | points
        case Codebook(codes, block):
            return {
                f"{name}_indices": ("U8", shape),
                f"{name}_codebook": ("F32", (_count(rows, block) if block else 1, codes)),
            }
        case Nf4(group):
            return {f"{name}_indices": ("U8", shape), f"{name}_absmax": ("F32", (_count(rows * cols, group),))}
        case Channel(to):
            return {name: (to, shape), f"{name}_scale": (scale, (rows, 1))}
        case Mantissa() | Sparse():
            return {name: (dtype, shape)}
        case Shrunk(_, axis, kept):
            left = tuple(kept if at == axis else count for at, count in enumerate(shape))
            return {name: (dtype, left), f"{name}.mc_kept": ("I32", (kept,))}
        case LowRank(rank, residual):
            factors: Parts = {
                f"{name}.mc_left": (scale, (rows, rank)),
                f"{name}.mc_right": (scale, (rank, *(shape[1:] if len(shape) > 1 else shape))),
            }
            return factors | ({f"{name}.mc_sparse": (dtype, shape)} if residual else {})
        case Grid(to, _, by_row, by_column) | Trellis(to, _, _, by_row, by_column):
            stored: Parts = {name: (to, shape)}
            if by_row:
                stored[f"{name}_row_scale"] = ("U8", (rows,))
            if by_column:
                stored[f"{name}_column_scale"] = ("U8", (cols,))
            return stored


def _count(whole: int, part: int) -> int:
    return -(-whole // part)
