"""Verify: every finding about a packed or plain file, tensor by tensor, without writing what would be restored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Literal

from mc.blob import decoded
from mc.checkpoint import Source, Tensor, read_layout
from mc.codec.typing import Bytes
from mc.errors import DamagedError, quote
from mc.manifest import SAME, is_packed
from mc.opening import Opening, open_packed
from mc.packing import facts_of, recipe_of
from mc.parallel import Workers
from mc.reports import Finding, VerifiedFile
from mc.streams import FromSource
from mc.units import Unit, units

Step = Callable[[int, int], None]


def verify_file(
    source: Source, original: Source | None, work: Workers, step: Step
) -> tuple[VerifiedFile, tuple[Finding, ...]]:
    """All that is wrong with one file, and with `original` given, all in which the restored file differs from it."""
    where = source.where
    try:
        layout = read_layout(source)
        packed = is_packed(layout, where)
    except DamagedError as error:
        kind: Literal["packed", "plain"] = "packed" if looks_packed(source) else "plain"
        return VerifiedFile(where, kind, source.size, 0, 0, None), (Finding(where, None, "header", str(error)),)
    if packed:
        return _verify_packed(source, original, work, step)
    findings: list[Finding] = []
    sha256 = None
    if original is not None:
        sha256 = _sha256(source, step)
        if sha256 != _sha256(original, lambda *_: None):
            findings.append(Finding(where, None, "file", f"{where} differs from {original.where}."))
    step(source.size, source.size)
    return VerifiedFile(where, "plain", source.size, len(layout.tensors), 0, sha256), tuple(findings)


def looks_packed(source: Source) -> bool:
    """Whether a file without a readable header has a mark of a packed one, in its name or its first bytes."""
    front = bytes(source.read(0, min(source.size, 4096)))
    marked = b'"mc.' in front.replace(b'"mc.recipe"', b"") or b'"__mc__"' in front
    return source.where.endswith(".mc.safetensors") or marked


def _verify_packed(
    source: Source, original: Source | None, work: Workers, step: Step
) -> tuple[VerifiedFile, tuple[Finding, ...]]:
    where = source.where
    try:
        opening = open_packed(FromSource(source), source.size)
    except DamagedError as error:
        return VerifiedFile(where, "packed", source.size, 0, 0, None), (Finding(where, None, "header", str(error)),)
    findings: list[Finding] = []
    layout = opening.original
    sha256 = hashlib.sha256(layout.prefix)
    comparable = original is not None and original.size == layout.size
    chunks, done = 0, len(layout.prefix)
    different: dict[str, None] = {}
    for attempt in work.each(_attempts, _units(source, opening), lambda found: found[0].size if found[0] else 0):
        for tensor, chunk, found in attempt:
            if isinstance(found, DamagedError):
                place = "blob" if chunk is None else f"chunk {chunk}"
                findings.append(Finding(where, tensor.name, place, f"{found}."))
                continue
            start, raw = found
            chunks += 1
            done += len(raw)
            sha256.update(raw.data)
            if comparable and original is not None and original.read(start, start + len(raw)) != raw.data:
                different[tensor.name] = None
            step(min(done, layout.size), layout.size)
    stated = opening.packed.manifest.sha256
    if not findings and sha256.hexdigest() != stated:
        message = f"The restored file has sha256 {sha256.hexdigest()}, and the manifest says {stated}."
        findings.append(Finding(where, None, "file", message))
    if original is not None:
        findings += _differences(where, original, opening, list(different))
    restored = None if findings else sha256.hexdigest()
    facts = opening.packed.manifest.quantized or _facts(opening, where)
    return VerifiedFile(where, "packed", source.size, len(layout.tensors), chunks, restored, facts), tuple(findings)


def _facts(opening: Opening, where: str) -> dict[str, dict[str, object]]:
    """What a manifest that holds a plan leaves out of quantized tensors, which recipe and blobs say."""
    return facts_of(recipe_of(opening.original, where), opening.packed.sizes)


Attempt = tuple[Tensor, int | None, "tuple[int, Bytes] | DamagedError"]


def _units(source: Source, opening: Opening) -> Iterator[tuple[Unit | None, Tensor, DamagedError | None]]:
    """Every chunk that can be found, and the damage where a blob can't be followed any further."""
    entries = opening.packed.manifest.entries
    numbers = {name: number for number, name in enumerate(entries)}
    for number, tensor in enumerate(opening.original.tensors):
        entry = entries[tensor.name]
        blob = numbers[entry.why] if entry.coding == SAME else number
        stream = FromSource(source, opening.packed.blobs[blob].start)
        try:
            for unit in units(stream, opening, blob, tensor, apart=True):
                yield unit, tensor, None
        except DamagedError as error:
            yield None, tensor, error


def _attempts(found: tuple[Unit | None, Tensor, DamagedError | None]) -> list[Attempt]:
    """What becomes of every chunk of a unit, and of the blob where it can't be followed."""
    unit, tensor, damage = found
    attempts: list[Attempt] = []
    try:
        for chunk in unit.chunks if unit is not None else ():
            try:
                attempts.append((tensor, chunk.number, (tensor.start + chunk.start, decoded(chunk))))
            except DamagedError as error:
                attempts.append((tensor, chunk.number, error))
    except DamagedError as error:
        damage = error
    return [*attempts, (tensor, None, damage)] if damage is not None else attempts


def _differences(where: str, original: Source, opening: Opening, different: list[str]) -> Iterator[Finding]:
    layout = opening.original
    if original.size != layout.size:
        message = f"The original has {layout.size} bytes by the manifest, and {original.where} has {original.size}."
        if recipe_of(layout, where):
            message += (
                " What was packed had been made smaller with loss: --against compares it with what it was made from."
            )
        yield Finding(where, None, "file", message)
    elif bytes(original.read(0, len(layout.prefix))) != layout.prefix:
        yield Finding(where, None, "header", f"The header of {original.where} is another than the restored one.")
    for name in different:
        yield Finding(where, name, "data", f"Tensor {quote(name)} differs from the one in {original.where}.")


def _sha256(source: Source, step: Step) -> str:
    digest = hashlib.sha256()
    for at in range(0, source.size, 1 << 22):
        digest.update(source.read(at, min(at + (1 << 22), source.size)))
        step(at, source.size)
    return digest.hexdigest()
