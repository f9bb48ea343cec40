"""What goes in comes out: any checkpoint, at every level, however many threads and whichever door it is brought to."""

from __future__ import annotations

import io
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings

import mc
from anatomy import compact, dissect
from checkpoints import (
    TEXTURES,
    UNKNOWN,
    WORDS,
    Piece,
    Spacing,
    Texture,
    arange,
    build,
    cast,
    checkpoints,
    constant,
    even,
    gaussian,
    grid,
    header_of,
    narrow,
    nibbles,
    noise,
    piece,
    special,
    text,
    zoo,
)  # fmt: skip
from mc.api import Level
from mc.codec import chunks
from mc.dtypes import DTYPES, numpy_dtype
from mc.errors import McError
from mc.memory import Room
from streams import Pipe

LEVELS: tuple[Level, ...] = ("fast", "default", "best")
FIXED = 384  # bytes of a packed file of no tensors, without the original header
A_TENSOR, A_CHUNK = 200, 24

every_level = pytest.mark.parametrize("level", LEVELS)


def thorough(examples: int) -> settings:
    """Settings for so many checkpoints, which may take their time."""
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


def round_trip(data: bytes, level: Level, threads: int = 1) -> bytes:
    """Pack, see that the original comes back, and return the packed form."""
    packed = mc.compress(data, level=level, threads=threads)
    assert mc.decompress(packed, threads=threads) == data
    return packed


def allowed(data: bytes, packed: bytes) -> int:
    """Bytes that a packed file may have: the original's data, and what headers and checksums may take."""
    parts = dissect(packed)
    listed = parts.manifest["tensors"].values()
    names = [*parts.blobs, *(name for entry in listed if entry[2] == "same" for name in entry[3:])]
    spelled = sum(len(compact(name).encode()) + len(compact(compact(name)).encode()) for name in names)
    chunks = sum(len(blob.chunks) for blob in parts.blobs.values())
    body = len(data) - 8 - int.from_bytes(data[:8], "little")
    return body + len(parts.reserved) + FIXED + spelled + A_TENSOR * len(parts.blobs) + A_CHUNK * chunks


@every_level
@given(data=checkpoints())
@thorough(50)
def test_any_checkpoint_comes_back(level: Level, data: bytes) -> None:
    packed = round_trip(data, level)
    assert len(packed) <= allowed(data, packed)


@every_level
@pytest.mark.parametrize("texture", TEXTURES, ids=lambda texture: texture.__name__)
def test_every_dtype_of_every_texture_comes_back(level: Level, texture: Texture) -> None:
    pieces = [
        piece(f"{dtype} {shape}", dtype, shape, texture, seed=number)
        for number, dtype in enumerate((*DTYPES, UNKNOWN))
        for shape in [(80, 72), (3, 1, 8), (4104,)]
    ]
    round_trip(build(pieces), level)


@every_level
@pytest.mark.parametrize("texture", [noise, special, nibbles, even], ids=lambda texture: texture.__name__)
@pytest.mark.parametrize("dtype", ["F64", "F32", "BF16", "F16", "F8_E4M3", "F8_E5M2", "C64", "I8", "I64", "U8"])
@pytest.mark.parametrize("shape", [(3, 64), (65,), (64, 70), (5000, 64)])
def test_no_tensor_grows_over_the_overhead(level: Level, texture: Texture, dtype: str, shape: tuple[int, ...]) -> None:
    data = build([piece("x", dtype, shape, texture)])
    packed = round_trip(data, level)
    assert len(packed) <= allowed(data, packed)


@pytest.mark.parametrize("size", [1 << 62, 1 << 64], ids=["memory", "numbers"])
def test_a_result_beyond_all_memory_is_refused(size: int) -> None:
    with pytest.raises(McError, match=str(size)):
        Room(size)


