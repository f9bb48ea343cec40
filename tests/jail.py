"""Decoding in a child process with little memory and little time, so that a crash, a hang or a greedy allocation is
an outcome like any other and not the end of the tests."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import resource
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

import checkpoints
import mc
from mc.errors import McError
from streams import Pipe

STARTING = 300  # seconds to import and compile everything
RESTORED, REFUSED, FAILED, CRASHED, HUNG = "restored", "refused", "failed", "crashed", "hung"


@dataclass(frozen=True)
class Outcome:
    """What became of one way to read a packed file."""

    way: str  # "decompress", "unpack", "verify", "open"
    kind: str
    said: str  # the sha256 of what came out, or the message


def _decompress(data: bytes) -> str:
    return hashlib.sha256(mc.decompress(data, threads=1)).hexdigest()


def _unpack(data: bytes) -> str:
    out = io.BytesIO()
    mc.unpack(Pipe(data), out, threads=1)  # type: ignore[arg-type]
    return hashlib.sha256(out.getbuffer()).hexdigest()


def _verify(data: bytes) -> str:
    report = mc.verify(io.BytesIO(data), threads=1)
    if report.findings:
        raise McError("\n".join(finding.message for finding in report.findings))
    return report.files[0].sha256 or report.files[0].kind


def _open(data: bytes) -> str:
    with mc.open(data, threads=1) as checkpoint:
        for name in checkpoint.names():
            if checkpoint.dtype(name) != checkpoints.UNKNOWN:
                checkpoint.tensor(name)
    return "opened"


WAYS: dict[str, Callable[[bytes], str]] = {
    "decompress": _decompress,
    "unpack": _unpack,
    "verify": _verify,
    "open": _open,
}


def attempt(way: str, data: bytes) -> Outcome:
    """Read `data` in one way, here and now."""
    try:
        return Outcome(way, RESTORED, WAYS[way](data))
    except McError as error:
        return Outcome(way, REFUSED, str(error))
    except Exception:  # noqa: BLE001 - any other exception is what is looked for
        return Outcome(way, FAILED, traceback.format_exc())


def _serve(connection: Connection, allowance: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sound = checkpoints.zoo()
    for level in ("fast", "default", "best"):
        packed = mc.compress(sound, level=level, threads=1)
        for way in WAYS:
            attempt(way, packed)
    with suppress(FileNotFoundError):  # where there is no /proc, memory isn't watched
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + allowance, used + allowance))
    connection.send(None)
    while True:
        way, data = connection.recv()
        connection.send(attempt(way, data))


class Jail:
    """A child that reads packed files, started again whenever one was its end."""

    def __init__(self, allowance: int, seconds: float) -> None:
        """Let the child take `allowance` bytes beyond what it has when all is compiled, and so long for one file."""
        self._allowance, self._seconds = allowance, seconds
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def _start(self) -> None:
        self._connection, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(theirs, self._allowance), daemon=True)
        self._process.start()
        theirs.close()
        if not self._connection.poll(STARTING):
            raise TimeoutError("the child didn't start")
        self._connection.recv()

    def read(self, way: str, data: bytes) -> Outcome:
        """What becomes of `data` when it is read in one way."""
        try:
            self._connection.send((way, data))
            if self._connection.poll(self._seconds):
                found: Outcome = self._connection.recv()
                return found
            outcome = Outcome(way, HUNG, f"no answer in {self._seconds} s")
        except (EOFError, ConnectionError):
            self._process.join()
            outcome = Outcome(way, CRASHED, f"the process ended with {self._process.exitcode}")
        self.close()
        self._start()
        return outcome

    def close(self) -> None:
        """End the child."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def __enter__(self) -> Jail:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
