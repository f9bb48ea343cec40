"""Where a restore ends early no thread goes on writing: the number of its file may be another file's by then."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import mc
from mc.errors import DamagedError


class Counting(ThreadPoolExecutor):
    """Knows how many of its threads are at work."""

    def __init__(self) -> None:
        super().__init__(2)
        self.at_work = 0
        self._lock = threading.Lock()

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        def counted() -> Any:
            with self._lock:
                self.at_work += 1
            try:
                return function(*arguments, **named)
            finally:
                with self._lock:
                    self.at_work -= 1

        return super().submit(counted)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 32 MB, so that threads are at work when the first of it is restored."""
    place = tmp_path_factory.mktemp("strays")
    draw = np.random.default_rng(5)
    tensors = {f"layer.{n}": draw.normal(size=(1024, 1024)).astype(np.float32) for n in range(8)}
    save_file(tensors, place / "model.safetensors")
    mc.pack(place / "model.safetensors", place / "model.mc.safetensors", level="fast")
    return place / "model.mc.safetensors"


def test_an_interrupted_restore_writes_nothing_any_more(packed: Path, tmp_path: Path) -> None:
    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with Counting() as pool:
        for number in range(8):
            with pytest.raises(KeyboardInterrupt):
                mc.unpack(packed, tmp_path / "out.safetensors", threads=3, executor=pool, progress=interrupt)
            assert pool.at_work == 0, number
            assert not list(tmp_path.iterdir())


def test_a_damaged_restore_writes_nothing_any_more(packed: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.mc.safetensors"
    data = bytearray(packed.read_bytes())
    data[len(data) // 3] ^= 4
    damaged.write_bytes(data)
    with Counting() as pool:
        for number in range(8):
            with pytest.raises(DamagedError, match="layer"):
                mc.unpack(damaged, tmp_path / "out.safetensors", threads=3, executor=pool)
            assert pool.at_work == 0, number
            assert list(tmp_path.iterdir()) == [damaged]
