"""Limits of errors, looked at once more when all is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from mc.errors import LimitError, quote
from mc.lossy.requests import Target


class Judged(Protocol):
    """A tensor that became another."""

    @property
    def name(self) -> str:
        """Of both."""

    @property
    def error(self) -> float:
        """Squared, relative to its power."""

    @property
    def squared(self) -> float:
        """The squared error itself."""

    @property
    def power(self) -> float:
        """The squares of what it was."""


One = TypeVar("One", bound=Judged)


def refuse_beyond(
    where: str, tensors: Sequence[One], target: Target | None, how: Callable[[One], str], other: str
) -> None:
    """LimitError if an error is above its limit; then nothing is to be kept. `how` a tensor was made, and what `other`
    --set could give it, for the message."""
    if target is None or target.kind != "error":
        return
    if target.overall:
        error, power = sum(one.squared for one in tensors), sum(one.power for one in tensors)
        if error > target.value * power:
            raise LimitError(f"{where}: the error over all is {error / power:.3g}, above the limit {target.value:g}.")
        return
    worst = max(tensors, key=lambda one: one.error, default=None)
    if worst is not None and worst.error > target.value:
        raise LimitError(
            f"{where}: tensor {quote(worst.name)} has an error of {worst.error:.3g} {how(worst)}, above the limit "
            f"{target.value:g}. Give it another {other} with --set."
        )
