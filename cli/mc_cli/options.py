"""The options that mean the same in every command, each defined once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from mc import __version__

Command = TypeVar("Command", bound=Callable[..., Any])

PATH = click.Path(allow_dash=True, readable=False)  # what cannot be read is an error of code 1, not 2

source = click.argument("source", metavar="IN", type=PATH)
output = click.option(
    "-o",
    "--output",
    type=PATH,
    metavar="PATH",
    help="Where to write; - is stdout. By default made from IN's name.",
)
force = click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
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
no_progress = click.option("--no-progress", is_flag=True, help="No progress bar (there is one only at a terminal).")
version = click.version_option(__version__, "-V", "--version", prog_name="mc", message="%(prog)s %(version)s")


def speaking(command: Command) -> Command:
    """Add what decides how a command speaks: -q, -v, --json, --no-progress; and -V."""
    for option in (version, no_progress, as_json, verbose, quiet):
        command = option(command)
    return command


def examples(first: str, second: str) -> str:
    """The epilog of a command's help: two command lines, kept as they stand (tests run them)."""
    return f"\b\nExamples:\n  {first}\n  {second}"


def count(threads: int) -> int | None:
    """What the core calls the number that -T takes: None for all cores."""
    return threads or None
