"""The user's own program as a judge: it gets the path of a checkpoint and prints a number as its last line.

Every score is appended to a file beside the output, by the content it belongs to, so that a search that was
interrupted goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import BinaryIO

import click

PLACE = "{}"
SHOWN = 12  # lines of a failing command's output that an error shows
LONGEST = 400  # characters of each, from its end
SILENT = "It printed nothing."
READ = 1 << 16  # bytes of the end of an output in which the last lines are looked for


class EvaluationError(click.ClickException):
    """The command failed, hung, or printed no number."""

    exit_code = 1


def arguments_of(command: str, path: Path) -> list[str]:
    """The words of a command, split as a shell would, with {} in any of them replaced by the path; no shell runs."""
    return [word.replace(PLACE, str(path)) for word in shlex.split(command)]


def checked(command: str) -> str:
    """The command, if it can be one. UsageError otherwise."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise click.UsageError(f"--eval {command!r} has quotes that don't close: {error}.") from error
    if not words or not any(PLACE in word for word in words):
        raise click.UsageError("--eval needs a command with {} where the path of the checkpoint belongs.")
    return command


def run(command: str, path: Path, timeout: float | None) -> float:
    """The number that the command prints as the last line of its output. EvaluationError shows its last lines."""
    words = arguments_of(command, path)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
        except OSError as error:
            raise EvaluationError(f"The command {words[0]!r} can't be run: {error.strerror or error}.") from error
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise EvaluationError(
                f"{shlex.join(words)} was stopped after {timeout:g} seconds (--eval-timeout). {ending(out, err)}"
            ) from None
        finally:  # on a signal too: the command ends with this one, and so does what it started and left behind
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if code != 0:
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise EvaluationError(f"{shlex.join(words)} {how}. {ending(out, err)}")
        lines = last_lines(out)
        try:
            score = float(lines[-1]) if lines else None
        except ValueError:
            score = None
        if score is None or not isfinite(score):
            found = f"ended its output with {lines[-1][:80]!r}" if lines else "printed nothing"
            last = ending(out, err).removeprefix(SILENT)  # which has been said
            raise EvaluationError(f"{shlex.join(words)} {found}, where a number was expected. {last}".rstrip())
        return score


def ending(out: BinaryIO, err: BinaryIO) -> str:
    """The last lines of both outputs, for an error."""
    lines = [*last_lines(out), *last_lines(err)][-SHOWN:]
    return "Its last lines:\n" + "\n".join(f"  {line[-LONGEST:]}" for line in lines) if lines else SILENT


def last_lines(stream: BinaryIO) -> list[str]:
    """The last lines with anything in them."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - READ))
    return [line.strip() for line in stream.read().decode("utf-8", "replace").splitlines() if line.strip()][-SHOWN:]


@dataclass
class Judge:
    """Runs the command where no score is known yet, and writes down every score."""

    command: str
    timeout: float | None
    log: Path
    known: dict[str, float] = field(default_factory=dict)
    remembered: int = 0  # scores that were taken from the log
    cut: bool = False  # whether its last line has no end

    def __post_init__(self) -> None:
        if not self.log.exists():
            return
        if not self.log.is_file():
            raise click.UsageError(f"'{self.log}', where scores are written down, is no file. Name another output.")
        text = self.log.read_text("utf-8", "replace")
        self.cut = not text.endswith("\n") and text != ""
        for line in text.splitlines():
            # A line that was cut when the search was, or that something else wrote.
            with suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):
                found = json.loads(line)
                score = float(found["score"])
                if isfinite(score):
                    self.known[str(found["key"])] = score

    def __call__(self, path: Path, content: str, size: int) -> float:
        """The score of a checkpoint with this content, whose packed form has `size` bytes."""
        key = hashlib.sha256(f"{self.command}\0{content}".encode()).hexdigest()
        if key in self.known:
            self.remembered += 1
            return self.known[key]
        score = run(self.command, path, self.timeout)
        self.known[key] = score
        with open(self.log, "a", encoding="utf-8") as log:
            line = json.dumps({"bytes": size, "score": score, "key": key, "command": self.command})
            log.write("\n" * self.cut + line + "\n")  # else it would end what was cut, and be lost with it
        self.cut = False
        return score
