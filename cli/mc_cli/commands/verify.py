"""`mc verify`: every finding about a packed or plain checkpoint, and exit code 0 or 3."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mc_cli import files, options, show

if TYPE_CHECKING:
    from mc.lossy.against import TensorError
    from mc.reports import Finding, VerifiedFile, VerifyReport

DAMAGED, ABOVE, UNREADABLE = 3, 4, 1  # exit codes
COLUMNS = ("result", "file", "tensor", "place", "message")
ERROR_COLUMNS = ("result", "file", "tensor", "scheme", "error", "stated", "message")


@click.command(
    epilog=options.examples("mc verify model.mc.safetensors", "mc verify model.mc.safetensors model.safetensors --json")
)
@click.argument("packed", type=options.PATH)
@click.argument("original", metavar="[ORIGINAL]", type=options.PATH, nargs=-1)
@click.option("--each", is_flag=True, help="Every argument is a checkpoint by itself, none an original.")
@click.option("--against", metavar="A", type=options.PATH, help="What PACKED was quantized from: measure its errors.")
@click.option("--max-error", type=options.Number(0), metavar="E", help="With --against, exit 4 above this error.")
@click.option("--overall", is_flag=True, help="The error over all tensors, not of each.")
@options.threads
@options.speaking
def verify(
    packed: str,
    original: tuple[str, ...],
    each: bool,
    against: str | None,
    max_error: float | None,
    overall: bool,
    threads: int,
    manner: show.Manner,
) -> int:
    """Check a packed or plain checkpoint in full.

    PACKED is a packed file, a plain safetensors file, a folder of either, or - for stdin. Header, manifest,
    every chunk and the sha256 of the restored file are checked, without writing it; with ORIGINAL, also that
    the restored file equals it. All findings are listed, tensor by tensor; the exit code is 0 if there are
    none, and else 3.

    With --against A, where PACKED was quantized from A, the relative squared error of every tensor is computed from
    the decoded bytes and listed; above --max-error the exit code is 4.
    """
    if against is None and (max_error is not None or overall):
        raise click.UsageError("--max-error and --overall go with --against, which names the original.")
    if against is not None and (original or each):
        raise click.UsageError("--against measures one checkpoint against A; ORIGINAL and --each compare bytes.")
    if overall and max_error is None:
        raise click.UsageError("--overall says what --max-error limits.")
    if len(original) > 1 and not each:
        raise click.UsageError("One ORIGINAL at most can be compared; --each verifies each file by itself.")
    began = time.perf_counter()
    workers = options.count(threads)
    if against is not None:
        return measure(packed, against, max_error, overall, workers, manner)
    unreadable: list[tuple[str, str]] = []
    if each:
        reports, unreadable = check_each((packed, *original), workers, manner)
    else:
        reports = [check(packed, original[0] if original else None, workers, manner)]
    verified = [file for report in reports for file in report.files]
    findings = [finding for report in reports for finding in report.findings]
    seconds = time.perf_counter() - began
    if manner.json:
        facts = {"packed": packed, "intact": not findings and not unreadable, "seconds": round(seconds, 3)}
        lists = {"files": [asdict(file) for file in verified], "findings": [asdict(one) for one in findings]}
        not_read = {"unreadable": [{"file": name, "message": message} for name, message in unreadable]}
        show.document("verify", facts | lists | not_read, manner)
    elif findings or unreadable or not manner.quiet:
        show.table(COLUMNS, rows(verified, findings, unreadable, manner.verbose), manner)
    show.closing(summary(verified, findings, unreadable, seconds), manner, after_table=True)
    return DAMAGED if findings else UNREADABLE if unreadable else 0


def measure(
    packed: str, against: str, limit: float | None, overall: bool, threads: int | None, manner: show.Manner
) -> int:
    """Show what was lost; 3 where the two are no checkpoints of one model or bytes are damaged, 4 above the limit."""
    import mc

    if packed == files.STDIO == against:
        raise click.UsageError("Only one of PACKED and A can be stdin.")
    began = time.perf_counter()
    with ExitStack() as stack:
        one, other = (stack.enter_context(files.reading(name)) for name in (packed, against))
        progress = stack.enter_context(show.progress("measuring", manner))
        found = mc.measure(one, other, threads=threads, progress=progress)
    power = sum(tensor.power for tensor in found)
    pooled = sum(tensor.squared for tensor in found) / power if power else 0.0
    worst = max((tensor.error for tensor in found), default=0.0)
    faults = any(tensor.fault for tensor in found)
    above = limit is not None and (pooled if overall else worst) > limit
    code = DAMAGED if faults else ABOVE if above else 0
    seconds = time.perf_counter() - began
    if manner.json:
        facts = {"packed": packed, "against": against, "error": pooled, "worst": worst, "max_error": limit}
        lists = {"within": code == 0, "seconds": round(seconds, 3), "tensors": [asdict(tensor) for tensor in found]}
        show.document("verify", facts | lists, manner)
    elif code or not manner.quiet:
        show.table(ERROR_COLUMNS, error_rows(found, None if overall else limit), manner)
    verdict = "within the limit" if limit is not None else "measured"
    if code:
        verdict = "doesn't match" if faults else f"above the limit {limit:g}"
    ending = f"error over all {pooled:.3g}, worst {worst:.3g}, {seconds:.2f} s: {verdict}"
    show.closing(f"{len(found)} tensors, {ending}", manner, after_table=True)
    return code


def error_rows(found: tuple[TensorError, ...], limit: float | None) -> Iterator[tuple[str, ...]]:
    """A row for each tensor that was quantized, or differs."""
    for one in found:
        if one.scheme or one.error or one.fault:
            result = "fault" if one.fault else "above" if limit is not None and one.error > limit else "measured"
            stated = "-" if one.stated is None else f"{one.stated:.4g}"
            yield result, one.file, one.name, one.scheme, f"{one.error:.4g}", stated, one.fault


def check(name: str, original: str | None, threads: int | None, manner: show.Manner) -> VerifyReport:
    """The core's report about one checkpoint; damage that ends the reading early is a finding too."""
    import mc
    from mc.ahead import compile_for
    from mc.errors import DamagedError
    from mc.reports import Finding, VerifyReport

    if original == files.STDIO == name:
        raise click.UsageError("Only one of PACKED and ORIGINAL can be stdin.")
    with ExitStack() as stack:
        packed = stack.enter_context(files.reading(name))
        plain = stack.enter_context(files.reading(original)) if original is not None else None
        progress = stack.enter_context(show.progress("verifying", manner))
        compile_for("unpack", packed)
        try:
            return mc.verify(packed, plain, threads=threads, progress=progress)
        except DamagedError as error:
            return VerifyReport(files=(), findings=(Finding(name, None, "file", str(error)),))


