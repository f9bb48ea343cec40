"""What a result in memory waits for: huge pages that come slowly, the longer the more results follow each other."""

import gc
import sys
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import mc
from anatomy import dissect, seal
from conftest import program
from mc import blob, inflating, memory
from mc.codec.choose import Coded
from mc.codec.pages import touch
from mc.codec.typing import Bytes
from mc.errors import DamagedError
from mc.manifest import CLAIMED, claimed_size
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
    monkeypatch.setattr(inflating, "EARLY_FROM", len(data) + 1)  # or they are there before anybody asks
    assert mc.decompress(packed, threads=2) == data
    assert asking == {threading.get_ident()}


@pytest.mark.parametrize("skip", [0, 1, None])
def test_only_a_chunk_at_the_front_of_its_room_counts_as_written(skip: int | None) -> None:
    """Not one that is further behind, or elsewhere."""
    room, raw = np.zeros(100, np.uint8), np.arange(50, dtype=np.uint8)

    def encode(_: int, given: Bytes, out: Bytes) -> Bytes:
        return given if skip is None else out[skip : skip + 20]

    sealed = blob.frame(Coded(0, "", "", b"", [(0, 50)], encode), 0, 0, raw, room)
    assert sealed.there is (skip == 0)
    assert blob.write_frame(sealed)[1] == (20 if skip == 0 else sealed.coded)


@pytest.mark.parametrize("size", [1, HUGE, memory.WHOLE_FROM - 1, memory.WHOLE_FROM, memory.WHOLE_FROM + 1])
def test_a_room_is_as_large_as_was_asked_for_and_blank(size: int) -> None:
    room = Room(size)
    assert not room.part(0, size).any()
    assert len(room.part(0, size)) == size
    room.write(bytes([7]) * size)
    assert room.result(size) == bytes([7]) * size


def test_pages_are_had_one_by_one_until_another_thread_says_stop() -> None:
    room, told = Room(memory.WHOLE_FROM + 1), np.zeros(1, np.uint8)
    place = room.part(0, memory.WHOLE_FROM + 1)
    pages = memory.WHOLE_FROM // HUGE + 1
    assert touch(place, told) == pages
    assert touch(place[:0], told) == 0
    told[0] = 1
    assert touch(place, told) == 0

    told[0] = 0
    threading.Timer(0.2, lambda: told.fill(1)).start()
    rounds = 0
    while touch(place, told) == pages:
        rounds += 1
    assert rounds > 0  # it ends, and not before it is told
    assert not place.any()


