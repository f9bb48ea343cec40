"""How many bytes words take in the contexts of their rows and columns, by how finely these are told apart: in one call,
as a choice of contexts asks that of every tensor many times."""

import numpy as np

from mc.codec import entropy
from mc.codec.compiled import compiled
from mc.codec.grids import ESCAPE, MOST_TABLES
from mc.codec.tables import SEVERAL

LANES_FROM = 4096  # symbols of a segment that has four lanes (FORMAT.md, 6.3)
LANE = 8  # bytes of a lane's head
HEAD = 8  # bytes before arrays and tables
NEVER = 1 << 60  # bytes of more tables than there may be


@compiled
def measure(counts, cost, times, width, chunks, counted, sizes):
    """Fill `sizes` i64 [shifts] with the bytes of `times` as many words as `counts` i64 [contexts, lattices, 256] has,
    which is used up, in contexts of 2^shift codes each: tables, symbols and `chunks`, each with so many bytes `counted`
    for a context. cost: see `entropy.costs`."""
    contexts, lattices = counts.shape[0], counts.shape[1]
    for shift in range(len(sizes)):
        if shift > 0:
            for t in range((contexts + 1) >> 1):
                for k in range(lattices):
                    for s in range(256):
                        more = counts[2 * t + 1, k, s] if 2 * t + 1 < contexts else 0
                        counts[t, k, s] = counts[2 * t, k, s] + more
            contexts = (contexts + 1) >> 1
        if contexts > MOST_TABLES:
            sizes[shift] = NEVER
            continue
        merged = counts[:contexts].copy().reshape(contexts * lattices, 256)
        numbers, lone = np.zeros(merged.shape, np.uint8), np.empty(len(merged), np.int64)
        bits, described, _, _ = entropy.measured(merged, cost, numbers, lone)
        lanes, escaped, live = 0, 0, 0
        for t in range(len(merged)):
            lanes += 4 if merged[t].sum() * times / chunks >= LANES_FROM else np.int64(lone[t] == SEVERAL)
            escaped += merged[t, ESCAPE]
            for s in range(256):
                live += merged[t, s] > 0
        # What was counted is told too well by its own tables: half a degree of freedom for each symbol (Miller, 1955).
        coded = np.int64((bits // 8 + escaped * width) * times + (times - 1) * 0.72 * live / 8)
        sizes[shift] = coded + HEAD + described + chunks * (5 + counted * contexts + LANE * lanes)
