"""What a quantized file takes once it is packed: it is packed, into a file or nowhere."""

from __future__ import annotations

from mc.checkpoint import Source
from mc.packing import pack_file
from mc.parallel import Workers
from mc.pieces import Target
from mc.recipe import Recipe
from mc.reports import TensorReport
from mc.schemes import parts


class Nowhere:
    """A target that only counts."""

    def __init__(self) -> None:
        self._at = 0

    def write(self, data: bytes | memoryview) -> int:
        self._at += len(data)
        return len(data)

    def seek(self, position: int) -> int:
        self._at = position
        return position

    def tell(self) -> int:
        return self._at


def packed_parts(
    quantized: Source, recipe: Recipe, level: str, work: Workers, out: Target | None = None
) -> tuple[dict[str, TensorReport], int]:
    """How every tensor that a step stored was packed, and the bytes of the whole file, exactly; it goes to `out`, if
    any."""
    _, reports, size = pack_file(quantized, out or Nowhere(), level, work, lambda _: None)
    stored = {
        part
        for step in recipe
        for name, about in step.tensors.items()
        for part in parts(name, about.scheme, about.dtype, about.shape)
    }
    return {one.name: one for one in reports if one.name in stored}, size
