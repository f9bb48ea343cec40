"""The loops over weights: f32 [rows, cols] to integers in groups with scales, to a grid with codes of known length,
and the sums of errors. Every row is done by itself, so that results don't depend on how rows are shared out."""

import numpy as np

from mc.codec.compiled import inlined, released

F32, F64, I32, U64 = np.float32, np.float64, np.int32, np.uint64
TRIES = 16  # scales that are compared for a group
MOST = 1 << 30  # of a grid's integers


@released
def faults(w):
    """Numbers of a flat f32 array that are NaN or infinite."""
    count = 0
    for i in range(len(w)):
        if not np.isfinite(w[i]):
            count += 1
    return count


@released
def squares(a, b):
    """Sum of (a - b)^2 and of a^2 over flat f32 arrays, summed in runs of 4096 as doubles."""
    error, power = 0.0, 0.0
    for start in range(0, len(a), 4096):
        e, p = 0.0, 0.0
        for i in range(start, min(start + 4096, len(a))):
            d = F64(a[i]) - F64(b[i])
            e += d * d
            p += F64(a[i]) * F64(a[i])
        error += e
        power += p
    return error, power


@inlined
def _range_of(part):
    """The least and the greatest of some weights, with zero among them."""
    low, high = F32(0.0), F32(0.0)
    for i in range(len(part)):
        low = part[i] if part[i] < low else low
        high = part[i] if part[i] > high else high
    return F64(low), F64(high)


@inlined
def _point_of(low, per, half):
    """The zero point that takes `low` to the least integer."""
    return min(max(np.rint(-half - low * per), -half), half - 1.0)


@inlined
def _squared(x, per, scale, least, most):
    """Squared error of a weight that is rounded and cut to integers from `least` to `most`."""
    k = np.rint(x * per)
    k = k if k > least else least
    k = k if k < most else most
    d = k * scale - x
    return d * d


