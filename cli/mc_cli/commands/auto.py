"""`mc auto`: the smallest loss at a size, or the smallest size at a loss or a score, chosen tensor by tensor."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mc_cli import evaluating, files, options, planned, show

if TYPE_CHECKING:
    from mc.automatic import AutoReport
    from mc.plan.goals import Goal

EVALS = 24
LOG = "the scores of --eval"
BY_PLAN = "objective", "level", "seed", "keep", "sets"  # what a plan settles, by parameter


class Drop(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions
    """2% of the original's score, or an absolute 0.01."""

    name = "drop"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, bool]:
        """The drop, and whether it is a share."""
        text = str(value).strip()
        relative = text.endswith("%")
        try:
            drop = float(text.removesuffix("%")) / (100 if relative else 1)
        except ValueError:
            drop = -1.0
        if not 0 <= drop < float("inf"):
            self.fail(f"{value!r} is no drop: give a share such as 2%, or a number such as 0.01.", param, ctx)
        return drop, relative


@click.command(
    epilog=options.examples(
        "mc auto model.safetensors -o small.mc.safetensors --target-ratio 8",
        "mc auto folder -o small.mc --bits 3 --keep 'layer.2.*' --plan-out plan.json",
    )
)
@options.source
@click.option("-o", "--output", type=options.PATH, metavar="OUT", help="Where to write; - is stdout.")
@options.force
@click.option("--lossless", is_flag=True, help="Nothing is lost; the smallest such file.")
@click.option("--target-size", type=options.SIZE, metavar="SIZE", help="Of all packed files: bytes, or 12MB.")
@click.option("--target-ratio", type=options.Number(1, min_open=True), metavar="R", help="R times smaller than IN.")
@click.option("--bits", type=options.Number(0, 32, min_open=True), metavar="B", help="Bits a weight that may change.")
@click.option("--max-error", type=options.Number(0, 1, min_open=True), metavar="E", help="Relative loss over all.")
@click.option("--alpha", type=options.Number(0, min_open=True), metavar="A", help="Loss that a bit a weight is worth.")
@click.option("--eval", "command", metavar="'COMMAND {}'", help="Prints a checkpoint's score as its last line.")
@click.option("--max-drop", type=Drop(), metavar="D", help="How far the score may fall: 2%, or 0.01.")
@click.option("--lower-is-better", is_flag=True, help="The score is a loss: how far it may rise.")
@click.option(
    "--max-evals", type=click.IntRange(2), default=EVALS, show_default=True, metavar="N", help="Runs of the command."
)
@click.option("--eval-timeout", type=options.Number(0, min_open=True), metavar="S", help="Seconds for each run.")
@click.option("--plan", "given", type=click.Path(), metavar="FILE", help="Do what this plan says, and no search.")
@click.option("--plan-out", type=click.Path(), metavar="FILE", help="Write the plan: to read, to edit, to do again.")
@click.option(
    "--objective",
    type=click.Choice(["plain", "tensor", "row", "diag", "gram"]),
    help="What losses are weighed by: nothing, a tensor's or row's power (row is the default), or --stats.",
)
@click.option(
    "--stats", type=options.PATH, metavar="FILE", help="Statistics of layer inputs; then gram is the default."
)
@click.option("--level", type=click.Choice(["fast", "default", "best"]), default="best", show_default=True,
              help="At which the result is packed.")  # fmt: skip
