"""Lengths of Huffman codes from counts, at most LONGEST bits.

Source: Moffat and Katajainen, "In-place calculation of minimum-redundancy codes" (1995); how lengths are limited is
explained at `_limit`.
"""

import numpy as np

from mc.codec.compiled import inlined

LONGEST = 12  # bits of the longest code, and of the decoder's look-up (FORMAT.md, section 6.1)
SPACE = 1 << LONGEST  # what complete codes fill, each taking SPACE >> length


@inlined
def _sort_by_count(counts, symbols, n):
    for i in range(1, n):
        s = symbols[i]
        j = i - 1
        while j >= 0 and counts[symbols[j]] > counts[s]:
            symbols[j + 1] = symbols[j]
            j -= 1
        symbols[j + 1] = s


@inlined
def _depths(weight, n):
    """Replace ascending weights by code lengths, in place (Moffat and Katajainen, 1995)."""
    weight[0] += weight[1]
    root, leaf = 0, 2
    for k in range(1, n - 1):
        for side in range(2):
            if leaf >= n or (root < k and weight[root] < weight[leaf]):
                picked = weight[root]
                weight[root] = k
                root += 1
            else:
                picked = weight[leaf]
                leaf += 1
            weight[k] = picked if side == 0 else weight[k] + picked
    weight[n - 2] = 0
    for k in range(n - 3, -1, -1):
        weight[k] = weight[weight[k]] + 1
    available, used, depth = 1, 0, 0
    root, k = n - 2, n - 1
    while available > 0:
        while root >= 0 and weight[root] == depth:
            used += 1
            root -= 1
        while available > used:
            weight[k] = depth
            k -= 1
            available -= 1
        available = 2 * used
        depth += 1
        used = 0


@inlined
def _limit(weight, n):
    """Shorten lengths (of ascending counts) to LONGEST, then lengthen the rarest codes that can pay for it,
    then give what is left over to the most frequent ones that can take it."""
    space = 0
    for k in range(n):
        weight[k] = min(weight[k], LONGEST)
        space += SPACE >> weight[k]
    k = 0
    while space > SPACE:
        while weight[k] == LONGEST:
            k += 1
        weight[k] += 1
        space -= SPACE >> weight[k]
    for k in range(n - 1, -1, -1):
        while weight[k] > 1 and space + (SPACE >> weight[k]) <= SPACE:
            space += SPACE >> weight[k]
            weight[k] -= 1


@inlined
def code_lengths(counts, lengths):
    """Fill `lengths` [tables, 256] u8 with the code lengths for `counts` [tables, 256] i64; return the bits that all
    counted symbols take. A symbol that doesn't occur has length 0; so has a symbol that is alone in its table."""
    bits = 0
    symbols = np.empty(256, np.int64)
    weight = np.empty(256, np.int64)
    for t in range(counts.shape[0]):
        n = 0
        for s in range(256):
            lengths[t, s] = 0
            if counts[t, s] > 0:
                symbols[n] = s
                n += 1
        if n < 2:
            continue
        _sort_by_count(counts[t], symbols, n)
        for k in range(n):
            weight[k] = counts[t, symbols[k]]
        _depths(weight, n)
        _limit(weight, n)
        for k in range(n):
            lengths[t, symbols[k]] = weight[k]
            bits += counts[t, symbols[k]] * weight[k]
    return bits
