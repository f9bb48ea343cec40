"""`mc quantize`: fewer bits a weight, with the error stated and a limit that is met."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mc_cli import files, options, show

if TYPE_CHECKING:
    from mc.lossy.requests import Request, Target
    from mc.simplifying import QuantizeReport

COLUMNS = ("tensor", "scheme", "shape", "bits", "error", "snr", "above Gaussian", "side")
MANY_ZEROS = 0.01  # share of weights from which it is said that zeros were lost
BYTEWISE = "grid i8 per channel"
USED = 0.99  # of what is allowed; less is said
STANDARD = ("int", "fp8", BYTEWISE)  # described schemes that compressed-tensors has
# Bits a weight and error of formats of fixed rate, measured on the matrices of MiniLM.
FIXED = (
    ("GGUF Q6_K", 6.56, 0.00033), ("GGUF Q5_K", 5.50, 0.00135), ("GGUF Q4_K", 4.50, 0.00526),
    ("NF4", 4.13, 0.00865), ("int4 g128", 4.13, 0.0135), ("GGUF Q3_K", 3.44, 0.0235), ("GGUF Q2_K", 2.63, 0.0904),
)  # fmt: skip


@click.command(
    epilog=options.examples(
        "mc quantize model.safetensors -o small.mc.safetensors --scheme grid --bits 3",
        "mc quantize folder -o int4 --scheme int4 --group 32 --keep 'layer.2.*'",
    )
)
@options.source
@options.required_output
@options.force
@click.option(
    "--scheme",
    required=True,
    help="bf16, fp16, fp8, int2 to int8, codebook, nf4, grid, trellis or mantissa; see below.",
)
@click.option("--bits", type=options.Number(0, 32, min_open=True), metavar="B", help="Bits a weight, packed.")
@options.max_error
@click.option("--snr", type=options.Number(0, 200), metavar="DB", help="The same in decibels.")
@options.target_size
@options.overall
@click.option(
    "--objective",
    type=click.Choice(["plain", "tensor", "row", "diag", "gram"]),
    default="row",
    show_default=True,
    help="What errors of a grid or trellis are weighed by: nothing, a tensor's or row's power, or statistics.",
)
@click.option("--stats", type=options.PATH, metavar="FILE", help="Statistics of layer inputs, for diag and gram.")
@click.option("--strict", is_flag=True, help="Refuse tensors without statistics.")
@click.option(
    "--format",
    "layout",
    type=click.Choice(["mc", "compressed-tensors"]),
    help="What must be able to load it; for compressed-tensors, embeddings stay.",
)
@click.option(
    "--group", type=click.IntRange(1), metavar="N", help="Columns that share a scale (int), or numbers (nf4)."
)
@click.option("--codes", type=click.IntRange(2, 256), metavar="K", help="Values in a codebook.")
@click.option("--effort", type=click.Choice(["4", "8", "64", "256"]), help="States of a trellis; 8 by default.")
@options.keep
@click.option("--set", "sets", multiple=True, metavar="PATTERN=SCHEME", help="Another scheme for these tensors.")
@click.option("--seed", type=options.SEED, default=0, metavar="S", help="What picks samples; 0 by default.")
@options.dry_run
@options.threads
@options.speaking
def quantize(
    source: str,
    output: str,
    force: bool,
    scheme: str,
    bits: float | None,
    max_error: float | None,
    snr: float | None,
    target_size: int | None,
    overall: bool,
    objective: str,
    stats: str | None,
    strict: bool,
    layout: str | None,
    group: int | None,
    codes: int | None,
    effort: str | None,
    keep: tuple[str, ...],
    sets: tuple[str, ...],
    seed: int,
    dry_run: bool,
    threads: int,
    manner: show.Manner,
) -> int:
    """Quantize a checkpoint, with the error stated and a limit met.

    IN is a plain safetensors file, a folder of them, or - for stdin. OUT is a safetensors file or folder; with a name
    that ends in .mc.safetensors (a folder: .mc) it is packed too. Tensors of fewer than two dimensions, norms and
    biases among them, stay unless --set names them; PATTERN is a glob on names, or re: and a regular expression.

    \b
    Schemes and their keys, as in --set '*.query.*=int8,group=64':
      bf16, fp16   narrower floats
      fp8          format=e4m3|e5m2, per=channel|tensor
      int2 .. int8 group=N, symmetric=yes|no, scales=absmax|mse; compressed-tensors files
      codebook     codes=K, rows=N that share one
      nf4          group=N
      grid         columns=yes|no; uniform steps for the entropy coder; needs one of --bits, --max-error,
                   --snr and --target-size, which is met and never exceeded. With --format
                   compressed-tensors: bytes and a scale for each row, wider where a row needs it
      trellis      effort=4|8|64|256, columns=yes|no; like grid, a sixth of a bit smaller at the same
                   error, and slower to make the more states it has
      mantissa     floats in their own dtype, of fewer bits; a target as for grid
    """
    import mc
    from mc.lossy.requests import KEYS, parse_request

    given = {key: value for key, value in (("group", group), ("codes", codes), ("effort", effort)) if value is not None}
    request = parse_request(scheme, **given)
    chosen = [(pattern, parse_request(text, **given)) for pattern, text in map(options.split_set, sets)]
    for key in given:
        if not any(key in KEYS[one.kind] for one in (request, *(one for _, one in chosen))):
            having = " and ".join(kind for kind, keys in KEYS.items() if key in keys)
            raise click.UsageError(f"--{key} is for {having}, and no scheme that was asked for is one of these.")
    if layout == "compressed-tensors":
        request, chosen = standard(request), [(pattern, standard(one)) for pattern, one in chosen]
    limit = limit_of(bits, max_error, snr, target_size, overall)
    files.distinct({"-o": output}, {"--stats": stats})
    began = time.perf_counter()
    target = files.STDIO if files.is_stdout(output) else output
    manner = manner.beside(target)
    if dry_run:
        from mc.simplifying import plan

        files.refuse_pipe(source)
        planned = plan(source, request, chosen, keep)
        show.rehearsal("quantize", source, ("scheme", "quantized"), planned, manner)
        return 0
    with (
        files.writing(source, target, force=force) as quantized,
        files.reading(source) as original,
        show.progress("quantizing", manner) as progress,
    ):
        report = mc.quantize(
            original, quantized, scheme=request, limit=limit, objective=objective, sets=chosen, keep=keep, seed=seed,
            stats=stats, strict=strict, pack=files.is_packed_name(target), threads=options.count(threads),
            progress=progress,
        )  # fmt: skip
    seconds = time.perf_counter() - began
    if manner.json:
        facts = {"source": source, "target": target, "seconds": round(seconds, 3), "objective": objective}
        show.document("quantize", facts | asdict(report), manner)
    elif not manner.quiet:
        show.table(COLUMNS, rows(report), manner)
    if not manner.quiet and (layout == "compressed-tensors" or (Path(source) / "config.json").is_file()):
        for line in warnings(report):
            show.aside(line)
    for line in [*notices(report), *unused(report, limit)]:
        show.closing(line, manner, after_table=True)
    show.closing(summary(report, seconds, target), manner, after_table=True)
    return 0


def standard(request: Request) -> Request:
    """The request as compressed-tensors stores it; UsageError for a scheme that it doesn't have."""
    if request.kind in ("codebook", "nf4", "trellis") or request.columns:
        kind = "grid with columns" if request.columns else request.kind
        raise click.UsageError(f"compressed-tensors has no scheme like {kind}; use int, fp8 or grid.")
    return replace(request, standard=True)


