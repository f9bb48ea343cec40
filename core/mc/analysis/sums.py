"""Central moments of numbers that come in parts, and how many of them are zero, NaN, infinite or subnormal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mc.analysis.kinds import FLOATS, Kind
from mc.codec.typing import Counts, Ints


@dataclass(frozen=True)
class Sums:
    """Central moments of the finite numbers, and how many of which sort there are."""

    count: int  # finite
    nan: int
    above: int  # positive infinity
    below: int
    zeros: int
    subnormals: int
    least: float  # infinite if count is 0
    most: float
    mean: float
    m2: float  # sum of (x - mean) ** 2, and so on
    m3: float
    m4: float

    @property
    def squares(self) -> float:
        """The sum of all squares; infinite where that is beyond a float."""
        return self.m2 + self.count * (self.mean * self.mean)


NOTHING = Sums(0, 0, 0, 0, 0, 0, np.inf, -np.inf, 0.0, 0.0, 0.0, 0.0)


def merged(one: Sums, other: Sums) -> Sums:
    """The sums of both together (Pebay 2008, SAND2008-6212, equations 2.1 and 3.1)."""
    n, a, b = one.count + other.count, one.count, other.count
    mean, m2, m3, m4 = one.mean, one.m2, one.m3, one.m4
    if a == 0:
        mean, m2, m3, m4 = other.mean, other.m2, other.m3, other.m4
    elif b:
        with np.errstate(over="ignore", invalid="ignore"):
            d = np.float64(other.mean) - one.mean
            mean = one.mean + d * b / n
            m2 = one.m2 + other.m2 + d**2 * a * b / n
            m3 = one.m3 + other.m3 + d**3 * a * b * (a - b) / n**2 + 3 * d * (a * other.m2 - b * one.m2) / n
            m4 = (
                one.m4 + other.m4 + d**4 * a * b * (a * a - a * b + b * b) / n**3
                + 6 * d**2 * (a * a * other.m2 + b * b * one.m2) / n**2 + 4 * d * (a * other.m3 - b * one.m3) / n
            )  # fmt: skip
    return Sums(
        n, one.nan + other.nan, one.above + other.above, one.below + other.below, one.zeros + other.zeros,
        one.subnormals + other.subnormals, min(one.least, other.least), max(one.most, other.most),
        float(mean), float(m2), float(m3), float(m4),
    )  # fmt: skip


def sums_of_counts(kind: Kind, counts: Counts, here: Ints) -> Sums:
    """The sums of numbers that are all counted exactly, one value a bin."""
    x, c = kind.values[here], counts[here].astype(np.float64)
    n = c.sum()
    mean = float((x * c).sum() / n) if n else 0.0
    d = x - mean if len(x) > 1 else np.zeros(len(x))
    d2, sizes = d * d, np.abs(x)
    rest = np.flatnonzero(counts != 0)
    others = kind.values[rest[kind.ranks[rest] < 0]], counts[rest[kind.ranks[rest] < 0]]
    return Sums(
        int(n), int(others[1][np.isnan(others[0])].sum()), int(others[1][others[0] > 0].sum()),
        int(others[1][others[0] < 0].sum()), int(c[sizes == 0].sum()),
        int(c[(sizes < smallest_normal(kind.name)) & (sizes > 0)].sum()),
        float(x[0]) if len(x) else np.inf, float(x[-1]) if len(x) else -np.inf, mean,
        float((c * d2).sum()), float((c * d2 * d).sum()), float((c * d2 * d2).sum()),
    )  # fmt: skip


def smallest_normal(dtype: str) -> float:
    """The smallest magnitude of a float dtype with a full mantissa; 0 where there are no subnormals."""
    exponent, mantissa, _ = FLOATS.get(dtype, (0, 0, 0))
    if not exponent or not mantissa:
        return 0.0
    bias = (1 << (exponent - 1)) - (0 if dtype.endswith("FNUZ") else 1)
    return float(2.0 ** (1 - bias))


def sums_of_numbers(dtype: str, numbers: NDArray[Any]) -> Sums:
    """The sums of f32 or f64 numbers of a dtype, by two passes."""
    from mc.analysis import loops

    out = np.empty(12)
    loops.moments(numbers, smallest_normal(dtype), out)
    found = [int(x) for x in out[:6]]
    return Sums(*found, *map(float, out[6:]))
