"""The process boundary: signals come in here, every outcome leaves as an exit code and a sentence.

Exit codes: 0 done or intact, 1 refused or I/O error, 2 usage, 3 damaged or does not match, 4 an asked-for
limit was not met, 130 interrupted, 143 terminated. An unexpected exception ends with 1, never with 3.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import traceback
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from mc.errors import McError

INTERRUPTED: Final = 130
TERMINATED: Final = 143
# A terminal that goes away (SIGHUP) ends the command like SIGTERM: clean up, then exit 143.
SIGNALS: Final = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED, signal.SIGHUP: TERMINATED}
# New objects before the collector looks for cycles among them. As often as it usually does, it takes a tenth of a
# command's start, in which all that is imported stays.
RARELY: Final = 50_000
KINDS: Final = {
    1: "refused",
    2: "usage",
    3: "damaged",
    4: "limit",
    INTERRUPTED: "interrupted",
    TERMINATED: "terminated",
}


# Seconds after which it is looked whether what a signal raised has got lost.
AGAIN: Final = 0.1


class Stopped(SystemExit):
    """A signal, on its way up through the `finally` and `except` blocks that remove temporary files."""

    code: int


def entry() -> NoReturn:
    """Run the command line of this process and exit with the code that README promises."""
    listen()
    gc.set_threshold(RARELY)
    sys.excepthook = report_crash
    sys.unraisablehook = forget_stop
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a tensor may be named with any code point
    code = run(sys.argv[1:])
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in SIGNALS:  # the outcome is settled: while the interpreter ends, a signal would belie it
        signal.signal(number, signal.SIG_IGN)
    gc.freeze()  # nothing is looked through for cycles any more, which takes a quarter of a second
    sys.exit(code)


def listen() -> None:
    """Turn SIGINT, SIGTERM and SIGHUP into `Stopped`, except where the parent asked to ignore it (nohup)."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


def stop(number: int, frame: FrameType | None) -> None:
    """Raise `Stopped`; further signals are ignored so that none can cut the clean-up short.

    An exception can get lost: LLVM calls back into Python while it compiles, and nothing can be raised through it. So
    it is raised again as long as no block on its way up is under way."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    code = SIGNALS[signal.Signals(number)]
    signal.signal(signal.SIGALRM, lambda number, frame: None if stopping() else raise_stopped(code))
    signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
    raise_stopped(code)


def raise_stopped(code: int) -> NoReturn:
    """Raise `Stopped` with this exit code."""
    raise Stopped(code)


def stopping() -> bool:
    """Whether `Stopped`, or what was raised while it was handled, is being handled."""
    error = sys.exception()
    while error is not None and not isinstance(error, Stopped):
        error = error.__context__
    return error is not None


def forget_stop(lost: sys.UnraisableHookArgs) -> None:
    """Say nothing of a `Stopped` that got lost: it will be raised again."""
    if not isinstance(lost.exc_value, Stopped):
        sys.__unraisablehook__(lost)


def run(arguments: list[str]) -> int:
    """Carry out one command line and return its exit code; what went wrong is on stderr by then."""
    try:
        import click

        from mc_cli.commands import cli

        try:
            try:
                code = cli.main(arguments, prog_name="mc", standalone_mode=False)
            except Exception:
                if signal.getitimer(signal.ITIMER_REAL)[0]:  # it failed because a `Stopped` got lost
                    signal.pause()
                raise
            if sys.stdout is not None:
                from mc_cli.files import naming

                with naming("standard output"):
                    sys.stdout.flush()  # a full disk under stdout must be an error here, not a note at exit
            return int(code or 0)
        except click.Abort as error:
            # click's word for an EOFError too, which numba raises for a cut file in its cache.
            from mc.codec.compiled import FOLDER

            message = f"A compiled loop can't be read: the cache is damaged. Delete the folder {FOLDER}."
            return failed(arguments, error, message, 1)
        except click.UsageError as error:
            if not asks_json(arguments):
                error.show()
                return error.exit_code
            return failed(arguments, error, error.format_message(), error.exit_code)
        except click.ClickException as error:
            return failed(arguments, error, error.format_message(), error.exit_code)
        # Called only when an exception has come this far: start-up never imports the core.
        except core_error() as error:
            return failed(arguments, error, str(error), error.exit_code)
    except Stopped as stopped:
        signal.setitimer(signal.ITIMER_REAL, 0)
        word = "interrupted" if stopped.code == INTERRUPTED else "terminated"
        return failed(arguments, stopped, f"The command was {word}; no output was left half-written.", stopped.code)
    except BrokenPipeError:
        abandon_stdout()
        return 1
    except SystemExit as quiet:  # click's own way out after a broken pipe
        abandon_stdout()
        return quiet.code if isinstance(quiet.code, int) else 1
    except OSError as error:
        from mc_cli.files import sentence

        abandon_stdout()
        return failed(arguments, error, sentence(error), 1)
    except MemoryError as error:
        return failed(arguments, error, "There is not enough memory for this; fewer threads (-T 1) need less of it.", 1)


def core_error() -> type[McError]:
    """The core's own exceptions, imported when one may have been raised."""
    from mc.errors import McError

    return McError


def failed(arguments: list[str], error: BaseException, message: str, code: int) -> int:
    """Say on stderr what went wrong (JSON under --json, with the traceback under -v) and return the code."""
    from mc_cli.show import failure

    trace = "".join(traceback.format_exception(error)) if asks_trace(arguments) else None
    failure(message, code, KINDS.get(code, "refused"), trace, as_json=asks_json(arguments))
    return code


def report_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Stand in for Python's traceback: a sentence, and exit code 1, which the interpreter gives of itself."""
    name = f"{kind.__name__}: {error}" if str(error) else kind.__name__
    hint = "" if asks_trace(sys.argv[1:]) else " The flag -v shows where."
    message = f"mc itself failed, with {name}. This is a fault in mc, not in your file.{hint}"
    failed(sys.argv[1:], error, message, 1)


def asks_json(arguments: list[str]) -> bool:
    """Whether --json is among the options: errors in the options themselves need it before any parsing."""
    return "--json" in before_dashes(arguments)


def asks_trace(arguments: list[str]) -> bool:
    """Whether -v or --verbose is among the options, alone or in a group such as -fv."""
    return any(a == "--verbose" or re.match(r"-[fq]*v", a) for a in before_dashes(arguments))


def before_dashes(arguments: list[str]) -> list[str]:
    """The arguments up to `--`, after which everything is a file name."""
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def abandon_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush cannot fail a second time."""
    if sys.stdout is not None:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.close(nothing)
