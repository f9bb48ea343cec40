"""Small float tensors that are decoded many at once: all that can be, to the same bytes, and none that is damaged."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest

import mc
from anatomy import dissect, seal
from checkpoints import Piece, Spacing, build, cast
from mc.checkpoint import Source
from mc.codec.planes import GEOMETRIES
from mc.errors import DamagedError
from mc.memory import Room
from mc.opening import open_packed
from mc.streams import FromSource
from mc.together import Run, restored

LEVELS = ("fast", "default", "best")
SHAPES = ((64, 96), (900,), (130, 127), (1100, 640), (7, 50))  # the fourth has three chunks


def pieces(dtype: str) -> list[Piece]:
    """Tensors of which rows and columns differ in scale, with a row of zeros or none."""
    draw, found = np.random.default_rng(4), []
    for number, shape in enumerate(SHAPES):
        octaves = draw.normal(size=(*shape[:-1], 1)) + 2 * draw.normal(size=shape[-1:])
        values = (draw.normal(size=shape) * np.exp2(octaves)).astype(np.float32)
        found.append(Piece(f"t{number}", dtype, shape, cast(values, dtype).tobytes() * (2 if dtype == "C64" else 1)))
    return found


def aligned(every: list[Piece], by: int = 0) -> bytes:
    """A file whose data begin `by` bytes behind a multiple of eight."""
    size = len(build(every)) - sum(len(piece.data) for piece in every)
    return build(every, spacing=Spacing(behind=(by - size) % 8))


def run_of(packed: bytes) -> tuple[Run, list[str]]:
    """All tensors as one run, and how they are coded."""
    opening = open_packed(FromSource(Source.of(packed)), len(packed))
    tensors, blobs = opening.original.tensors, opening.packed.blobs
    bounds = [*(blob.start for blob in blobs), blobs[-1].stop]
    size = sum(tensor.stop - tensor.start for tensor in tensors)
    codings = [entry.coding for entry in opening.packed.manifest.entries.values()]
    return Run(tensors, range(len(tensors)), bounds, size), codings


def restored_of(packed: bytes, run: Run, room: Room | None = None) -> dict[str, bytes]:
    """The bytes of those tensors that can be decoded at once, by name."""
    every = zip(run.tensors, restored(Source.of(packed), run, room), strict=True)
    return {tensor.name: raw.tobytes() for tensor, raw in every if raw is not None}


@pytest.mark.parametrize(("dtype", "level"), list(product(GEOMETRIES, LEVELS)))
def test_all_that_is_coded_as_floats_or_raw_is_decoded_at_once(dtype: str, level: mc.Level) -> None:
    data = aligned(pieces(dtype))
    packed = mc.compress(data, level=level, threads=1)
    run, codings = run_of(packed)
    expected = {
        tensor.name: data[tensor.start : tensor.stop]
        for tensor, coding in zip(run.tensors, codings, strict=True)
        if coding == "raw" or coding.split("+")[0] in ("alone", "rows", "both")
    }
    assert any(coding != "raw" for coding in codings)
    for room in (None, Room(len(data))):
        if room is not None:
            room.write(data[: run.tensors[0].start])
        assert restored_of(packed, run, room) == expected


@pytest.mark.parametrize("by", [0, 1, 2, 4])
def test_what_lies_where_no_word_can_be_loaded_is_restored_all_the_same(by: int) -> None:
    """Behind tensors of bytes that end anywhere, and a header of any length."""
    odd = Piece("odd", "F8_E4M3", (777,), bytes(range(256)) * 3 + bytes(9))
    for dtype, first in product(("F64", "F32", "BF16"), (True, False)):
        every = pieces(dtype)
        every = [odd, *every] if first else [*every[:2], odd, *every[2:]]
        data = aligned(every, by)
        for threads in (1, 2):
            assert mc.decompress(mc.compress(data, level="fast", threads=1), threads=threads) == data


@pytest.mark.parametrize("level", LEVELS)
def test_a_damaged_tensor_is_left_out_and_named_and_the_others_are_not(level: mc.Level) -> None:
    every = pieces("BF16")
    packed = mc.compress(aligned(every), level=level, threads=1)
    run, _ = run_of(packed)
    draw = np.random.default_rng(2)
    for tensor, (start, stop) in zip(run.tensors, pairwise(run.bounds), strict=True):
        places = [*range(start, start + 40), *range(stop - 20, stop)]
        for at in [*places, *draw.integers(start, stop, 40)]:
            damaged = bytearray(packed)
            damaged[at] ^= 1 << int(draw.integers(8))
            left = {piece.name for piece in every} - restored_of(bytes(damaged), run).keys()
            assert left == {tensor.name}
    with pytest.raises(DamagedError, match=r"tensor 't4': "):
        mc.decompress(bytes(damaged), threads=1)


def test_tensors_that_only_look_alike_are_told_apart() -> None:
    """By a blob that is cut, or another's."""
    every = pieces("BF16")
    packed = mc.compress(aligned(every), level="best", threads=1)
    run, _ = run_of(packed)
    for number, (tensor, start) in enumerate(zip(run.tensors, run.bounds, strict=False)):
        one = Run([tensor], [number], [start, run.bounds[number + 1]], tensor.stop - tensor.start)
        assert restored_of(packed, one).keys() == {tensor.name}
        assert restored_of(packed, one._replace(bounds=[start, start + 11])) == {}
        assert restored_of(packed, one._replace(numbers=[number + 1])) == {}
    assert restored_of(packed, run._replace(numbers=range(1, len(run.tensors) + 1))) == {}


@pytest.mark.parametrize("words", [range(16), [0] * 16], ids=["each", "tied"])
def test_blobs_that_are_larger_than_any_sound_one_are_read_one_by_one(words: Iterable[int], tmp_path: Path) -> None:
    """Words, each in a blob of 8 MiB or all in the same: more at once would be out of proportion to what they hold."""
    every = [Piece(f"t{number}", "F32", (1,), bytes([word, 0, 0, 0])) for number, word in enumerate(words)]
    parts = dissect(mc.compress(build(every)))
    for blob in filter(lambda blob: blob.head, parts.blobs.values()):
        blob.directory = b"".join(len(chunk.coded).to_bytes(4, "little") for chunk in blob.chunks) + bytes(8 << 20)
    (tmp_path / "p").write_bytes(seal(parts))
    tracemalloc.start()
    try:
        with pytest.raises(DamagedError, match="tensor 't0': its directory doesn't agree with its frames"):
            mc.unpack(tmp_path / "p", tmp_path / "o", threads=1)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
