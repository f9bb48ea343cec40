"""Pack: one safetensors file in, one packed file out, front to back with bounded memory."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any

from mc import blob
from mc.checkpoint import LONGEST_HEADER, Layout, Source, read_layout
from mc.crew import Crew
from mc.errors import McError, UsageError
from mc.heading import header_room, longest_note
from mc.manifest import SAME, Entry, Manifest, is_packed, write_header
from mc.parallel import Task, Workers
from mc.pieces import Target, pack_tensors
from mc.recipe import Recipe, elements, read_recipe
from mc.reports import TensorReport
from mc.schemes import Trellis, described, parts
from mc.twins import find_twins

LEVELS = ("fast", "default", "best")
DIGEST_STEP = 1 << 22  # bytes of a file hashed at once
DIGEST_STRIDE = 1 << 26  # bytes of memory: a thirtieth of a second, after which it is noticed that nobody wants it
BEGUN = 0.001  # seconds that its beginning is waited for, at most
MOST_SAID = 1 << 62  # bytes of a tensor, for the longest number of bits a weight that a manifest can say
MOST_BITS = 99999999.9999

Step = Callable[[int], None]  # takes the bytes of the original that are done


def pack_file(
    source: Source, target: Target, level: str, work: Workers, step: Step, plan: dict[str, Any] | None = None
) -> tuple[Manifest, tuple[TensorReport, ...], int]:
    """Write the packed form of `source` to `target`, which can seek. Returns manifest, reports and bytes written.
    `plan` is what the manifest holds of how the source came about.

    DamagedError if the source is no sound safetensors file; McError if it is packed already, or changes meanwhile."""
    if level not in LEVELS:
        raise UsageError(f"level {level!r} isn't one of {', '.join(LEVELS)}")
    with _Digest(source, work) as digest:  # first: another thread has nothing else to do until a tensor is planned
        digest.begin()
        return _pack(source, target, level, work, step, plan, digest)


def _pack(
    source: Source, target: Target, level: str, work: Workers, step: Step, plan: dict[str, Any] | None, digest: _Digest
) -> tuple[Manifest, tuple[TensorReport, ...], int]:
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
    for tensor, packed in pack_tensors(source, layout, twins, states_of(recipe), level, work, target):
        why = packed.why if packed.coding == SAME else packed.why[: longest_note(tensor, level)]
        entries[tensor.name] = Entry(tensor.dtype, tensor.shape, packed.coding, why)
        sizes.append(packed.size)
        nbytes = tensor.stop - tensor.start
        reports.append(
            TensorReport(tensor.name, tensor.dtype, tensor.shape, nbytes, packed.size, packed.coding, why, packed.head)
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


class _Digest:
    """The sha256 of a whole source, computed while the source is packed: on one of the threads that work, which works
    with the others when that is done, or on one of its own where there are none of ours."""

    def __init__(self, source: Source, work: Workers) -> None:
        self._source, self._work = source, work
        self._task = Task(lambda _: self._run(), None)
        self._crew = Crew(0)
        self._sha256 = hashlib.sha256()
        self._stopped = threading.Event()
        self._begun = threading.Lock()  # an Event may be left unsound by an interrupt
        self._begun.acquire()

    def _run(self) -> None:
        self._begun.release()
        # Memory is hashed in few calls: every return from one waits for the interpreter's lock.
        most = DIGEST_STRIDE if self._source.in_memory else DIGEST_STEP
        for at in range(0, self._source.size, most):
            if self._stopped.is_set():
                return
            self._sha256.update(self._source.read(at, min(at + most, self._source.size)))

    def begin(self) -> None:
        """Let another thread begin, if there is much to do: that takes the interpreter's lock, which reading a header
        wouldn't let go of for a millisecond."""
        if self._work.helps and self._source.size >= DIGEST_STEP:
            self._begun.acquire(timeout=BEGUN)

    def result(self) -> str:
        """Wait for it; raises what reading the source raised."""
        self._task.run()  # if nobody has begun
        self._task.result()
        return self._sha256.hexdigest()

    def __enter__(self) -> _Digest:
        if self._work.helps:
            self._work.begin(self._task)
        else:
            self._crew = Crew(1)
            self._crew.hand(self._task.run)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        if self._task.elsewhere():
            self._task.wait()
        self._crew.end()
