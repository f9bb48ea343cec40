"""What `import mc` offers for those who only want it smaller: a plan made, met, explained and carried out."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mc.beside import beside
from mc.checkpoint import Source, read_layout
from mc.errors import McError, UsageError, quote
from mc.folder import Folder, packed_name, read_folder
from mc.loader import Checkpoint
from mc.lossy.configs import with_quantization
from mc.lossy.files import Floats, dequantize_file
from mc.lossy.requests import Request
from mc.lossy.statistics import Statistics, open_statistics
from mc.parallel import Workers, single_blas, workers
from mc.places import PathLike, copy_others, is_folder, name_of, new_folder, random_access, writing
from mc.plan.again import replayed
from mc.plan.asked import Asked, refuse_lossy
from mc.plan.bench import Bench, plan_of
from mc.plan.goals import Goal
from mc.plan.meet import meet
from mc.plan.plans import Plan, dumped, loaded, written
from mc.plan.search import Limit, search
from mc.plan.survey import Survey, survey
from mc.plan.trial import Latest, Trial, packed, try_plan
from mc.plan.ways import parse_way
from mc.progress import Progress
from mc.recipe import OBJECTIVES, WEIGHED
from mc.rewriting import refuse_unwritable, rewrite
from mc.scratch import temporary
from mc.twins import tied_with

ANY = "auto"  # as a scheme: whatever is best
COPIED = 1 << 22  # bytes at once
JUDGED = ("plain",)  # objectives that a score may prefer to `row`
STAYS = "lossless"  # as a scheme: what --keep says too
UNSEEN = Survey((), {}, {}, False)  # where nothing is to be chosen, no tensor is looked at


@dataclass(frozen=True)
class AutoReport:
    """What was planned, and what came of it."""

    source: str
    target: str | None  # None: nothing was written
    bytes: int  # of all files
    packed_bytes: int
    weights: int  # of the tensors that could change
    loss: float  # of these, relative to storing nothing, by the objective
    plan: dict[str, Any]  # as `mc.plan.plans.written` has it
    kept: dict[str, str]  # tensors that stay, and why
    unweighed: tuple[str, ...]  # tensors that could change, and have no statistics where others do
    state: bool  # whether it is a training state, of which all stays that isn't named


@contextmanager
def shards(source: PathLike | BinaryIO) -> Iterator[tuple[list[Source], Folder | None]]:
    """The files of a checkpoint, open, and its folder if it is one. McError for a packed one."""
    with ExitStack() as stack:
        if not is_folder(source):
            yield [stack.enter_context(random_access(source))], None
            return
        folder = read_folder(Path(str(source)))
        if folder.packed:
            raise McError(f"{folder.path} holds packed shards. Unpack it first.")
        yield [stack.enter_context(Source.of(folder.path / name)) for name in folder.shards], folder


def asked_for(
    objective: str, seed: int, level: str, sets: Sequence[tuple[str, str | Request | None]], keep: Sequence[str],
    statistics: Statistics | None,
) -> Asked:  # fmt: skip
    """What the user wants, parsed. UsageError for what makes no sense."""
    if objective not in OBJECTIVES:
        raise UsageError(f"The objective {quote(objective)} isn't one of {', '.join(OBJECTIVES)}.")
    chosen: list[tuple[str, Request | None]] = []
    kept = list(keep)
    for pattern, scheme in sets:
        if scheme == STAYS:
            kept.append(pattern)
        elif scheme is None or scheme == ANY:
            chosen.append((pattern, None))
        else:
            chosen.append((pattern, parse_way(scheme) if isinstance(scheme, str) else scheme))
    return Asked(objective, seed, level, tuple(chosen), tuple(kept), statistics)


def auto(
    source: PathLike | BinaryIO, target: PathLike | BinaryIO | None, *, goal: Goal | None = None,
    plan: Plan | bytes | None = None, objective: str | None = None, stats: PathLike | None = None,
    sets: Sequence[tuple[str, str | Request | None]] = (), keep: Sequence[str] = (), seed: int = 0,
    level: str = "best", pack: bool = True, threads: int | None = None, executor: Executor | None = None,
    progress: Progress | None = None, note: Callable[[str], None] = lambda _: None,
    score: Callable[[Path, str, int], float] | None = None, limit: Limit | None = None, max_evals: int = 24,
    plan_out: PathLike | None = None,
) -> AutoReport:  # fmt: skip
    """The smallest loss of a file, stream or folder under a goal, or what a plan says; packed unless `pack` is False.

    Instead of a goal, `score` and `limit` may be given: then the smallest file is sought whose score stays within the
    limit. `score` takes the path of a plain checkpoint restored from a candidate (a folder, if the source is one), the
    sha256 of its content and the candidate's packed bytes. With target None nothing is written; the report is the
    same. `plan_out` gets the plan: both appear, or neither. `note` is told of every trial. `objective`: plain, tensor,
    row, diag or gram, the latter two with `stats`, statistics of layer inputs; by default gram with them and row
    without, and a score is asked whether plain is better than row. Raises UsageError for what doesn't make sense,
    LimitError where the goal can't be met, DamagedError and McError as quantize does."""
    if sum(one is not None for one in (goal, plan, score)) != 1 or (score is None) != (limit is None):
        raise UsageError("One of a goal, a plan, or a score with its limit is needed.")
    if plan is not None and (sets or keep):
        raise UsageError(
            "A plan says what is done to every tensor: nothing else can be set or kept beside it. Edit it."
        )
    if score is not None and not isinstance(source, str | os.PathLike):
        raise UsageError("What is to be scored must be a file or a folder, and not a stream.")
    with ExitStack() as stack:
        sources, folder = stack.enter_context(shards(source))
        # Opened first: a search takes long, and must not end for want of a place.
        kept = stack.enter_context(beside(plan_out)) if plan_out is not None else None
        if folder is not None and (goal is None or goal.kind != "lossless"):
            refuse_unwritable(folder)
        work = stack.enter_context(workers(threads, executor))
        stack.enter_context(single_blas())
        statistics = None
        if stats is not None:
            names = [tensor.name for one in sources for tensor in read_layout(one).tensors]
            statistics = stack.enter_context(open_statistics(stats, names))
        latest = stack.enter_context(Latest(statistics))
        open_ended = objective is None and statistics is None
        objective = objective or ("row" if statistics is None else "gram")
        if plan is not None:
            given = plan if isinstance(plan, Plan) else loaded(plan, "the plan")
            objective = given.objective
        if (objective in WEIGHED) != (statistics is not None):
            raise UsageError(f"The objectives diag and gram, and they alone, need statistics; this is {objective}.")
        if plan is not None:
            trial, weights, most = replayed(sources, given, work, latest)
            found = UNSEEN
        elif score is not None and limit is not None:
            tries = [objective, *(JUDGED if open_ended else ())]
            every = [asked_for(one, seed, level, sets, keep, statistics) for one in tries]
            path = Path(str(source))
            found, trial = searched(path, sources, folder, score, limit, max_evals, every, work, note, latest)
        elif goal is not None:
            found, trial = planned(
                sources, goal, asked_for(objective, seed, level, sets, keep, statistics), work, note, latest
            )
        for one in sources:
            one.unchanged()
        if kept is not None:  # before a stream gets anything, or a file its place
            kept.fill(lambda out: out.write(dumped(written(trial.plan)).encode()))
        if target is not None:
            deliver(sources, folder, target, trial, pack, work, latest, progress)
        if plan is None:
            weights, most = found.weights, found.most
        return report_of(sources, source, target, found, trial, latest, weights, most)


