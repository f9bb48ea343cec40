"""What coding the low bits of words would save, by their entropies in a sample."""

import numpy as np

from mc.codec.compiled import compiled, inlined


@inlined
def _entropy(counts):
    """Bits a symbol, corrected for how much too low so few counts make it (Miller, 1955)."""
    total, distinct, bits = 0, 0, 0.0
    for s in range(len(counts)):
        if counts[s] > 0:
            total += counts[s]
            distinct += 1
            bits -= counts[s] * np.log2(counts[s])
    return bits / total + np.log2(total) + (distinct - 1) / (2 * np.log(2.0) * total)


@inlined
def _add_bytes(word, counts):
    for k in range(len(counts)):
        counts[k, (word >> (8 * k)) & 255] += 1


@compiled
def saved(sample, tails, looked_at, of_head):
    """Bits a word that taking off the `tails` would save, by about `looked_at` words of the sample; None if it has
    fewer that aren't zero. Fills `of_head` f64 with what the lowest 0, 1, ... bits of the head would save besides.
    Zeros aren't looked at: they are better told by other means."""
    some = 0
    for i in range(len(sample)):
        some += sample[i] != 0
    if some < looked_at:
        return None
    counts, step = np.empty((2 * tails + 1, 256), np.int64), some // looked_at | 1
    counts[:] = 0
    if some == len(sample):  # as it is with most tensors: the same words, without a look at those between
        for i in range(0, some, step):
            _add_bytes(sample[i], counts)
    else:
        left = 1
        for i in range(len(sample)):
            left -= sample[i] != 0
            if left == 0:
                left = step
                _add_bytes(sample[i], counts)
    of_tails = 0.0
    for k in range(2 * tails):
        of_tails += 8 - _entropy(counts[k])
    head = counts[2 * tails]
    for taken in range(len(of_head)):
        low = np.empty(1 << taken, np.int64)
        low[:] = 0
        for s in range(256):
            low[s & ((1 << taken) - 1)] += head[s]
        of_head[taken] = taken - _entropy(low)
    return of_tails
