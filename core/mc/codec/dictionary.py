"""Dictionary coding: palettes of few distinct words, and zstd for repetition that no table of symbols sees."""

import numpy as np
import zstandard

from mc.codec.typing import Bytes, Ints
from mc.errors import DamagedError

MOST_WORDS = 256
FIRST_LOOK = 512  # words
LEVELS = {"fast": 3, "default": 9, "best": 19}
QUICK = 1  # a level for a first look
# A chunk's frame must declare its size; no frame of ours needs a window beyond the largest chunk.
LARGEST_WINDOW = 1 << 24


def distinct(words: Ints) -> int:
    """How many different words there are, of one or more."""
    ordered = np.sort(words)
    return 1 + int(np.count_nonzero(ordered[1:] != ordered[:-1]))


def palette_of(seen: Ints | None, words: Ints) -> Ints | None:
    """The distinct words so far together with those of one more chunk, or None once there are too many.
    `seen` is empty at first."""
    if seen is None:
        return None
    if distinct(words[:FIRST_LOOK]) > MOST_WORDS:
        return None  # most tensors are done with here, without sorting a whole chunk
    found = np.unique(np.concatenate([seen, np.unique(words)]))
    return found if len(found) <= MOST_WORDS else None


def compress(raw: Bytes, level: int) -> bytes:
    """One zstd frame that declares its size, without a checksum of its own (each chunk has one)."""
    return zstandard.ZstdCompressor(level=level, write_content_size=True, threads=0).compress(raw.data)


def decompress(frame: memoryview, raw: Bytes) -> None:
    """Fill `raw` from one frame. The declared size is looked at before anything is allocated: a decompressor
    believes it (`max_output_size` doesn't bound a frame that declares more)."""
    try:
        declared = zstandard.frame_content_size(frame)
        if declared != len(raw):
            raise DamagedError(f"a zstd frame declares {declared} bytes where {len(raw)} belong")
        found = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW).decompress(
            frame, max_output_size=len(raw), allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise DamagedError(f"a zstd frame can't be decoded ({error})") from error
    if len(found) != len(raw):
        raise DamagedError(f"a zstd frame holds {len(found)} bytes where {len(raw)} belong")
    raw[:] = np.frombuffer(found, np.uint8)