def planned(
    sources: Sequence[Source], goal: Goal, asked: Asked, work: Workers, note: Callable[[str], None], latest: Latest
) -> tuple[Survey, Trial]:
    """Look, decide, and try."""
    if goal.kind == "lossless":
        tensors = [tensor for one in sources for tensor in read_layout(one).tensors]
        refuse_lossy(tensors, asked, sources[0].where if len(sources) == 1 else "No shard")
        return UNSEEN, try_plan(sources, plan_of(asked, {}), work, latest)
    found = survey(sources, asked, work, latest.frames)
    note(f"looked at {len(found.menus)} tensors of {found.weights} weights that may change; {len(found.kept)} stay")
    return found, meet(Bench(sources, asked, found, work, note, latest), goal)


def searched(
    path: Path, sources: Sequence[Source], folder: Folder | None, score: Callable[[Path, str, int], float],
    limit: Limit, max_evals: int, every: Sequence[Asked], work: Workers, note: Callable[[str], None],
    latest: Latest,
) -> tuple[Survey, Trial]:  # fmt: skip
    """Look, and search by scores; by the first of `every` objective, and by others where these prove better."""
    surveys = [survey(sources, asked, work, latest.frames) for asked in every]
    found = surveys[0]
    note(f"looked at {len(found.menus)} tensors of {found.weights} weights that may change; {len(found.kept)} stay")

    def of(trial: Trial | None) -> float:
        if trial is None:
            with tempfile.TemporaryDirectory(prefix="mc-auto-") as place:
                copied, content = copy_original(path, sources, folder, Path(place))
                return score(copied, content, sum(source.size for source in sources))
        with tempfile.TemporaryDirectory(prefix="mc-auto-") as place:
            restored, content = restore_trial(path, sources, folder, trial, Path(place), work, latest)
            return score(restored, content, trial.size)

    benches = [Bench(sources, asked, one, work, note, latest) for asked, one in zip(every, surveys, strict=True)]
    bench, trial, _ = search(benches, of, limit, max_evals)
    return bench.found, trial