@inlined
def _add_errors(part, per, scale, least, most, error):
    """Add to `error` f32 [TRIES] the squared error of some weights with each scale. All scales at once fill the
    machine's vectors, and four weights at once keep them in its registers."""
    n = len(part)
    for i in range(0, n - 3, 4):
        x0, x1, x2, x3 = part[i], part[i + 1], part[i + 2], part[i + 3]
        for k in range(TRIES):
            found = error[k]
            found += _squared(x0, per[k], scale[k], least[k], most[k])
            found += _squared(x1, per[k], scale[k], least[k], most[k])
            found += _squared(x2, per[k], scale[k], least[k], most[k])
            found += _squared(x3, per[k], scale[k], least[k], most[k])
            error[k] = found
    for i in range(n // 4 * 4, n):
        for k in range(TRIES):
            error[k] += _squared(part[i], per[k], scale[k], least[k], most[k])


@released
def group_scales(w, group, bits, symmetric, shrinks, scales):
    """Fill `scales` f32 [rows, groups] with what spans each group's range, times the one of `shrinks` f64 [TRIES], if
    there are any, whose squared error is least."""
    half = 1 << (bits - 1)
    scale, per, error = np.empty(TRIES, F32), np.empty(TRIES, F32), np.empty(TRIES, F32)
    least, most = np.empty(TRIES, F32), np.empty(TRIES, F32)
    for r in range(w.shape[0]):
        for g in range(scales.shape[1]):
            part = w[r, g * group : (g + 1) * group]
            low, high = _range_of(part)
            span = max(high, -low) / ((2 * half - 1) / 2) if symmetric else (high - low) / (2 * half - 1)
            scales[r, g] = span
            if len(shrinks) == TRIES and span > 0:
                for k in range(TRIES):
                    scale[k] = span * shrinks[k]
                    per[k] = 1 / (span * shrinks[k])
                    point = 0.0 if symmetric else _point_of(low, 1 / (span * shrinks[k]), half)
                    least[k], most[k] = -half - point, half - 1.0 - point
                    error[k] = 0.0
                _add_errors(part, per, scale, least, most, error)
                best = 0
                for k in range(1, TRIES):
                    if error[k] < error[best]:
                        best = k
                scales[r, g] = span * shrinks[best]


@released
def round_groups(w, group, bits, symmetric, scales, points, q):
    """Fill `q` i8 [rows, cols] and, unless symmetric, `points` i8 [rows, groups], given the scales."""
    half = 1 << (bits - 1)
    least, most = F64(-half), F64(half - 1)
    for r in range(w.shape[0]):
        for g in range(scales.shape[1]):
            part, out = w[r, g * group : (g + 1) * group], q[r, g * group : (g + 1) * group]
            scale = F64(scales[r, g])
            per = 1 / scale if scale > 0 else 0.0
            point = 0.0
            if not symmetric:
                point = _point_of(_range_of(part)[0], per, half)
                points[r, g] = np.int8(point)
            for i in range(len(part)):
                k = np.rint(F64(part[i]) * per) + point
                k = k if k > least else least
                k = k if k < most else most
                out[i] = np.int8(np.int32(k))


@released
def pack_bits(q, bits, words):
    """Put q + 2^(bits - 1), q i8 [rows, cols], into `words` u32 [rows, ceil(cols x bits / 32)], lowest bit first."""
    half, width, whole = np.int64(1 << (bits - 1)), U64(bits), U64(32)
    for r in range(q.shape[0]):
        line, out = q[r], words[r]
        held, filled, at = U64(0), U64(0), 0  # bits that wait for the rest of their word
        for c in range(len(line)):
            held |= U64(np.int64(line[c]) + half) << filled
            filled += width
            if filled >= whole:
                out[at] = np.uint32(held & U64(0xFFFFFFFF))
                held >>= whole
                filled -= whole
                at += 1
        if filled > U64(0):
            out[at] = np.uint32(held)


@released
def unpack_bits(words, bits, q):
    """Undo `pack_bits`."""
    half, mask = 1 << (bits - 1), np.uint64((1 << bits) - 1)
    for r in range(q.shape[0]):
        for c in range(q.shape[1]):
            at = c * bits
            value = np.uint64(words[r, at >> 5])
            if (at & 31) + bits > 32:
                value |= np.uint64(words[r, (at >> 5) + 1]) << np.uint64(32)
            q[r, c] = np.int8(np.int64((value >> np.uint64(at & 31)) & mask) - half)


@released
def scale_groups(q, group, scales, points, out):
    """Fill `out` f32 [rows, cols] with (q - point) x scale; `points` i8 may have no rows: then all are 0."""
    for r in range(q.shape[0]):
        for g in range(scales.shape[1]):
            point = np.int32(points[r, g]) if len(points) else np.int32(0)
            for c in range(g * group, min((g + 1) * group, q.shape[1])):
                out[r, c] = F32(np.int32(q[r, c]) - point) * scales[r, g]


@released
def powers(w, rows, columns):
    """Fill `rows` and `columns` f64 with their mean squares; those of columns with each row scaled to power 1."""
    for c in range(w.shape[1]):
        columns[c] = 0.0
    live = 0
    for r in range(w.shape[0]):
        power = 0.0
        for c in range(w.shape[1]):
            power += F64(w[r, c]) * F64(w[r, c])
        rows[r] = power / w.shape[1]
        if power > 0:
            live += 1
            per = 1 / rows[r]
            for c in range(w.shape[1]):
                columns[c] += F64(w[r, c]) * F64(w[r, c]) * per
    for c in range(w.shape[1]):
        columns[c] /= max(live, 1)


@released
def thresholds(lengths, weight, lower, upper):
    """Where the choice of an integer changes: of the nearest one to x, the next towards zero, and zero, the one that
    costs least in (x - integer)^2 + weight x code length. Fill `lower` and `upper` f64 [contexts, 2 h + 3], for nearest
    integers from -h - 1 to h + 1: where the magnitude of x is below the upper one the nearest isn't the cheapest, and
    where it is below the lower one zero is. lengths f32 [contexts, 2 h + 1], bits of the integers from -h to h.

    All costs are parabolas in x of one width, so of two integers the smaller is cheaper up to one point."""
    half = lengths.shape[1] // 2
    for t in range(lengths.shape[0]):
        none = weight * lengths[t, half]
        for at in range(2 * half + 3):
            k = at - half - 1
            size = abs(k)
            lower[t, at], upper[t, at] = -1.0, -1.0
            if k == 0 or size > half or weight == 0:  # beyond the table all take as many bits, and zero is far
                continue
            here = weight * lengths[t, half + k]
            zero_up_to = (size + (here - none) / size) / 2
            lower[t, at], upper[t, at] = zero_up_to, zero_up_to
            if size > 1:
                less = weight * lengths[t, half + (k - 1 if k > 0 else k + 1)]
                less_up_to = size - 0.5 + (here - less) / 2
                zero_before = (size - 1 + (less - none) / (size - 1)) / 2
                if zero_before < less_up_to:
                    lower[t, at], upper[t, at] = zero_before, less_up_to


@inlined
def cheapest(x, middle, edge, lower, upper):
    """The integer for a weight of x steps that costs least. `lower`, `upper`: what `thresholds` has found, flat, and
    `middle` where the context's row has the integer 0; `edge`: h + 1. Without a branch, as half of them would be
    mistaken."""
    x = x if x < F64(MOST) else F64(MOST)
    x = x if x > -F64(MOST) else -F64(MOST)
    nearest = I32(np.rint(x))
    kept = nearest if nearest < edge else edge
    kept = kept if kept > -edge else -edge
    at = np.uint32(middle + kept)
    towards = nearest - I32(1) if nearest > I32(0) else nearest + I32(1)
    k = towards if abs(x) < upper[at] else nearest
    return I32(0) if abs(x) < lower[at] else k


@inlined
def push(aims, error, row, out):
    """Fill `out` f32 with aims + error x row. All are counted from 0, so that they fill the machine's vectors."""
    for i in range(len(out)):
        out[i] = aims[i] + error * row[i]


@inlined
def class_of(row, column, last):
    """The context of a weight whose row and column are of these classes; the first or the last beyond the table."""
    return min(max(row + column, 0), last)


@released
def round_grid(w, every, steps, factors, contexts, lower, upper, q, counts):
    """Round each weight to the multiple of its step that costs least: squared error in steps + weight x code length
    (rate-distortion optimised quantization, as encoders of H.264 do it). One row of `every` is done.

    w f32 [rows, cols]; steps f64 [rows] and factors f64 [cols] or [0], whose product is the step; contexts: a pair of
    classes i64 [rows] and [cols], whose sum, kept within the table, is the context; lower, upper: from `thresholds`.
    Fills q i32 [rows that are done, cols] and adds to counts i64, like the lengths that thresholds were found from, or
    empty.
    """
    rows, columns = contexts
    last, edge = lower.shape[0] - 1, I32(lower.shape[1] // 2)
    lower, upper = lower.reshape(-1), upper.reshape(-1)
    half, cols = np.int64(edge - 1), w.shape[1]
    per, middle = np.empty(cols, F64), np.empty(cols, I32)
    for i in range(len(q)):
        r = i * every
        line, out = w[r], q[i]
        step = F64(F32(steps[r]))
        per[:] = 1 / step if step > 0 else 0.0
        for c in range(len(factors)):
            step = F64(F32(steps[r] * factors[c]))
            per[c] = 1 / step if step > 0 else 0.0
        for c in range(cols):
            middle[c] = class_of(rows[r], columns[c], last) * (2 * edge + 1) + edge
        for c in range(cols):
            out[c] = cheapest(F64(line[c]) * per[c], middle[c], edge, lower, upper)
        if len(counts):
            for c in range(cols):
                k = np.int64(out[c])
                counts[class_of(rows[r], columns[c], last), min(max(k, -half), half) + half] += 1


@released
def scale_grid(q, steps, factors, out):
    """Fill `out` f32 [rows, cols] with q x f32(step x factor), or f32(step) where there are no factors; q is of any
    integer type."""
    for r in range(q.shape[0]):
        step = F32(steps[r])
        for c in range(q.shape[1]):
            if len(factors):
                step = F32(steps[r] * factors[c])
            out[r, c] = F32(q[r, c]) * step
