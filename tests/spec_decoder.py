"""A decoder of packed files written from FORMAT.md alone, as a check of that document.

It shares no line with `mc`, is slow, and takes the simplest way everywhere. Section numbers are those of FORMAT.md.
Here is the file with its blobs; spec_codings, spec_sparse and spec_streams have what lies in them.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import xxhash

from spec_codings import open_affine, open_floats, open_grid, open_planes, open_raw, open_split, open_trellis, open_zstd
from spec_sparse import open_scarce, open_sparse
from spec_streams import WIDTHS, Reader, inflate, need


def unpack(packed: bytes) -> tuple[bytes, set[str]]:
    """The original of a packed file, and which parts of the format it takes; ValueError if a rule is broken."""
    seen: set[str] = set()
    header, stored = layout(packed[: 8 + int.from_bytes(packed[:8], "little")])
    marks = header["__metadata__"]
    need(marks["mc.format"] == "1", "2.2: another version")
    stated = b'"mc.digest":"' + marks["mc.digest"].encode() + b'"'
    prefix = packed[: stored[0][1]]
    blank = hashlib.sha256(prefix.replace(stated, b'"mc.digest":"' + b"0" * 64 + b'"'))
    need(prefix.count(stated) == 1 and blank.hexdigest() == marks["mc.digest"], "3.2: digest")
    manifest = json.loads(marks["mc.manifest"])
    need(manifest["needs"] <= 1 and manifest["base"] is None, "3.1: a later version")
    need(stored[0][0] == "__mc__" and stored[-1][2] == len(packed), "2: the data")
    blobs = {name: packed[start:stop] for name, start, stop in stored}
    original = reserved(Reader(blobs.pop("__mc__")), seen)
    listed, tensors = layout(original)
    names = list(blobs)
    need([name for name, _, _ in tensors] == list(manifest["tensors"]) == names, "8.3: the lists of tensors")
    for name, start, stop in tensors:
        dtype, shape, coding, *why = manifest["tensors"][name]
        need([dtype, shape] == [listed[name]["dtype"], listed[name]["shape"]], "8.3: dtype and shape")
        twin = why[0] if coding == "same" else name
        need(twin == name or (not blobs[name] and twin in names[: names.index(name)]), "3.1: a twin")
        if stop > start:
            original += decode_blob(Reader(blobs[twin]), names.index(twin), listed[twin]["dtype"], stop - start, seen)
        seen.add("same" if twin != name else "own" if stop > start else "empty")
    need(hashlib.sha256(original).hexdigest() == manifest["sha256"], "3.1: the sha256")
    return original, seen


def layout(prefix: bytes) -> tuple[dict[str, Any], list[tuple[str, int, int]]]:  # name, start, stop in data order
    header = json.loads(prefix[8:])
    at = [(k, *(len(prefix) + o for o in v["data_offsets"])) for k, v in header.items() if k != "__metadata__"]
    return header, sorted(at, key=lambda tensor: tensor[1:])


def reserved(reader: Reader, seen: set[str]) -> bytes:  # section 2.3
    method, size, checksum = (reader.number(kind) for kind in "BIQ")
    prefix = inflate(reader.take(), size) if method else reader.take()
    need(len(prefix) == size and xxhash.xxh3_64_intdigest(prefix, 0) == checksum, "2.3: checksum")
    seen.add(f"reserved {method}")
    return prefix


def decode_blob(blob: Reader, tensor: int, dtype: str, size: int, seen: set[str]) -> bytes:  # section 4
    def checksum(data: bytes, chunk: int) -> int:
        return xxhash.xxh3_64_intdigest(data, tensor << 32 | chunk)

    length, head_sum = (blob.number(kind) for kind in "IQ")
    head = Reader(blob.take(length))
    need(checksum(head.data, 0xFFFFFFFF) == head_sum, "4: head checksum")
    coding = head.number("B")
    width = 1 if size % WIDTHS.get(dtype, 1) else WIDTHS.get(dtype, 1)
    first = (open_raw, open_floats, open_affine, open_planes, open_zstd, open_grid, open_trellis, open_sparse)
    openers = dict(enumerate(first)) | {15: open_scarce, 16: open_split}
    span, decode = openers[coding](head, dtype, width, size, seen)
    head.end()
    out, sizes = [], []
    for chunk, start in enumerate(range(0, size, span)):
        coded_size, coded_sum, raw_sum = (blob.number(kind) for kind in "IQQ")
        coded = Reader(blob.take(coded_size))
        need(checksum(coded.data, chunk) == coded_sum, "4: coded checksum")
        raw = decode(coded, start, min(span, size - start))
        coded.end()
        need(checksum(raw, chunk) == raw_sum, "4: raw checksum")
        out.append(raw)
        sizes.append(coded_size)
    need(blob.numbers("I", len(sizes)) == sizes, "4: directory")
    blob.end()
    seen.update((f"coding {coding} of {dtype}", "one chunk" if len(sizes) == 1 else "many chunks"))
    return b"".join(out)
