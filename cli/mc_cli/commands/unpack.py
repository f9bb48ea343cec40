"""`mc unpack`: a packed checkpoint in, the original out, byte for byte."""

from __future__ import annotations

import time
from dataclasses import asdict

import click

from mc_cli import files, options, show

COLUMNS = (
    "packed file",
    "restored file",
    "bytes",
    "packed",
    "sha256",
    "checked",
)  # the order of RestoredFile


@click.command(
    epilog=options.examples(
        "mc unpack model.mc.safetensors --check",
        "mc unpack model.mc.safetensors --tensor '*.weight' -o weights.safetensors",
    )
)
@options.source
@options.output
@options.force
@click.option("--check", is_flag=True, help="Compare the whole file's sha256 too; chunks are always checked.")
@click.option("--tensor", "tensors", multiple=True, metavar="GLOB", help="Write only these tensors; may be repeated.")
@click.option("--dequantize", is_flag=True, help="Plain floats under the original names, from a quantized checkpoint.")
@click.option("--dtype", type=click.Choice(["f32", "bf16", "fp16", "f64"]), help="Of these floats; else what each was.")
@options.threads
@options.speaking
def unpack(
    source: str,
    output: str | None,
    force: bool,
    check: bool,
    tensors: tuple[str, ...],
    dequantize: bool,
    dtype: str | None,
    threads: int,
    manner: show.Manner,
) -> int:
    """Restore the original file or folder, byte for byte.

    IN is a packed file, a packed folder, or - for stdin, whose original goes to stdout. The output is
    model.safetensors for model.mc.safetensors, and the folder X for X.mc. Every chunk's checksum is verified
    on the way; where one does not fit, nothing is written and the exit code is 3.

    With --dequantize, what mc quantize made becomes floats again, whether it is packed or not (then name OUT).
    """
    import mc
    from mc.ahead import compile_for

    if check and tensors:
        raise click.UsageError("--check compares the whole file, so it does not go with --tensor.")
    if dequantize and (check or tensors):
        raise click.UsageError("--dequantize makes other bytes than were packed: no --check, and no --tensor.")
    if dtype is not None and not dequantize:
        raise click.UsageError("--dtype says what --dequantize makes.")
    began = time.perf_counter()
    target = files.target_of(source, output, files.plain_name)
    manner = manner.beside(target)
    with (
        files.writing(source, target, force=force) as restored,
        files.reading(source) as packed,
        show.progress("unpacking", manner) as progress,
    ):
        compile_for("unpack", packed)
        if dequantize:
            report = mc.dequantize(packed, restored, dtype=dtype, threads=options.count(threads), progress=progress)
        else:
            report = mc.unpack(
                packed,
                restored,
                check=check,
                tensors=tensors or None,
                threads=options.count(threads),
                progress=progress,
            )
    seconds = time.perf_counter() - began
    whole, small = report.bytes, report.packed_bytes
    if manner.json:
        facts = {"source": source, "target": target, "seconds": round(seconds, 3)}
        sums = show.totals(whole, small)
        show.document("unpack", facts | sums | asdict(report), manner)
    elif manner.verbose and not manner.quiet:
        show.table(COLUMNS, [tuple(asdict(file).values()) for file in report.files], manner)
    show.closing(show.sizes(small, whole, whole, small, seconds, target), manner, after_table=manner.verbose)
    return 0
