"""Damage to a packed file: every truncation, every flipped bit. It is named, or does no harm; it never passes."""

from __future__ import annotations

import io
import random
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import forging
import mc
from anatomy import Blob, Chunk, Header, checksum, compact, dissect, places, seal, split
from checkpoints import Piece, arange, build, few, gaussian, grid, narrow, noise, piece, text
from mc.api import Level
from mc.blob import FRAME, HEAD, BlobReader
from mc.codec.floats import spans
from mc.errors import DamagedError, McError
from mc.streams import FromMemory
from streams import Pipe

LEVELS: tuple[Level, ...] = ("fast", "default", "best")
FILE = "the given bytes"


def original() -> bytes:
    """A small checkpoint of many codings, small enough to flip every bit of its packed form."""
    pieces = [
        piece("w.bf16", "BF16", (9, 11), gaussian),
        piece("w.f32", "F32", (8, 10), narrow),
        piece("w.f8", "F8_E4M3", (6, 20), gaussian),
        piece("w.i8", "I8", (12, 20), grid),
        piece("text", "U8", (300,), text),
        piece("ids", "I64", (40,), arange),
        piece("few", "I32", (60,), few),
        piece("raw", "U8", (24,), noise),
    ]
    return build([*pieces, Piece("tied", "BF16", (9, 11), pieces[0].data), Piece("none", "F32", (0,), b"")], {"a": "b"})


DATA = original()
PACKED = {level: mc.compress(DATA, level=level, threads=1) for level in LEVELS}
every_level = pytest.mark.parametrize("level", LEVELS)


def refused(damaged: bytes, undamaged: bytes = DATA, threads: int = 1) -> str:
    """The message with which a damaged file is refused, or nothing if it gives back the original."""
    try:
        assert mc.decompress(damaged, threads=threads) == undamaged
    except McError as error:
        return str(error)
    return ""


def flips(packed: bytes) -> Iterator[tuple[int, bytes]]:
    """Every single-bit flip, with its byte."""
    for at in range(len(packed)):
        for bit in range(8):
            yield at, packed[:at] + bytes([packed[at] ^ 1 << bit]) + packed[at + 1 :]


def place_of(packed: bytes) -> list[str]:
    """For each byte, the tensor in whose blob it lies, or nothing."""
    found = [""] * len(packed)
    for name, span in places(packed).items():
        found[span.start : span.stop] = [name if name != "__mc__" else ""] * len(span)
    return found


@every_level
def test_every_flipped_bit_is_named_or_harmless(level: Level) -> None:
    packed = PACKED[level]
    names = place_of(packed)
    for at, damaged in flips(packed):
        said = refused(damaged)
        assert not said or (FILE in said and names[at] in said), (at, said)
        assert said or not names[at], f"a flip in byte {at} of {names[at]} wasn't noticed"


@every_level
def test_every_truncation_is_refused(level: Level) -> None:
    packed = PACKED[level]
    for size in range(len(packed)):
        assert FILE in refused(packed[:size])
    assert FILE in refused(packed + b"\0")


@pytest.mark.parametrize("size, missing", [(0, 12), (5, 7), (12, 3)])
def test_a_blob_says_by_how_much_it_is_too_short_for_its_head(size: int, missing: int) -> None:
    stream = FromMemory(memoryview(HEAD.pack(3, 0)), FILE)
    with pytest.raises(DamagedError, match=f"^it ends {missing} bytes too early$"):
        BlobReader(stream, size, 0, "F32", 4)


@every_level
def test_verify_finds_every_flipped_bit(level: Level) -> None:
    packed = PACKED[level]
    names = place_of(packed)
    for at, damaged in random.Random(0).sample(list(flips(packed)), 2000):
        report = mc.verify(io.BytesIO(damaged), threads=1)
        if not report.findings:
            assert mc.decompress(damaged, threads=1) == DATA and not names[at]
        elif names[at]:
            assert names[at] in {finding.tensor for finding in report.findings}
        assert report.files[0].sha256 is None or report.intact


def test_verify_finds_every_truncation() -> None:
    packed = PACKED["default"]
    for size in range(0, len(packed), 3):
        assert not mc.verify(io.BytesIO(packed[:size]), threads=1).intact


@every_level
def test_a_damaged_packed_file_never_passes_as_a_plain_one(level: Level) -> None:
    packed = PACKED[level]
    header_bytes = len(packed) - len(split(packed)[1])
    for at, damaged in flips(packed[:header_bytes]):
        whole = damaged + packed[header_bytes:]
        assert not mc.verify(io.BytesIO(whole), threads=1).intact, f"byte {at}"
        with pytest.raises(McError):
            mc.open(whole).close()
        with pytest.raises(McError):
            mc.compress(whole, threads=1)


def without_marks(header: Header) -> None:
    """Make a header that of a plain file."""
    header["__metadata__"].clear()
    header["a"] = header.pop("__mc__")


def test_one_mark_or_the_name_is_enough_to_be_no_plain_file(tmp_path: Path) -> None:
    sound = dissect(PACKED["default"])
    unmarked = seal(sound, lambda header: header["__metadata__"].clear())
    renamed = seal(sound, lambda header: header.update({"a": header.pop("__mc__")}))
    plain = seal(sound, without_marks)
    (tmp_path / "model.mc.safetensors").write_bytes(plain)
    for damaged in (io.BytesIO(unmarked), io.BytesIO(renamed), tmp_path / "model.mc.safetensors"):
        report = mc.verify(damaged, threads=1)
        assert [finding.place for finding in report.findings] == ["header"]
        assert report.files[0].kind == "packed"


