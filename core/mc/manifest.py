"""The header of a packed file: two marks that it is packed, the manifest, a digest over all of it (FORMAT.md, 2 and 3).

A packed file is a safetensors file. Its header lists every tensor of the original under its own name, as the U8 blob
that holds its chunks, and the reserved tensor that holds the original header; `__metadata__` carries the rest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, NamedTuple

import orjson

from mc.checkpoint import Layout, Tensor
from mc.errors import DamagedError, McError, quote
from mc.strict_json import describe, parse_json

VERSION = 1
RESERVED = "__mc__"  # the tensor that holds the original header; one mark of a packed file
FORMAT_KEY, MANIFEST_KEY, DIGEST_KEY = "mc.format", "mc.manifest", "mc.digest"  # the first is the other mark
RECIPE_KEY = "mc.recipe"  # what a quantized file was made with: no mark, since such a file is a plain one
BLANK_DIGEST = "0" * 64
SAME = "same"
CLAIMED = 512  # bytes of a packed file among which it says how large the original is
_CLAIM = re.compile(rb'\\"bytes\\":([0-9]{1,18}),')
ALIGNMENT = 8  # the header is padded with spaces to a multiple


class Entry(NamedTuple):
    """What the manifest says of a tensor."""

    dtype: str
    shape: tuple[int, ...]
    coding: str  # for people, or SAME
    why: str  # for people, or with SAME the name of the earlier tensor that has the same bytes


@dataclass(frozen=True)
class Manifest:
    """What a packed file says of the original."""

    sha256: str
    size: int  # bytes of the original file
    level: str
    entries: dict[str, Entry]  # by name, in data order
    quantized: Mapping[str, Mapping[str, object]] = field(default_factory=dict)  # for people: scheme, error, bits ...
    plan: dict[str, Any] | None = None  # what `mc auto` did, for people and for doing it again


@dataclass(frozen=True)
class Packed:
    """The header of a packed file, checked."""

    prefix: bytes
    manifest: Manifest
    reserved: Tensor
    blobs: tuple[Tensor, ...]  # in data order, one for each entry

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each tensor's blob, by its name."""
        return {name: one.stop - one.start for name, one in zip(self.manifest.entries, self.blobs, strict=True)}


def claimed_size(front: bytes | memoryview) -> int | None:
    """Bytes of the original as the front of a packed file, CLAIMED bytes or more, says in passing: None if it says
    nothing, and not to be relied on before the header has been checked."""
    found = _CLAIM.search(front)
    return int(found[1]) if found else None


def is_packed(layout: Layout, where: str) -> bool:
    """Whether a file is meant as a packed one: either mark or the name says so."""
    return (
        any(key.startswith("mc.") and key != RECIPE_KEY for key in layout.metadata)
        or any(tensor.name == RESERVED for tensor in layout.tensors)
        or PurePath(where).name.endswith(".mc.safetensors")
    )


def write_header(manifest: Manifest, reserved: int, blobs: Sequence[int], size: int | None = None) -> bytes:
    """Length and header of a packed file whose reserved tensor and blobs have these sizes in bytes; padded with
    spaces to `size` bytes if given, else to the alignment."""
    listed: dict[str, object] = {}
    for name, entry in manifest.entries.items():
        listed[name] = [
            entry.dtype,
            list(entry.shape),
            entry.coding,
            *([entry.why] if entry.why or entry.coding == SAME else []),
        ]
    about = {
        "version": VERSION,
        "needs": VERSION,
        "sha256": manifest.sha256,
        "bytes": manifest.size,
        "level": manifest.level,
        "base": None,
        "tensors": listed,
        **({"quantized": manifest.quantized} if manifest.quantized else {}),
        **({"plan": manifest.plan} if manifest.plan is not None else {}),
    }
    metadata = {FORMAT_KEY: str(VERSION), DIGEST_KEY: BLANK_DIGEST, MANIFEST_KEY: _json(about).decode()}
    header: dict[str, object] = {"__metadata__": metadata}
    at = 0
    for name, length in zip([RESERVED, *manifest.entries], [reserved, *blobs], strict=True):
        header[name] = {"dtype": "U8", "shape": [length], "data_offsets": [at, at + length]}
        at += length
    text = orjson.dumps(header)
    wanted = size if size is not None else 8 + len(text) + -(8 + len(text)) % ALIGNMENT
    if len(text) > wanted - 8:
        raise ValueError(f"a header of {len(text)} bytes doesn't fit the {wanted - 8} reserved for it")
    padded = text.ljust(wanted - 8)
    blank = len(padded).to_bytes(8, "little") + padded
    digest = hashlib.sha256(blank).hexdigest().encode()
    return blank.replace(BLANK_DIGEST.encode(), digest, 1)


def _json(about: Mapping[str, object]) -> bytes:
    """A manifest's text. Floats, which only quantized tensors and plans have, are written as json does: 1e-05."""
    if "quantized" in about or "plan" in about:
        return json.dumps(about, ensure_ascii=False, separators=(",", ":")).encode()
    return orjson.dumps(about)


