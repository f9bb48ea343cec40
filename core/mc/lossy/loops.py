"""The loops over weights: f32 [rows, cols] to integers in groups with scales, to a grid with codes of known length,
and the sums of errors. Every row is done by itself, so that results don't depend on how rows are shared out."""

import numpy as np

from mc.codec.compiled import inlined, released

F32, F64 = np.float32, np.float64
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


@released
def group_scales(w, group, bits, symmetric, shrinks, scales):
    """Fill `scales` f32 [rows, groups] with what spans each group's range, times the one of `shrinks` f64 whose
    squared error is least."""
    rows, cols = w.shape
    half = 1 << (bits - 1)
    tries = len(shrinks)
    scale, per, error = np.empty(tries, F32), np.empty(tries, F32), np.empty(tries, F32)
    least, most = np.empty(tries, F32), np.empty(tries, F32)
    for r in range(rows):
        for g in range(scales.shape[1]):
            first, last = g * group, min((g + 1) * group, cols)
            low, high = 0.0, 0.0
            for c in range(first, last):
                low, high = min(low, F64(w[r, c])), max(high, F64(w[r, c]))
            span = max(high, -low) / ((2 * half - 1) / 2) if symmetric else (high - low) / (2 * half - 1)
            scales[r, g] = span
            if tries > 1 and span > 0:
                for k in range(tries):
                    scale[k] = span * shrinks[k]
                    per[k] = 1 / (span * shrinks[k])
                    point = (
                        0.0 if symmetric else min(max(np.rint(-half - low / (span * shrinks[k])), -half), half - 1.0)
                    )
                    least[k], most[k] = -half - point, half - 1.0 - point
                    error[k] = 0.0
                for c in range(first, last):  # all scales at once for a weight, so that they fill the machine's vectors
                    x = w[r, c]
                    for k in range(tries):
                        d = min(max(np.rint(x * per[k]), least[k]), most[k]) * scale[k] - x
                        error[k] += d * d
                best = 0
                for k in range(1, tries):
                    if error[k] < error[best]:
                        best = k
                scales[r, g] = span * shrinks[best]


@released
def round_groups(w, group, bits, symmetric, scales, points, q):
    """Fill `q` i8 [rows, cols] and, unless symmetric, `points` i8 [rows, groups], given the scales."""
    rows, cols = w.shape
    half = 1 << (bits - 1)
    for r in range(rows):
        for g in range(scales.shape[1]):
            first, last = g * group, min((g + 1) * group, cols)
            scale = F64(scales[r, g])
            per = 1 / scale if scale > 0 else 0.0
            point = 0.0
            if not symmetric:
                low = 0.0
                for c in range(first, last):
                    low = min(low, F64(w[r, c]))
                point = min(max(np.rint(-half - low * per), -half), half - 1.0)
                points[r, g] = np.int8(point)
            for c in range(first, last):
                q[r, c] = np.int8(min(max(np.rint(w[r, c] * per) + point, -half), half - 1.0))


@released
def pack_bits(q, bits, words):
    """Put q + 2^(bits - 1), q i8 [rows, cols], into `words` u32 [rows, ...], zero before, lowest bit first."""
    half = 1 << (bits - 1)
    for r in range(q.shape[0]):
        for c in range(q.shape[1]):
            at = c * bits
            value = np.uint64(np.int64(q[r, c]) + half) << np.uint64(at & 31)
            words[r, at >> 5] |= np.uint32(value & np.uint64(0xFFFFFFFF))
            if (at & 31) + bits > 32:
                words[r, (at >> 5) + 1] |= np.uint32(value >> np.uint64(32))


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


@inlined
def cheapest(x, weight, lengths, context, half):
    """The integer for a weight of x steps that costs least, of the nearest one, the next towards zero, and zero."""
    k = np.int64(np.rint(x))
    if k == 0 or weight == 0:
        return k
    towards = k - 1 if k > 0 else k + 1
    here = (x - k) * (x - k) + weight * lengths[context, min(max(k, -half), half) + half]
    less = (x - towards) * (x - towards) + weight * lengths[context, min(max(towards, -half), half) + half]
    if less < here:
        here, k = less, towards
    return k if here <= x * x + weight * lengths[context, half] else 0


@inlined
def push(aims, error, row, out):
    """Fill `out` f32 with aims + error x row. All are counted from 0, so that they fill the machine's vectors."""
    for i in range(len(out)):
        out[i] = aims[i] + error * row[i]


@released
def round_grid(w, every, steps, factors, contexts, lengths, weight, q, counts):
    """Round each weight to the multiple of its step that costs least: squared error in steps + weight x code length
    (rate-distortion optimised quantization, as encoders of H.264 do it). One row of `every` is done.

    w f32 [rows, cols]; steps f64 [rows] and factors f64 [cols] or [0], whose product is the step; contexts: a pair of
    classes i64 [rows] and [cols], whose sum, kept within the table, is the context; lengths f32 [contexts, 2 h + 1],
    bits of the integers from -h to h, all others as the last. Fills q i32 and adds to counts i64, like lengths
    or empty.
    """
    rows, columns = contexts
    last, half = lengths.shape[0] - 1, lengths.shape[1] // 2
    for r in range(0, w.shape[0], every):
        step = F64(F32(steps[r]))
        per = 1 / step if step > 0 else 0.0
        for c in range(w.shape[1]):
            if len(factors):
                step = F64(F32(steps[r] * factors[c]))
                per = 1 / step if step > 0 else 0.0
            x = min(max(F64(w[r, c]) * per, -F64(MOST)), F64(MOST))
            context = min(max(rows[r] + columns[c], 0), last)
            k = cheapest(x, weight, lengths, context, half)
            q[r, c] = k
            if len(counts):
                counts[context, min(max(k, -half), half) + half] += 1


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
