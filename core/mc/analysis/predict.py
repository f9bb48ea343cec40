"""How many bytes `mc pack` will make of a tensor and of a file: the codec's own plans, and a spread of coded chunks.

Only `code` of mc.codec.choose is relied on: it returns the head, the spans of the chunks, and what codes one.
"""

from __future__ import annotations

import numpy as np

from mc import blob
from mc.analysis.tally import Read
from mc.checkpoint import Layout
from mc.codec.choose import code
from mc.codec.floats import NO_ROOM
from mc.packing import room
from mc.recipe import Recipe

LEVELS = ("fast", "default", "best")
CODED = 8  # chunks of a tensor that are coded, evenly spread
ALIKE = 0.02  # by how much their ratios may differ; if they differ more, all chunks are coded


def tensor_bytes(
    dtype: str, shape: tuple[int, ...], nbytes: int, read: Read, level: str, smallest: int = 0, states: int = 0
) -> int:  # fmt: skip
    """Bytes of a tensor of `nbytes` once packed at a level, header apart; below `smallest` bytes it isn't coded.
    `states`: of the trellis whose integers these are, if they are any's."""
    if not nbytes:
        return 0
    if nbytes < smallest:
        return 1 + nbytes + blob.overhead(1)

    def frozen(start: int, stop: int) -> np.ndarray:
        raw = read(start, stop)
        raw.flags.writeable = False  # as pack hands it over: one kind of array, so that every loop is compiled once
        return raw

    coded = code(dtype, shape, nbytes, frozen, level, map, states)
    spans = coded.spans

    def size(number: int) -> int:
        return len(coded.encode(number, frozen(*spans[number]), NO_ROOM))

    picked = np.unique(np.linspace(0, len(spans) - 1, min(CODED, len(spans))).round().astype(int)).tolist()
    sizes = {number: size(number) for number in picked}
    ratios = [sizes[k] / (spans[k][1] - spans[k][0]) for k in picked]
    if len(picked) < len(spans) and max(ratios) - min(ratios) > ALIKE * max(ratios):
        sizes = {number: sizes[number] if number in sizes else size(number) for number in range(len(spans))}
    raw_bytes = sum(spans[k][1] - spans[k][0] for k in sizes)
    scaled = round(sum(sizes.values()) * nbytes / raw_bytes) if raw_bytes else 0
    return min(len(coded.head) + scaled, nbytes + 1) + blob.overhead(len(spans))


def file_bytes(layout: Layout, recipe: Recipe, sizes: list[int], twins: dict[str, str], level: str) -> int:
    """Bytes of a packed file whose tensors take `sizes`, those with the same bytes as an earlier one (`twins`) none;
    `recipe` is what it was quantized by, if it was."""
    reserved = len(blob.write_reserved(layout.prefix))
    return room(layout, twins, recipe, level) + reserved + sum(sizes)
