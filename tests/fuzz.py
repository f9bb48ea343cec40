"""Damage packed files at random, for as long as is asked: `python tests/fuzz.py --minutes 10 [--seed S]`.

Half of the time the checksums are recomputed, so that the damage reaches the decoders. Each file is read in a child
process, in all ways there are. A crash, a hang, an exception other than McError, memory out of proportion or, where
checksums were left alone, a wrong byte is printed with the seed that brings it back, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent / "core"))

import checkpoints
import mc
from anatomy import Anatomy, Blob, Chunk, dissect, read_reserved, seal, write_reserved
from jail import REFUSED, RESTORED, WAYS, Jail, Outcome
from mc.dtypes import numpy_dtype

SECONDS = 10  # for one file in one way
ALLOWANCE = 256 << 20  # bytes of memory beyond what the child has
INTERESTING = (0, 1, 2, 7, 8, 63, 64, 127, 128, 254, 255)

Random = random.Random


@dataclass(frozen=True)
class Seed:
    """A sound packed file, and what it must decode to."""

    packed: bytes
    sha256: str


def seeds() -> list[Seed]:
    """Packed files of all codings at all levels: each tensor of the zoo alone, some together, and a large one."""
    pieces = [
        checkpoints.piece("x", dtype, shape, texture, number)
        for number, texture in enumerate(checkpoints.TEXTURES)
        for dtype in ("F32", "BF16", "F16", "F8_E4M3", "F64", "I8", "I64")
        for shape in ((9, 7), (64, 66))
    ]
    originals = [checkpoints.build([piece]) for piece in pieces]
    originals.append(checkpoints.zoo())
    originals.append(checkpoints.build([checkpoints.piece("large", "BF16", (700, 1000), checkpoints.gaussian)]))
    return [
        Seed(mc.compress(data, level=level, threads=1), hashlib.sha256(data).hexdigest())
        for data in originals
        for level in ("fast", "default", "best")
    ]


def mutated(data: bytes, draw: Random) -> bytes:
    """Bytes with one to four changes: flipped, replaced, inserted, removed, repeated, cut, numbers made extreme."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        at = draw.randrange(len(changed) + 1)
        at = min(at, draw.choice((len(changed), 16, 64)))  # where heads and sizes are, more often
        kind = draw.randrange(8)
        run = draw.randint(1, 1 << draw.randint(0, 9))
        if kind == 0 and changed:
            changed[min(at, len(changed) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1 and changed:
            changed[min(at, len(changed) - 1)] = draw.choice(INTERESTING)
        elif kind == 2:
            changed[at : at + run] = draw.randbytes(min(run, len(changed) - at))
        elif kind == 3:
            changed[at:at] = draw.randbytes(run)
        elif kind == 4:
            del changed[at : at + run]
        elif kind == 5:
            changed[at:at] = changed[at : at + run]
        elif kind == 6:
            size = draw.choice((2, 4, 8))
            value = draw.choice((0, 1, (1 << 8 * size) - 1, 1 << 8 * size - 1, draw.getrandbits(8 * size)))
            changed[at : at + size] = value.to_bytes(size, "little")[: max(len(changed) - at, 0)]
        elif draw.randrange(4) == 0:
            del changed[at:]
    return bytes(changed)


def resealed(packed: bytes, draw: Random) -> bytes:
    """A file with damage below true checksums."""
    parts = dissect(packed)
    for _ in range(draw.choice((1, 1, 2))):
        draw.choice((_head, _head, _chunk, _chunk, _chunk, _frames, _manifest, _original))(parts, draw)
    return seal(parts)


def _blob(parts: Anatomy, draw: Random) -> Blob:
    return draw.choice([blob for blob in parts.blobs.values() if blob.head] or [Blob(b"\0", [Chunk(b"\0", 0)])])


def _head(parts: Anatomy, draw: Random) -> None:
    blob = _blob(parts, draw)
    blob.head = mutated(blob.head, draw)


def _chunk(parts: Anatomy, draw: Random) -> None:
    chunk = draw.choice(_blob(parts, draw).chunks or [Chunk(b"\0", 0)])
    chunk.coded = mutated(chunk.coded, draw)


def _frames(parts: Anatomy, draw: Random) -> None:
    blob = _blob(parts, draw)
    if draw.random() < 0.3:
        blob.chunks.insert(0, draw.choice(_blob(parts, draw).chunks or [Chunk(b"", 0)]))
    elif draw.random() < 0.4 and blob.chunks:
        blob.chunks.pop()
    elif draw.random() < 0.5 and blob.chunks:
        blob.chunks[0].claimed = draw.getrandbits(draw.choice((4, 16, 32)))
    else:
        blob.directory = draw.randbytes(4 * len(blob.chunks))


def _manifest(parts: Anatomy, draw: Random) -> None:
    odd: Any = draw.choice((None, -1, 0, 2, 1 << 40, "", "same", [], {}, True, 0.5, ["F32", [1], "same", "x"]))
    where = draw.choice((parts.manifest, parts.manifest.get("tensors")))
    if isinstance(where, dict) and where:
        key = draw.choice(list(where))
        entry = where[key]
        if isinstance(entry, list) and entry:
            entry[draw.randrange(len(entry))] = odd
        else:
            where[key] = odd


def _original(parts: Anatomy, draw: Random) -> None:
    """Another original header; half of the time the manifest follows, so that the sizes in it are believed."""
    prefix = read_reserved(parts.reserved)
    text = prefix[8:].decode()
    digits = [at for at, letter in enumerate(text) if letter.isdigit()] or [0]
    for _ in range(draw.randint(1, 3)):
        at = draw.choice(digits)
        text = text[:at] + draw.choice("0123456789") * draw.choice((1, 1, 2, 9)) + text[at + 1 :]
    body = text.encode()
    parts.reserved = write_reserved(len(body).to_bytes(8, "little") + body)
    if draw.random() < 0.5 and isinstance(parts.manifest.get("tensors"), dict) and len(parts.manifest["tensors"]) == 1:
        _believe(parts, draw)


def _believe(parts: Anatomy, draw: Random) -> None:
    """A tensor of another dtype and size, in the original header and in the manifest alike."""
    dtype = draw.choice((*checkpoints.FLOATS, *checkpoints.WORDS))
    width = checkpoints.WORDS.get(dtype) or numpy_dtype(dtype).itemsize
    count = draw.randint(1, 1 << draw.choice((4, 13, 20, 40, 60)))
    name = next(iter(parts.manifest["tensors"]))
    original = checkpoints.build([checkpoints.Piece(name, dtype, (count,), b"")])
    original = original.replace(b'"data_offsets":[0,0]', f'"data_offsets":[0,{count * width}]'.encode())
    original = (len(original) - 8).to_bytes(8, "little") + original[8:]
    parts.reserved = write_reserved(original)
    parts.manifest["tensors"][name] = [dtype, [count], "forged"]
    parts.manifest["bytes"] = len(original) + count * width


def judged(outcomes: list[Outcome], sealed: bool, sha256: str) -> Iterator[Outcome]:
    """Those outcomes that mustn't be."""
    for outcome in outcomes:
        if outcome.kind not in (RESTORED, REFUSED):
            yield outcome
        elif outcome.kind == RESTORED and not sealed and outcome.way != "open" and outcome.said != sha256:
            yield Outcome(outcome.way, "wrong bytes", outcome.said)
    kinds = {outcome.way: outcome.kind for outcome in outcomes}
    if kinds["decompress"] != kinds["unpack"]:
        yield Outcome("unpack", "another answer than decompress", str(kinds))
    if kinds["verify"] == RESTORED and kinds["decompress"] == REFUSED and not sealed:
        yield Outcome("verify", "found nothing in what is refused", str(kinds))


def once(number: int, sound: list[Seed], read: Callable[[bytes], list[Outcome]]) -> tuple[list[Outcome], str]:
    """One damaged file, a function of its number: what mustn't be, and how it was read."""
    draw = Random(number)
    seed = draw.choice(sound)
    sealed = draw.random() < 0.5
    data = resealed(seed.packed, draw) if sealed else mutated(seed.packed, draw)
    outcomes = read(data)
    return list(judged(outcomes, sealed, seed.sha256)), f"{'sealed' if sealed else 'plain'} {outcomes[0].kind}"


def main() -> int:
    """Fuzz, print a summary, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, help="of the first file; one printed earlier brings that file back")
    options = parser.parse_args()
    first = options.seed if options.seed is not None else random.SystemRandom().getrandbits(40)
    sound = seeds()
    print(f"{len(sound)} sound files; the first damaged one has seed {first}", flush=True)
    kinds: Counter[str] = Counter()
    bad, number, end = 0, first, time.monotonic() + 60 * options.minutes
    with Jail(ALLOWANCE, SECONDS) as jail:
        while time.monotonic() < end:
            found, kind = once(number, sound, lambda data: [jail.read(way, data) for way in WAYS])
            kinds[kind] += 1
            for outcome in found:
                bad += 1
                print(f"seed {number}: {outcome.way}: {outcome.kind}: {outcome.said}", flush=True)
            number += 1
    print(f"{number - first} damaged files in {options.minutes:g} minutes, {bad} findings")
    for kind, count in sorted(kinds.items()):
        print(f"  {kind}: {count}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
