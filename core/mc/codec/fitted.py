"""What a way to code a whole tensor offers, to be compared with others by its bytes: sparse, scarce, split."""

from collections.abc import Callable
from dataclasses import dataclass

from mc.codec.typing import Bytes


@dataclass(frozen=True)
class Fitted:
    """A tensor's code, ready to code its chunks."""

    head: bytes  # after the coding number
    bytes: float  # all told, about
    name: str  # for people
    spans: list[tuple[int, int]]  # first and last byte (exclusive) of each chunk
    encode: Callable[[int, Bytes], Bytes]  # (chunk, its bytes) -> coded
