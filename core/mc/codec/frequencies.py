"""Frequencies of ANS from counts: they add up to 4096 states, in steps that take a byte each in a file.

The spread of symbols over states is that of Collet's FSE.
"""

import numpy as np

from mc.codec.compiled import compiled, inlined
from mc.codec.typing import Bytes, Counts

LOG_STATES = 12
STATES = 1 << LOG_STATES
SPREAD = (STATES >> 1) + (STATES >> 3) + 3  # odd, so it visits every state once

# A symbol's step c stands for the frequency ((8 + (c - 1) % 8) << ((c - 1) // 8)) >> 3: three bits of mantissa
# take half the room of exact frequencies (FORMAT.md, 6.2). What a symbol costs above its entropy, all told: .0015 bit
# for a Gaussian with a deviation of one symbol, .005 for four, .02 for sixteen.
LAST_STEP = 96


@inlined
def frequency_of(step):
    """The frequency that a step from 1 to LAST_STEP stands for."""
    return ((8 + (step - 1) % 8) << ((step - 1) // 8)) >> 3


@inlined
def steps_for(counts: Counts, steps: Bytes) -> None:
    """Fill `steps` [tables, 256] u8 with the quantized frequencies for `counts` [tables, 256] i64."""
    for t in range(counts.shape[0]):
        total = 0
        mode = 0
        for s in range(256):
            total += counts[t, s]
            steps[t, s] = 0
            if counts[t, s] > counts[t, mode]:
                mode = s
        if total == 0:
            continue
        taken = 0
        for s in range(256):
            if counts[t, s] == 0:
                continue
            wanted = (counts[t, s] * STATES + total // 2) // total
            step = 1
            while step < LAST_STEP and frequency_of(step + 1) <= wanted:
                step += 1
            # The nearer one of the steps around `wanted`; and the highest one of equal frequency is never used.
            above = frequency_of(step + 1)
            if step < LAST_STEP and above - wanted < wanted - frequency_of(step):
                step += 1
            while step > 1 and frequency_of(step - 1) == frequency_of(step):
                step -= 1
            steps[t, s] = step
            if s != mode:
                taken += frequency_of(step)
        # The most frequent symbol takes what the others leave; where that is nothing, the larger ones give.
        while taken >= STATES:
            largest = -1
            for s in range(256):
                if s != mode and steps[t, s] > 1 and (largest < 0 or steps[t, s] > steps[t, largest]):
                    largest = s
            taken -= frequency_of(steps[t, largest])
            steps[t, largest] -= 1
            taken += frequency_of(steps[t, largest])
        steps[t, mode] = 255  # "the rest"


@compiled
def frequencies(steps, frequency):
    """Fill `frequency` [tables, 256] i64 from `steps`; return the first table that is not sound, or -1.
    A table without any step is left empty."""
    for t in range(steps.shape[0]):
        taken, rest = 0, -1
        for s in range(256):
            frequency[t, s] = 0
            step = np.int64(steps[t, s])
            if step == 255:
                if rest >= 0:
                    return t
                rest = s
            elif step > LAST_STEP:
                return t
            elif step > 0:
                frequency[t, s] = frequency_of(step)
                taken += frequency[t, s]
        if rest < 0:
            if taken > 0:
                return t
            continue
        if taken >= STATES:
            return t
        frequency[t, rest] = STATES - taken
    return -1


@inlined
def spread(frequency, symbol_at):
    """Give every state of `symbol_at` u8 a symbol, as many as `frequency` says."""
    at = 0
    for s in range(256):
        for _ in range(frequency[s]):
            symbol_at[at] = s
            at = (at + SPREAD) & (STATES - 1)
