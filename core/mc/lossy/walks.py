"""The loops of trellis-coded quantization: the best walk of each row through the states, and the way back to floats."""

import numpy as np

from mc.codec.compiled import inlined, released
from mc.codec.trellis import following
from mc.lossy.loops import push

F32, F64 = np.float32, np.float64
MOST = 1 << 30  # of the integers
FAR = 1e300  # the cost of a state that no walk has reached


@inlined
def _cost(x, k, odd, scale, weight, lengths, half):
    """Scaled squared error, and code length x weight, of the integer k for a weight of x steps."""
    d = x - F64(2 * k + odd)
    return scale * d * d + weight * F64(lengths[min(max(k, -half), half) + half])


@inlined
def _subsets(x, odd, scale, weight, lengths, half, best, costs):
    """Put the cheapest even and odd integer for a weight of x steps on one lattice into `best` i64 [2] and what they
    cost into `costs` f64 [2]: of each, the nearest one and the next towards zero."""
    k = np.int64(np.rint((x - odd) * 0.5))
    inwards = np.int64(-1) if k > 0 else np.int64(1)
    p = k & 1
    here = _cost(x, k, odd, scale, weight, lengths, half)
    best[p], costs[p] = k, here
    less = _cost(x, k + 2 * inwards, odd, scale, weight, lengths, half)
    if less < here:
        best[p], costs[p] = k + 2 * inwards, less
    here = _cost(x, k + inwards, odd, scale, weight, lengths, half)
    less = _cost(x, k - inwards, odd, scale, weight, lengths, half)
    best[1 - p], costs[1 - p] = (k + inwards, here) if here <= less else (k - inwards, less)


@inlined
def _before(state, turn, machine, middle):
    """The state from which an integer with the lowest bit `turn` leads to `state`."""
    back, ahead = machine
    odd = np.int64(state >= middle)
    return 2 * ((state ^ (-odd & back) ^ (-turn & ahead)) & (middle - 1)) + odd


@released
def walk(w, every, steps, factors, weights, contexts, lengths, weight, machine, states, q, counts):
    """Give each row the walk that costs least, of squared errors in steps + weight x code length: Viterbi's algorithm
    on Ungerboeck's trellis with entropy-coded subsets (Fischer and Wang, Entropy-constrained trellis-coded
    quantization, 1992). One row of `every` is done. Returns the squared error of these rows in units of w, unweighted,
    and their squares.

    w f32 [rows, cols]; steps f64 [rows] and factors f64 [cols] or [0], whose product is the step; weights f64 [cols] or
    [0], that squared errors are multiplied with; contexts: a pair of classes i64 [rows] and [cols], whose sum, kept
    within the table, is the context; lengths f32 [contexts, 2, 2 h + 1], bits of the integers from -h to h on the even
    and on the odd lattice, all others as the last; machine: see `following`. Fills q i32 and adds to counts i64, like
    lengths.
    """
    of_rows, of_columns = contexts
    back, ahead = machine
    last, half = lengths.shape[0] - 1, lengths.shape[2] // 2
    cols, middle = w.shape[1], states // 2
    turns = np.empty((cols, states), np.uint8)  # the lowest bit of the integer that leads to each state
    picks = np.empty((cols, 2, 2), np.int64)  # by lattice and lowest bit
    costs = np.empty((2, 2), np.float64)
    old, new = np.empty(states, np.float64), np.empty(states, np.float64)
    error, power = 0.0, 0.0
    for r in range(0, w.shape[0], every):
        for s in range(states):
            old[s] = FAR
        old[0] = 0.0
        step = F64(F32(steps[r]))
        per = 1 / step if step > 0 else 0.0
        for c in range(cols):
            if len(factors):
                step = F64(F32(steps[r] * factors[c]))
                per = 1 / step if step > 0 else 0.0
            x = min(max(F64(w[r, c]) * per, -F64(MOST)), F64(MOST))
            context = min(max(of_rows[r] + of_columns[c], 0), last)
            scale = weights[c] if len(weights) else 1.0
            _subsets(x, 0, scale, weight, lengths[context, 0], half, picks[c, 0], costs[0])
            _subsets(x, 1, scale, weight, lengths[context, 1], half, picks[c, 1], costs[1])
            e0, e1, d0, d1 = costs[0, 0], costs[0, 1], costs[1, 0], costs[1, 1]
            # A state's upper half comes from the odd lattice: its highest bit is that of `back`, and `ahead` has none.
            for s in range(middle):
                a, b = old[2 * s] + e0, old[2 * (s ^ ahead)] + e1
                turns[c, s] = b < a
                new[s] = min(a, b)
            for s in range(middle):
                t = s ^ back ^ middle
                a, b = old[2 * t + 1] + d0, old[2 * (t ^ ahead) + 1] + d1
                turns[c, s + middle] = b < a
                new[s + middle] = min(a, b)
            old, new = new, old
        state = np.int64(0)
        for s in range(1, states):
            if old[s] < old[state]:
                state = np.int64(s)
        for c in range(cols - 1, -1, -1):
            turn = np.int64(turns[c, state])
            odd = np.int64(state >= middle)
            k = picks[c, odd, turn]
            q[r, c] = k
            context = min(max(of_rows[r] + of_columns[c], 0), last)
            counts[context, odd, min(max(k, -half), half) + half] += 1
            state = _before(state, turn, machine, middle)
            if len(factors):
                step = F64(F32(steps[r] * factors[c]))
            d = F64(w[r, c]) - F64(2 * k + odd) * step
            error += d * d
            power += F64(w[r, c]) * F64(w[r, c])
    return error, power