@options.keep
@click.option("--set", "sets", multiple=True, metavar="PATTERN=SCHEME", help="A scheme, auto or lossless for these.")
@click.option("--seed", type=options.SEED, default=0, metavar="S", help="What picks samples; 0 by default.")
@click.option("-n", "--dry-run", is_flag=True, help="Plan and measure, but write no OUT.")
@options.threads
@options.speaking
def auto(
    source: str,
    output: str | None,
    force: bool,
    lossless: bool,
    target_size: int | None,
    target_ratio: float | None,
    bits: float | None,
    max_error: float | None,
    alpha: float | None,
    command: str | None,
    max_drop: tuple[float, bool] | None,
    lower_is_better: bool,
    max_evals: int,
    eval_timeout: float | None,
    given: str | None,
    plan_out: str | None,
    objective: str | None,
    stats: str | None,
    level: str,
    keep: tuple[str, ...],
    sets: tuple[str, ...],
    seed: int,
    dry_run: bool,
    threads: int,
    manner: show.Manner,
) -> int:
    """Make a checkpoint smaller, chosen tensor by tensor and explained.

    IN is a plain safetensors file, a folder of them, or -. OUT is packed, unless its name ends in .safetensors alone.
    One goal: --lossless, --target-size, --target-ratio, --bits, --max-error, --alpha, --plan, or --eval with
    --max-drop. Biases, norms, integers, training states and tensors of fewer than two dimensions stay unless --set
    names them.

    --eval runs your program on plain checkpoints restored from candidates: {} is the path (a folder if IN is one),
    the last line it prints is the score. Its words are split as a shell does, but no shell runs; for pipes write
    --eval "sh -c 'my-test \\"$1\\" | tail -1' sh {}". Scores are kept in OUT.evals.jsonl: run again, the search goes
    on where it was.
    """
    import mc

    target = files.STDIO if output is not None and files.is_stdout(output) else output
    manner = manner.beside(target)
    goal = goal_of(lossless, target_size, target_ratio, bits, max_error, alpha, command, given)
    refuse(source, output, command, max_drop, dry_run, eval_timeout, lower_is_better)
    refuse_useless(given, plan_out, command)
    if plan_out is not None:
        refuse_taken(source, plan_out, force)
    log = log_of(source, output) if command is not None else None
    written = {"-o": output, "--plan-out": plan_out, LOG: None if log is None else str(log)}
    files.distinct(written, {"--stats": stats})
    chosen = [(pattern, text) for pattern, text in map(options.split_set, sets)]
    began = time.perf_counter()
    plan = read_plan(given) if given is not None else None
    judge = limit = None
    if command is not None and max_drop is not None and log is not None:
        from mc.plan.search import Limit

        limit = Limit(max_drop[0], max_drop[1], lower_is_better)
        judge = evaluating.Judge(evaluating.checked(command), eval_timeout, log)

    def note(text: str) -> None:
        if not manner.quiet and (manner.verbose or judge is not None):
            show.aside(text)

    def run(original: Any, packed: Any, progress: Any) -> AutoReport:
        return mc.auto(
            original, packed, goal=goal, plan=plan, objective=objective, stats=stats, sets=chosen, keep=keep,
            seed=seed, level=level, pack=target is None or not files.is_plain_name(target),
            threads=options.count(threads), progress=progress, note=note, score=judge, limit=limit, max_evals=max_evals,
            plan_out=None if plan_out is None else files.place_of(plan_out, force=force),
        )  # fmt: skip

    if dry_run or target is None:
        with files.reading(source) as original:
            report = run(original, None, None)
    else:
        with (
            files.writing(source, target, force=force) as packed,
            files.reading(source) as original,
            show.progress("writing", manner) as progress,
        ):
            report = run(original, packed, progress)
    conclude(report, source, target if not dry_run else None, time.perf_counter() - began, manner)
    return 0


def goal_of(
    lossless: bool, size: int | None, ratio: float | None, bits: float | None, error: float | None,
    alpha: float | None, command: str | None, plan: str | None,
) -> Goal | None:  # fmt: skip
    """The one goal that was given; None for a plan or a search by scores. UsageError for none or several."""
    from mc.plan.goals import Goal

    named: list[Goal | None] = [
        Goal("lossless") if lossless else None,
        Goal("size", size) if size is not None else None,
        Goal("ratio", ratio) if ratio is not None else None,
        Goal("bits", bits) if bits is not None else None,
        Goal("error", error) if error is not None else None,
        Goal("alpha", alpha) if alpha is not None else None,
    ]
    goals = [one for one in named if one is not None]
    if len(goals) + (command is not None) + (plan is not None) != 1:
        raise click.UsageError(
            "Give one goal: --lossless, --target-size, --target-ratio, --bits, --max-error, --alpha, --plan, or --eval "
            "with --max-drop."
        )
    return goals[0] if goals else None