class Lingering(ThreadPoolExecutor):
    """Keeps what its threads return, as any thread does for a moment after it has told its caller."""

    def __init__(self) -> None:
        super().__init__(2)
        self.kept: list[object] = []

    def submit(self, function: Any, /, *args: Any, **more: Any) -> Any:
        def keeping() -> object:
            self.kept.append(function(*args, **more))
            return self.kept[-1]

        return super().submit(keeping)


def test_a_thread_that_still_holds_its_result_keeps_nobody_from_it() -> None:
    pieces = [piece(f"t{k}", "BF16", (300, 64), gaussian) for k in range(20)]
    behind = -int.from_bytes(build(pieces)[:8], "little") % 8  # so that words lie where they can be decoded in place
    data = build(pieces, spacing=Spacing(behind=behind))
    with Lingering() as executor:
        packed = mc.compress(data, executor=executor)
        assert mc.decompress(packed, executor=executor) == data
        assert executor.kept


@every_level
@pytest.mark.parametrize("rows", [1100, 2200])
def test_chunks_that_are_coded_in_their_place_are_those_that_are_not(level: Level, rows: int) -> None:
    """On one thread a chunk is coded where it will stand; not so one that is longer coded than raw, behind which
    others stand in their place already. So it goes with a tensor that is read whole, and with one read by chunks."""
    weights, bits = even(np.random.default_rng(0), "BF16", rows, 1024), np.random.default_rng(1).bytes(1 << 19)
    changed = bytearray(weights.tobytes())
    changed[1 << 19 : 1 << 20] = bits  # the second chunk
    data = build([Piece("x", "BF16", (rows, 1024), bytes(changed)), piece("y", "F32", (300, 64), gaussian)])
    packed = round_trip(data, level)
    assert packed == mc.compress(data, level=level, threads=2)
    ways = [chunk.coded[0] for chunk in dissect(packed).blobs["x"].chunks]
    assert ways[1] == chunks.RAW and ways[0] & ways[2] & chunks.CODED


@given(data=checkpoints())
@thorough(25)
def test_packing_is_a_function_of_its_input(data: bytes) -> None:
    for level in LEVELS:
        packed = mc.compress(data, level=level, threads=1)
        assert mc.compress(data, level=level, threads=2) == packed
        assert mc.compress(data, level=level, threads=8) == packed
        with ThreadPoolExecutor(3) as executor:
            assert mc.compress(data, level=level, executor=executor) == packed
            assert mc.decompress(packed, executor=executor) == data
            assert executor.submit(int, "7").result() == 7  # it is the caller's, and left running
        assert mc.decompress(packed, threads=8) == data


@given(data=checkpoints())
@thorough(25)
def test_files_pipes_and_bytes_are_one(data: bytes) -> None:
    packed = mc.compress(data, threads=1)
    with tempfile.TemporaryDirectory() as folder:
        source, target, back = (Path(folder) / name for name in ("a.safetensors", "b.mc.safetensors", "c.safetensors"))
        source.write_bytes(data)
        mc.pack(source, target, threads=2)
        mc.unpack(target, back, check=True, threads=2)
        assert target.read_bytes() == packed and back.read_bytes() == data
    there, again = Pipe(data), Pipe(packed)
    packed_out, data_out = Pipe(), Pipe()
    mc.pack(there, packed_out, threads=1)  # type: ignore[arg-type]
    mc.unpack(again, data_out, check=True, threads=1)  # type: ignore[arg-type]
    assert packed_out.written == packed and data_out.written == data
    seekable = io.BytesIO()
    mc.pack(io.BytesIO(data), seekable, threads=1)
    assert seekable.getvalue() == packed


