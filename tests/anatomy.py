"""A packed file taken apart and sealed again, every checksum recomputed: what an attacker can do, and a test must.

Written from FORMAT.md's layout alone, apart from the library's own writer, so that each checks the other:
`seal(dissect(packed))` is `packed`.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash
import zstandard

HEAD = struct.Struct("<IQ")
FRAME = struct.Struct("<IQQ")
RESERVED = struct.Struct("<BIQ")
OF_HEAD = 0xFFFFFFFF
BLANK = "0" * 64
PLAIN, ZSTD = 0, 1

Header = dict[str, Any]


@dataclass
class Chunk:
    """A coded chunk. The checksum of its decoded bytes is kept: who changes the coded ones may not know it."""

    coded: bytes
    raw_sum: int
    claimed: int | None = None  # coded bytes that its frame claims, if not the truth


@dataclass
class Blob:
    """A tensor's blob; empty if it has no head."""

    head: bytes = b""
    chunks: list[Chunk] = field(default_factory=list)
    directory: bytes | None = None  # None: the truth


@dataclass
class Anatomy:
    """All of a packed file but its checksums."""

    metadata: dict[str, str]  # beside the manifest and the digest
    manifest: dict[str, Any]
    reserved: bytes
    blobs: dict[str, Blob]
    size: int  # of length and header


def split(data: bytes) -> tuple[Header, bytes]:
    """Header and data of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def places(packed: bytes) -> dict[str, range]:
    """Where each blob, and the reserved tensor, lies in a packed file."""
    header, data = split(packed)
    header.pop("__metadata__")
    origin = len(packed) - len(data)
    found = {name: entry["data_offsets"] for name, entry in header.items()}
    return {name: range(origin + start, origin + stop) for name, (start, stop) in found.items()}


def dissect(packed: bytes) -> Anatomy:
    """Take a sound packed file apart."""
    header, data = split(packed)
    metadata = header.pop("__metadata__")
    del metadata["mc.digest"]
    parts = {name: data[slice(*entry["data_offsets"])] for name, entry in header.items()}
    reserved = parts.pop("__mc__")
    blobs = {name: _blob(part) for name, part in parts.items()}
    return Anatomy(metadata, json.loads(metadata.pop("mc.manifest")), reserved, blobs, len(packed) - len(data))


def _blob(part: bytes) -> Blob:
    if not part:
        return Blob()
    length, _ = HEAD.unpack_from(part)
    at = HEAD.size + length
    found = Blob(part[HEAD.size : at])
    while len(part) - at > 4 * len(found.chunks):
        size, _, raw_sum = FRAME.unpack_from(part, at)
        at += FRAME.size
        found.chunks.append(Chunk(part[at : at + size], raw_sum))
        at += size
    return found


def checksum(data: bytes, tensor: int, chunk: int = OF_HEAD) -> int:
    """Of coded or decoded bytes that belong there."""
    return int(xxhash.xxh3_64_intdigest(data, tensor << 32 | chunk))


def write_blob(blob: Blob, tensor: int) -> bytes:
    """A blob with true checksums of head and coded bytes."""
    if not blob.head:
        return b""
    parts = [HEAD.pack(len(blob.head), checksum(blob.head, tensor)), blob.head]
    for number, chunk in enumerate(blob.chunks):
        size = len(chunk.coded) if chunk.claimed is None else chunk.claimed
        parts += [FRAME.pack(size, checksum(chunk.coded, tensor, number), chunk.raw_sum), chunk.coded]
    truth = b"".join(len(chunk.coded).to_bytes(4, "little") for chunk in blob.chunks)
    return b"".join([*parts, truth if blob.directory is None else blob.directory])


def write_reserved(original: bytes, claimed: int | None = None, body: bytes | None = None) -> bytes:
    """The reserved tensor for the original's length and header; `body`: a zstd frame in their place."""
    size = len(original) if claimed is None else claimed
    method, stored = (PLAIN, original) if body is None else (ZSTD, body)
    return RESERVED.pack(method, size, xxhash.xxh3_64_intdigest(original)) + stored


def read_reserved(reserved: bytes) -> bytes:
    """The original's length and header."""
    method, _, _ = RESERVED.unpack_from(reserved)
    body = reserved[RESERVED.size :]
    return body if method == PLAIN else zstandard.ZstdDecompressor().decompress(body)


def compact(value: object) -> str:
    """JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def seal(anatomy: Anatomy, edit: Callable[[Header], None] | None = None, digest: str | None = None) -> bytes:
    """The file with true checksums. `edit` changes the header before its digest; `digest` forges that."""
    parts = [anatomy.reserved, *(write_blob(blob, k) for k, blob in enumerate(anatomy.blobs.values()))]
    metadata = {**anatomy.metadata, "mc.digest": BLANK, "mc.manifest": compact(anatomy.manifest)}
    header: Header = {"__metadata__": metadata}
    at = 0
    for name, part in zip(["__mc__", *anatomy.blobs], parts, strict=True):
        header[name] = {"dtype": "U8", "shape": [len(part)], "data_offsets": [at, at + len(part)]}
        at += len(part)
    if edit is not None:
        edit(header)
    return sealed_text(compact(header), anatomy.size, digest) + b"".join(parts)


def sealed_text(header: str, size: int = 0, digest: str | None = None) -> bytes:
    """Length and header, padded to `size` or more, with its digest in place of the blank one."""
    text = header.encode()
    padded = text.ljust(max(size - 8, len(text) + -len(text) % 8))
    prefix = len(padded).to_bytes(8, "little") + padded
    true = hashlib.sha256(prefix).hexdigest()
    return prefix.replace(f'"mc.digest":"{BLANK}"'.encode(), f'"mc.digest":"{digest or true}"'.encode(), 1)


def struck(packed: bytes, name: str, draw: np.random.Generator, front: int | None = None) -> bytes:
    """The file with true checksums, and below them one byte of a tensor's head or one bit of its first chunk changed;
    with `front`, most often one of so many bytes at the chunk's beginning."""
    parts = dissect(packed)
    blob = parts.blobs[name]
    if draw.random() < 0.5:
        head = bytearray(blob.head)
        head[draw.integers(len(head))] = draw.integers(256)
        blob.head = bytes(head)
    else:
        coded = bytearray(blob.chunks[0].coded)
        place = draw.integers(len(coded))
        if front is not None:
            place = min(place, draw.integers(front))
        coded[place] ^= 1 << draw.integers(8)
        blob.chunks[0].coded = bytes(coded)
    return seal(parts)