def read_packed(layout: Layout, where: str) -> Packed:
    """Check the header of a packed file whole: marks, version, digest, manifest, and that both lists agree.

    Raises DamagedError for what can't have been written, McError for a version that this one can't read."""
    metadata = layout.metadata
    version = metadata.get(FORMAT_KEY)
    missing = [key for key in (FORMAT_KEY, DIGEST_KEY, MANIFEST_KEY) if key not in metadata]
    if missing or not layout.tensors or layout.tensors[0].name != RESERVED:
        found = f"no {missing[0]!r} in its __metadata__" if missing else f"no tensor {RESERVED!r} at its start"
        raise DamagedError(
            f"{where} is meant as a packed file, but has {found}: its header is damaged. Fetch it again."
        )
    if RECIPE_KEY in metadata:
        raise DamagedError(f"{where} is a packed file with {RECIPE_KEY!r} among its marks, where it never stands.")
    if version != str(VERSION):
        _refuse_version(version, layout, where)
    _check_digest(layout.prefix, metadata[DIGEST_KEY], where)
    manifest = _manifest(metadata[MANIFEST_KEY], where)
    names = [tensor.name for tensor in layout.tensors[1:]]
    if names != list(manifest.entries):
        raise DamagedError(f"{where}: the manifest lists other tensors than the header, or in another order")
    _check_entries(manifest, layout.tensors[1:], where)
    for tensor in layout.tensors:
        if tensor.dtype != "U8" or len(tensor.shape) != 1:
            raise DamagedError(f"{where}: tensor {quote(tensor.name)} is no U8 blob, as all are in a packed file")
    return Packed(layout.prefix, manifest, layout.tensors[0], layout.tensors[1:])


def _refuse_version(version: str | None, layout: Layout, where: str) -> None:
    # A newer file is whole if its digest says so; else the digit itself may be what is damaged.
    _check_digest(layout.prefix, layout.metadata[DIGEST_KEY], where)
    raise McError(
        f"{where} has format version {quote(version or '')}, and this version of mc reads version {VERSION}. "
        "Install a newer mc."
    )


def _check_digest(prefix: bytes, digest: str, where: str) -> None:
    stated = f'"{DIGEST_KEY}":"{digest}"'.encode()
    if len(digest) != len(BLANK_DIGEST) or prefix.count(stated) != 1:
        raise DamagedError(f"{where}: the header's digest is not where it was written: its header is damaged")
    blank = prefix.replace(stated, f'"{DIGEST_KEY}":"{BLANK_DIGEST}"'.encode(), 1)
    found = hashlib.sha256(blank).hexdigest()
    if found != digest:
        raise DamagedError(
            f"{where}: the header has digest {found[:16]}..., and says {digest[:16]}...: it is damaged. "
            "Fetch the file again."
        )


def _manifest(text: str, where: str) -> Manifest:
    about = parse_json(text.encode(), f"{where}: the manifest")
    if not isinstance(about, dict):
        raise DamagedError(f"{where}: the manifest is {describe(about)}, not an object")
    needs, base = about.get("needs"), about.get("base")
    if type(needs) is not int or needs > VERSION:
        raise McError(
            f"{where} needs format version {describe(needs)}, and this mc reads {VERSION}. Install a newer one."
        )
    if base is not None:
        raise McError(f"{where} is a difference from another file, which this version of mc can't read.")
    match about:
        case {
            "version": int(),
            "sha256": str(sha256),
            "bytes": int(size),
            "level": str(level),
            "tensors": dict(listed),
        } if len(sha256) == len(BLANK_DIGEST) and size >= 0:
            plan = about.get("plan")
            if plan is not None and not isinstance(plan, dict):
                raise DamagedError(
                    f"{where}: the manifest has {describe(plan)} for a plan, where an object was expected"
                )
            entries = {name: _entry(name, said, where) for name, said in listed.items()}
            return Manifest(sha256, size, level, entries, _facts(about.get("quantized")), plan)
    raise DamagedError(f"{where}: the manifest doesn't state sha256, bytes, level and tensors as it should")


def _facts(found: object) -> dict[str, dict[str, object]]:
    """What is said of quantized tensors; for people alone, so what isn't of its form is left out."""
    kinds: dict[str, Any] = {"scheme": str, "error": (int, float), "bits": (int, float), "objective": str}
    listed = found.items() if isinstance(found, dict) else ()
    return {
        str(name): {key: said[key] for key, kind in kinds.items() if isinstance(said.get(key), kind)}
        for name, said in listed
        if isinstance(said, dict)
    }


def _entry(name: str, found: object, where: str) -> Entry:
    if isinstance(found, list) and len(found) in (3, 4):
        dtype, shape, coding = found[:3]
        why = found[3] if len(found) == 4 else ""
        texts = isinstance(dtype, str) and isinstance(coding, str) and isinstance(why, str)
        if texts and isinstance(shape, list) and all(type(count) is int and count >= 0 for count in shape):
            return Entry(dtype, tuple(shape), coding, why)
    raise DamagedError(f"{where}: the manifest's entry for tensor {quote(name)} is {describe(found)}")


def _check_entries(manifest: Manifest, blobs: tuple[Tensor, ...], where: str) -> None:
    seen: set[str] = set()
    for blob, (name, entry) in zip(blobs, manifest.entries.items(), strict=True):
        if entry.coding == SAME and (entry.why not in seen or blob.stop != blob.start):
            raise DamagedError(
                f"{where}: tensor {quote(name)} is the same as {quote(entry.why)}, which isn't before it"
            )
        if entry.coding != SAME:
            seen.add(name)
