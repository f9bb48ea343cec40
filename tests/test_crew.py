"""Threads of our own, which wait for the next call once one is over."""

from __future__ import annotations

import _thread
import os
import threading
import time
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

import mc
from conftest import program
from mc.crew import WAIT, Crew, _kept, crew
from mc.parallel import workers

PATIENCE = 60  # seconds; a test that waits as long has failed


def numbers(ours: Crew) -> set[int]:
    """Those of its threads, each of which is kept busy until all have answered."""
    together, found = threading.Barrier(len(ours) + 1), set[int]()

    def answer() -> None:
        found.add(threading.get_native_id())
        together.wait(PATIENCE)

    for _ in range(len(ours)):
        ours.hand(answer)
    together.wait(PATIENCE)
    return found


def quiet() -> int:
    """Threads of this process, once those of earlier calls have ended."""
    time.sleep(4 * WAIT)
    return len(os.listdir("/proc/self/task"))


def left(most: int) -> int:
    """Threads of this process, of which there should soon be no more than `most`: the system takes a moment to end
    one."""
    deadline = time.monotonic() + PATIENCE
    while (count := len(os.listdir("/proc/self/task"))) > most and time.monotonic() < deadline:
        time.sleep(0.01)
    return count


class Counted:
    """What stands for the life of a thread, of which `alive` has one less when it is over."""

    def __init__(self, life: Any, alive: list[int]) -> None:
        self._life, self._alive = life, alive

    def __del__(self) -> None:
        self._alive.pop()


@pytest.mark.parametrize("most", [0, 1, 3])
def test_threads_that_cannot_be_had_are_done_without(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with crew(1):  # so that no larger one is kept
        pass
    alive: list[int] = []

    def start_few(serve: Any, arguments: Any) -> int:
        if len(alive) == most:
            raise RuntimeError("can't start new thread")
        alive.append(1)
        return _thread.start_new_thread(serve, (*arguments[:2], Counted(arguments[2], alive)))

    monkeypatch.setattr("mc.crew.start_new_thread", start_few)
    for threads in (5, 5, 2, 5):  # what was had for one call is there for the next
        with workers(threads, None) as work:
            assert work.width == 1 + min(most, threads - 1)
            assert list(work.each(str, range(99))) == [str(n) for n in range(99)]
    assert len(alive) <= 1


@pytest.mark.parametrize("begun", [0, 1, 2])
def test_threads_that_end_before_they_begin_are_not_waited_for(begun: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with crew(1):  # so that no larger one is kept
        pass
    started: list[int] = []

    def start(serve: Any, arguments: Any) -> int:
        started.append(1)
        return _thread.start_new_thread(serve if len(started) <= begun else lambda *_: None, arguments)

    monkeypatch.setattr("mc.crew.start_new_thread", start)  # as if there were no memory for a call
    ours, done = Crew(3), list[int]()
    for n in range(9):
        ours.hand(partial(done.append, n))
    ours.end()
    assert sorted(done) == (list(range(9)) if begun else [])
    assert len(started) == 3


def test_an_error_that_is_kept_does_not_keep_its_thread() -> None:
    ours, kept = Crew(1), list[Exception]()

    def fail() -> None:
        try:
            raise ValueError("ours")
        except ValueError as error:
            kept.append(error)

    ours.hand(fail)
    ours.end()
    assert len(kept) == 1


def test_a_crew_ends_when_all_is_done_and_holds_nothing_meanwhile() -> None:
    done: list[int] = []
    ours = Crew(3)
    large = set[int]()
    held = weakref.ref(large)
    ours.hand(large.copy)
    del large
    ours.hand(lambda: 1 // 0)
    for n in range(50):
        ours.hand(partial(done.append, n))
    ours.end()
    assert sorted(done) == list(range(50))
    assert held() is None


def test_the_threads_of_a_call_are_kept_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mc.crew.WAIT", PATIENCE)  # however busy the machine is
    with crew(2) as one:
        before = numbers(one)
    with crew(0) as none:  # a call on one thread changes nothing about it
        assert len(none) == 0
    with crew(2) as one, crew(2) as other:  # two callers at once never share any
        assert numbers(one) == before
        assert not numbers(other) & before
    with crew(3) as larger:
        assert not numbers(larger) & before
    _kept.clear()


def test_threads_that_are_kept_end_by_themselves() -> None:
    before = quiet()
    for count in (3, 2, 5, 1, 3):
        with crew(count), crew(count), crew(count):
            pass
    assert left(before) == before


def test_threads_that_are_in_use_wait_for_as_long_as_it_takes() -> None:
    with crew(2) as ours:
        before = numbers(ours)
        time.sleep(3 * WAIT)
        assert numbers(ours) == before


def test_a_call_that_failed_has_ended_all_that_it_began() -> None:
    begun, over = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        time.sleep(0.05)
        over.set()

    with pytest.raises(ValueError, match="ours"), crew(1) as ours:
        ours.hand(work)
        assert begun.wait(PATIENCE)
        raise ValueError("ours")
    assert over.is_set()


def test_what_was_given_is_let_go_before_the_call_returns() -> None:
    draw = np.random.default_rng(3)
    plain = save({f"t{n}": draw.normal(size=(64, 96)).astype(np.float16) for n in range(200)})
    packed = mc.compress(plain, level="fast", threads=3)
    for n in range(100):
        given = bytearray(packed if n % 2 else plain)
        if n % 2:
            assert mc.decompress(given, threads=3) == plain
        else:
            assert mc.compress(given, level="fast", threads=3) == packed
        given.clear()  # a BufferError if any thread still looks at it


# In a process of its own: it forks, right after a call and while another thread is at one.
FORKS = """
import os, sys, threading
from pathlib import Path
import mc
from mc.errors import DamagedError

plain = Path(sys.argv[1]).read_bytes()
packed = mc.compress(plain, threads=3)
over = threading.Event()

def work():
    while not over.is_set():
        mc.decompress(packed, threads=3)

threading.Thread(target=work, daemon=True).start()
for _ in range(20):
    assert mc.decompress(packed, threads=3) == plain
    if not (child := os.fork()):
        assert mc.decompress(packed, threads=3) == plain
        try:
            mc.decompress(packed[:-99], threads=3)
        except DamagedError:
            sys.exit(7)
        raise SystemExit("no damage was found")
    assert os.waitpid(child, 0)[1] == 7 << 8
over.set()
assert mc.compress(plain, threads=3) == packed
print("sound")
"""


def test_a_forked_process_has_threads_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(save({"t": np.random.default_rng(4).normal(size=(900, 700)).astype(np.float32)}))
    mc.decompress(mc.compress(path.read_bytes()))  # so that loops are compiled
    done = program(FORKS, path)
    assert (done.returncode, done.stdout) == (0, "sound\n"), done.stderr[-2000:]
