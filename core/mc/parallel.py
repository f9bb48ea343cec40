"""Ordered maps over work that runs on threads: as many items under way as keep them busy, and no more."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from mc.errors import UsageError
from mc.memory import keep_freed

TOGETHER = 32  # items in a batch, at most
BATCH = 1 << 21  # bytes of work that are handed to a thread at once: every hand-over costs as much as some 50 KiB


class Workers:
    """An executor, if any, and how many batches it should have at once. With none, work runs where it is asked for."""

    def __init__(self, executor: Executor | None, width: int) -> None:
        self.executor = executor
        self.width = width

    def each(
        self, function: Callable[[Any], Any], items: Iterable[Any], weight: Callable[[Any], int] = lambda _: BATCH
    ) -> Iterator[Any]:
        """Like `map`, in order. Items go to a thread in batches, as in `each_of`."""
        if self.executor is None:
            yield from map(function, items)
        else:
            yield from self.each_of(lambda batch: [function(item) for item in batch], items, weight)

    def each_of(
        self, function: Callable[[list[Any]], list[Any]], items: Iterable[Any], weight: Callable[[Any], int]
    ) -> Iterator[Any]:
        """The results for all items, in order, of a function that takes a batch of them: TOGETHER at most, that weigh
        BATCH bytes or a little more. At most `width` + 1 batches are under way or waiting to be taken."""
        if self.executor is None:
            for batch in _batches(items, weight):
                yield from function(batch)
            return
        waiting: deque[Future[list[Any]]] = deque()
        try:
            for batch in _batches(items, weight):
                waiting.append(self.executor.submit(function, batch))
                if len(waiting) > self.width:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:  # also when the one who asked has had enough
            for future in waiting:
                future.cancel()


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
        pool = ThreadPoolExecutor(count, thread_name_prefix="mc")
        try:
            yield Workers(pool, count)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
