"""Ordered maps over work that runs on threads: as many items under way as keep them busy, and no more."""

from __future__ import annotations

import os
from _thread import allocate_lock, get_ident
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor
from contextlib import contextmanager
from itertools import islice
from typing import Any

from mc.crew import Crew, crew
from mc.errors import UsageError
from mc.memory import keep_freed

TOGETHER = 32  # items in a batch, at most
BATCH = 3 << 20  # bytes of work that are handed to a thread at once: every hand-over costs as much as some 50 KiB


class Task:
    """What one of several threads does, whichever takes it first."""

    def __init__(self, function: Callable[[Any], Any], batch: Any) -> None:
        self._function: Any = function
        self._batch = batch
        self._takers: list[tuple[int]] = []  # threads that wanted to do it: the first does
        self._over = allocate_lock()
        self._over.acquire()  # until it is done
        self.done = False
        self._result: Any = None
        self._error: BaseException | None = None

    def taken(self) -> bool:
        """Take it: nobody else will. False if somebody has done so before."""
        me = (get_ident(),)
        self._takers.append(me)  # in one step, so that an interrupt leaves no doubt about who has it
        return self._takers[0] is me

    def elsewhere(self) -> bool:
        """Whether another thread has begun it. If nobody has, none will."""
        if self.taken():
            self.left()
        return self._takers[0][0] != get_ident()

    def left(self) -> Any:
        """The batch. From now on neither that nor the function is held: threads hold a task until they come to it, and
        for a moment after it is done."""
        batch, self._function, self._batch = self._batch, None, None
        return batch

    def run(self) -> None:
        """Do it, unless it was taken."""
        if self.taken():
            self._run(self._do)

    def cancel(self) -> None:
        """See to it that it isn't begun any more. Whoever waits for it gets a CancelledError."""
        if self.taken():
            self._run(_cancelled)

    def wait(self) -> None:
        """Wait until it is done."""
        if not self.done:  # who was interrupted once it had the lock may ask again
            with self._over:
                pass

    def result(self) -> Any:
        """What came out of it, once; raises what it raised."""
        self.wait()
        result, error, self._result, self._error = self._result, self._error, None, None
        try:
            if error is not None:
                raise error
            return result
        finally:
            del error  # it holds this frame, and all that is held by those who wait for it, until it is collected

    def interrupted(self) -> bool:
        """Whether it was ended by something else than an error of its own."""
        return self._error is not None and not isinstance(self._error, Exception)

    def _do(self) -> Any:
        function = self._function  # which is gone with the batch
        return function(self.left())

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self._result = call()
        except BaseException as error:  # noqa: BLE001 - it is raised when the task's turn comes
            self._error = error
        finally:
            self.done = True
            self._over.release()


def _cancelled() -> None:
    raise CancelledError


class Workers:
    """What does work: an executor or a crew of our own, if any, and how many batches are done at once; and the thread
    that asks, if it `helps`. With neither, that thread does all of it."""

    def __init__(self, executor: Executor | Crew | None, width: int, helps: bool = False) -> None:
        self.executor = executor
        self.width = width
        self.helps = helps

    def begin(self, task: Task) -> None:
        """Hand it to a thread. What raises meanwhile (an interrupt, no more threads) may do so when an executor has it
        already: whoever is afraid of that takes it."""
        if isinstance(self.executor, Crew):
            self.executor.hand(task.run)
        elif self.executor is not None:
            # Cancelled where the executor was shut down before it came to it.
            self.executor.submit(task.run).add_done_callback(lambda _: task.cancel())

    def each(
        self, function: Callable[[Any], Any], items: Iterable[Any], weight: Callable[[Any], int] = lambda _: BATCH,
        here: Callable[[Any], Any] | None = None, more: int = 1,
    ) -> Iterator[Any]:  # fmt: skip
        """Like `map`, in order. Items go to a thread in batches, as in `each_of`. `here` takes the place of `function`
        where whoever asks does an item itself when all before it have been handed out."""
        own = here or function
        if self.executor is None:
            return map(own, items)
        return self._each(
            lambda batch: [function(item) for item in batch], lambda batch: map(own, batch), _batches(items, weight),
            more,
        )  # fmt: skip

    def each_of(
        self, function: Callable[[list[Any]], list[Any]], items: Iterable[Any], weight: Callable[[Any], int],
        more: int = 1,
    ) -> Iterator[Any]:  # fmt: skip
        """The results for all items, in order, of a function that takes a batch of them: TOGETHER at most, that weigh
        BATCH bytes or a little more. At most `width` batches, and so many `more`, are under way or waiting to be taken
        or handed out: with more of them nobody runs out of work, and more results are held."""
        if self.executor is None:
            return (result for batch in _batches(items, weight) for result in function(batch))
        return self._each(function, function, _batches(items, weight), more)

    def _each(
        self, away: Callable[[list[Any]], list[Any]], here: Callable[[list[Any]], Iterable[Any]],
        batches: Iterable[list[Any]], more: int,
    ) -> Iterator[Any]:  # fmt: skip
        waiting: deque[Task] = deque()
        try:
            for batch in batches:
                task = Task(away, batch)
                waiting.append(task)  # before it is handed over, which may end halfway
                self.begin(task)
                del batch, task
                if len(waiting) >= self.width + more:
                    yield from self._first(waiting, here)
            while waiting:
                yield from self._first(waiting, here)
        finally:  # also when the one who asked has had enough
            # What was begun is waited for: it may write to a file that is closed next, whose number the system then
            # gives to another.
            for task in [task for task in waiting if task.elsewhere()]:
                task.wait()

    def _first(self, waiting: deque[Task], here: Callable[[list[Any]], Iterable[Any]]) -> Iterable[Any]:
        """The results of the batch that has waited longest. To be put to sleep and woken takes as long as some of the
        work: so whoever helps does what nobody has begun yet."""
        first = waiting[0]  # where it stays while it is waited for
        if self.helps:
            if first.taken():
                waiting.popleft()
                return here(first.left())
            for other in islice(waiting, 1, None):
                if first.done:
                    break
                other.run()
                if other.interrupted():
                    other.result()
        results: list[Any] = first.result()
        waiting.popleft()
        return results


def _batches(items: Iterable[Any], weight: Callable[[Any], int]) -> Iterator[list[Any]]:
    batch: list[Any] = []
    gathered = 0
    for item in items:
        batch.append(item)
        gathered += weight(item)
        if gathered >= BATCH or len(batch) == TOGETHER:
            yield batch
            batch, gathered = [], 0
    if batch:
        yield batch


def processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def single_blas() -> Iterator[None]:
    """Linear algebra on the thread that asks for it: threads of its own would compete with ours, and sum in an order
    that depends on their number."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


@contextmanager
def workers(threads: int | None, executor: Executor | None) -> Iterator[Workers]:
    """Workers on `threads` threads (None: one for each core that this process may use), of which all but the caller's
    are a crew, or on the executor handed in, which is left running. Raises UsageError for fewer than one."""
    count = threads if threads is not None else processors()
    keep_freed()
    if count < 1:
        raise UsageError(f"{count} threads were asked for, where at least one is needed")
    if executor is not None:
        yield Workers(executor, count)
    else:
        with crew(count - 1) as ours:
            yield Workers(ours, 1 + len(ours), helps=True) if len(ours) else Workers(None, 1)
