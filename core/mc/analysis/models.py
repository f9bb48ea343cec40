"""Models of a distribution, fitted by maximum likelihood to numbers and how often they occur."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log, pi, sqrt

import numpy as np

from mc.analysis.kinds import Floats

Parameters = dict[str, float]
Curve = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Model:
    """A fitted continuous model: the probability below x, above x, and the density at x."""

    name: str
    parameters: Parameters
    below: Curve
    above: Curve
    density: Curve


@dataclass(frozen=True)
class WholeModel:
    """A fitted model of whole numbers: the natural logarithm of the probability of k."""

    name: str
    parameters: Parameters
    log_probability: Curve


@dataclass(frozen=True)
class Points:
    """Finite numbers and how often they occur."""

    x: Floats
    n: Floats
    total: float
    low: float  # from where the least one's cell begins
    high: float  # to where the largest one's ends
    cell: float  # width of the median's cell: a number in it lies a quarter of that from its middle, in the mean

    def mean(self, values: Floats) -> float:
        """The mean of a function of the numbers."""
        return float((values * self.n).sum() / self.total)

    def median(self) -> float:
        """The middle number."""
        return float(self.x[np.searchsorted(np.cumsum(self.n), self.total / 2)])


# Continuous models.


def _gaussian(points: Points) -> Model:
    from scipy.special import ndtr

    mean = points.mean(points.x)
    std = sqrt(points.mean((points.x - mean) ** 2))
    parameters = {"mean": mean, "std": std}
    return _symmetric(
        "gaussian", parameters, mean, lambda x: ndtr((x - mean) / std), lambda x: _bell(x, mean, std)
    )  # fmt: skip


def _symmetric(name: str, parameters: Parameters, centre: float, below: Curve, density: Curve) -> Model:
    return Model(name, parameters, below, lambda x: below(2 * centre - x), density)


def _bell(x: Floats, mean: float, std: float) -> Floats:
    curve: Floats = np.exp(-((x - mean) ** 2) / (2 * std * std)) / (std * sqrt(2 * pi))
    return curve


def _laplace(points: Points) -> Model:
    location = points.median()
    scale = points.mean(np.maximum(np.abs(points.x - location), points.cell / 4))

    def cdf(x: Floats) -> Floats:
        z = (x - location) / scale
        return np.where(z < 0, np.exp(np.minimum(z, 0)) / 2, 1 - np.exp(-np.maximum(z, 0)) / 2)

    def pdf(x: Floats) -> Floats:
        return np.exp(-np.abs(x - location) / scale) / (2 * scale)

    return _symmetric("laplace", {"location": location, "scale": scale}, location, cdf, pdf)


def _student(points: Points) -> Model:
    """Location and scale by expectation maximization for each number of degrees of freedom, which is searched for
    (Lange, Little and Taylor 1989)."""
    from scipy.optimize import minimize_scalar
    from scipy.special import gammaln, stdtr

    centre = points.median()
    first = max(sqrt(points.mean((points.x - centre) ** 2)), np.finfo(float).tiny)

    def located(nu: float) -> tuple[float, float]:
        location, scale = centre, first
        for _ in range(60):
            weights = (nu + 1) / (nu + ((points.x - location) / scale) ** 2) * points.n
            location = float((weights * points.x).sum() / weights.sum())
            new = sqrt(float((weights * (points.x - location) ** 2).sum()) / points.total)
            if not new > 1e-12 * first:
                return location, 1e-12 * first
            done, scale = abs(new - scale) < 1e-6 * scale, new
            if done:
                break
        return location, scale

    def log_pdf(x: Floats, nu: float, location: float, scale: float) -> Floats:
        constant = float(gammaln((nu + 1) / 2) - gammaln(nu / 2)) - log(nu * pi) / 2 - log(scale)
        return constant - (nu + 1) / 2 * np.log1p(((x - location) / scale) ** 2 / nu)

    def cost(log_nu: float) -> float:
        nu = float(np.exp(log_nu))
        return -points.mean(log_pdf(points.x, nu, *located(nu)))

    nu = float(np.exp(minimize_scalar(cost, bounds=(log(0.3), log(300)), method="bounded", options={"xatol": 0.01}).x))
    location, scale = located(nu)
    parameters = {"location": location, "scale": scale, "degrees_of_freedom": nu}
    return _symmetric(
        "student-t", parameters, location, lambda x: np.asarray(stdtr(nu, (x - location) / scale), np.float64),
        lambda x: np.exp(log_pdf(x, nu, location, scale)),
    )  # fmt: skip


def _generalized(points: Points) -> Model:
    """Density proportional to exp(-(|x - median| / scale) ** shape); the scale follows from the shape, which is
    searched for."""
    from scipy.optimize import minimize_scalar
    from scipy.special import gammainc, gammaincc, gammaln

    location = points.median()
    away = np.maximum(np.abs(points.x - location), points.cell / 4)
    unit = float(away.max()) or 1.0

    def scaled(shape: float) -> float:
        return unit * max(float((shape * points.mean((away / unit) ** shape)) ** (1 / shape)), 1e-12)

    def log_pdf(x: Floats, shape: float, scale: float) -> Floats:
        return log(shape / (2 * scale)) - float(gammaln(1 / shape)) - (np.abs(x - location) / scale) ** shape

    def cost(log_shape: float) -> float:
        shape = float(np.exp(log_shape))
        return -points.mean(log_pdf(location + away, shape, scaled(shape)))

    best = minimize_scalar(cost, bounds=(log(0.2), log(20)), method="bounded", options={"xatol": 0.002})
    shape = float(np.exp(best.x))
    scale = scaled(shape)

    def cdf(x: Floats) -> Floats:
        z = (np.abs(x - location) / scale) ** shape
        return np.where(x < location, gammaincc(1 / shape, z) / 2, 0.5 + gammainc(1 / shape, z) / 2)

    parameters = {"location": location, "scale": scale, "shape": shape}
    return _symmetric("generalized gaussian", parameters, location, cdf, lambda x: np.exp(log_pdf(x, shape, scale)))


def _uniform(points: Points) -> Model:
    """From end to end of the cells that occur."""
    low, high = points.low, points.high
    return _symmetric(
        "uniform", {"low": low, "high": high}, (low + high) / 2, lambda x: np.clip((x - low) / (high - low), 0, 1),
        lambda x: np.where((x >= low) & (x <= high), 1 / (high - low), 0.0),
    )  # fmt: skip


def _mixture(points: Points) -> Model:
    """Two Gaussians, by expectation maximization from a narrow and a wide one."""
    from scipy.special import ndtr

    mean = points.mean(points.x)
    std = sqrt(points.mean((points.x - mean) ** 2))
    shares, means, stds = np.array([0.7, 0.3]), np.array([mean, mean]), std * np.array([0.6, 1.6])
    least, before = 1e-4 * std, -np.inf
    for _ in range(300):
        each = np.stack([w * _bell(points.x, m, s) for w, m, s in zip(shares, means, stds, strict=True)])
        whole = np.maximum(each.sum(axis=0), 1e-300)
        now = points.mean(np.log(whole))
        if now - before < 1e-7:
            break
        before = now
        weights = each / whole * points.n
        sizes = np.maximum(weights.sum(axis=1), 1e-12 * points.total)
        shares = sizes / sizes.sum()
        means = (weights * points.x).sum(axis=1) / sizes
        stds = np.sqrt((weights * (points.x - means[:, None]) ** 2).sum(axis=1) / sizes).clip(least)
    one, two = sorted(zip(shares.tolist(), means.tolist(), stds.tolist(), strict=True), key=lambda part: part[2])

    parts = (one, two)
    return Model(
        "gaussian mixture",
        {"share": one[0], "mean": one[1], "std": one[2], "mean_2": two[1], "std_2": two[2]},
        lambda x: sum((w * ndtr((x - m) / s) for w, m, s in parts), np.zeros(len(x))),
        lambda x: sum((w * ndtr((m - x) / s) for w, m, s in parts), np.zeros(len(x))),
        lambda x: sum((w * _bell(x, m, s) for w, m, s in parts), np.zeros(len(x))),
    )


CONTINUOUS = (_gaussian, _laplace, _student, _generalized, _uniform, _mixture)


# Models of whole numbers.


def _poisson(points: Points) -> WholeModel:
    from scipy.special import gammaln, xlogy

    rate = points.mean(points.x)
    return WholeModel("poisson", {"rate": rate}, lambda k: xlogy(k, rate) - rate - gammaln(k + 1))


def _geometric(points: Points) -> WholeModel:
    """P(k) = p (1 - p) ** k, k = 0, 1, ..."""
    p = 1 / (1 + points.mean(points.x))
    return WholeModel("geometric", {"p": p}, lambda k: log(p) + k * np.log1p(-p))


def _two_sided(points: Points) -> WholeModel:
    """P(k) = (1 - q) / (1 + q) q ** |k - centre|, the centre the median (Inusah and Kozubowski 2006)."""
    centre = round(points.median())
    away = points.mean(np.abs(points.x - centre))
    q = min(max(away / (sqrt(1 + away * away) + 1), 1e-12), 1 - 1e-12)
    return WholeModel(
        "two-sided geometric", {"centre": float(centre), "q": q},
        lambda k: log((1 - q) / (1 + q)) + np.abs(k - centre) * log(q),
    )  # fmt: skip


DISCRETE = (_poisson, _geometric, _two_sided)