@pytest.mark.parametrize("offset", [0, 48, 4095])
@pytest.mark.parametrize("size", [1, 4096, HUGE - 4097, HUGE, HUGE + 1, 2 * HUGE - 48, 2 * HUGE + 4097, 3 * HUGE - 64])
def test_nothing_is_written_around_pages_that_are_had_early(offset: int, size: int) -> None:
    around = np.full(5 * HUGE, 7, np.uint8)
    begin = -around.ctypes.data % HUGE + offset
    place = around[begin : begin + size]
    place[:] = 0
    assert touch(place, np.zeros(1, np.uint8)) == -(-size // HUGE)
    assert not place.any()
    assert (around[:begin] == 7).all() and (around[begin + size :] == 7).all()


Told = dict[int, list[tuple[int, int]]]
GIVEN = memory._given.__wrapped__  # looks each time


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What a system that gives huge pages is told, on any system: by advice, addresses and sizes."""
    found: Told = {}

    def have(address: int, size: int, advice: int) -> bool:
        found.setdefault(advice, []).append((address, size))
        return True

    monkeypatch.setattr(memory, "_have", have)
    monkeypatch.setattr(memory, "_given", lambda: True)
    monkeypatch.setattr(memory, "HUGEPAGE", 14)
    monkeypatch.setattr(memory, "NOHUGEPAGE", 15)
    return found


def test_each_huge_page_is_asked_for_by_its_end_and_only_the_first_made_of_small_ones(told: Told) -> None:
    room = Room(4 * HUGE)
    blank = np.zeros(6 * HUGE, np.uint8)
    room._place = blank[-blank.ctypes.data % HUGE :][: 3 * HUGE + 5000]  # it begins where a huge page does
    room._address, room._size = room._place.ctypes.data, len(room._place)
    told.clear()
    room._have_first()
    room.part(0, len(room._place))
    begin = room._address
    assert told.pop(memory.COLLAPSE) == [(begin, HUGE)]
    lasts = [begin + HUGE * n + HUGE - 4096 for n in range(3)] + [begin + 3 * HUGE + 4096]
    assert told == {memory.POPULATE: [(last, 4096) for last in lasts]}


def test_pages_that_come_slowly_are_given_up_for_what_is_behind_them(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_quick", lambda stretch: False)
    room = Room(9 * HUGE)
    room._patience = 2
    room.part(0, 9 * HUGE)
    behind = room._end(room._end(0)) + room._address
    assert told[15] == [(behind, room._address + room._size - behind)]


def test_pages_that_were_had_early_are_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def find(stretch: np.ndarray) -> bool:
        asked.append(len(stretch))
        return True

    monkeypatch.setattr(memory, "_quick", find)
    monkeypatch.setattr(Room, "_begins_small", lambda room: True)
    monkeypatch.setattr(memory, "_have", lambda address, size, advice: True)
    room = Room(memory.WHOLE_FROM, early=True)
    room._patience = 1  # also where there are no huge pages
    room.early(lambda place: 3)
    room.part(0, 2 * HUGE)
    assert asked == []
    room.part(2 * HUGE, memory.WHOLE_FROM)
    assert sum(asked) <= memory.WHOLE_FROM - 2 * HUGE


@pytest.mark.parametrize(("text", "given"), [("always madvise [never]", False), ("always [madvise] never", True)])
def test_no_pages_are_asked_for_where_nobody_is_given_any(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch, text: str, given: bool
) -> None:
    setting = tmp_path / "enabled"
    monkeypatch.setattr(memory, "SETTING", setting)
    assert not GIVEN()
    setting.write_text(text)
    assert GIVEN() == given
    monkeypatch.setattr(memory, "_given", lambda: given)
    Room(memory.WHOLE_FROM).part(0, memory.WHOLE_FROM)
    assert bool(told) == given


EARLY = """
from mc import memory

had = []
memory.Room(memory.WHOLE_FROM, early=True).early(lambda place: had.append(len(place)) or 0)
assert had == [memory.WHOLE_FROM], had
"""


@pytest.mark.skipif(not memory._given(), reason="the system gives no huge pages")
def test_a_large_room_begins_with_a_page_to_be_had_early() -> None:  # `mc warm` relies on that
    done = program(EARLY)
    assert done.returncode == 0, done.stderr


FAULTS = """
import resource, sys
from pathlib import Path
import mc
from mc import memory

memory.FEW = memory.MANY  # however slowly pages come
data = Path(sys.argv[1]).read_bytes()
packed = mc.compress(data, threads=1)
for threads in (1, 2):
    for again in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        assert mc.decompress(packed, threads=threads) == data
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    print(faults)
"""


@pytest.mark.skipif(not memory._given(), reason="the system gives no huge pages")
def test_a_result_comes_in_huge_pages(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(save({"w": np.random.default_rng(6).standard_normal((3000, 3000), np.float32)}))
    done = program(FAULTS, path)
    assert done.returncode == 0, done.stderr
    small = path.stat().st_size // 4096
    assert all(int(faults) < small / 4 for faults in done.stdout.split()), done.stdout


RESIDENT = """
import resource
from mc import memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

memory.FEW = memory.MANY  # however slowly pages come
memory.Room(9 << 20).part(0, 9 << 20).fill(1)  # so that all that is needed once is there
for size in range(9 << 20, 15 << 20, 777777):  # rooms that don't begin where huge pages do
    above = bytes(64 << 20)  # which isn't touched
    before = resident()
    room = memory.Room(size)
    room.part(0, size).fill(1)
    print(resident() - before - size)
    del room, above
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what is in memory is read from /proc")
def test_memory_around_a_room_does_not_become_huge_pages() -> None:
    done = program(RESIDENT)
    assert done.returncode == 0, done.stderr
    assert all(int(more) < HUGE // 4 for more in done.stdout.split()), done.stdout


def packed_file() -> tuple[bytes, bytes]:
    """A file so large that its headers are read by another thread, and its packed form."""
    data = save({"w": np.random.default_rng(9).standard_normal((2048, 1100), np.float32)})
    assert len(data) >= inflating.EARLY_FROM
    return data, mc.compress(data, level="fast")


def test_a_packed_file_says_early_how_large_the_original_is() -> None:
    data, packed = packed_file()
    assert claimed_size(packed[:CLAIMED]) == len(data)
    assert claimed_size(data[:CLAIMED]) is None


@pytest.mark.parametrize("claim", [inflating.EARLY_FROM, 3 * inflating.EARLY_FROM, 10**17])
def test_what_a_header_says_in_passing_is_not_relied_on(claim: int) -> None:
    data, packed = packed_file()
    parts = dissect(packed)
    parts.metadata = {"mc.format": "1", "note": f'"bytes":{claim},'}
    misleading = seal(parts)
    assert claimed_size(misleading[:CLAIMED]) == claim
    assert mc.decompress(misleading, threads=2) == mc.decompress(misleading, threads=1) == data


def test_damage_in_a_header_that_another_thread_reads_is_told_as_it_is_by_one() -> None:
    _, packed = packed_file()
    damaged = packed.replace(b"2048", b"2049", 1)
    messages = []
    for threads in (1, 2):
        with pytest.raises(DamagedError) as told:
            mc.decompress(damaged, threads=threads)
        messages.append(str(told.value))
    assert messages[0] == messages[1]
    assert "digest" in messages[0]


def test_nothing_is_held_once_damage_that_another_thread_found_has_been_seen() -> None:
    parts = dissect(packed_file()[1])
    parts.reserved = parts.reserved[:-1] + bytes([parts.reserved[-1] ^ 1])
    damaged = bytearray(seal(parts))
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(DamagedError):
            mc.decompress(damaged, threads=2)
        damaged.append(0)  # a BufferError while anything looks into it
    finally:
        gc.enable()


SHORT_OF_MEMORY = """
import resource, sys
import mc

packed = open(sys.argv[1], "rb").read()
whole = mc.decompress(packed, threads=2)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2 * len(whole), resource.RLIM_INFINITY))
assert mc.decompress(packed, threads=2) == whole
"""


@pytest.mark.skipif(sys.platform != "linux", reason="how much memory a process has is read from /proc")
def test_no_memory_for_what_a_header_claims_falsely_is_no_error(tmp_path: Path) -> None:
    _, packed = packed_file()
    parts = dissect(packed)
    parts.metadata = {"mc.format": "1", "note": f'"bytes":{15 * len(packed)},'}
    path = tmp_path / "file"
    path.write_bytes(seal(parts))
    done = program(SHORT_OF_MEMORY, path)
    assert done.returncode == 0, done.stderr
