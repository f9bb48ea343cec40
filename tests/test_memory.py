"""What a result in memory waits for: huge pages that come slowly, the longer the more results follow each other."""

import threading
from itertools import pairwise

import numpy as np

from mc.memory import FEW, HUGE, MANY, SOON, Patience, Room


def test_patience_doubles_while_results_follow_closely_and_is_small_after_a_pause() -> None:
    patience, now, waited = Patience(), 100.0, []
    for pause in (0.0, SOON / 2, 0.0, SOON / 2, SOON, 0.0):
        now += pause
        waited.append(patience.next(now))
        now += 3 * SOON  # a long result is no pause
        patience.done(now)
    assert waited == [FEW, 2 * FEW, 4 * FEW, 8 * FEW, FEW, 2 * FEW]


def test_patience_has_an_end() -> None:
    patience = Patience()
    for _ in range(100):
        last = patience.next(0.0)
        patience.done(0.0)
    assert last == MANY


def test_parts_that_threads_fill_side_by_side_make_up_the_result() -> None:
    size = 5 * HUGE + 4321
    room, wanted = Room(size), np.random.default_rng(7).integers(0, 256, size, np.uint8)
    places = [0, 17, HUGE - 3, HUGE + 9, 4 * HUGE + 1, 5 * HUGE, size]

    def fill(first: int) -> None:
        for start, stop in list(pairwise(places))[first::2]:
            room.part(start, stop)[:] = wanted[start:stop]

    threads = [threading.Thread(target=fill, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert room.result(size) == wanted.tobytes()
