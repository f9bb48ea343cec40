"""The loops of pruning: scores of weights and blocks, the rank at which they are cut, and patterns of N in M.

A score is a number >= 0 in f32, whose bits, read as an integer, have the same order: so the k-th least is found by
counting its leading and then its trailing 16 bits, over any number of tensors and in bounded memory."""

import numpy as np

from mc.codec.compiled import released

F32, F64 = np.float32, np.float64
MAGNITUDE = np.uint32(0x7FFFFFFF)
LOW = np.uint32(0xFFFF)
SHIFT = np.uint32(16)
LEADING, TRAILING = 1 << 15, 1 << 16  # bins of the two counts
TILE, TERMS = 256, 64  # columns and terms of a product at once: 128 kB


@released
def scale_weights(w, rows, columns, out):
    """Fill `out` f32 [rows, cols] with |w| x row x column, all f32."""
    for r in range(w.shape[0]):
        for c in range(w.shape[1]):
            out[r, c] = abs(w[r, c]) * rows[r] * columns[c]


@released
def block_sums(w, height, width, sums):
    """Add the squares of w f32 [rows, cols] to `sums` f64, one for each block of height x width."""
    for r in range(w.shape[0]):
        g = r // height
        for k in range(sums.shape[1]):
            total = 0.0
            for c in range(k * width, min((k + 1) * width, w.shape[1])):
                total += F64(w[r, c]) * F64(w[r, c])
            sums[g, k] += total


@released
def count_leading(bits, heights, widths, counts):
    """Add to `counts` i64 [LEADING] the weights of units by the leading bits of their scores. bits: of the scores, u32
    [units down, units across]; heights, widths: of the units, i64."""
    for r in range(bits.shape[0]):
        for c in range(bits.shape[1]):
            counts[(bits[r, c] & MAGNITUDE) >> SHIFT] += heights[r] * widths[c]


@released
def count_trailing(bits, heights, widths, leading, counts):
    """Add to `counts` i64 [TRAILING] the weights of those units whose score has these leading bits, by the others."""
    for r in range(bits.shape[0]):
        for c in range(bits.shape[1]):
            if (bits[r, c] & MAGNITUDE) >> SHIFT == leading:
                counts[bits[r, c] & LOW] += heights[r] * widths[c]


@released
def cut(bits, heights, widths, least, ties, kept):
    """Fill `kept` u8, like `bits`, with 0 for units whose score is below `least` u32 [units down], and for the first of
    equal score until `ties` i64 weights are gone: in each row as many as it says, or where it has one entry, in all."""
    for r in range(bits.shape[0]):
        quota = r if len(ties) > 1 else 0
        for c in range(bits.shape[1]):
            score = bits[r, c] & MAGNITUDE
            keep = score > least[r]
            if score == least[r]:
                keep = ties[quota] <= 0
                if not keep:
                    ties[quota] -= heights[r] * widths[c]
            kept[r, c] = keep


@released
def keep_largest(bits, n, m, kept):
    """Fill `kept` u8 with 1 for the n of every m columns with the largest scores, the first of equal ones; a group that
    the end of a row cuts keeps as many."""
    scores, before = np.empty(m, np.uint32), np.empty(m, np.uint32)
    for r in range(bits.shape[0]):
        for start in range(0, bits.shape[1], m):
            size = min(m, bits.shape[1] - start)
            for i in range(size):  # how many are before each: every pair is compared once
                score, larger = bits[r, start + i] & MAGNITUDE, np.uint32(0)
                for k in range(i):
                    wins = np.uint32(score > scores[k])
                    before[k] += wins
                    larger += wins
                scores[i], before[i] = score, np.uint32(i) - larger
            for i in range(size):
                kept[r, start + i] = before[i] < n


@released
def multiply(left, right, out):
    """Add left x right, f64 [rows, rank] and [rank, cols] that are exact in f32, to `out` f64 [rows, cols]: terms in
    the order of the rank, each exact, so that the sum is the same on every machine. Tiles stay in the nearest cache."""
    rows, rank, cols = left.shape[0], left.shape[1], right.shape[1]
    for start in range(0, cols, TILE):
        for first in range(0, rank, TERMS):
            last = min(first + TERMS, rank)
            whole = last - (last - first) % 4
            tile = right[first:last, start : start + TILE].copy()
            for r in range(rows):
                line = out[r, start : start + TILE]
                for k in range(first, whole, 4):
                    a, b, c, d = left[r, k], left[r, k + 1], left[r, k + 2], left[r, k + 3]
                    one, two, three, four = (
                        tile[k - first],
                        tile[k + 1 - first],
                        tile[k + 2 - first],
                        tile[k + 3 - first],
                    )
                    for i in range(len(line)):
                        line[i] = (((line[i] + a * one[i]) + b * two[i]) + c * three[i]) + d * four[i]
                for k in range(whole, last):
                    a, one = left[r, k], tile[k - first]
                    for i in range(len(line)):
                        line[i] += a * one[i]