@given(data=checkpoints(dtypes=tuple(DTYPES)))
@thorough(40)
def test_the_reference_reader_opens_packed_and_restored_files(data: bytes) -> None:
    packed = mc.compress(data, threads=1)
    listed = dict(safetensors.deserialize(packed))  # type: ignore[no-untyped-call]
    assert listed.keys() == {"__mc__", *header_of(data)}
    restored = dict(safetensors.deserialize(mc.decompress(packed, threads=1)))  # type: ignore[no-untyped-call]
    assert {name: (view["dtype"], view["shape"]) for name, view in restored.items()} == {
        name: (entry["dtype"], entry["shape"]) for name, entry in header_of(data).items()
    }


@given(data=checkpoints(dtypes=tuple(DTYPES)))
@thorough(40)
def test_opened_tensors_are_those_of_the_plain_file(data: bytes) -> None:
    with mc.open(mc.compress(data, threads=1)) as packed, mc.open(data) as plain:
        assert packed.names() == plain.names() and packed.metadata == plain.metadata
        for name in plain.names():
            there, here = packed.tensor(name), plain.tensor(name)
            assert (there.dtype, there.shape) == (here.dtype, here.shape) and there.tobytes() == here.tobytes()


@every_level
@pytest.mark.parametrize("kind", [bytearray, lambda data: memoryview(bytearray(data))])
def test_the_callers_buffer_stays_as_it_was(level: Level, kind: type[bytearray]) -> None:
    pieces = [piece(f"{d}.{t.__name__}", d, (40, 70), t) for t in TEXTURES for d in ("F32", "BF16", "I8")]
    for behind in range(2):  # the words of one of the two don't lie where a machine likes them
        buffer = kind(build(pieces, {"a": "b"}, Spacing(behind=behind)))
        before = bytes(buffer)
        packed = bytearray(mc.compress(buffer, level=level, threads=2))
        kept = bytes(packed)
        assert mc.decompress(packed, threads=2) == before
        assert bytes(buffer) == before and packed == kept


# Single cases, each of which has broken a compressor, this one or another.


