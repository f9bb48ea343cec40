"""`mc analyze`: what is in a checkpoint, as a table, TSV, JSON or a page."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mc_cli import files, options, show

if TYPE_CHECKING:
    from mc.analysis.report import Analysis


@click.command(
    epilog=options.examples(
        "mc analyze model.safetensors --html model.html", "mc analyze model.safetensors --tensor '*.bias' --json"
    )
)
@click.argument("paths", metavar="[PATH]...", type=options.PATH, nargs=-1)
@click.option("--tensor", "tensors", multiple=True, metavar="GLOB", help="Only these tensors; may be repeated.")
@click.option("--sample", type=click.IntRange(1), metavar="N", help="Count about N numbers of each tensor, not all.")
@click.option("--seed", type=options.SEED, default=0, metavar="S", help="What picks the sample; 0 by default.")
@click.option("--quick", is_flag=True, help="Moments and bits alone: no models, spectra or predicted sizes.")
@click.option("--html", metavar="FILE", type=options.PATH, help="Write a page to look at, complete in one file.")
@click.option("--against", metavar="A", type=options.PATH, help="How PATH differs from A, and how well it packs so.")
@click.option("--inputs", multiple=True, metavar="FILE", type=options.PATH, help="Recorded layer inputs or an imatrix.")
@click.option("--stats-out", metavar="FILE", type=options.PATH, help="Where --inputs writes its statistics.")
@click.option("--gram", is_flag=True, help="Write the Gram matrices of the inputs too.")
@options.force
@options.threads
@options.speaking
def analyze(
    paths: tuple[str, ...],
    tensors: tuple[str, ...],
    sample: int | None,
    seed: int,
    quick: bool,
    html: str | None,
    against: str | None,
    inputs: tuple[str, ...],
    stats_out: str | None,
    gram: bool,
    force: bool,
    threads: int,
    manner: show.Manner,
) -> int:
    """Show what is in a checkpoint and what could be saved.

    PATH is a safetensors file, a packed one, a folder of either, an array file (.npy, .npz), or - for stdin; several
    are examined one after the other. For every tensor, layer and the whole: moments, a histogram, where the bits
    are, fitted models, rank, bits that 20, 30 and 40 dB need, sizes after mc pack, and advice with its reasons.
    -v adds the advice for every tensor. --html and --stats-out replace a file only with -f.

    --inputs takes what layers were given, as tensors NAME [samples, features] in files as above, and examines it too;
    --stats-out writes the sums of squares that weigh errors. llama.cpp's imatrix files (GGUF) are converted.
    """
    refuse(paths, html, against, inputs, stats_out, gram)
    for option, target in (("--html", html), ("--stats-out", stats_out)):
        if target is not None:
            allowed((*paths, *inputs), option, target, force)
    files.distinct({"--html": html, "--stats-out": stats_out}, {})
    began = time.perf_counter()
    if against is not None:
        return differ(paths[0], against, tensors, options.count(threads), began, manner)
    recorded = tuple(path for path in inputs if not path.lower().endswith(".gguf"))
    found = [
        examined(path, tensors, sample, seed, not quick, options.count(threads), manner) for path in (*paths, *recorded)
    ]
    statistics: list[Any] = []
    if stats_out is not None:
        names = [tensor.name for one in found[: len(paths)] for tensor in one.tensors]
        statistics = gathered(inputs, stats_out, gram, sample, seed, names, force, manner)
    seconds = time.perf_counter() - began
    shown = [{**plain(one), "plan": planned(path)} for one, path in zip(found, (*paths, *recorded), strict=True)]
    if html is not None:
        write_page(shown, html, (*paths, *inputs), force)
    if manner.json:
        facts = {"sample": sample, "seed": seed, "seconds": round(seconds, 3)}
        lists = {"checkpoints": shown} | ({"statistics": statistics} if stats_out else {})
        show.document("analyze", facts | lists, manner)
    elif not manner.quiet:
        from mc_cli.overview import overview

        overview(found, manner, one_by_one=bool(tensors))
        for one in shown:
            tell(one["plan"] or {}, manner)
    size = sum(one.whole.bytes for one in found)
    count = sum(len(one.tensors) for one in found)
    ending = f"{count} tensor{'s' * (count != 1)}, {show.amount(size)}, {seconds:.2f} s"
    written = "".join(f", {name}" for name in (html, stats_out) if name)
    show.closing(ending + written, manner, after_table=True)
    return 0


def refuse(
    paths: tuple[str, ...], html: str | None, against: str | None, inputs: tuple[str, ...], stats_out: str | None,
    gram: bool,
) -> None:  # fmt: skip
    """UsageError for options that don't go together."""
    if not paths and not inputs:
        raise click.UsageError("Name a checkpoint to analyze, or recorded inputs with --inputs.")
    if paths.count(files.STDIO) > 1:
        raise click.UsageError("- can be named once only: stdin is read once.")
    if (stats_out is not None or gram) and not inputs:
        raise click.UsageError("--stats-out and --gram go with --inputs.")
    if gram and stats_out is None:
        raise click.UsageError("--gram says what --stats-out writes, so name a file with --stats-out.")
    if files.STDIO in inputs:
        raise click.UsageError("--inputs are read more than once, so they can't be -. Save them to a file.")
    if stats_out is None and any(name.lower().endswith(".gguf") for name in inputs):
        raise click.UsageError("An imatrix is read to be written as statistics: name a file with --stats-out.")
    if against is not None and (len(paths) != 1 or inputs or html):
        raise click.UsageError("--against compares one PATH with A, and goes with neither --inputs nor --html.")
    if against == files.STDIO == paths[0] if against is not None else False:
        raise click.UsageError("Only one of PATH and A can be stdin.")