def limit_of(
    bits: float | None, max_error: float | None, snr: float | None, size: int | None, overall: bool
) -> Target | None:
    """The one limit that was given, if any."""
    from mc.lossy.requests import Target

    limit = options.one_of(
        {
            "--bits": Target("bits", bits) if bits is not None else None,
            "--max-error": Target("error", max_error, overall) if max_error is not None else None,
            "--snr": Target("error", 10 ** (-snr / 10), overall) if snr is not None else None,
            "--target-size": Target("size", size) if size is not None else None,
        }
    )
    if overall and (limit is None or limit.kind != "error"):
        raise click.UsageError("--overall goes with --max-error and --snr.")
    return limit


def rows(report: QuantizeReport) -> list[tuple[object, ...]]:
    """One row a quantized tensor, with the names of COLUMNS."""
    return [
        (
            one.name,
            one.scheme,
            "x".join(map(str, one.shape)) or "scalar",
            f"{one.bits:.3f}",
            f"{one.error:.3g}",
            "-" if one.snr is None else f"{one.snr:.2f}",
            "-" if one.snr is None else f"{one.bits - one.bound:.3f}",
            f"{one.side_bytes / one.bytes:.2%}" if one.bytes else "-",
        )
        for file in report.files
        for one in file.tensors
    ]


