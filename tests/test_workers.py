"""Work that is shared between threads and the one that asks for it."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Generator, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from mc.parallel import BATCH, Task, Workers, workers

PATIENCE = 60  # seconds; a test that waits as long has failed


@contextmanager
def busy(pool: ThreadPoolExecutor) -> Iterator[None]:
    """A pool of one thread that does something else meanwhile."""
    begun, over = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        over.wait(PATIENCE)

    pool.submit(wait)
    assert begun.wait(PATIENCE)
    try:
        yield
    finally:
        over.set()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("weight", [0, 1, BATCH])
def test_results_come_in_order_and_are_all_there(threads: int, weight: int) -> None:
    with workers(threads, None) as work:
        assert list(work.each(lambda n: n * n, iter(range(1000)), lambda _: weight)) == [n * n for n in range(1000)]
        assert list(work.each(str, ())) == []


def test_whoever_asks_does_what_nobody_begins(caplog: pytest.LogCaptureFixture) -> None:
    def ran(_: int) -> str:
        return threading.current_thread().name

    with ThreadPoolExecutor(1) as pool, busy(pool):
        found = Workers(pool, 2, helps=True).each(ran, range(9))
        assert list(found) == [threading.current_thread().name] * 9
    assert not caplog.records  # the pool came to what had been taken back, and left it


def test_what_is_done_ahead_by_whoever_asks_is_done_once(caplog: pytest.LogCaptureFixture) -> None:
    started, done = threading.Event(), []

    def work(n: int) -> int:
        if n == 0:
            started.set()
            time.sleep(0.1)
        done.append(n)
        return n

    with ThreadPoolExecutor(1) as pool:
        found = Workers(pool, 2, helps=True).each(work, items_once_begun(started), more=3)
        assert list(found) == list(range(9))  # the first one is waited for, and the next are done meanwhile
    assert sorted(done) == list(range(9))
    assert not caplog.records


def test_what_was_taken_back_is_not_held_by_a_busy_executor() -> None:
    class Large:
        pass

    seen: list[weakref.ref[Large]] = []

    def items() -> Iterator[Large]:
        for _ in range(9):
            one = Large()
            seen.append(weakref.ref(one))
            yield one
            del one

    with ThreadPoolExecutor(1) as pool, busy(pool):
        for _ in Workers(pool, 2, helps=True).each(id, items()):
            pass
        assert [one() for one in seen] == [None] * 9


def test_an_executor_that_was_handed_in_does_all_of_it() -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="theirs") as pool, workers(2, pool) as work:
        names = set(work.each(lambda _: threading.current_thread().name, range(9)))
    assert names == {"theirs_0"}


def test_no_more_is_begun_than_was_allowed() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for n in range(100):
            asked.append(n)
            yield n

    with ThreadPoolExecutor(1) as pool, busy(pool):
        for helps, more in ((True, 1), (True, 6)):
            asked.clear()
            found = Workers(pool, 2, helps).each_of(list, items(), lambda _: BATCH, more)
            assert next(found) == 0
            assert len(asked) == 2 + more


def test_an_error_is_raised_when_its_turn_comes_and_nothing_is_begun_after_it() -> None:
    """Also when whoever asks made it, while a thread did what comes before."""
    first, failed, begun = threading.Event(), threading.Event(), []

    def work(n: int) -> int:
        begun.append(n)
        if n == 0:
            first.set()
            assert failed.wait(PATIENCE)
        elif first.wait(PATIENCE) and n == 1:
            failed.set()
            raise ValueError("one")
        return n

    with ThreadPoolExecutor(1) as pool:
        found = Workers(pool, 2, helps=True).each(work, range(50))
        assert next(found) == 0
        with pytest.raises(ValueError, match="one"):
            next(found)
    assert len(begun) <= 3


def test_who_has_had_enough_leaves_nothing_waiting() -> None:
    begun: list[int] = []
    with ThreadPoolExecutor(1) as pool, busy(pool):
        found = Workers(pool, 2, helps=True).each(begun.append, range(50))
        next(found)
        del found
    assert begun == [0]


@pytest.mark.parametrize("helps", [False, True])
def test_what_an_executor_got_is_not_begun_once_handing_it_over_was_interrupted(helps: bool) -> None:
    """An executor has the work before it starts a thread for it, and waits there."""

    class Interrupted(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
            future = super().submit(*args, **kwargs)
            if args[0] != wait_for and self._work_queue.qsize() == 3:
                raise KeyboardInterrupt
            return future

    begun: list[int] = []
    free = threading.Event()
    wait_for = free.wait
    with Interrupted(1) as pool:
        pool.submit(wait_for, PATIENCE)
        with pytest.raises(KeyboardInterrupt):
            list(Workers(pool, 3, helps).each(begun.append, range(50), more=9))
        free.set()
    assert begun == []


def test_an_executor_that_is_shut_down_meanwhile_is_no_reason_to_wait_for_ever() -> None:
    with ThreadPoolExecutor(1) as pool, busy(pool):
        found = Workers(pool, 2).each(str, range(9))
        ending = threading.Timer(0.2, pool.shutdown, kwargs={"wait": False, "cancel_futures": True})
        ending.start()
        with pytest.raises(CancelledError):
            next(found)
        ending.join()


@pytest.mark.parametrize("helps", [False, True])
@pytest.mark.parametrize("interrupted", [False, True])
def test_what_was_begun_is_over_when_an_error_or_the_end_is_seen(helps: bool, interrupted: bool) -> None:
    """Else it could write to a file that its owner has closed."""
    begun, asked, over = threading.Event(), threading.Event(), threading.Event()

    def work(n: int) -> int:
        if n == 1:
            begun.set()
            asked.wait(PATIENCE)
            time.sleep(0.05)
            over.set()
        elif n == 0:
            assert begun.wait(PATIENCE)
            if not interrupted:
                asked.set()
                raise ValueError("none")
        return n

    with ThreadPoolExecutor(2) as pool:
        found = Workers(pool, 2, helps).each(work, range(9), more=3)
        if interrupted:
            assert next(found) == 0
            asked.set()
            assert isinstance(found, Generator)
            found.close()
        else:
            with pytest.raises(ValueError, match="none"):
                next(found)
        assert over.is_set()


def test_a_task_is_done_once_by_whoever_takes_it_first() -> None:
    done: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        task = Task(done.append, 1)
        assert task.taken()  # and an interrupt comes before it is done
        assert not task.taken()
        task.run()
        assert not task.elsewhere()  # so nobody waits for it
        assert pool.submit(task.elsewhere).result(PATIENCE)
        task = Task(done.append, 2)
        pool.submit(task.run).result(PATIENCE)
        assert task.elsewhere()
        task.run()
        task.result()
    assert done == [2]


def test_an_interrupt_of_what_is_done_ahead_is_raised_at_once() -> None:
    begun, over = threading.Event(), threading.Event()

    def work(n: int) -> int:
        if n == 0:
            begun.set()
            over.wait(PATIENCE)
        elif begun.wait(PATIENCE):
            over.set()
            raise KeyboardInterrupt
        return n

    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyboardInterrupt):
        next(Workers(pool, 2, helps=True).each(work, items_once_begun(begun), more=3))


def items_once_begun(begun: threading.Event) -> Iterator[int]:
    """Items of which the first is on another thread before there is a second."""
    yield 0
    assert begun.wait(PATIENCE)
    yield from range(1, 9)
