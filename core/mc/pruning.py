"""What `import mc` offers to prune: fewer weights that aren't zero, or fewer that there are, with the error stated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from mc import loader
from mc.beside import Beside, beside
from mc.checkpoint import Layout, Source, Tensor, read_layout
from mc.errors import McError, UsageError, quote
from mc.folder import packed_name
from mc.lossy.allotting import Allotted, allot, prune_file
from mc.lossy.configs import without_quantization
from mc.lossy.files import Writer, plain_layout
from mc.lossy.methods import NEED_STATS, Method, parse_method, spelled
from mc.lossy.pruned import Made, PrunedTensor, packed_as, refuse_missed
from mc.lossy.pruning import Array, PruneJob
from mc.lossy.requests import Target, assign, matches
from mc.lossy.shards import checkpoints, tensors_of
from mc.lossy.statistics import open_statistics
from mc.lossy.tied import refuse_held
from mc.parallel import Workers, single_blas, workers
from mc.places import PathLike, is_folder, name_of, new_folder, random_access, writing
from mc.progress import Done, Progress
from mc.recipe import OBJECTIVES, WEIGHED
from mc.reports import TensorReport
from mc.rewriting import finished, refuse_unused, rewritable, rewrite, shards_of, tensor_names
from mc.schemes import FLOATS
from mc.scratch import scratch

NOTHING = "no tensor that is to be pruned: no matrix of floats, or all are kept."
LISTED = f"{', '.join(FLOATS[:-1])} and {FLOATS[-1]}"
MOST_NAMED = 5  # tensors in a message
Asked = tuple[Method | None, Sequence[tuple[str, Method]], Sequence[str]]  # of all tensors, of some, what stays


@dataclass(frozen=True)
class PrunedFile:
    """One file that was pruned."""

    source: str
    target: str
    bytes: int  # of the source
    pruned_bytes: int
    packed_bytes: int  # of the whole file, once packed
    weights: int  # of the tensors that were pruned
    zeros: int  # of these
    bits: float  # a weight of these, packed, with all that belongs to them
    error: float  # squared, over all of them, relative to their squares
    weighted: float | None  # on the layers' inputs, over those that have statistics
    tensors: tuple[PrunedTensor, ...]
    kept: tuple[str, ...]  # tensors that stay as they are
    unweighted: tuple[str, ...]  # pruned tensors without statistics, where some were given
    tied: tuple[tuple[str, str], ...] = ()  # tensors that stay because one that they are tied to does, and that one


@dataclass(frozen=True)
class PruneReport:
    """Every shard that was pruned, in order."""

    files: tuple[PrunedFile, ...]


def prune(
    source: PathLike | BinaryIO, target: PathLike | BinaryIO, *, method: str | Method | None = None,
    limit: Target | None = None, objective: str = "plain", sets: Sequence[tuple[str, str | Method]] = (),
    keep: Sequence[str] = (), stats: PathLike | None = None, mask: PathLike | None = None,
    mask_out: PathLike | None = None, dense: bool = False, shrink: bool = False, seed: int = 0, pack: bool = False,
    threads: int | None = None, executor: Executor | None = None, progress: Progress | None = None,
) -> PruneReport:  # fmt: skip
    """Prune a plain file, stream or folder into another; with `pack`, the result is packed as well.

    `method`: of every matrix of floats that neither `sets` nor `keep` names; with `mask`, a file of BOOL tensors, None
    leaves what it doesn't list. `mask_out` is written with the masks of what was pruned. The shards of a folder meet
    the limit together. Raises UsageError for what doesn't make sense, McError and its kin for tensors that
    can't be pruned, LimitError where the limit isn't met; nothing is written then."""
    known = [one for one in OBJECTIVES if one not in WEIGHED]  # statistics weigh by themselves, where they are given
    if objective not in known:
        raise UsageError(f"The objective {quote(objective)} isn't one of {', '.join(known)}.")
    if method is None and mask is None and not sets:
        raise UsageError("Nothing says how to prune: give a method, or a file of masks.")
    default = parse_method(method) if isinstance(method, str) else method
    given = [(pattern, parse_method(one) if isinstance(one, str) else one) for pattern, one in sets]
    asked: Asked = (default, given, keep)
    if stats is None and any(one is not None and one.kind in NEED_STATS for one in (default, *(m for _, m in given))):
        raise UsageError("wanda and obs need --stats FILE: what layers are given. `mc analyze --inputs` writes it.")
    _refuse_useless([one.kind for one in (default, *(one for _, one in given)) if one], mask, mask_out, dense, shrink)
    with (
        workers(threads, executor) as work,
        single_blas(),
        ExitStack() as stack,
    ):
        masks = stack.enter_context(loader.open_checkpoint(mask)) if mask is not None else None
        statistics = stack.enter_context(open_statistics(stats, tensor_names(source))) if stats is not None else None
        job = PruneJob({}, objective, seed, "default", limit, dense, shrink, statistics, masks, keep, given)
        taken = _masks(mask_out, stack) if mask_out is not None else None
        if is_folder(source):
            return _prune_folder(Path(str(source)), target, job, asked, pack, work, progress, taken)
        with random_access(source) as opened:
            layout = plain_layout(opened)
            wanted, used = _assigned(layout.tensors, job, asked)
            _refuse_unfit(job, layout.tensors, opened.where)
            _refuse_unused(used, asked, opened.where)
            if not wanted:
                raise UsageError(f"{opened.where} has {NOTHING}")
            with writing(target) as out:
                done = Done(opened.size, progress)
                chosen = allot(opened.where, [(opened, layout)], replace(job, wanted=wanted), work)
                refuse_held([(chosen.job.wanted, chosen.tied)], opened.where, NOTHING)
                file, _ = _prune_one(opened, layout, out, name_of(target), chosen, pack, work, done.step, taken)
                if taken is not None:
                    taken.write()  # before the output is put in its place
        return PruneReport((file,))


def plan(
    source: PathLike, method: Method | None, sets: Sequence[tuple[str, Method]], keep: Sequence[str],
    mask: PathLike | None = None,
) -> tuple[tuple[str, str, str], ...]:  # fmt: skip
    """File, tensor and method (empty if it stays) of every tensor, without reading any of them."""
    asked: Asked = (method, sets, keep)
    found: list[tuple[str, str, str]] = []
    used: set[str] = set()
    seen: list[Tensor] = []
    with ExitStack() as stack:
        masks = stack.enter_context(loader.open_checkpoint(mask)) if mask is not None else None
        job = PruneJob({}, "plain", 0, "default", None, masks=masks)
        for path in shards_of(Path(source)):
            with Source.of(path) as opened:
                tensors = plain_layout(opened).tensors
            wanted, fitting = _assigned(tensors, job, asked)
            used |= fitting
            seen += tensors
            found += [(str(path), one.name, spelled(wanted[one.name]) if one.name in wanted else "") for one in tensors]
        _refuse_unfit(job, seen, str(source))
    _refuse_unused(used, asked, str(source))
    return tuple(found)


def _refuse_unused(used: set[str], asked: Asked, where: str) -> None:
    """UsageError for a pattern that fits no matrix of floats, or, if it is to keep some, no tensor."""
    _, sets, keep = asked
    refuse_unused(used, [pattern for pattern, _ in sets], keep, where, "matrix of floats")


def _assigned(tensors: Sequence[Tensor], job: PruneJob, asked: Asked) -> tuple[dict[str, Method], set[str]]:
    """The method of each tensor that is to be pruned, and the patterns that fit any. Tensors of fewer than two
    dimensions have no rows to prune, whatever names them."""
    method, sets, keep = asked
    found, used = assign([tensor for tensor in tensors if len(tensor.shape) > 1], method, sets, keep)
    used |= assign(tensors, None, (), keep)[1]
    if job.masks is not None:
        listed = set(job.masks.names())
        for tensor in tensors:
            kept = any(matches(pattern, tensor.name) for pattern in keep)
            if tensor.name in listed and tensor.start < tensor.stop and not kept:
                found[tensor.name] = Method("mask")
    return found, used


def _refuse_useless(
    kinds: Sequence[str], mask: PathLike | None, mask_out: PathLike | None, dense: bool, shrink: bool
) -> None:
    """UsageError for an option that none of the methods heeds."""
    thin = bool(kinds) and all(kind == "low-rank" for kind in kinds) and mask is None
    if dense and "low-rank" not in kinds:
        raise UsageError("--dense writes low ranks as products, and no method is low-rank.")
    if shrink and thin:
        raise UsageError("--shrink takes out what rows, columns, heads and channels prune, and a low rank has none.")
    if mask_out is not None and thin:
        raise UsageError("--mask-out writes what stays, and a low rank has no mask.")


def _refuse_unfit(job: PruneJob, tensors: Sequence[Tensor], where: str) -> None:
    """McError if there are masks of tensors that aren't there: they were made for another model, or under other names,
    and leaving them out would leave weights that were to be zero. So it is with masks of what is no float."""
    if job.masks is None:
        return
    there = {tensor.name: tensor.dtype for tensor in tensors}
    for name in job.masks.names():
        if there.get(name, FLOATS[0]) not in FLOATS:
            raise McError(
                f"{job.masks.where} has a mask of {quote(name)}, which in {where} is {there[name]}: only {LISTED} can "
                "be pruned."
            )
    foreign = [name for name in job.masks.names() if name not in there]
    if foreign:
        named = ", ".join(map(quote, foreign[:MOST_NAMED])) + f" and {len(foreign) - MOST_NAMED} more" * (
            len(foreign) > MOST_NAMED
        )
        raise McError(f"{job.masks.where} has masks of tensors that {where} hasn't: {named}.")


@dataclass(frozen=True)
class _Masks:
    """The masks of what was pruned, u8, on their way to a file of BOOL tensors."""

    file: Beside
    writer: Writer

    def add(self, name: str, shape: tuple[int, ...], mask: Array) -> None:
        """Take one."""
        self.writer.add(name, "BOOL", shape, mask)

    def write(self) -> None:
        """Write them all."""
        self.file.fill(lambda out: self.writer.finish(out, {}))


def _masks(path: PathLike, stack: ExitStack) -> _Masks:
    """Those that go to a path, as long as the stack stands."""
    return _Masks(stack.enter_context(beside(path)), stack.enter_context(Writer()))


def _prune_one(
    source: Source, layout: Layout, out: BinaryIO, name: str, chosen: Allotted, pack: bool, work: Workers,
    step: Callable[[int], None], taken: _Masks | None,
) -> tuple[PrunedFile, Made]:  # fmt: skip
    """Prune into a temporary file, and copy or pack that."""
    with scratch() as plain:
        made = prune_file(source, layout, chosen, plain, work, step, taken.add if taken else None)
        source.unchanged()
        sizes, size = finished(plain, source.where, made.recipe, chosen.job.level, work, out, pack)
    return _report(source, name, chosen.job, made, sizes, size), made


def _report(
    source: Source, name: str, job: PruneJob, made: Made, sizes: dict[str, TensorReport], size: int
) -> PrunedFile:
    before = {tensor.name: tensor for tensor in read_layout(source).tensors}
    tensors = tuple(packed_as(one, made, sizes, source, before[one.name]) for one in made.tensors)
    weights, zeros = sum(one.weights for one in tensors), sum(one.zeros for one in tensors)
    power, on_inputs = sum(one.power for one in tensors), sum(one.weighted_power for one in tensors)
    weighted = sum(one.weighted_squared for one in tensors) / on_inputs if on_inputs else None
    pruned = {one.name for one in tensors}
    return PrunedFile(
        source.where, name, source.size, made.size, size, weights, zeros,
        8 * sum(one.packed_bytes for one in tensors) / weights if weights else 0.0,
        sum(one.squared for one in tensors) / power if power else 0.0, weighted, tensors,
        tuple(name for name in before if name not in pruned),
        tuple(one.name for one in tensors if one.weighted is None) if job.statistics is not None else (), made.tied,
    )  # fmt: skip


def _prune_folder(
    path: Path, target: PathLike | BinaryIO, job: PruneJob, asked: Asked, pack: bool, work: Workers,
    progress: Progress | None, taken: _Masks | None,
) -> PruneReport:  # fmt: skip
    folder = rewritable(path)
    if folder.packed:
        raise McError(f"{path} holds packed shards. Unpack it first, then prune.")
    renamed = {name: packed_name(name) if pack else name for name in folder.shards}
    done = Done(sum((path / name).stat().st_size for name in folder.shards), progress)
    files: list[PrunedFile] = []
    every: list[Made] = []
    held: dict[str, list[tuple[str, int]]] = {}
    with ExitStack() as stack:
        sources = [stack.enter_context(Source.of(path / name)) for name in folder.shards]
        shards = [(source, plain_layout(source)) for source in sources]
        every_one = [tensor for _, tensor in tensors_of(shards)]
        wanted, used = _assigned(every_one, job, asked)
        _refuse_unfit(job, every_one, str(path))
        _refuse_unused(used, asked, str(path))
        if not wanted:
            raise UsageError(f"{path} has {NOTHING}")
        anew = stack.enter_context(new_folder(folder, target, renamed.values()))
        groups = checkpoints(shards, job.target)
        if len(groups) > 1 and taken is not None:
            raise McError(f"{path} has tensors of one name in two files: take one file at a time for --mask-out.")
        asked_of = [_assigned([tensor for _, tensor in tensors_of(group)], job, asked)[0] for group in groups]
        plans = [
            allot(str(path), group, replace(job, wanted=one), work) for group, one in zip(groups, asked_of, strict=True)
        ]
        refuse_held([(plan.job.wanted, plan.tied) for plan in plans], str(path), NOTHING)
        each = [plan for plan, group in zip(plans, groups, strict=True) for _ in group]
        for name, (opened, layout), chosen in zip(folder.shards, shards, each, strict=True):
            with anew.shard(renamed[name]) as (out, shown):
                file, made = _prune_one(opened, layout, out, shown, chosen, pack, work, done.step, taken)
            files.append(file)
            every.append(made)
            held[name] = list(made.listed)
        refuse_missed(str(path), every, job.target)
        rewrite(anew.place, folder, held, without_quantization)
        if taken is not None:
            taken.write()
    return PruneReport(tuple(files))
