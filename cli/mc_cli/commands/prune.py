"""`mc prune`: weights to zero, or matrices to thin ones, with the error stated beside what a grid would lose."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mc_cli import files, options, show

if TYPE_CHECKING:
    from mc.lossy.requests import Target
    from mc.pruning import PruneReport

COLUMNS = ("tensor", "method", "shape", "zeros", "error", "on inputs", "bytes", "packed", "grid error")
SHARE = options.Number(0, 1)
CLOSE = 0.005  # of a limit: what is left of it beyond that is said


@click.command(
    epilog=options.examples(
        "mc prune model.safetensors -o pruned.safetensors --method magnitude --sparsity 0.5",
        "mc prune folder -o sparse --method 2:4 --keep 'layer.2.*'",
    )
)
@options.source
@options.required_output
@options.force
@click.option(
    "--method", help="magnitude, N:M, wanda, obs, block, rows, columns, heads, channels, low-rank; see below."
)
@click.option("--sparsity", type=SHARE, metavar="S", help="Share of weights that are to be zero.")
@options.max_error
@options.target_size
@options.overall
@click.option(
    "--scope", type=click.Choice(["global", "tensor", "row"]), help="Where weights compete; global by default."
)
@click.option(
    "--objective",
    type=click.Choice(["plain", "tensor", "row"]),
    default="plain",
    show_default=True,
    help="What errors are relative to where tensors compete: nothing, a tensor's or a row's power.",
)
@click.option("--rank", type=click.IntRange(1), metavar="R", help="Of low-rank.")
@click.option("--energy", type=SHARE, metavar="E", help="Of low-rank: share of the squares that it keeps.")
@click.option("--share", type=SHARE, metavar="P", help="Of low-rank: share of the parameters that it has.")
@click.option(
    "--stats", type=options.PATH, metavar="FILE", help="What layers are given; `mc analyze --inputs` writes it."
)
@click.option("--dense", is_flag=True, help="Write a low rank as the product, not as factors.")
@click.option("--shrink", is_flag=True, help="Take out what rows, columns, heads and channels prune.")
@click.option("--mask", type=options.PATH, metavar="FILE", help="Apply the masks of a file, by tensor.")
@click.option("--mask-out", type=options.PATH, metavar="FILE", help="Write what stays as bool masks.")
@options.keep
@click.option("--set", "sets", multiple=True, metavar="PATTERN=METHOD", help="Another method for these tensors.")
@click.option("--seed", type=options.SEED, default=0, metavar="S", help="What large low ranks start from; 0.")
@options.dry_run
@options.threads
@options.speaking
def prune(
    source: str,
    output: str,
    force: bool,
    method: str | None,
    sparsity: float | None,
    max_error: float | None,
    target_size: int | None,
    overall: bool,
    scope: str | None,
    objective: str,
    rank: int | None,
    energy: float | None,
    share: float | None,
    stats: str | None,
    dense: bool,
    shrink: bool,
    mask: str | None,
    mask_out: str | None,
    keep: tuple[str, ...],
    sets: tuple[str, ...],
    seed: int,
    dry_run: bool,
    threads: int,
    manner: show.Manner,
) -> int:
    """Prune a checkpoint, with the error stated and a limit met.

    IN is a plain safetensors file, a folder of them, or - for stdin. OUT is a safetensors file or folder; with a name
    that ends in .mc.safetensors (a folder: .mc) it is packed too. All matrices of floats are pruned, embeddings
    included; tensors of fewer than two dimensions stay. PATTERN is a glob on names, or re: and a regular expression.

    \b
    Methods and their keys, as in --set '*.query.*=block,size=4x4,sparsity=0.5':
      magnitude    sparsity=S, scope=global|tensor|row; the least magnitudes
      N:M          the N largest of every M in a row stay: 2:4, 4:8
      block        size=RxC, sparsity=S, scope=...; by norm, as are:
      rows, columns, channels (of a convolution's inputs), heads with size=N, axis=rows|columns
      wanda        magnitude times the root mean square of its input; pattern=N:M; needs --stats
      obs          the weights that stay make up for the others; pattern=N:M; needs --stats with Gram matrices
      low-rank     rank=R, energy=E or share=P, residual=S of sparse weights beside it; by --stats where given

    Without a sparsity or rank, --max-error or --target-size is met and never exceeded. For each tensor the error is
    listed beside the one that the grid of `mc quantize` would make at the same bytes.
    """
    import mc
    from mc.lossy.methods import parse_method

    given = {"sparsity": sparsity, "scope": scope, "rank": rank, "energy": energy, "share": share}
    chosen = [(pattern, parse_method(text, **given)) for pattern, text in map(options.split_set, sets)]
    request = parse_method(method, **given) if method is not None else None
    used = {key for one in (request, *(one for _, one in chosen)) if one is not None for key in keys_of(one)}
    for key, value in given.items():
        if value is not None and key not in used:
            raise click.UsageError(f"--{key} is of no use to the method; `mc prune -h` lists what each takes.")
    limit = limit_of(max_error, target_size, overall)
    if limit is not None and sparsity is not None:
        raise click.UsageError("Only one of --sparsity, --max-error and --target-size can be met at once.")
    if method is None and mask is None and not sets:
        raise click.UsageError("Nothing says how to prune: name a --method, or a --mask.")
    for option, name in {"--mask": mask, "--mask-out": mask_out, "--stats": stats}.items():
        if name == files.STDIO:
            raise click.UsageError(f"{option} wants a file, and - is none: a pipe has the checkpoint alone.")
    began = time.perf_counter()
    target = files.STDIO if files.is_stdout(output) else output
    if mask_out is not None:
        files.allow(Path(source) if source != files.STDIO else None, Path(mask_out), force=force, option="--mask-out")
    files.distinct({"-o": output, "--mask-out": mask_out}, {"--mask": mask, "--stats": stats})
    manner = manner.beside(target)
    if dry_run:
        from mc.pruning import plan

        files.refuse_pipe(source)
        planned = plan(source, request, chosen, keep, mask)
        show.rehearsal("prune", source, ("method", "pruned"), planned, manner)
        return 0
    with (
        files.writing(source, target, force=force) as pruned,
        files.reading(source) as original,
        show.progress("pruning", manner) as progress,
    ):
        report = mc.prune(
            original, pruned, method=request, limit=limit, objective=objective, sets=chosen, keep=keep, stats=stats,
            mask=mask, mask_out=None if mask_out is None else files.place_of(mask_out, force=force), dense=dense,
            shrink=shrink, seed=seed, pack=files.is_packed_name(target), threads=options.count(threads),
            progress=progress,
        )  # fmt: skip
    seconds = time.perf_counter() - began
    if manner.json:
        facts = {"source": source, "target": target, "seconds": round(seconds, 3), "objective": objective}
        show.document("prune", facts | asdict(report), manner)
    elif not manner.quiet:
        show.table(COLUMNS, rows(report), manner)
    stay = [f"{name} stays, tied to {first}" for file in report.files for name, first in file.tied]
    for line in [*stay, *left_over(report, limit)]:
        show.closing(line, manner, after_table=True)
    show.closing(summary(report, seconds, target), manner, after_table=True)
    return 0


def left_over(report: PruneReport, limit: Target | None) -> list[str]:
    """A line if a limit over all tensors is met, but not closely: nothing had to go, or what goes as one is too large
    for what is left."""
    if limit is None or (limit.kind == "error" and not limit.overall):
        return []
    tensors = [one for file in report.files for one in file.tensors]
    if limit.kind == "size":
        if not any(one.squared for one in tensors):
            return ["the limit is met with all weights as they were"]
        reached = float(sum(file.packed_bytes for file in report.files))
    else:
        reached = sum(one.squared for one in tensors) / (sum(one.power for one in tensors) or 1.0)
    short = 1 - reached / limit.value
    return [f"the limit is met with {short:.2%} to spare: no rank or threshold was found between"] * (short > CLOSE)


def keys_of(method: Any) -> tuple[str, ...]:
    """The keys that a method has."""
    from mc.lossy.methods import KEYS

    return KEYS[method.kind]


def limit_of(max_error: float | None, size: int | None, overall: bool) -> Target | None:
    """The one limit that was given, if any."""
    from mc.lossy.requests import Target

    limit = options.one_of(
        {
            "--max-error": Target("error", max_error, overall) if max_error is not None else None,
            "--target-size": Target("size", size) if size is not None else None,
        }
    )
    if overall and max_error is None:
        raise click.UsageError("--overall goes with --max-error.")
    return limit


def rows(report: PruneReport) -> list[tuple[object, ...]]:
    """One row a pruned tensor, with the names of COLUMNS."""
    return [
        (
            one.name,
            one.method,
            "x".join(map(str, one.shape)),
            f"{one.sparsity:.4f}",
            f"{one.error:.3g}",
            "-" if one.weighted is None else f"{one.weighted:.3g}",
            one.bytes,
            one.packed_bytes,
            f"{one.grid_error:.2g}" if one.packed_bytes else "-",
        )
        for file in report.files
        for one in file.tensors
    ]


def summary(report: PruneReport, seconds: float, target: str) -> str:
    """The closing line: sizes, zeros and error over all, what a grid would lose, and tensors without statistics."""
    tensors = [one for file in report.files for one in file.tensors]
    weights, power = sum(one.weights for one in tensors), sum(one.power for one in tensors)
    zeros = sum(one.zeros for one in tensors) / weights if weights else 0.0
    error = sum(one.squared for one in tensors) / power if power else 0.0
    grid = sum(one.grid_error * one.power for one in tensors) / power if power else 0.0
    before, after = (sum(getattr(file, name) for file in report.files) for name in ("bytes", "packed_bytes"))
    text = f"{show.amount(before)} -> {show.amount(after)} packed, {zeros:.2%} zeros, error {error:.3g}"
    weighted = [file.weighted for file in report.files if file.weighted is not None]
    if len(weighted) == 1:
        text += f" ({weighted[0]:.3g} on inputs)"
    missing = sum(len(file.unweighted) for file in report.files)
    text += f", {missing} tensors without statistics" * bool(missing)
    return text + f"; a grid of these bytes about {grid:.2g}, {seconds:.2f} s, {show.place(target)}"