NO_STATS = "have no statistics"


def notices(report: QuantizeReport) -> list[str]:
    """What was done otherwise than a reader may think: tensors without statistics, tied ones that stay, zeros lost."""
    lines = []
    for objective, lack in (("tensor", NO_STATS), ("row", NO_STATS), ("diag", "have no Gram matrix")):
        names = [one.name for file in report.files for one in file.unweighed if one.objective == objective]
        if names:
            lines.append(f"{len(names)} tensors {lack} and were weighed by {objective}: {', '.join(names)}")
    lines += [f"{name} stays, tied to {twin}" for file in report.files for name, twin in file.tied]
    lost = [one for file in report.files for one in file.tensors if one.zeros_lost >= MANY_ZEROS * one.weights]
    if lost:
        count, listed = sum(one.zeros_lost for one in lost), ", ".join(one.name for one in lost)
        lines.append(f"{count} zeros of {len(lost)} tensors aren't zero any more; grid and int hold them: {listed}")
    spared = [name for file in report.files for name in file.spared]
    if spared:
        lines.append(f"{len(spared)} tensors stay, which readers load as floats: {', '.join(spared)}")
    return lines


def unused(report: QuantizeReport, limit: Target | None) -> list[str]:
    """What was allowed and not used: integers end (those of a standard grid at a byte), and weights have no more."""
    if limit is None or limit.kind == "error":
        return []
    weights = sum(file.weights for file in report.files)
    if limit.kind == "bits":
        found = sum(file.bits * file.weights for file in report.files) / weights
        allowed, taken = f"{limit.value:g} bits a weight", f"{found:.3f}"
    else:
        found = sum(file.packed_bytes for file in report.files)
        allowed, taken = show.amount(int(limit.value)), show.amount(int(found))
    if found >= USED * limit.value:
        return []
    bytewise = any(one.scheme == BYTEWISE for file in report.files for one in file.tensors)
    why = "integers of a byte have no finer steps" if bytewise else "no step comes nearer"
    return [f"{allowed} were allowed and {taken} are taken: {why}"]


def warnings(report: QuantizeReport) -> list[str]:
    """What transformers won't load of a folder whose config.json says that it is compressed-tensors."""
    from mc.lossy.standards import is_linear

    made = [one for file in report.files for one in file.tensors if one.scheme.startswith(STANDARD)]
    lines = []
    if any("asymmetric" in one.scheme for one in made):
        lines.append(
            "Warning: transformers does not load asymmetric integers as they are stored; it needs "
            "quantization_config=CompressedTensorsConfig(dequantize=True), or symmetric=yes here."
        )
    others = [one.name for one in made if not is_linear(one.name, len(one.shape))]
    if others:
        lines.append(
            f"Warning: readers of compressed-tensors load these as floats, and won't find them: {', '.join(others)}. "
            "With --format compressed-tensors they stay unless --set names them."
        )
    return lines


def summary(report: QuantizeReport, seconds: float, target: str) -> str:
    """The closing line: sizes, bits and error over all, and a format of fixed rate with such an error."""
    weights = sum(file.weights for file in report.files)
    bits = sum(file.bits * file.weights for file in report.files) / weights if weights else 0.0
    power = sum(one.power for file in report.files for one in file.tensors)
    error = sum(one.squared for file in report.files for one in file.tensors) / power if power else 0.0
    before, after = (sum(getattr(file, name) for file in report.files) for name in ("bytes", "packed_bytes"))
    text = f"{show.amount(before)} -> {show.amount(after)} packed, {bits:.3f} bits a weight, error {error:.3g}"
    return text + f"{equivalent(error, bits)}, {seconds:.2f} s, {show.place(target)}"


def equivalent(error: float, bits: float) -> str:
    """', the error of NF4 at 88 % of its bits': of the formats that have at least this error, the least one."""
    for name, fixed, theirs in FIXED:
        if error <= theirs and error > 0.5 * theirs:
            return f" (that of {name} or less, at {bits / fixed:.0%} of its bits)"
    return ""
