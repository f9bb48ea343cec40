"""What a person or a program reads: tables, JSON, the closing line, the progress bar, errors.

stdout carries the result alone: a table (TSV where stdout is no terminal), one JSON object, or the closing
line where there is neither. Everything else goes to stderr; with `-o -`, where the data has stdout, all does.
"""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TextIO

from mc_cli.files import naming

if TYPE_CHECKING:
    from rich.progress import Progress

SCHEMA: Final = 1
# A command that ends sooner than this shows no bar and does not pay for importing one (0.1 s).
BAR_AFTER_SECONDS: Final = 0.3
BAR_EVERY_SECONDS: Final = 0.1
GAP: Final = 2  # columns between those of a table
UNITS: Final = ("kB", "MB", "GB", "TB", "PB")


@dataclass(frozen=True)
class Manner:
    """How a command speaks, as -q, -v, --json, --no-progress and `-o -` ask for."""

    quiet: bool
    verbose: bool
    json: bool
    bar: bool
    data_on_stdout: bool = False

    def beside(self, target: str | None) -> Manner:
        """The same, where the data goes to `target`."""
        return replace(self, data_on_stdout=target == "-")

    @property
    def stream(self) -> TextIO | None:
        """Where the result goes; None where that stream is closed."""
        return sys.stderr if self.data_on_stdout else sys.stdout


@naming("standard output")
def document(command: str, facts: dict[str, Any], manner: Manner) -> None:
    """Print the one JSON object of a command under --json."""
    print(json.dumps({"schema": SCHEMA, "command": command, **facts}), file=manner.stream, flush=True)


@naming("standard output")
def table(columns: Sequence[str], rows: Iterable[Sequence[object]], manner: Manner, few: Collection[str] = ()) -> None:
    """Print a table: drawn at a terminal with nothing cut off, as TSV with a heading line elsewhere. Of columns that
    are wider together than the terminal, only the `few` are drawn, if any are named."""
    stream = manner.stream
    if stream is None or not stream.isatty():
        for row in (columns, *rows):
            print("\t".join(printable(str(cell)) for cell in row), file=stream)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=stream)
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) + GAP for column in zip(columns, *cells, strict=True)]
    if few and sum(widths) - GAP > console.width:
        shown = [number for number, name in enumerate(columns) if name in few]
        columns, cells = [columns[number] for number in shown], [[row[number] for number in shown] for row in cells]
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(columns):
        numbers = all(row[number].replace(".", "").isdigit() for row in cells)
        drawn.add_column(name, overflow="fold", justify="right" if numbers else "left")
    for row in cells:
        drawn.add_row(*map(Text, row))
    console.print(drawn)


@naming("standard output")
def closing(line: str, manner: Manner, *, after_table: bool = False) -> None:
    """Print the last line: to stdout if it is all there is, to stderr below a table for a program."""
    if manner.quiet or manner.json:
        return
    stream = manner.stream
    if after_table and stream is not None and not stream.isatty():
        stream = sys.stderr
    print(printable(line), file=stream, flush=True)


def aside(line: str) -> None:
    """Say on stderr what is going on, while it does."""
    print(printable(line), file=sys.stderr, flush=True)


def sizes(before: int, after: int, whole: int, packed: int, seconds: float, path: str) -> str:
    """The closing line of pack and unpack; the ratio is packed / original, so lower is better."""
    share = f"ratio {packed / whole:.4f}" if whole else "ratio -"
    return f"{amount(before)} -> {amount(after)}, {share}, {seconds:.2f} s, {place(path)}"


def place(path: str) -> str:
    """Where the output went, for a closing line."""
    return "stdout" if path == "-" else path


def rehearsal(
    command: str, source: str, words: tuple[str, str], found: Sequence[tuple[str, str, str]], manner: Manner
) -> None:
    """What a dry run lists: file, tensor and scheme or method, empty for what stays. `words`: that column's name, and
    what would be done."""
    column, done = words
    if manner.json:
        listed = [{"file": file, "tensor": name, column: chosen or None} for file, name, chosen in found]
        document(command, {"source": source, "dry_run": True, "tensors": listed}, manner)
    elif not manner.quiet:
        table(("file", "tensor", column), [(file, name, chosen or "kept") for file, name, chosen in found], manner)
    count = sum(bool(chosen) for _, _, chosen in found)
    closing(f"{count} of {len(found)} tensors would be {done}; nothing is written.", manner, after_table=True)


def totals(whole: int, packed: int) -> dict[str, int | float | None]:
    """The same sizes for --json; no ratio where there is nothing to divide by."""
    return {"bytes": whole, "packed_bytes": packed, "ratio": round(packed / whole, 6) if whole else None}


def amount(count: int) -> str:
    """A number of bytes in the decimal unit that leaves three to four digits."""
    if count < 1000:
        return f"{count} B"
    steps = min((len(str(count)) - 1) // 3, len(UNITS))
    size = count / 1000**steps
    return f"{size:.{2 if size < 100 else 1}f} {UNITS[steps - 1]}"


def printable(text: str) -> str:
    """Text from a file as it may go to a terminal or into TSV: control characters as escapes."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(escaped(c) if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text)


def escaped(character: str) -> str:
    """A character as Python's escape sequence for it."""
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def failure(message: str, code: int, kind: str, trace: str | None, *, as_json: bool) -> None:
    """Print an error on stderr: a sentence after `mc:`, or `{"schema": 1, "error": {...}}` under --json."""
    if as_json:
        error = {"kind": kind, "exit_code": code, "message": message}
        if trace is not None:
            error["traceback"] = trace
        print(json.dumps({"schema": SCHEMA, "error": error}), file=sys.stderr, flush=True)
        return
    if trace is not None:
        print(trace, file=sys.stderr, end="")
    lines = message.split("\n")  # a core message may hold a command to copy on a line of its own
    print("mc: " + "\n".join(printable(line) for line in lines), file=sys.stderr, flush=True)


@contextmanager
def progress(label: str, manner: Manner) -> Iterator[Callable[[int, int], None] | None]:
    """What the core calls with (bytes done, bytes in all); None where no bar is wanted or possible."""
    if manner.quiet or not manner.bar or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    bar = Bar(label)
    try:
        yield bar.advance
    finally:
        bar.close()


class Bar:
    """The progress bar on stderr, drawn from the caller's thread and gone when the command ends."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.drawn: Progress | None = None
        self.next = time.monotonic() + BAR_AFTER_SECONDS

    def advance(self, done: int, total: int) -> None:
        """Show that `done` of `total` bytes are through; most calls return at once."""
        now = time.monotonic()
        if now < self.next:
            return
        self.next = now + BAR_EVERY_SECONDS
        if self.drawn is None:
            self.drawn = self.begin(total)
        self.drawn.update(self.drawn.task_ids[0], completed=done, total=total or None)
        self.drawn.refresh()

    def begin(self, total: int) -> Progress:
        """Draw the bar for the first time."""
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TransferSpeedColumn as Speed

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            Speed(),
            TimeRemainingColumn(),
        )
        drawn = Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
        drawn.add_task(self.label, total=total or None)
        drawn.start()
        return drawn

    def close(self) -> None:
        """Wipe the bar."""
        if self.drawn is not None:
            self.drawn.stop()
