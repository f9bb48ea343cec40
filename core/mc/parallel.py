"""Ordered maps over work that runs on threads: as many items under way as keep them busy, and no more."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from typing import Any

from mc.errors import UsageError
from mc.memory import keep_freed

TOGETHER = 32  # items in a batch, at most
BATCH = 1 << 21  # bytes of work that are handed to a thread at once: every hand-over costs as much as some 50 KiB


class Workers:
    """What does work: an executor, if any, and how many batches are done at once; and the thread that asks, if it
    `helps`. With no executor, that thread does all of it."""

    def __init__(self, executor: Executor | None, width: int, helps: bool = False) -> None:
        self.executor = executor
        self.width = width
        self.helps = helps

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
            self.executor, lambda batch: [function(item) for item in batch], lambda batch: map(own, batch),
            _batches(items, weight), more,
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
        return self._each(self.executor, function, function, _batches(items, weight), more)

    def _each(
        self, executor: Executor, away: Callable[[list[Any]], list[Any]], here: Callable[[list[Any]], Iterable[Any]],
        batches: Iterable[list[Any]], more: int,
    ) -> Iterator[Any]:  # fmt: skip
        waiting: deque[_Waiting] = deque()
        try:
            for batch in batches:
                one = _Waiting(batch)
                waiting.append(one)  # before it is handed over, which may end halfway
                one.hand(executor, away)
                if len(waiting) >= self.width + more:
                    yield from self._first(waiting, away, here)
            while waiting:
                yield from self._first(waiting, away, here)
        finally:  # also when the one who asked has had enough
            # What was begun is waited for: it may write to a file that is closed next, whose number the system then
            # gives to another.
            wait([one.future for one in waiting if one.taken() is None])

    def _first(
        self, waiting: deque[_Waiting], away: Callable[[list[Any]], list[Any]],
        here: Callable[[list[Any]], Iterable[Any]],
    ) -> Iterable[Any]:  # fmt: skip
        """The results of the batch that has waited longest. To be put to sleep and woken takes as long as some of the
        work: so whoever helps does what nobody has begun yet."""
        first = waiting[0]  # where it stays while it is waited for
        if self.helps:
            batch = first.taken()
            if batch is not None:
                waiting.popleft()
                return here(batch)
            for other in islice(waiting, 1, None):
                if first.future.done():
                    break
                batch = other.taken()
                if batch is not None:
                    other.future = _done(away, batch)
        results = first.future.result()
        waiting.popleft()
        return results


class _Waiting:
    """A batch for an executor."""

    def __init__(self, batch: list[Any]) -> None:
        self._batch = batch
        self.future: Future[list[Any]] = Future()

    def hand(self, executor: Executor, function: Callable[[list[Any]], list[Any]]) -> None:
        """Give it to the executor. What raises meanwhile (an interrupt, no more threads) may do so when the executor
        has it already, and before its own future is known: so there is one of ours, which can be cancelled then."""
        ours = self.future  # another may take its place
        # Cancelled where the executor was shut down before it came to it.
        executor.submit(self._run, ours, function).add_done_callback(lambda _: ours.cancel())

    def taken(self) -> list[Any] | None:
        """The batch, if no thread has begun it: then none will."""
        return self._left() if self.future.cancel() else None

    def _run(self, ours: Future[list[Any]], function: Callable[[list[Any]], list[Any]]) -> None:
        if not ours.set_running_or_notify_cancel():
            return
        try:
            ours.set_result(function(self._left()))
        except BaseException as error:  # noqa: BLE001 - it is raised when the batch's turn comes
            ours.set_exception(error)

    def _left(self) -> list[Any]:
        """The batch, which isn't held any longer: an executor holds what was cancelled until it comes to it."""
        batch, self._batch = self._batch, []
        return batch


def _done(function: Callable[[list[Any]], list[Any]], batch: list[Any]) -> Future[list[Any]]:
    done: Future[list[Any]] = Future()
    try:
        done.set_result(function(batch))
    except Exception as error:  # noqa: BLE001 - it is raised when the batch's turn comes
        done.set_exception(error)
    return done


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
    """Workers on `threads` threads of our own (None: one for each core that this process may use), or on the
    executor handed in, which is left running. Raises UsageError for fewer than one."""
    count = threads if threads is not None else processors()
    keep_freed()
    if count < 1:
        raise UsageError(f"{count} threads were asked for, where at least one is needed")
    if executor is not None:
        yield Workers(executor, count)
    elif count == 1:
        yield Workers(None, 1)
    else:
        pool = ThreadPoolExecutor(count - 1, thread_name_prefix="mc")
        try:
            yield Workers(pool, count, helps=True)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
