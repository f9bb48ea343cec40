"""The options that mean the same in every command, each defined once."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any

import click

from mc import __version__
from mc_cli import show

if TYPE_CHECKING:
    from mc.lossy.requests import Target

Command = Callable[..., Any]

SEED = click.IntRange(0, 2**63 - 1)  # recipes and plans hold it, whose integers are below (FORMAT.md, 3.1)
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


class Size(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions
    """Bytes: 1500000, 1.5MB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        text = str(value).strip().lower().removesuffix("b")
        number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS and text[-1:] else (text, "")
        try:
            size = int(float(number) * UNITS[unit])
        except (ValueError, OverflowError):
            size = 0
        if size < 1:
            self.fail(f"{value!r} is no size: give bytes, or a number with kB, MB or GB.", param, ctx)
        return size


class Number(click.FloatRange):
    """A number in a range. NaN, which is neither below nor above any limit, lies in none, and infinity neither."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        number = float(super().convert(value, param, ctx))
        if not isfinite(number):
            self.fail(f"{value!r} is no number.", param, ctx)
        return number


SIZE = Size()
NAME = re.compile(r"\d+:\d+|[a-z][a-z0-9-]*")  # of a scheme or method
VALUES = (
    "yes",
    "no",
    "absmax",
    "mse",
    "global",
    "tensor",
    "row",
    "rows",
    "columns",
    "channel",
    "e4m3",
    "e5m2",
)  # of their keys
PATH = click.Path(allow_dash=True, readable=False)  # what cannot be read is an error of code 1, not 2

source = click.argument("source", metavar="IN", type=PATH)
output = click.option(
    "-o",
    "--output",
    type=PATH,
    metavar="PATH",
    help="Where to write; - is stdout. By default made from IN's name.",
)
required_output = click.option(
    "-o", "--output", type=PATH, metavar="OUT", required=True, help="Where to write; - is stdout."
)
force = click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
max_error = click.option("--max-error", type=Number(0, 1, min_open=True), metavar="E", help="Relative squared error.")
target_size = click.option("--target-size", type=SIZE, metavar="SIZE", help="Of the packed file: bytes, or 12MB.")
overall = click.option("--overall", is_flag=True, help="The error over all tensors, not of each.")
dry_run = click.option("-n", "--dry-run", is_flag=True, help="List what would be done to each tensor; write nothing.")
threads = click.option(
    "-T",
    "--threads",
    type=click.IntRange(0, 1024),
    default=0,
    metavar="N",
    help="Threads; 0, the default, is all cores.",
)
quiet = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors and findings.")
verbose = click.option("-v", "--verbose", is_flag=True, help="Print more, and a traceback with an error.")
as_json = click.option("--json", "as_json", is_flag=True, help='Print one JSON object with "schema": 1.')
keep = click.option(
    "--keep", multiple=True, metavar="PATTERN", help="Leave these tensors as they are; may be repeated."
)
no_progress = click.option("--no-progress", is_flag=True, help="No progress bar (there is one only at a terminal).")
version = click.version_option(__version__, "-V", "--version", prog_name="mc", message="%(prog)s %(version)s")


def speaking(command: Command) -> Command:
    """Add what decides how a command speaks: -q, -v, --json, --no-progress; and -V. It gets them as its `manner`."""

    @functools.wraps(command)
    def spoken(*, quiet: bool, verbose: bool, as_json: bool, no_progress: bool, **others: Any) -> Any:
        return command(manner=show.Manner(quiet, verbose, as_json, not no_progress), **others)

    for option in (version, no_progress, as_json, verbose, quiet):
        spoken = option(spoken)
    return spoken


def examples(first: str, second: str) -> str:
    """The epilog of a command's help: two command lines, kept as they stand (tests run them)."""
    return f"\b\nExamples:\n  {first}\n  {second}"


def one_of(given: Mapping[str, Target | None]) -> Target | None:
    """The one limit that was given, if any, by the names of the options that set them."""
    limits = [limit for limit in given.values() if limit is not None]
    if len(limits) > 1:
        *names, last = given
        raise click.UsageError(f"Only one of {', '.join(names)} and {last} can be met at once.")
    return limits[0] if limits else None


def count(threads: int) -> int | None:
    """What the core calls the number that -T takes: None for all cores."""
    return threads or None


def split_set(text: str) -> tuple[str, str]:
    """Pattern and scheme, or method, of PATTERN=SCHEME[,key=value...]. A pattern may hold =, a scheme's name none."""
    head, comma, keys = text.partition(",") if not text.startswith("re:") else (text, "", "")
    if text.startswith("re:"):
        # A regular expression may hold commas: the scheme begins behind the last = that a scheme's name follows.
        parts = text.split("=")
        for count in range(len(parts) - 1, 0, -1):
            name = parts[count].split(",")[0]
            if NAME.fullmatch(name) and name not in VALUES:
                return "=".join(parts[:count]), "=".join(parts[count:])
        raise click.UsageError(f"--set {text!r} isn't of the form PATTERN=SCHEME.")
    pattern, equals, scheme = head.rpartition("=")
    if not equals or not pattern:
        raise click.UsageError(f"--set {text!r} isn't of the form PATTERN=SCHEME.")
    return pattern, scheme + comma + keys