@every_level
@pytest.mark.parametrize("dtypes", [("F32", "I32"), ("I32", "F32"), ("BF16", "F16"), ("F32", "U8"), ("F64", "C64")])
@pytest.mark.parametrize("texture", [gaussian, constant, arange], ids=lambda texture: texture.__name__)
def test_equal_bytes_of_different_dtypes(level: Level, dtypes: tuple[str, str], texture: Texture) -> None:
    first = piece("first", dtypes[0], (96, 96), texture)
    wide = WORDS.get(dtypes[1]) or numpy_dtype(dtypes[1]).itemsize
    second = Piece("second", dtypes[1], (len(first.data) // wide,), first.data)
    packed = round_trip(build([first, second]), level)
    with mc.open(packed) as checkpoint:
        assert checkpoint.tensor("second").tobytes() == first.data
    assert mc.verify(io.BytesIO(packed)).intact


@every_level
@pytest.mark.parametrize("shape", [(3, 0), (0,), (), (1,) * 64, (2**40, 2**20)])
def test_an_unknown_dtype_of_any_shape(level: Level, shape: tuple[int, ...]) -> None:
    round_trip(build([Piece("x", UNKNOWN, shape, np.random.default_rng(0).bytes(5001))]), level)


@every_level
def test_thousands_of_tiny_tensors(level: Level) -> None:
    pieces = [piece(f"layer.{k}.scale", "F32", (k % 3,), noise, k) for k in range(3000)]
    data = build(pieces, {"format": "pt"})
    packed = round_trip(data, level, threads=2)
    assert len(packed) <= allowed(data, packed)


LARGE: list[tuple[str, tuple[int, ...], Texture]] = [
    ("BF16", (1100, 1201), gaussian),  # rows that don't divide chunks
    ("F32", (1300, 1111), narrow),
    ("F64", (5, 300_001), narrow),  # rows longer than a chunk
    ("F8_E4M3", (1_300_000,), even),
    ("F16", (20, 64, 3, 3, 129), gaussian),
    ("I8", (1000, 1501), grid),
    ("I64", (600_001,), arange),
    ("U8", (4_500_001,), text),
    ("I32", (1100, 1009), nibbles),
]


@every_level
@pytest.mark.parametrize("dtype, shape, texture", LARGE, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_large_tensor(level: Level, dtype: str, shape: tuple[int, ...], texture: Texture) -> None:
    large = piece("large", dtype, shape, texture)
    data = build([piece("odd", "U8", (3,), noise), large, Piece("tied", dtype, shape, large.data)])
    packed = round_trip(data, level, threads=2)
    assert mc.compress(data, level=level, threads=1) == packed
    with mc.open(packed) as checkpoint, mc.open(data) as plain:
        for start in (0, shape[0] // 3, shape[0] - 1):
            stop = min(start + 2, shape[0])
            assert checkpoint.rows("tied", start, stop).tobytes() == plain.rows("tied", start, stop).tobytes()


@every_level
def test_the_zoo_takes_many_paths_and_comes_back(level: Level) -> None:
    packed = round_trip(zoo(), level)
    codings = {entry[2].partition("+")[0] for entry in dissect(packed).manifest["tensors"].values()}
    assert codings >= {"alone", "nibbles", "palette", "zstd", "affine", "raw", "same", "empty"}


def test_odd_headers_come_back_to_the_byte() -> None:
    pieces = [piece(name, "F32", (2, 2), noise) for name in ("", "😀", 'q"\\', "a" * 500, "\u2028", "ü\x00\x7f")]
    for behind in range(9):
        for reverse in (False, True):
            spacing = Spacing(", ", ": ", behind, reverse, metadata_last=True, shape_first=reverse, reverse=reverse)
            round_trip(build(pieces, {"é": "\t"}, spacing), "default")


def test_a_header_that_would_grow_over_the_limit_is_refused_when_packing() -> None:
    data = build([Piece("a" * 60_000_000, "U8", (1,), b"x")])
    with pytest.raises(McError):
        mc.compress(data, threads=1)


@every_level
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_rows_of_one_magnitude_each_are_coded(level: Level, dtype: str) -> None:
    draw = np.random.default_rng(0)
    magnitudes = np.exp2(draw.integers(-12, 0, (128, 1))).astype("<f4")  # as signs with a scale for each row
    values = magnitudes * draw.choice(np.array([-1, 1], "<f4"), (128, 256)) * (1 + 0.24 * draw.random((128, 256)))
    stored = cast(values, dtype)
    packed = round_trip(build([Piece("x", dtype, stored.shape, stored.tobytes())]), level)
    coding = dissect(packed).manifest["tensors"]["x"][2]
    assert coding.startswith("alone" if level == "fast" else "rows"), coding  # a table of one symbol escapes nothing


@pytest.mark.parametrize("level", ["default", "best"])
@pytest.mark.parametrize(("dtype", "most"), [("BF16", 0.96), ("F32", 0.98)])
def test_rows_forty_powers_of_ten_apart_are_coded(level: Level, dtype: str, most: float) -> None:
    draw = np.random.default_rng(0)
    stored = cast(draw.normal(size=(512, 256)) * 10.0 ** draw.uniform(-25, 15, (512, 1)), dtype)
    data = build([Piece("x", dtype, stored.shape, stored.tobytes())])
    assert len(round_trip(data, level)) < most * len(data)


@pytest.mark.parametrize("level", ["default", "best"])
@pytest.mark.parametrize("first", [0, 1])
def test_rows_that_come_again_at_powers_of_two_are_seen_for_what_they_are(level: Level, first: int) -> None:
    values = np.random.default_rng(0).normal(0, 0.02, (2048, 512))
    even_rows = round_trip(build([Piece("x", "BF16", values.shape, cast(values, "BF16").tobytes())]), level)
    values[first::32] *= 64
    packed = round_trip(build([Piece("x", "BF16", values.shape, cast(values, "BF16").tobytes())]), level)
    assert len(packed) < 1.01 * len(even_rows)
