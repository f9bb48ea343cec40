"""The ways in which a chunk is stored: as it is, or coded. Its first byte says which (FORMAT.md, 5.5 and 7)."""

import numpy as np

from mc.codec.chunks import CODED, RAW
from mc.codec.fields import Reader
from mc.codec.typing import Bytes
from mc.errors import DamagedError


def raw_chunk(raw: Bytes) -> Bytes:
    """A chunk as it is, and the byte that says so."""
    return np.concatenate([np.array([RAW], np.uint8), raw])


def opened_chunk(coded: memoryview, raw: Bytes) -> Reader | None:
    """What stands behind the first byte of a coded chunk; None of one that is stored as it is, which fills `raw`.
    DamagedError for any other way."""
    reader = Reader(coded)
    method = reader.byte()
    if method == RAW:
        raw[:] = np.frombuffer(reader.take(len(raw)), np.uint8)
        reader.end()
        return None
    if method != CODED:
        raise DamagedError(f"a chunk is stored in way {method}, and there are ways 0 and 1")
    return reader
