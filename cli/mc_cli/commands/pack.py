"""`mc pack`: a checkpoint in, a smaller packed one out."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import click

from mc_cli import files, options, show

if TYPE_CHECKING:
    from mc.reports import PackReport

COLUMNS = ("tensor", "dtype", "shape", "bytes", "packed", "ratio", "coding", "why")


@click.command(epilog=options.examples("mc pack model.safetensors", "mc pack folder -o smaller --level best"))
@options.source
@options.output
@options.force
@click.option(
    "--level",
    type=click.Choice(["fast", "default", "best"]),
    default="default",
    show_default=True,
    help="Speed first, the balance, or size first.",
)
@options.threads
@options.speaking
def pack(
    source: str,
    output: str | None,
    force: bool,
    level: Literal["fast", "default", "best"],
    threads: int,
    manner: show.Manner,
) -> int:
    """Pack a safetensors file or a folder of them without loss.

    IN is a file, a folder (with an index or without), or - for stdin, whose packed form goes to stdout.
    The packed file is model.mc.safetensors for model.safetensors, and the folder X.mc for X; it is a valid
    safetensors file itself, and every chunk in it has a checksum. -v lists how each tensor was coded and why.
    """
    import mc
    from mc.ahead import compile_for

    began = time.perf_counter()
    target = files.target_of(source, output, files.packed_name)
    manner = manner.beside(target)
    with (
        files.writing(source, target, force=force) as packed,
        files.reading(source) as original,
        show.progress("packing", manner) as progress,
    ):
        compile_for("pack", original, level)
        report = mc.pack(original, packed, level=level, threads=options.count(threads), progress=progress)
    seconds = time.perf_counter() - began
    whole, small = report.bytes, report.packed_bytes
    if manner.json:
        facts = {"source": source, "target": target, "level": level, "seconds": round(seconds, 3)}
        sums = show.totals(whole, small)
        show.document("pack", facts | sums | asdict(report), manner)
    elif manner.verbose and not manner.quiet:
        show.table(COLUMNS, rows(report), manner)
    show.closing(show.sizes(whole, small, whole, small, seconds, target), manner, after_table=manner.verbose)
    return 0


def rows(report: PackReport) -> list[tuple[object, ...]]:
    """One row a tensor, with the names of COLUMNS."""
    return [
        (
            tensor.name,
            tensor.dtype,
            "x".join(map(str, tensor.shape)) or "scalar",
            tensor.bytes,
            tensor.packed_bytes,
            f"{tensor.packed_bytes / tensor.bytes:.4f}" if tensor.bytes else "-",
            tensor.coding,
            tensor.why,
        )
        for file in report.files
        for tensor in file.tensors
    ]
