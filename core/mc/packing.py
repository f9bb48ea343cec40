"""Pack: one safetensors file in, one packed file out, front to back with bounded memory."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import numpy as np

from mc import blob
from mc.checkpoint import LONGEST_HEADER, Layout, Source, Tensor, read_layout
from mc.codec.choose import Coded, code, raw_code
from mc.codec.codings import word_width
from mc.codec.floats import NO_ROOM
from mc.codec.typing import Bytes
from mc.errors import McError, UsageError
from mc.heading import WHOLE, coded_from, header_room, longest_note, most_packed
from mc.manifest import SAME, Entry, Manifest, is_packed, write_header
from mc.memory import Room
from mc.parallel import Workers
from mc.recipe import Recipe, elements, read_recipe
from mc.reports import TensorReport
from mc.schemes import Trellis, described, parts
from mc.twins import find_twins

LEVELS = ("fast", "default", "best")
ROOMY = 3  # times a chunk's bytes: what coding may touch, but for rare chunks
DIGEST_STEP = 1 << 22  # bytes of a file hashed at once
DIGEST_STRIDE = 1 << 28  # bytes of memory: a tenth of a second, after which an interruption is noticed


class Target(Protocol):
    """What a packed file is written to."""

    def write(self, data: bytes | memoryview, /) -> int: ...

    def seek(self, position: int, /) -> int: ...

    def tell(self) -> int: ...


MOST_SAID = 1 << 62  # bytes of a tensor, for the longest number of bits a weight that a manifest can say
MOST_BITS = 99999999.9999

Part = memoryview | bytes
Ahead = Callable[[int, tuple[int, int]], Bytes]  # room in the target for a chunk, so many bytes behind what is written
Step = Callable[[int], None]  # takes the bytes of the original that are done


@dataclass(frozen=True)
class PackedTensor:
    """What became of a tensor."""

    coding: str
    why: str
    size: int  # bytes of its blob
    head: int = 0  # of these, what stands before the first chunk


def pack_file(
    source: Source, target: Target, level: str, work: Workers, step: Step, plan: dict[str, Any] | None = None
) -> tuple[Manifest, tuple[TensorReport, ...], int]:
    """Write the packed form of `source` to `target`, which can seek. Returns manifest, reports and bytes written.
    `plan` is what the manifest holds of how the source came about.

    DamagedError if the source is no sound safetensors file; McError if it is packed already, or changes meanwhile."""
    if level not in LEVELS:
        raise UsageError(f"level {level!r} isn't one of {', '.join(LEVELS)}")
    layout = read_layout(source)
    if is_packed(layout, source.where):
        raise McError(f"{source.where} is packed already, or marked as if it were. Unpack it first if it is.")
    twins = find_twins(source, layout)
    reserved = blob.write_reserved(layout.prefix)
    recipe = recipe_of(layout, source.where)
    start = room(layout, twins, recipe, level, plan, len(reserved))
    if start - 8 > LONGEST_HEADER:
        raise McError(
            f"{source.where} has names of so many bytes that the packed file's header, which holds them twice, would "
            f"exceed the {LONGEST_HEADER} bytes that safetensors allows. It can't be packed."
        )
    begin = target.tell()
    target.seek(begin + start)
    target.write(reserved)
    entries: dict[str, Entry] = {}
    reports: list[TensorReport] = []
    sizes: list[int] = []
    states = states_of(recipe)
    with _Digest(source) as digest:
        for tensor, packed in _pack_tensors(source, layout, twins, level, work, target, states):
            why = packed.why if packed.coding == SAME else packed.why[: longest_note(tensor, level)]
            entries[tensor.name] = Entry(tensor.dtype, tensor.shape, packed.coding, why)
            sizes.append(packed.size)
            nbytes = tensor.stop - tensor.start
            reports.append(
                TensorReport(
                    tensor.name, tensor.dtype, tensor.shape, nbytes, packed.size, packed.coding, why, packed.head
                )
            )
            step(nbytes)
        sha256 = digest.result()
    source.unchanged()
    facts = {} if plan is not None else facts_of(recipe, {one.name: one.packed_bytes for one in reports})
    manifest = Manifest(sha256, layout.size, level, entries, facts, plan)
    end = begin + start + len(reserved) + sum(sizes)
    target.seek(begin)
    target.write(write_header(manifest, len(reserved), sizes, start))
    target.seek(end)
    return manifest, tuple(reports), end - begin


def room(
    layout: Layout, twins: dict[str, str], recipe: Recipe, level: str, plan: dict[str, Any] | None = None,
    reserved: int | None = None,
) -> int:  # fmt: skip
    """Bytes of the header of the packed form of a file with this layout and these twins, which `recipe` says was
    quantized, and whose manifest holds `plan`. reserved: bytes of the reserved tensor, if they are known."""
    longest = {} if plan is not None else facts_of(recipe, {tensor.name: MOST_SAID for tensor in layout.tensors})
    reserved = reserved if reserved is not None else len(blob.write_reserved(layout.prefix))
    return header_room(layout.tensors, layout.size, twins, level, reserved, longest, plan)


def recipe_of(layout: Layout, where: str) -> Recipe:
    """The recipe of a quantized file; empty if there is none, or none that holds: to pack it takes no sound one."""
    try:
        return read_recipe(layout, where)
    except McError:
        return ()


def facts_of(recipe: Recipe, sizes: dict[str, int]) -> dict[str, dict[str, object]]:
    """What is said of each quantized tensor, given the packed bytes of all: bits a weight only where it is stored as
    its step left it. The manifest holds it where there is no plan, which says as much."""
    facts: dict[str, dict[str, object]] = {}
    for step in recipe:
        for name, one in step.tensors.items():
            stored = parts(name, one.scheme, one.dtype, one.shape)
            said: dict[str, object] = {"scheme": described(one.scheme), "error": float(f"{one.error:.6g}")}
            if all(part in sizes for part in stored):
                bits = 8 * sum(sizes[part] for part in stored) / elements(one)
                said["bits"] = min(round(bits, 4), MOST_BITS)
            facts[name] = said | ({"objective": one.objective} if one.objective else {})
    return facts


def states_of(recipe: Recipe) -> dict[str, int]:
    """Of the trellises whose integers are stored, by tensor."""
    return {
        name: one.scheme.states
        for step in recipe
        for name, one in step.tensors.items()
        if isinstance(one.scheme, Trellis)
    }


def _pack_tensors(
    source: Source, layout: Layout, twins: dict[str, str], level: str, work: Workers, target: Target,
    states: dict[str, int],
) -> Iterator[tuple[Tensor, PackedTensor]]:  # fmt: skip
    """Code and write every tensor in data order. Small ones are coded whole, several at once; large ones chunk by
    chunk. What is written doesn't depend on which way was taken."""
    # In memory and on one thread, a chunk can be coded where it will stand: what is before it has been written.
    memory = target if isinstance(target, Room) and work.executor is None else None

    def ahead(skip: int, span: tuple[int, int]) -> Bytes:
        return memory.ahead(skip, ROOMY * (span[1] - span[0])) if memory is not None else NO_ROOM

    smallest = coded_from((tensor.stop - tensor.start for tensor in layout.tensors), layout.size, level)

    def pack_small(numbered: tuple[int, Tensor]) -> tuple[PackedTensor, list[Part]]:
        index, tensor = numbered
        nbytes = tensor.stop - tensor.start
        if tensor.name in twins:
            return PackedTensor(SAME, twins[tensor.name], 0), []
        if nbytes == 0:
            return PackedTensor("empty", "", 0), []
        whole = _read(source, tensor.start, tensor.stop)
        if nbytes < smallest:
            coded = raw_code(nbytes, word_width(tensor.dtype, nbytes), "")
        else:
            walks = states.get(tensor.name, 0)
            coded = code(tensor.dtype, tensor.shape, nbytes, lambda start, stop: whole[start:stop], level, map, walks)
        parts = _whole_blob(coded, index, whole, ahead)
        size = sum(len(part) for part in parts)
        if size > most_packed(nbytes):  # what was expected to pay didn't
            coded = raw_code(nbytes, word_width(tensor.dtype, nbytes), f"coded {8 * size / nbytes:.2f} bits a byte")
            parts = _whole_blob(coded, index, whole, ahead)
            size = sum(len(part) for part in parts)
        return PackedTensor(coded.name, coded.why, size, len(parts[0])), parts

    def pack_large(index: int, tensor: Tensor) -> PackedTensor:
        def read(start: int, stop: int) -> Bytes:
            return _read(source, tensor.start + start, tensor.start + stop)

        def each(function: Callable[[Any], Any], parts: Iterable[tuple[int, int]]) -> Iterator[Any]:
            return work.each(function, parts, lambda part: part[1] - part[0])  # words or bytes: looking is quick

        walks = states.get(tensor.name, 0)
        coded = code(tensor.dtype, tensor.shape, tensor.stop - tensor.start, read, level, each, walks)
        spans, sizes = coded.spans, []
        head = blob.write_head(coded, index)
        target.write(head)
        chunks = work.each(
            lambda k: blob.frame(coded, index, k, read(*spans[k]), ahead(blob.FRAME.size, spans[k])),
            range(len(spans)),
            lambda k: spans[k][1] - spans[k][0],
        )
        for sealed in chunks:
            for part in blob.write_frame(sealed):
                target.write(part)
            sizes.append(len(sealed.coded))
        directory = blob.write_directory(sizes)
        target.write(directory)
        size = len(head) + sum(sizes) + blob.FRAME.size * len(sizes) + len(directory)
        return PackedTensor(coded.name, coded.why, size, len(head))

    def weight(numbered: tuple[int, Tensor]) -> int:
        _, tensor = numbered
        return tensor.stop - tensor.start

    def is_small(numbered: tuple[int, Tensor]) -> bool:
        _, tensor = numbered
        return tensor.stop - tensor.start <= WHOLE or tensor.name in twins

    for small, group in groupby(enumerate(layout.tensors), is_small):
        if small:
            numbered = list(group)
            for (_, tensor), (packed, parts) in zip(numbered, work.each(pack_small, numbered, weight), strict=True):
                for part in parts:
                    target.write(part)
                yield tensor, packed
        else:
            for index, tensor in group:
                yield tensor, pack_large(index, tensor)


