"""The checksum that loops make, against the xxhash package."""

from typing import Any

import numpy as np
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mc.codec.checksum import BLOCK, SHORT, STRIPE, checksum
from mc.codec.compiled import released


@released
def _of(data: Any, seed: Any) -> Any:
    return checksum(data, seed)


@settings(deadline=None)  # the first call compiles
@given(st.integers(0, 5 * BLOCK), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.integers(0, 7))
@example(SHORT + 1, 0, 0, 0)
@example(BLOCK, 2**64 - 1, 1, 1)
@example(BLOCK + 1, 0xFFFFFFFF, 2, 0)
@example(2 * BLOCK + STRIPE, 2**63, 3, 3)
def test_checksums_are_those_of_the_package(size: int, seed: int, draw: int, start: int) -> None:
    data = np.random.default_rng(draw).integers(0, 256, start + size, dtype=np.uint8)[start:]
    assert int(_of(data, np.uint64(seed))) == xxhash.xxh3_64_intdigest(data.tobytes(), seed)


def test_checksums_of_every_short_size_are_those_of_the_package() -> None:
    draw = np.random.default_rng(5)
    for size in range(SHORT + 2):
        data, seeds = draw.integers(0, 256, size, dtype=np.uint8), draw.integers(0, 2**64, 3, dtype=np.uint64)
        for seed in (np.uint64(0), np.uint64(2**64 - 1), *seeds):
            assert int(_of(data, seed)) == xxhash.xxh3_64_intdigest(data.tobytes(), int(seed))