def refuse(
    source: str, output: str | None, command: str | None, drop: tuple[float, bool] | None, dry_run: bool,
    timeout: float | None, lower: bool,
) -> None:  # fmt: skip
    """UsageError for options that don't go together."""
    if output is None and not dry_run:
        raise click.UsageError("Name the output with -o, or write nothing with -n.")
    if (command is None) != (drop is None):
        raise click.UsageError("--eval and --max-drop go together.")
    if command is None and (timeout is not None or lower):
        raise click.UsageError("--eval-timeout and --lower-is-better go with --eval.")
    if command is not None and source == files.STDIO:
        raise click.UsageError("--eval needs the original as a file or a folder, and - is read once. Name one.")


def refuse_useless(plan: str | None, plan_out: str | None, command: str | None) -> None:
    """UsageError for options that would not be heeded."""
    for option, name in {"--plan": plan, "--plan-out": plan_out}.items():
        if name == files.STDIO:
            raise click.UsageError(f"{option} wants a file, and - is none: a pipe has the checkpoint alone.")
    context = click.get_current_context()
    named = {
        one.name: one.opts[-1] for one in context.command.params
        if one.name and context.get_parameter_source(one.name) is ParameterSource.COMMANDLINE
    }  # fmt: skip
    if command is None and "max_evals" in named:
        raise click.UsageError("--max-evals goes with --eval.")
    for name in BY_PLAN:
        if plan is not None and name in named:
            raise click.UsageError(f"--plan settles what {named[name]} would: edit the plan, or leave that out.")


def refuse_taken(source: str, plan_out: str, force: bool) -> None:
    """Refuse to write a plan over the source or into its folder, or over anything without -f."""
    if source != files.STDIO and Path(source).exists():
        files.inside(Path(source), Path(plan_out), "--plan-out")
    files.allow(None, Path(plan_out), force=force, option="--plan-out")


def log_of(source: str, output: str | None) -> Path:
    """Where scores are written down: beside the output; without one, or where it is a device, beside the source."""
    named = output if output is not None and output != files.STDIO and not files.is_device(Path(output)) else source
    return Path(named.rstrip("/") + ".evals.jsonl")


def read_plan(name: str) -> Any:
    """The plan in a file."""
    from mc.plan.plans import loaded

    with files.naming(name):
        return loaded(Path(name).read_bytes(), name)


def conclude(report: AutoReport, source: str, target: str | None, seconds: float, manner: show.Manner) -> None:
    """Show what was chosen and why."""
    from mc.plan.explain import sentences

    if manner.json:
        facts = {"source": source, "target": target, "seconds": round(seconds, 3)}
        sums = show.totals(report.bytes, report.packed_bytes)
        more = {key: value for key, value in asdict(report).items() if key not in ("source", "target", "bytes")}
        show.document("auto", {**facts, **sums, **more, "explanation": sentences(report.plan)}, manner)
        return
    if report.unweighed:
        names = ", ".join(report.unweighed)
        count = len(report.unweighed)
        show.aside(f"{count} tensors have no statistics; errors were weighed by row, of embeddings by column: {names}")
    if not manner.quiet:
        show.table(planned.COLUMNS, planned.rows(report.plan), manner, planned.FEW)
        for line in [*(["This is a training state: what --set doesn't name stays exact."] if report.state else []),
                     *sentences(report.plan)]:  # fmt: skip
            show.closing(line, manner, after_table=True)
    where = target if target is not None else "nothing written"
    show.closing(
        show.sizes(report.bytes, report.packed_bytes, report.bytes, report.packed_bytes, seconds, where), manner,
        after_table=True,
    )  # fmt: skip
