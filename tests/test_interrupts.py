"""Interrupts at any moment: they come out as what they are, and the process lives on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import mc
from conftest import program

# Hundreds of real signals, each some way into a call or between two, since loops that hand back tuples of arrays
# crashed in one of ten. In a process of its own, which may end by that.
PROGRAM = """
import os, random, signal, sys
from pathlib import Path
import mc

work, threads, path = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
plain = path.read_bytes()
packed = mc.compress(plain, level="fast", threads=threads)
work, given, expected = (mc.compress, plain, packed) if work == "compress" else (mc.decompress, packed, plain)
options = {"level": "fast"} if work is mc.compress else {}
assert work(given, threads=threads, **options) == expected
signal.signal(signal.SIGALRM, signal.default_int_handler)
random.seed(8)
interrupts = 0
while interrupts < 300:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, 2e-2))
        while True:
            work(given, threads=threads, **options)
    except KeyboardInterrupt:
        interrupts += 1
assert work(given, threads=threads, **options) == expected
print("sound")
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many small tensors, and one of several chunks."""
    draw = np.random.default_rng(5)
    shapes = [(64, 66)] * 150 + [(1100, 640)]
    tensors = {f"t{n}": draw.normal(size=shape).astype(np.float16) for n, shape in enumerate(shapes)}
    path = tmp_path_factory.mktemp("interrupts") / "model.safetensors"
    path.write_bytes(save(tensors))
    return path


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("work", ["compress", "decompress"])
def test_an_interrupt_is_raised_and_nothing_else_happens(work: str, threads: int, plain: Path) -> None:
    mc.decompress(mc.compress(plain.read_bytes(), level="fast"))  # so that loops are compiled
    done = program(PROGRAM, work, threads, plain)
    assert (done.returncode, done.stdout) == (0, "sound\n"), done.stderr[-2000:]