def copy_original(path: Path, sources: Sequence[Source], folder: Folder | None, place: Path) -> tuple[Path, str]:
    """Copy the checkpoint below `place`, so that a program that writes to what it scores does no harm; where, and the
    sha256 of all."""
    whole, files = candidate_place(path, folder, place)
    digests = []
    for source, file in zip(sources, files, strict=True):
        digest = hashlib.sha256()
        with temporary(), open(file, "wb") as out:
            for at in range(0, source.size, COPIED):
                part = source.read(at, min(at + COPIED, source.size))
                digest.update(part)
                out.write(part)
        digests.append(digest.hexdigest())
    return whole, of_all(digests)


def restore_trial(
    path: Path, sources: Sequence[Source], folder: Folder | None, trial: Trial, place: Path, work: Workers,
    latest: Latest,
) -> tuple[Path, str]:  # fmt: skip
    """Write plain floats as `mc unpack --dequantize` would give them, below `place`; where, and the sha256 of all."""
    whole, files = candidate_place(path, folder, place)
    digests = []
    for (quantized, _), file in zip(latest.of(sources, trial.plan, work), files, strict=True):
        with temporary(), open(file, "wb") as out:
            digests.append(dequantize_file(Floats(Checkpoint(quantized)), out, work, lambda _: None)[1])
    return whole, of_all(digests)


def candidate_place(path: Path, folder: Folder | None, place: Path) -> tuple[Path, list[Path]]:
    """Where below `place` a candidate belongs, a file or a folder with the checkpoint's other files in it already; and
    the files that its shards are to be."""
    if folder is None:
        return place / path.name, [place / path.name]
    whole = place / path.resolve().name
    whole.mkdir()
    copy_others(folder, whole)
    return whole, [whole / name for name in folder.shards]


def of_all(digests: Sequence[str]) -> str:
    """The sha256 that stands for files with these."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def deliver(
    sources: Sequence[Source], folder: Folder | None, target: PathLike | BinaryIO, trial: Trial, pack: bool,
    work: Workers, latest: Latest, progress: Progress | None,
) -> None:  # fmt: skip
    """Write what was tried. McError if it has another size this time, which only a source that changes can cause."""
    whole, done = sum(source.size for source in sources), 0
    ready = latest.of(sources, trial.plan, work)

    def one(number: int, out: BinaryIO) -> None:
        nonlocal done
        quantized, made = ready[number]
        if pack:
            alone = len(sources) == 1
            size, expected = packed(quantized, made, trial.plan, work, out, alone).size, trial.shards[number].size
            if size != expected:
                where = sources[number].where
                raise McError(f"{where} changed while it was read: {expected} bytes were planned, and {size} came.")
        else:
            for at in range(0, quantized.size, COPIED):
                out.write(quantized.read(at, min(at + COPIED, quantized.size)))
        done += sources[number].size
        if progress is not None:
            progress(done, whole)

    if folder is None:
        with writing(target) as out:
            one(0, out)
        return
    renamed = {name: packed_name(name) if pack else name for name in folder.shards}
    quantized = {name: about for _, made in ready for step in made.recipe for name, about in step.tensors.items()}
    held = {name: list(made.listed) for name, (_, made) in zip(folder.shards, ready, strict=True)}
    kept = [tensor.name for source in sources for tensor in read_layout(source).tensors if tensor.name not in quantized]
    with new_folder(folder, target, renamed.values()) as anew:
        for number, name in enumerate(folder.shards):
            with anew.shard(renamed[name]) as (out, _):
                one(number, out)
        if quantized:
            rewrite(anew.place, folder, held, lambda text, where: with_quantization(text, quantized, kept, where))


def report_of(
    sources: Sequence[Source], source: PathLike | BinaryIO, target: PathLike | BinaryIO | None, found: Survey,
    trial: Trial, latest: Latest, weights: int, most: float,
) -> AutoReport:  # fmt: skip
    """The report of a trial, of tensors of so many weights, of which storing nothing loses `most`."""
    names = name_of(source), None if target is None else name_of(target)
    return AutoReport(
        *names, sum(one.size for one in sources), trial.size, weights, trial.loss / (most or 1.0), written(trial.plan),
        found.kept, without(found, latest), found.state,
    )  # fmt: skip


def without(found: Survey, latest: Latest) -> tuple[str, ...]:
    """Tensors with a menu that lack statistics, where there are any."""
    statistics = latest.statistics
    if statistics is None:
        return ()
    named = set(statistics.names)
    return tuple(menu.name for menu in found.menus if named.isdisjoint(tied_with(menu.name, found.twins)))