@released
def walk_block(
    w, steps, factors, contexts, lengths, weight, machine, states, q, counts, begun, aims, inner, start, errors
):
    """`walk` as a `feedback.Rounding`, whose arguments are the last four: every survivor has its own errors fed back
    (per-survivor processing; Raheli, Polydoros and Tzou 1995). A block ends with the walk that cost least, from whose
    state the next one begins: `begun` i64 [rows], all 0 before the first block."""
    of_rows, of_columns = contexts
    last, half = lengths.shape[0] - 1, lengths.shape[2] // 2
    width, middle = aims.shape[1], states // 2
    turns = np.empty((width, states), np.uint8)  # the lowest bit of the integer that leads to each state
    picks = np.empty((width, states, 2), np.int64)  # by the state before and lowest bit
    costs = np.empty((states, 2), np.float64)
    old, new = np.empty(states, np.float64), np.empty(states, np.float64)
    lying, moved = np.empty((states, width), np.float32), np.empty((states, width), np.float32)
    for r in range(aims.shape[0]):
        for s in range(states):
            old[s] = FAR
        old[begun[r]] = 0.0
        for i in range(width):
            lying[begun[r], i] = aims[r, i]
        for j in range(width):
            c = start + j
            step = F64(F32(steps[r] * factors[c]))
            per = 1 / step if step > 0 else 0.0
            context = min(max(of_rows[r] + of_columns[c], 0), last)
            for s in range(states):
                if old[s] < FAR:
                    x = min(max(F64(lying[s, j]) * per, -F64(MOST)), F64(MOST))
                    _subsets(x, s & 1, 1.0, weight, lengths[context, s & 1], half, picks[j, s], costs[s])
            for t in range(states):
                odd = np.int64(t >= middle)
                s = _before(t, 0, machine, middle)
                other = _before(t, 1, machine, middle)
                a = old[s] + costs[s, 0] if old[s] < FAR else FAR
                b = old[other] + costs[other, 1] if old[other] < FAR else FAR
                turns[j, t] = b < a
                new[t] = min(a, b)
                if new[t] < FAR:
                    s = other if b < a else s
                    error = F32(F64(w[r, c]) - F64(2 * picks[j, s, turns[j, t]] + odd) * step)
                    push(lying[s, j + 1 :], error, inner[j, j + 1 :], moved[t, j + 1 :])
            old, new = new, old
            lying, moved = moved, lying
        state = np.int64(0)
        for s in range(1, states):
            if old[s] < old[state]:
                state = np.int64(s)
        begun[r] = state
        for j in range(width - 1, -1, -1):
            c = start + j
            turn = np.int64(turns[j, state])
            odd = np.int64(state >= middle)
            state = _before(state, turn, machine, middle)
            k = picks[j, state, turn]
            q[r, c] = k
            context = min(max(of_rows[r] + of_columns[c], 0), last)
            counts[context, odd, min(max(k, -half), half) + half] += 1
            step = F64(F32(steps[r] * factors[c]))
            errors[r, c] = F32(F64(w[r, c]) - F64(2 * k + odd) * step)


@released
def unwalk(q, steps, factors, machine, out):
    """Fill `out` f32 [rows, cols] with f32(2 q, and 1 more on the odd lattice) x f32(step x factor), or f32(step) where
    there are no factors; q is of any integer type."""
    back, ahead = machine
    for r in range(q.shape[0]):
        step = F32(steps[r])
        state = np.int64(0)
        for c in range(q.shape[1]):
            if len(factors):
                step = F32(steps[r] * factors[c])
            k = np.int64(q[r, c])
            out[r, c] = F32(2 * k + (state & 1)) * step
            state = following(state, k, back, ahead)
