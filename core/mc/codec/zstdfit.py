"""What zstd takes, and where it is worth asking: it alone sees what repeats and what is in order, but is slow."""

import numpy as np

from mc.codec import dictionary, runs
from mc.codec.fit import Each, Read
from mc.codec.typing import Bytes, Ints
from mc.codec.ways import raw_chunk

LOOKED_AT = 1024  # words in which repetition is looked for
SPREAD = np.uint64(0x9E3779B97F4A7C15)  # an odd number that makes one word of two
MIXED = 509  # a prime: bytes that are a share of the sample apart, one of so many, are in no order
ORDERED = 0.97  # times what zstd takes for these, where there is order; .99 to 1.03 where rows differ in power alone
QUICKLY = 1.3  # times what zstd takes at its slower levels, at most: .8 to 1.2 of quantized weights


def repeats(sample: Ints, cols: int) -> bool:
    """Whether words of four bytes and more (or as many short ones) stand in the sample more than once, or rows that
    begin alike: in trained weights they hardly do, but in the tables of a fixed transform, in codebooks, padding and
    copied rows, and zstd finds them."""
    raw = sample.view(np.uint8)
    wide = max(sample.itemsize, 4)
    middle = len(raw) // 2 // wide * wide
    words = raw[max(middle - LOOKED_AT // 2 * wide, 0) :][: LOOKED_AT * wide]
    if 4 * dictionary.distinct(words[: len(words) // wide * wide].view(runs.UNSIGNED[wide])) < 3 * (len(words) // wide):
        return True
    rows, begin = len(sample) // cols, 16 // sample.itemsize
    if rows < 4 or cols < begin:
        return False
    begins = np.ascontiguousarray(sample[: rows * cols].reshape(rows, cols)[:, :begin]).view(np.uint64)
    return 16 * dictionary.distinct(begins[:, 0] * SPREAD + begins[:, 1]) < 15 * rows


def cost_of_chunk(raw: Bytes, level: str) -> float:
    """Bytes for a byte of a whole chunk u8: what repeats lies as far apart as rows are long."""
    return len(dictionary.compress(raw, dictionary.LEVELS[level])) / len(raw)


def cost_of_all(read: Read, spans: list[tuple[int, int]], level: str, each: Each) -> float:
    """Bytes of all chunks, given the first and last byte (exclusive) of each."""
    return sum(each(lambda span: cost_of_chunk(read(*span), level) * (span[1] - span[0]), spans))


def cost_of_pieces(sample: Bytes, size: int, level: str) -> float:
    """Bytes for a byte of a sample u8 of pieces of `size` bytes that lie apart."""
    pieces = [sample[at : at + size] for at in range(0, len(sample), size)]
    return sum(len(dictionary.compress(piece, dictionary.LEVELS[level])) for piece in pieces) / len(sample)


def is_ordered(sample: Bytes, least: float, level: str) -> bool:
    """Whether zstd sees any order in the sample u8, and comes near the `least` bytes that another coding takes: without
    order, what counts how often each word comes takes no more. Only `best` asks how much order there is, however far
    zstd is at its quickest."""
    found = len(dictionary.compress(sample, dictionary.QUICK))
    if level != "best" and found > QUICKLY * least:
        return False
    mixed = np.ascontiguousarray(sample[: len(sample) // MIXED * MIXED].reshape(MIXED, -1).T)
    return found < ORDERED * len(dictionary.compress(mixed.reshape(-1), dictionary.QUICK))


def encode_chunk(raw: Bytes, level: str) -> Bytes:
    """A chunk u8 as one frame, or as it is where that is no longer."""
    frame = dictionary.compress(raw, dictionary.LEVELS[level])
    if len(frame) >= len(raw):
        return raw_chunk(raw)
    return np.frombuffer(b"\1" + frame, np.uint8)
