"""What a result in memory waits for: huge pages that come slowly, the longer the more results follow each other."""

import threading
from itertools import pairwise

import numpy as np
import pytest
from safetensors.numpy import save

import mc
from mc import memory
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


def test_who_asks_for_a_result_finds_the_pages_for_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.random.default_rng(8).standard_normal((2048, 1024), np.float32)
    data = save({"large": weights, **{f"small {i}": weights[i::16].copy() for i in range(16)}})
    packed, asking, find = mc.compress(data, level="fast"), set(), memory._quick

    def find_and_tell(stretch: np.ndarray) -> bool:
        asking.add(threading.get_ident())
        return find(stretch)

    monkeypatch.setattr(memory, "_quick", find_and_tell)
    monkeypatch.setattr(memory, "FEW", MANY)  # however slowly they come
    assert mc.decompress(packed, threads=2) == data
    assert asking == {threading.get_ident()}
