"""What `import mc` offers to quantize: fewer bits a weight, in files and folders, with the error stated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from mc.checkpoint import Layout, Source, read_layout
from mc.errors import McError, UsageError, quote
from mc.folder import packed_name
from mc.lossy.configs import with_quantization
from mc.lossy.files import plain_layout
from mc.lossy.frames import Frames
from mc.lossy.measure import Measured, packed_as
from mc.lossy.passes import Job, Made, Unweighed
from mc.lossy.quantizing import Decided, decided, quantize_file, refuse_missed
from mc.lossy.requests import Request, Target, parse_request, spelled
from mc.lossy.shards import checkpoints, tensors_of
from mc.lossy.standards import assign_standard, spared
from mc.lossy.statistics import open_statistics
from mc.lossy.tied import refuse_held
from mc.parallel import Workers, single_blas, workers
from mc.places import PathLike, is_folder, name_of, new_folder, random_access, writing
from mc.progress import Done, Progress
from mc.recipe import OBJECTIVES, WEIGHED, Quantized
from mc.reports import TensorReport
from mc.rewriting import finished, refuse_unused, rewritable, rewrite, shards_of, tensor_names
from mc.scratch import scratch

NOTHING = "no tensor that is to be quantized: none of the floats, or all are kept."
NO_LINEAR = "no tensor that readers of compressed-tensors load: a matrix NAME.weight, no embedding. --set names others."


@dataclass(frozen=True)
class QuantizedFile:
    """One file that was quantized."""

    source: str
    target: str
    bytes: int  # of the source
    quantized_bytes: int
    packed_bytes: int  # of the whole file, once packed
    weights: int  # that were quantized
    bits: float  # a weight of these, packed, with all that belongs to them
    error: float  # squared, over all of them, relative to their squares
    tensors: tuple[Measured, ...]
    kept: tuple[str, ...]  # tensors that stay as they are
    tied: tuple[tuple[str, str], ...]  # of these, the ones that stay because what they are tied to does, and that
    unweighed: tuple[Unweighed, ...]  # quantized without the statistics that the objective asks for
    spared: tuple[str, ...] = ()  # of those kept, the ones that readers of compressed-tensors load as floats alone


@dataclass(frozen=True)
class QuantizeReport:
    """Every shard that was quantized, in order."""

    files: tuple[QuantizedFile, ...]


def quantize(
    source: PathLike | BinaryIO, target: PathLike | BinaryIO, *, scheme: str | Request, limit: Target | None = None,
    objective: str = "row", sets: Sequence[tuple[str, str | Request]] = (), keep: Sequence[str] = (), seed: int = 0,
    stats: PathLike | None = None, strict: bool = False, pack: bool = False, threads: int | None = None,
    executor: Executor | None = None, progress: Progress | None = None,
) -> QuantizeReport:  # fmt: skip
    """Quantize a plain file, stream or folder into another; with `pack`, the result is packed as well.

    The shards of a folder meet the limit together. Raises UsageError for what doesn't make sense, McError and its
    kin for tensors that can't be quantized, LimitError where the limit isn't met; nothing is written then."""
    if objective not in OBJECTIVES:
        raise UsageError(f"The objective {quote(objective)} isn't one of {', '.join(OBJECTIVES)}.")
    default = parse_request(scheme) if isinstance(scheme, str) else scheme
    given = [(pattern, parse_request(one) if isinstance(one, str) else one) for pattern, one in sets]
    _refuse_unweighable(objective, stats, strict, [default, *(one for _, one in given)])
    job = Job({}, objective, seed, "default", limit, strict=strict, keep=keep, sets=given)
    with workers(threads, executor) as work, single_blas(), ExitStack() as stack:
        if stats is not None:
            statistics = stack.enter_context(open_statistics(stats, tensor_names(source)))
            job = replace(job, statistics=statistics, frames=stack.enter_context(Frames()))
        if is_folder(source):
            return _quantize_folder(Path(str(source)), target, job, (default, given, keep), pack, work, progress)
        with random_access(source) as opened:
            layout = plain_layout(opened)
            wanted = assign_standard(layout.tensors, default, given, keep)
            refuse_unused(wanted[1], [pattern for pattern, _ in given], keep, opened.where)
            if not wanted[0]:
                raise UsageError(f"{opened.where} has {NO_LINEAR if default.standard else NOTHING}")
            with writing(target) as out:
                done = Done(opened.size, progress)
                chosen = decided(opened.where, [(opened, layout)], replace(job, wanted=wanted[0]), work)
                refuse_held([(chosen.job.wanted, chosen.tied)], opened.where, NOTHING)
                file, _ = _quantize_one(opened, layout, out, name_of(target), chosen, pack, work, done.step)
                file = replace(file, spared=spared(layout.tensors, wanted[0], default, keep))
        return QuantizeReport((file,))


def plan(
    source: PathLike, scheme: Request, sets: Sequence[tuple[str, Request]], keep: Sequence[str]
) -> tuple[tuple[str, str, str], ...]:
    """File, tensor and kind of scheme (empty if it stays) of every tensor, without reading any of them."""
    found: list[tuple[str, str, str]] = []
    used: set[str] = set()
    for path in shards_of(Path(source)):
        with Source.of(path) as opened:
            tensors = plain_layout(opened).tensors
        wanted, fitting = assign_standard(tensors, scheme, sets, keep)
        used |= fitting
        found += [(str(path), one.name, spelled(wanted[one.name]) if one.name in wanted else "") for one in tensors]
    refuse_unused(used, [pattern for pattern, _ in sets], keep, str(source))
    return tuple(found)


def _refuse_unweighable(objective: str, stats: PathLike | None, strict: bool, requests: Sequence[Request]) -> None:
    """UsageError where an objective and statistics don't go together."""
    if (objective in WEIGHED) != (stats is not None):
        raise UsageError(
            f"The objective {objective} needs statistics: --stats FILE."
            if stats is None
            else f"Statistics go with the objectives {' and '.join(WEIGHED)}, and this is {objective}."
        )
    if strict and stats is None:
        raise UsageError("--strict refuses tensors without statistics, and none are given: --stats FILE.")
    if objective in WEIGHED and any(one.standard and one.kind == "grid" for one in requests):
        raise UsageError(f"The objective {objective} stores scales of columns, which compressed-tensors doesn't have.")