def _whole_blob(coded: Coded, index: int, whole: Bytes, ahead: Ahead) -> list[Part]:
    parts: list[Part] = [blob.write_head(coded, index)]
    at, sizes = len(parts[0]), []
    for k, span in enumerate(coded.spans):
        at += blob.FRAME.size
        sealed = blob.frame(coded, index, k, whole[span[0] : span[1]], ahead(at, span))
        parts.extend(blob.write_frame(sealed))
        at += len(sealed.coded)
        sizes.append(len(sealed.coded))
    parts.append(blob.write_directory(sizes))
    return parts


def _read(source: Source, start: int, stop: int) -> Bytes:
    """Bytes of the source, aligned for words of eight bytes, read-only: one kind of array, so that every loop is
    compiled once."""
    if source.in_memory:
        raw = np.frombuffer(source.read(start, stop), np.uint8)
        if raw.__array_interface__["data"][0] % 8:
            raw = raw.copy()
    else:
        raw = np.empty(stop - start, np.uint8)
        source.read_into(start, raw)
    raw.flags.writeable = False
    return raw


class _Digest:
    """The sha256 of a whole source, computed on a thread of its own while the source is packed."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._sha256 = hashlib.sha256()
        self._stopped = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="mc-sha256")

    def _run(self) -> None:
        try:
            # Memory is hashed in few calls: every return from one waits for the interpreter's lock.
            most = DIGEST_STRIDE if self._source.in_memory else DIGEST_STEP
            for at in range(0, self._source.size, most):
                if self._stopped.is_set():
                    return
                self._sha256.update(self._source.read(at, min(at + most, self._source.size)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the digest isn't that of the whole
            self._failure = error

    def result(self) -> str:
        """Wait for it; raises what reading the source raised."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._sha256.hexdigest()

    def __enter__(self) -> _Digest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
