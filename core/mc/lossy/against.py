"""What a quantized checkpoint lost: every tensor's error, recomputed from the decoded bytes and the original's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mc.loader import Checkpoint
from mc.lossy.files import Floats
from mc.lossy.loops import squares
from mc.parallel import Workers
from mc.schemes import FLOATS, described

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TensorError:
    """How far one tensor is from the original's."""

    file: str
    name: str
    scheme: str  # as people call it; empty if the tensor wasn't quantized
    error: float  # relative squared; 0 where nothing differs
    stated: float | None  # by the recipe
    squared: float
    power: float
    fault: str  # empty, or what makes the two no tensors of one kind: a whole sentence


def errors(floats: Floats, original: Checkpoint, work: Workers) -> Iterator[TensorError]:
    """The error of every tensor of either checkpoint. DamagedError for bytes that can't be decoded."""
    made: dict[str, tuple[str, float | None]] = {}
    for step in floats.recipe:
        for name, about in step.tensors.items():
            before = made.get(name)
            # What several steps lost together, none of them states.
            made[name] = (
                (described(about.scheme), about.error)
                if before is None
                else (f"{before[0]}, {described(about.scheme)}", None)
            )
    theirs = set(original.names())

    def compare(name: str) -> TensorError:
        scheme, stated = made.get(name, ("", None))
        fault, squared, power = _difference(floats, original, name) if name in theirs else (
            f"{original.where} has no such tensor.", 0.0, 0.0
        )  # fmt: skip
        error = squared / power if power else float(squared > 0)
        return TensorError(floats.where, name, scheme, error, stated, squared, power, fault)

    yield from work.each(compare, floats.names())
    for name in sorted(theirs - set(floats.names())):
        yield TensorError(floats.where, name, "", 0.0, None, 0.0, 0.0, f"{floats.where} has no such tensor.")


def _difference(floats: Floats, original: Checkpoint, name: str) -> tuple[str, float, float]:
    """A fault, or the squared error and the power."""
    if floats.shape(name) != original.shape(name):
        return f"Its shape is {list(floats.shape(name))}, and the original's {list(original.shape(name))}.", 0.0, 0.0
    if floats.dtype(name) not in FLOATS or original.dtype(name) not in FLOATS:
        same = floats.dtype(name) == original.dtype(name) and np.array_equal(floats.data(name), original.data(name))
        return "" if same else "It differs, and is no tensor of floats.", 0.0, 0.0
    ours, theirs = floats.tensor(name), original.tensor(name)
    same = ours.tobytes() == theirs.tobytes()  # NaN included
    with np.errstate(over="ignore"):
        squared, power = squares(_flat(theirs), _flat(ours))
    if not same and not np.isfinite(squared):
        return "It has numbers that are NaN or infinite, and differs in them.", 0.0, 0.0
    # A power that is no number would make the error over all tensors none, which is above no limit.
    return "", 0.0 if same else squared, power if np.isfinite(power) else 0.0


def _flat(values: Array) -> Array:
    """f64 where that is needed to tell numbers apart, else f32."""
    wide = np.float64 if values.dtype == np.float64 else np.float32
    return np.ascontiguousarray(values, wide).reshape(-1)