def check_each(
    names: tuple[str, ...], threads: int | None, manner: show.Manner
) -> tuple[list[VerifyReport], list[tuple[str, str]]]:
    """The reports about many checkpoints, and of those that cannot be read at all, name and reason."""
    from mc.errors import McError

    reports: list[VerifyReport] = []
    unreadable: list[tuple[str, str]] = []
    for name in names:
        try:
            reports.append(check(name, None, threads, manner))
        except McError as error:
            unreadable.append((name, str(error)))
        except OSError as error:
            unreadable.append((name, files.sentence(error)))
    return reports, unreadable


def rows(
    verified: list[VerifiedFile], findings: list[Finding], unreadable: list[tuple[str, str]], verbose: bool
) -> Iterator[tuple[str, ...]]:
    """A row for each finding, each file that cannot be read, and each file without either; with `verbose`, also for
    each quantized tensor what the manifest says of it."""
    damaged = {finding.file for finding in findings}
    for finding in findings:
        yield "damaged", finding.file, finding.tensor or "", finding.place, finding.message
    for name, message in unreadable:
        yield "unreadable", name, "", "", message
    for file in verified:
        if file.path not in damaged:
            parts = [file.kind, f"{file.tensors} tensors"]
            parts += [f"{file.chunks} chunks"] if file.kind == "packed" else []
            parts += [f"sha256 {file.sha256}"] if file.sha256 else []
            yield "intact", file.path, "", "", ", ".join(parts)
        for tensor, said in file.quantized.items() if verbose else ():
            yield "quantized", file.path, tensor, "", ", ".join(f"{key} {value}" for key, value in said.items())


def summary(
    verified: list[VerifiedFile], findings: list[Finding], unreadable: list[tuple[str, str]], seconds: float
) -> str:
    """The closing line: how many files and bytes, and the verdict."""
    size = show.amount(sum(file.bytes for file in verified))
    verdicts = [f"{len(findings)} finding{'s' * (len(findings) != 1)}"] if findings else []
    verdicts += [f"{len(unreadable)} unreadable"] if unreadable else []
    verdict = ", ".join(verdicts) or "intact"
    return f"{len(verified)} file{'s' * (len(verified) != 1)}, {size}, {seconds:.2f} s: {verdict}"