@every_level
def test_damage_in_several_tensors_is_found_in_all(level: Level) -> None:
    damaged = bytearray(PACKED[level])
    spans = places(PACKED[level])
    hit = ["w.bf16", "w.i8", "text", "raw"]
    for name in hit:
        damaged[(spans[name].start + spans[name].stop) // 2] ^= 16
    found = {finding.tensor for finding in mc.verify(io.BytesIO(damaged), threads=2).findings}
    assert found == {*hit, "tied"}  # the tied tensor has the first one's bytes


LONG = build([piece("w", "BF16", (1000, 700), gaussian)])  # three chunks, the last one shorter


def test_chunks_decoded_together_are_each_named() -> None:
    packed = mc.compress(LONG, level="fast", threads=1)
    start, blob = places(packed)["w"].start, dissect(packed).blobs["w"]
    at = start + HEAD.size + len(blob.head)
    assert len(blob.chunks) == 3
    for number, chunk in enumerate(blob.chunks):
        expected = {
            0: "its directory doesn't agree with its frames|its frame doesn't agree with the directory",
            4: "its coded bytes don't match their checksum",
            12: "its decoded bytes don't match their checksum",
            FRAME.size: "its coded bytes don't match their checksum",
            FRAME.size + len(chunk.coded) - 1: "its coded bytes don't match their checksum",
        }
        for offset, message in expected.items():
            damaged = bytearray(packed)
            damaged[at + offset] ^= 1
            for said in (refused(bytes(damaged), LONG), refused(bytes(damaged), LONG, threads=2)):
                assert re.search(f"tensor 'w': (chunk {number}: )?({message})", said), (number, offset, said)
        at += FRAME.size + len(chunk.coded)
    for entry in range(3):
        damaged = bytearray(packed)
        damaged[at + 4 * entry] ^= 1
        assert "its directory doesn't agree with its frames" in refused(bytes(damaged), LONG)
        damaged[at + 4 * ((entry + 1) % 3)] ^= 1  # the sum may be right again
        assert "directory" in refused(bytes(damaged), LONG)


@pytest.mark.parametrize("method", [b"\x00", b"\x02", b"\x04", b"\xff", b""])
def test_a_chunk_among_others_that_is_stored_in_another_way_is_refused(method: bytes) -> None:
    parts = dissect(mc.compress(LONG, level="fast", threads=1))
    chunk = parts.blobs["w"].chunks[1]
    chunk.coded = method + chunk.coded[1:] if method else b""
    said = refused(seal(parts), LONG)
    assert "chunk 1: it is " in said, said


def test_a_raw_chunk_among_others_is_taken_as_it_is() -> None:
    parts = dissect(mc.compress(LONG, level="fast", threads=1))
    for chunk, (begin, end) in zip(parts.blobs["w"].chunks, spans(700_000, 700), strict=True):
        chunk.coded = b"\x00" + LONG[-1_400_000:][2 * begin : 2 * end]
        assert not refused(seal(parts), LONG)


@every_level
def test_a_pipe_is_checked_as_well(level: Level) -> None:
    packed = PACKED[level]
    for at, damaged in random.Random(1).sample(list(flips(packed)), 300):
        out = io.BytesIO()
        try:
            mc.unpack(Pipe(damaged), out, threads=1)  # type: ignore[arg-type]
        except DamagedError:
            continue
        except McError as error:
            assert "version" in str(error), (at, error)
            continue
        assert out.getvalue() == DATA


def test_checksums_recomputed_over_other_bytes_are_caught_by_the_decoded_ones() -> None:
    parts = dissect(PACKED["default"])
    for name, blob in parts.blobs.items():
        for chunk in blob.chunks:
            kept = chunk.coded
            for at in range(len(kept)):
                chunk.coded = kept[:at] + bytes([kept[at] ^ 1]) + kept[at + 1 :]
                said = refused(seal(parts))
                assert not said or name in said
            chunk.coded = kept


def test_heads_with_true_checksums_are_refused_or_harmless() -> None:
    for level in LEVELS:
        parts = dissect(PACKED[level])
        for name, blob in parts.blobs.items():
            kept = blob.head
            for at in range(len(kept)):
                for mask in (1, 128, 255):
                    blob.head = kept[:at] + bytes([kept[at] ^ mask]) + kept[at + 1 :]
                    said = refused(seal(parts))
                    assert not said or name in said
            blob.head = kept


def test_a_manifest_with_a_true_digest_is_refused_or_harmless() -> None:
    parts = dissect(PACKED["default"])
    others: list[Any] = [None, -1, 7, "", "0" * 64, [], {}, True, 1.5, 2**63]
    kept = parts.manifest
    for key, value in kept.items():
        for other in others:
            parts.manifest = {**kept, key: other}
            said = refused(seal(parts))
            assert said or key in ("level", "sha256", "base", "version", "needs"), (key, other, compact(value)[:50])


@pytest.mark.parametrize("palette", [(1, 2), (1, 1), (2, 1)])
def test_the_words_of_a_palette_rise_even_if_all_checksums_fit(palette: tuple[int, int]) -> None:
    raw = struct.pack("<I", palette[0]) * 100
    alone = bytes([255, 0, 0])  # a table whose only symbol is the first word
    head = forging.planes(form=forging.PALETTE, width=4, rest=struct.pack("<H2I", 2, *palette) + alone)
    blob = Blob(head, [Chunk(forging.chunk(b""), checksum(raw, 0, 0))])
    packed = seal(forging.anatomy("U32", [100], len(raw), blob))
    if palette == (1, 2):
        assert mc.decompress(packed, threads=1).endswith(raw)
    else:
        with pytest.raises(DamagedError, match="don't rise"):
            mc.decompress(packed, threads=1)