def examined(
    path: str, tensors: tuple[str, ...], sample: int | None, seed: int, deep: bool, threads: int | None,
    manner: show.Manner,
) -> Analysis:  # fmt: skip
    """The core's analysis of one path."""
    import mc

    with ExitStack() as stack:
        source = stack.enter_context(files.reading(path))
        progress = stack.enter_context(show.progress("analyzing", manner))
        return mc.analyze(
            source, tensors=tensors, sample=sample, seed=seed, deep=deep, threads=threads, progress=progress
        )


def differ(
    path: str, against: str, tensors: tuple[str, ...], threads: int | None, began: float, manner: show.Manner
) -> int:
    """Show what differs from A; that something does is no error."""
    import mc
    from mc_cli import difference

    with ExitStack() as stack:
        source, other = (stack.enter_context(files.reading(one)) for one in (path, against))
        progress = stack.enter_context(show.progress("comparing", manner))
        found = mc.compare(source, other, tensors=tensors, threads=threads, progress=progress)
    seconds = time.perf_counter() - began
    if manner.json:
        show.document("analyze", {"seconds": round(seconds, 3), "difference": plain(found)}, manner)
    elif not manner.quiet:
        show.table(difference.COLUMNS, difference.rows(found), manner)
    show.closing(difference.summary(found, seconds), manner, after_table=True)
    return 0


def plain(found: Any) -> Any:
    """A dataclass as what JSON knows: numbers that it has no word for (infinities) become null."""
    from dataclasses import asdict, is_dataclass
    from math import isfinite

    def clean(value: Any) -> Any:
        if isinstance(value, float):
            return value if isfinite(value) else None
        if isinstance(value, dict):
            return {key: clean(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [clean(one) for one in value]
        return value

    return clean(asdict(found) if is_dataclass(found) and not isinstance(found, type) else found)


def gathered(
    inputs: tuple[str, ...], stats_out: str, gram: bool, sample: int | None, seed: int, names: list[str], force: bool,
    manner: show.Manner,
) -> list[Any]:  # fmt: skip
    """Write the statistics of recorded inputs; what was written of each layer."""
    from mc.analysis.inputs import gather
    from mc.atomic import replacing

    allowed(inputs, "--stats-out", stats_out, force)
    with (
        show.progress("gathering", manner) as progress,
        files.naming(stats_out, files.WRITE_ERRORS),
        replacing(files.place_of(stats_out, force=force)) as out,
    ):
        return [
            plain(one)
            for one in gather(inputs, out, gram=gram, sample=sample, seed=seed, names=names, progress=progress)
        ]


def allowed(sources: tuple[str, ...], option: str, target: str, force: bool) -> None:
    """Refuse to write over what is read, or over anything without -f; `option` named the target."""
    if not target:
        raise click.UsageError(f"{option} needs the name of a file.")
    if target == files.STDIO:
        raise click.UsageError(f"A page and statistics go to a file, as stdout has the table. Name one with {option}.")
    for source in sources:
        if source != files.STDIO and Path(target).exists() and Path(source).exists():
            files.inside(Path(source), Path(target), option)
    files.allow(None, Path(target), force=force, option=option)


def planned(path: str) -> dict[str, Any] | None:
    """The plans of what `mc auto` made, as they are stored, and in sentences; None for anything else."""
    from mc.plan.explain import sentences
    from mc.plan.stored import joined, stored_plans

    place = Path(path)
    if path == files.STDIO or place.suffix in (".npy", ".npz") or not (place.is_file() or place.is_dir()):
        return None
    plans = stored_plans(place)
    return {"plans": plans, "explanation": sentences(joined(plans))} if plans else None


def tell(found: Mapping[str, Any], manner: show.Manner) -> None:
    """Print a plan in sentences, and with -v as a table first: below the other one, on stderr where that is TSV."""
    from mc_cli.planned import COLUMNS, FEW, rows

    if manner.verbose and found:
        terminal = manner.stream is not None and manner.stream.isatty()
        listed = [row for plan in found["plans"] for row in rows(plan)]
        show.table(COLUMNS, listed, replace(manner, data_on_stdout=not terminal), FEW)
    for line in found.get("explanation", ()):
        show.closing(line, manner, after_table=True)


def write_page(found: list[dict[str, Any]], html: str, paths: tuple[str, ...], force: bool) -> None:
    """Write the page, whole or not at all."""
    from mc_cli.page import page

    text = page(found).encode()
    from mc.atomic import replacing

    allowed(paths, "--html", html, force)
    with files.naming(html, files.WRITE_ERRORS), replacing(files.place_of(html, force=force)) as out:
        out.write(text)