def _quantize_one(
    source: Source, layout: Layout, out: BinaryIO, name: str, chosen: Decided, pack: bool, work: Workers,
    step: Callable[[int], None],
) -> tuple[QuantizedFile, Made]:  # fmt: skip
    """Quantize into a temporary file, and copy or pack that."""
    with scratch() as plain:
        made = quantize_file(source, layout, chosen, plain, work, step)
        source.unchanged()
        parts, size = finished(plain, source.where, made.recipe, chosen.job.level, work, out, pack)
    return _report(source, name, made, parts, size), made


def _report(source: Source, name: str, made: Made, parts: dict[str, TensorReport], size: int) -> QuantizedFile:
    tensors = tuple(packed_as(one, made.recipe, parts) for one in made.tensors)
    weights = sum(one.weights for one in tensors)
    bits = 8 * sum(one.bytes for one in tensors) / weights if weights else 0.0
    power = sum(one.power for one in tensors)
    error = sum(one.squared for one in tensors) / power if power else 0.0
    done = {one.name for one in tensors}
    kept = tuple(one.name for one in read_layout(source).tensors if one.name not in done)
    return QuantizedFile(
        source.where, name, source.size, made.size, size, weights, bits, error, tensors, kept, made.tied, made.unweighed
    )


def _quantize_folder(
    path: Path, target: PathLike | BinaryIO, job: Job,
    asked: tuple[Request, Sequence[tuple[str, Request]], Sequence[str]], pack: bool, work: Workers,
    progress: Progress | None,
) -> QuantizeReport:  # fmt: skip
    folder = rewritable(path)
    if folder.packed:
        raise McError(f"{path} holds packed shards. Unpack it first, then quantize.")
    default, sets, keep = asked
    if not any(scheme for _, _, scheme in plan(path, default, sets, keep)):
        raise UsageError(f"{path} has {NO_LINEAR if default.standard else NOTHING}")
    renamed = {name: packed_name(name) if pack else name for name in folder.shards}
    done = Done(sum((path / name).stat().st_size for name in folder.shards), progress)
    files: list[QuantizedFile] = []
    every: list[Made] = []
    quantized: dict[str, Quantized] = {}
    held: dict[str, list[tuple[str, int]]] = {}
    with ExitStack() as stack:
        anew = stack.enter_context(new_folder(folder, target, renamed.values()))
        sources = [stack.enter_context(Source.of(path / name)) for name in folder.shards]
        shards = [(source, plain_layout(source)) for source in sources]
        wanted = assign_standard([tensor for _, tensor in tensors_of(shards)], default, sets, keep)[0]
        groups = checkpoints(shards, job.target)
        if len(groups) > 1:  # frames are kept by name
            job = replace(job, frames=None)
        asked_of = [
            assign_standard([tensor for _, tensor in tensors_of(group)], default, sets, keep)[0] for group in groups
        ]
        plans = [
            decided(str(path), group, replace(job, wanted=one), work)
            for group, one in zip(groups, asked_of, strict=True)
        ]
        refuse_held([(plan.job.wanted, plan.tied) for plan in plans], str(path), NOTHING)
        each = [plan for plan, group in zip(plans, groups, strict=True) for _ in group]
        for name, (opened, layout), chosen in zip(folder.shards, shards, each, strict=True):
            with anew.shard(renamed[name]) as (out, shown):
                file, made = _quantize_one(opened, layout, out, shown, chosen, pack, work, done.step)
            files.append(replace(file, spared=spared(layout.tensors, wanted, default, keep)))
            every.append(made)
            for step in made.recipe:
                quantized |= step.tensors
            held[name] = list(made.listed)
        refuse_missed(str(path), every, job.target)
        kept = [name for file in files for name in file.kept]
        rewrite(anew.place, folder, held, lambda text, where: with_quantization(text, quantized, kept, where))
    return QuantizeReport(tuple(files))
