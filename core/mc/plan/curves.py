"""Bytes and losses of one kind of candidate by its step, found by trials and interpolated between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any

import numpy as np

from mc.lossy.requests import Request

Array = np.ndarray[Any, Any]
# Of a relative step: bytes and loss of the whole tensor, and the share of integers that escape.
Trial = Callable[[float], tuple[float, float, float]]
Points = tuple[Array, Array, Array]  # steps, rising; bytes; losses
FINE = 8  # steps between two of them that are interpolated
LEAP = 4.0  # times as much loss at the next step as its square would have it
LEAST_LEAP = 16.0  # times as much loss at the next step, however near
NOTHING = 1e-3  # of the loss of the widest step: leaps below don't matter
FALL = 0.3  # bits a weight from one step to the next, above which one between is tried,
MANY = 0.05  # where so much of all is lost that steps of half octaves are coarse
ROUNDS = 3  # of halving
NEAR = 1.1  # steps that are nearly as wide
BESIDE = 1 + 2e-5  # a step that is wider by as good as nothing
MOST_ESCAPES = 0.02  # share of integers without a symbol, from which on planes are cheaper


@dataclass(frozen=True)
class Curve:
    """One kind of candidate: a point for each step, or a single one."""

    request: Request | None  # None: left as it is, and packed without loss
    steps: Array  # f64, relative to the frame's unit, rising; [0] for a kind without steps
    bytes: Array  # f64, falling
    losses: Array  # f64

    def at(self, step: float) -> tuple[float, float]:
        """Bytes and loss at a step."""
        if len(self.steps) == 1:
            return float(self.bytes[0]), float(self.losses[0])
        place = np.log2(self.steps)
        where = np.log2(step)
        logs = np.log2(np.maximum(self.losses, np.finfo(float).tiny))
        return float(np.interp(where, place, self.bytes)), float(np.exp2(np.interp(where, place, logs)))

    @cached_property
    def fine(self) -> Curve:
        """The same with interpolated steps between."""
        if len(self.steps) == 1:
            return self
        near = np.linspace(0, len(self.steps) - 1, FINE * (len(self.steps) - 1) + 1)
        every = np.arange(len(self.steps))
        tiny = np.finfo(float).tiny
        steps, losses = (
            np.exp2(np.interp(near, every, np.log2(np.maximum(one, tiny)))) for one in (self.steps, self.losses)
        )
        return Curve(self.request, steps, np.interp(near, every, self.bytes), losses)


def laddered(steps: Array, trial: Trial, weights: int) -> Points:
    """Rising steps of a tensor of so many weights, tried from the widest on."""
    sizes, losses = np.empty(len(steps)), np.empty(len(steps))
    for number, step in enumerate(steps[::-1], 1):
        sizes[-number], losses[-number], escaped = trial(float(step))
        if escaped > MOST_ESCAPES:  # finer ones are coded in another way, which takes a bit more for each octave
            octaves = np.log2(step / steps[: len(steps) - number])
            sizes[: len(steps) - number] = sizes[-number] + octaves * weights / 8
            losses[: len(steps) - number] = losses[-number] / np.exp2(2 * octaves)
            break
    return steps, sizes, losses


def finer(request: Request, points: Points, trial: Trial, weights: int, most: float) -> Curve:
    """The curve through points, with steps between where bytes fall quickly; `most` is the loss of storing nothing."""
    steps, sizes, losses = points
    fall = FALL / 8 * weights
    for _ in range(ROUNDS):
        places = np.flatnonzero((sizes[:-1] - sizes[1:] > fall) & (losses[1:] > MANY * most))
        between = np.sqrt(steps[places] * steps[places + 1])
        found = np.array([trial(float(step))[:2] for step in between]).reshape(-1, 2)
        steps = np.insert(steps, places + 1, between)
        sizes = np.insert(sizes, places + 1, found[:, 0])
        losses = np.insert(losses, places + 1, found[:, 1])
    return laid(request, steps, sizes, losses, fall)


def laid(request: Request, steps: Array, sizes: Array, losses: Array, fall: float = inf) -> Curve:
    """The curve through points that were tried. Where the loss leaps from one step to the next, or bytes fall by more
    than `fall` from one to another that is nearly as wide, as with weights of a few values, nothing between is to be
    hoped for: bytes stay those of the finer step, the loss that of the wider."""
    sizes, losses = falling(sizes), rising(losses)
    usual = np.maximum(LEAP * np.square(steps[1:] / steps[:-1]), LEAST_LEAP)
    leap = losses[1:] > np.maximum(usual * losses[:-1], NOTHING * losses[-1])
    cliff = (sizes[:-1] - sizes[1:] > fall) & (steps[1:] < NEAR * steps[:-1])
    before = np.flatnonzero(leap | cliff)
    places = before + 1
    return Curve(
        request,
        np.insert(steps, places, steps[before] * BESIDE),
        np.insert(sizes, places, sizes[before]),
        np.insert(losses, places, losses[places]),
    )


def falling(sizes: Array) -> Array:
    """Sizes by rising step, as they must be: none larger than that of a finer step."""
    found: Array = np.maximum.accumulate(sizes[::-1])[::-1]
    return found


def rising(losses: Array) -> Array:
    """Losses by rising step likewise: none smaller than that of a finer step."""
    found: Array = np.minimum.accumulate(losses[::-1])[::-1]
    return found
