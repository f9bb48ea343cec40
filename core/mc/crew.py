"""Threads of our own, which wait a moment for the next call once one is over."""

from __future__ import annotations

import os
from _thread import start_new_thread
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from weakref import ref

WAIT = 0.05  # seconds that threads wait for the next call

Calls = SimpleQueue[Callable[[], object] | None]  # None ends the threads


class Crew:
    """Threads of our own, which do what they are handed, in order, and end with this object at the latest: an interrupt
    may keep its owner from ending it."""

    def __init__(self, count: int) -> None:
        """So many threads, or as many as can be had. Nobody waits here until they have started, which takes them as
        long as reading a header."""
        self._calls: Calls = SimpleQueue()
        self._ended: list[tuple[SimpleQueue[object], ref[_Life]]] = []
        # Not a method that is called when the object goes: an interrupt that hits there is lost.
        gone = ref(self, self._calls.put)
        for _ in range(count):
            life, ended = _Life(), SimpleQueue[object]()
            over = ref(life, ended.put)
            try:
                start_new_thread(_serve, (self._calls, gone, life))
            except RuntimeError:
                break
            self._ended.append((ended, over))
            del life  # from now on the thread's alone

    def __len__(self) -> int:
        return len(self._ended)

    def hand(self, call: Callable[[], object]) -> None:
        """Have it done; what it raises isn't seen."""
        self._calls.put(call)

    def end(self) -> None:
        """Wait until all is done that was handed over. There are no threads any more then."""
        self._calls.put(None)
        while self._ended:
            self._ended[-1][0].get()
            self._ended.pop()


class _Life:
    """What a thread is given and nobody else has: when it goes, that thread has ended, or couldn't even begin, as
    happens where memory is short."""


def _serve(calls: Calls, gone: ref[Crew], life: _Life) -> None:
    """Do calls until there is None, or `gone` in its place, which is left to the next thread."""
    del life  # the thread still has it; this frame is held by any error that is raised from here on
    try:
        while (call := _next(calls, gone)) is not None and call is not gone:
            with suppress(BaseException):
                call()
            del call  # it holds what came out
    finally:
        calls.put(None)


def _next(calls: Calls, gone: ref[Crew]) -> Callable[[], object] | None:
    """The next call; None if there is none for a while, and the crew isn't in use."""
    while True:
        try:
            return calls.get(timeout=WAIT)
        except Empty:
            crew = gone()
            if crew is None or _let_go(crew):
                return None
            del crew  # or it wouldn't end with its owner


# To start a thread and to wait for its end takes a quarter of a millisecond, as long as decoding half a megabyte. So
# those of a call are kept for the next one, if it comes soon: what a program may do to itself meanwhile (where it may
# run, what it may do, what signals it takes) doesn't reach threads that are there.
_kept: deque[Crew] = deque(maxlen=1)


@contextmanager
def crew(count: int) -> Iterator[Crew]:
    """So many threads, or as many as can be had. Whoever leaves without an exception has waited for all that was begun;
    otherwise it is waited for here."""
    found = _taken(count)
    try:
        yield found
    except BaseException:
        found.end()
        raise
    if 0 < count == len(found):
        _kept.append(found)
    else:
        found.end()


def _taken(count: int) -> Crew:
    """The crew that was kept, if it is as large, or a new one. Two callers never get the same."""
    if count:
        with suppress(IndexError):  # there is none
            kept = _kept.pop()
            if len(kept) == count:
                return kept
            kept.end()  # there may be no more threads to be had while these are there
    return Crew(count)


def _let_go(crew: Crew) -> bool:
    """Whether it was kept, and now isn't any more: nobody will take it."""
    with suppress(ValueError):
        _kept.remove(crew)
        return True
    return False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_kept.clear)  # the child has none of its threads
