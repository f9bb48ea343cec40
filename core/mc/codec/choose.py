"""The coding of a tensor: which of all there are takes the fewest bytes.

Floats go to `fit`. Everything else is compared by counted bits on up to sixteen pieces spread over the tensor; what is
exact and cheap to find out (a constant or an affine run, few distinct words) comes first. A coding that saves nothing
loses to raw.
"""

from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from mc.codec import (
    dictionary,
    entropy,
    fit,
    fixed,
    floats,
    gridfit,
    grids,
    integers,
    matrix,
    packed,
    planefit,
    planes,
    runs,
    scarce,
    sparse,
    split,
    trellis,
    zstdfit,
)
from mc.codec.codings import (
    AFFINE,
    FLOATS,
    GRID,
    PLANES,
    RAW,
    SCARCE,
    SPARSE,
    SPLIT,
    TRELLIS,
    ZSTD,
    plain_spans,
    word_width,
)
from mc.codec.fit import Each, Encode, Read
from mc.codec.fitted import Fitted
from mc.codec.integers import PlaneCode
from mc.codec.typing import Bytes, Ints

SIGNED = ("I8", "I16", "I32")
PACKED = ("I32", "U8")  # words that smaller integers are packed in
LEAST_LINE = 64  # bytes of a row of these, whose integers then are 64 or more
PIECES, PIECE = 16, 1 << 14  # words of the sample on which integer codings are compared


class Coded(NamedTuple):
    """A tensor's coding, ready to code its chunks."""

    coding: int
    name: str  # for people: coding, contexts or form, coder
    why: str
    head: bytes
    spans: list[tuple[int, int]]  # first and last byte (exclusive) of each chunk
    encode: Encode


def code(dtype: str, shape: tuple[int, ...], nbytes: int, read: Read, level: str, each: Each, states: int = 0) -> Coded:
    """Choose a coding for a tensor of `nbytes` >= 1 that `read` reads, at a level: fast, default or best. `states`: of
    the trellis whose integers these are, if they are any's."""
    width = word_width(dtype, nbytes)
    every = plain_spans(nbytes, width)
    if _may_be_affine(read, nbytes, width):
        head = runs.affine(nbytes // width, width, (read(*span) for span in every))
        if head is not None:
            return Coded(AFFINE, "affine", "every word is a + b * i", bytes([AFFINE]) + head, every, _nothing)
    palette = _palette(read, every, width) if width > 1 else None
    if dtype in planes.GEOMETRIES and nbytes % planes.GEOMETRIES[dtype].width == 0 and palette is None:
        best = _floats(dtype, shape, nbytes, read, level, each)
    else:
        best = _integers(dtype, shape, nbytes, width, palette, read, level, each, states)
    return best


def _may_be_affine(read: Read, nbytes: int, width: int) -> bool:
    """Whether the first words don't speak against it."""
    first = read(0, min(nbytes, 8 * width)).view(runs.UNSIGNED[width]).tolist()
    steps = {(later - earlier) % (1 << 8 * width) for earlier, later in pairwise(first)}
    return len(steps) <= 1


def _palette(read: Read, spans: list[tuple[int, int]], width: int) -> Ints | None:
    seen: Ints | None = np.empty(0, runs.UNSIGNED[width])
    for span in spans:
        seen = dictionary.palette_of(seen, read(*span).view(runs.UNSIGNED[width]))
        if seen is None:
            return None
    words = spans[-1][1] // width
    return seen if seen is not None and len(seen) * 2 < words else None


def _nothing(_: int, raw: Bytes, out: Bytes) -> Bytes:
    return raw[:0]


def _itself(_: int, raw: Bytes, out: Bytes) -> Bytes:
    return raw


def raw_code(nbytes: int, width: int, why: str) -> Coded:
    """A tensor as it is."""
    return Coded(RAW, "raw", why, bytes([RAW]), plain_spans(nbytes, width), _itself)


def _floats(dtype: str, shape: tuple[int, ...], nbytes: int, read: Read, level: str, each: Each) -> Coded:
    geometry = planes.GEOMETRIES[dtype]
    words = nbytes // geometry.width
    fitted = fit.fit(geometry, shape, words, read, fit.EFFORTS[level], each)
    expected = len(fitted.head) + fitted.bits // 8
    thin = sparse.fit_floats(fitted, geometry, words, read, each)
    why = fitted.why
    if thin is not None and thin.bytes < min(expected, nbytes):
        why = f"{why} sparse {8 * thin.bytes / words:.2f}".strip()
        expected = int(thin.bytes)
    else:
        thin = None
    few = None
    if fitted.code.has_zeros:
        few = scarce.fit(dtype, fitted.code.cols, nbytes, geometry.width, read, each, fitted.sample.view(np.uint8))
    if few is not None and few.bytes < expected:
        return _chosen(SCARCE, few, f"{why} scarce {8 * few.bytes / words:.2f}".strip())
    parted = split.fit_floats(
        fitted.sample, fitted.code.classes, geometry, shape, words, read, fit.EFFORTS[level], each
    )
    if parted is not None and parted.bytes < min(expected, nbytes):
        why = f"whole {8 * expected / words:.2f} split {8 * parted.bytes / words:.2f}"
        expected, thin = int(parted.bytes), None
    else:
        parted = None
    if zstdfit.repeats(fitted.sample, fitted.code.cols):
        spans = plain_spans(nbytes, geometry.width)
        found = zstdfit.cost_of_chunk(read(*spans[0]), level) * nbytes
        if thin is not None and found < expected:  # the first chunk may have more zeros than others
            found = zstdfit.cost_of_all(read, spans, level, each)
        if found < min(expected, nbytes):
            why = f"{why} zstd {8 * found / words:.2f}".strip()
            return _zstd_code(nbytes, geometry.width, level, why)
    if thin is not None:
        return _chosen(SPARSE, thin, why)
    if parted is not None:
        return _chosen(SPLIT, parted, why)
    if expected >= nbytes:
        return raw_code(nbytes, geometry.width, f"coded {fitted.bits / words:.2f} bits a word")
    spans = [(a * geometry.width, b * geometry.width) for a, b in fitted.parts]
    name = f"{fixed.CONTEXTS[fitted.code.context]}+{fitted.code.coder}"
    return Coded(FLOATS, name, fitted.why, bytes([FLOATS]) + fitted.head, spans, fitted.encode)


def _zstd_code(nbytes: int, width: int, level: str, why: str) -> Coded:
    spans = plain_spans(nbytes, width)
    return Coded(ZSTD, "zstd", why, bytes([ZSTD, width]), spans, lambda _, raw, out: zstdfit.encode_chunk(raw, level))


def _integers(
    dtype: str,
    shape: tuple[int, ...],
    nbytes: int,
    width: int,
    palette: Ints | None,
    read: Read,
    level: str,
    each: Each,
    states: int,
) -> Coded:
    coder = fit.EFFORTS[level].coder
    spans = plain_spans(nbytes, width)
    sample = _sample(read, nbytes, width)
    scale = nbytes / len(sample)
    costs: dict[str, float] = {"raw": nbytes}
    codes: dict[str, PlaneCode] = {}
    for form in (integers.BYTE_PLANES, integers.NIBBLE_PLANES):
        codes[integers.FORMS[form]] = planefit.blank(form, width, coder)
    if palette is not None:
        codes["palette"] = replace(planefit.blank(integers.PALETTE, width, coder), palette=palette)
    planned: dict[str, tuple[PlaneCode, entropy.Plan]] = {}
    for name, blank in codes.items():
        seen = integers.counts_of(integers.planes_of(blank, sample, 0))
        planned[name] = planefit.best_plan(blank, seen, len(sample) // width)
        costs[name] = planefit.cost(*planned[name], len(sample) // width) * scale
    cols = matrix.columns_of(shape, nbytes)[0]
    grid = _grid(dtype, shape, nbytes, width, read, level, each)
    ahead = grid is not None and grid.bytes < min(costs.values())
    rows_told = nbytes % cols == 0 and nbytes // cols >= 16 and fixed.ROWS in fit.EFFORTS[level].contexts
    if width == 1 and rows_told and not ahead:  # a grid that saves by its contexts has finer ones than these
        rows = planefit.by_rows(read, nbytes, cols, coder, each)
        counts = planefit.count(rows, floats.spans(nbytes, cols), read, each)
        planned["rows"] = planefit.best_plan(rows, counts, nbytes)
        costs["rows"] = planefit.cost(*planned["rows"], nbytes)
    if grid is None or zstdfit.is_ordered(sample, min(grid.bytes, *costs.values()) / scale, level):
        pieced = zstdfit.cost_of_pieces(sample, PIECE * width, level)
        costs["zstd"] = min(pieced, zstdfit.cost_of_chunk(read(*spans[0]), level)) * nbytes
    if grid is not None:
        costs["grid"] = grid.bytes
        if costs.get("zstd", nbytes) < grid.bytes:  # untrained rows of an embedding fill the first chunk: look at all
            costs["zstd"] = zstdfit.cost_of_all(read, spans, level, each)
    walk = _walk(dtype, shape, nbytes, width, read, level, each, states)
    if walk is not None:
        costs["trellis"] = walk.bytes
    thin = _sparse(dtype, shape, nbytes, width, sample, read, each, min(costs.values()))
    if thin is not None:
        costs["sparse"] = thin.bytes
    few = scarce.fit(dtype, cols, nbytes, width, read, each, sample)
    if few is not None:
        costs["scarce"] = few.bytes
    best = min(costs, key=lambda name: costs[name])
    why = " ".join(f"{name} {8 * cost * width / nbytes:.2f}" for name, cost in costs.items())
    if best == "grid" and grid is not None:
        return _grid_code(grid, why)
    if best == "trellis" and walk is not None:
        return _grid_code(walk, why)
    if best == "sparse" and thin is not None:
        return _chosen(SPARSE, thin, why)
    if best == "scarce" and few is not None:
        return _chosen(SCARCE, few, why)
    if best == "raw":
        return raw_code(nbytes, width, why)
    if best == "zstd":
        return _zstd_code(nbytes, width, level, why)
    chosen = planned[best][0]
    spans = integers.spans_of(chosen, nbytes)
    counts = planefit.count(chosen, [(a // width, b // width) for a, b in spans], read, each)
    final, plan = planefit.plan_planes(chosen, counts)
    arrays = entropy.encoder(final.coder, final.tables)

    def encode_chunk(k: int, raw: Bytes, out: Bytes) -> Bytes:
        return integers.encode_chunk(final, arrays, raw, spans[k][0] // max(final.cols, 1))

    head = bytes([PLANES]) + integers.write_head(final, entropy.described(plan))
    return Coded(PLANES, f"{best}+{final.coder}", why, head, spans, encode_chunk)


def _grid(
    dtype: str, shape: tuple[int, ...], nbytes: int, width: int, read: Read, level: str, each: Each
) -> gridfit.Fitted | None:
    """Contexts of rows and columns for signed integers; None where there are no rows, or speed comes first."""
    if dtype not in SIGNED or nbytes % width or fixed.ROWS not in fit.EFFORTS[level].contexts:
        return None
    words = nbytes // width
    cols = matrix.columns_of(shape, words)[0]
    if words % cols or words // cols < gridfit.FEWEST_ROWS:
        return None
    return gridfit.fit(nbytes, width, cols, entropy.ANS, read, each)


def _walk(
    dtype: str, shape: tuple[int, ...], nbytes: int, width: int, read: Read, level: str, each: Each, states: int
) -> gridfit.Fitted | None:
    """The same with the states of a trellis, which each row walks through; None where it isn't one's, or speed comes
    first."""
    rows = shape[0] if len(shape) > 1 else 1
    if not states or dtype not in SIGNED or nbytes % (width * rows) or level == "fast":
        return None
    cols = nbytes // width // rows
    return gridfit.fit(nbytes, width, cols, entropy.ANS, read, each, states) if cols <= fixed.WIDEST else None


def _sparse(
    dtype: str, shape: tuple[int, ...], nbytes: int, width: int, sample: Bytes, read: Read, each: Each, least: float
) -> Fitted | None:
    """A mask and the other words of integers, or of those that are packed in them; None where there are no rows or no
    frequent word. `least`: bytes that the best other coding takes."""
    if dtype not in (*SIGNED, "U8") or nbytes % width:
        return None
    words = nbytes // width
    cols = matrix.columns_of(shape, words)[0]
    if words % cols:
        return None
    found = [_sparse_words(dtype, nbytes, width, cols, sample, read, each)]
    if dtype in PACKED:
        widths = packed.WIDTHS if width > 1 else packed.WIDTHS[:1]
        found += [sparse.fit_packed(nbytes, bits, width * cols, read, each, sample, False) for bits in widths]
    if dtype == "I32" and len(shape) == 2 and width * shape[1] >= LEAST_LINE:
        line = width * shape[1]
        rows = np.linspace(0, shape[0] - 1, min(shape[0], max(packed.SEEN // line, 1))).astype(np.int64)
        some = np.stack([read(k * line, (k + 1) * line) for k in rows.tolist()])
        for bits in packed.likely(some, least / nbytes):
            found.append(sparse.fit_packed(nbytes, bits, line, read, each, some[0], True))
    return min((one for one in found if one is not None), key=lambda one: one.bytes, default=None)


def _sparse_words(
    dtype: str, nbytes: int, width: int, cols: int, sample: Bytes, read: Read, each: Each
) -> Fitted | None:
    seen = sample.view(sparse.unsigned(width))
    absent = 0 if dtype in SIGNED else int(np.bincount(seen).argmax())
    if int((seen == absent).sum()) * sparse.SCARCE < len(seen):
        return None
    return sparse.fit_grid(nbytes, width, cols, read, each, absent)


def _chosen(coding: int, found: Fitted, why: str) -> Coded:
    head = bytes([coding]) + found.head
    return Coded(coding, found.name, why, head, found.spans, lambda k, raw, out: found.encode(k, raw))


def _grid_code(grid: gridfit.Fitted, why: str) -> Coded:
    code, spans = grid.code, grid.code.spans
    arrays = entropy.encoder(code.coder, code.tables)
    row_bytes = code.cols * code.width
    encode = trellis.encode_chunk if code.states else grids.encode_chunk

    def encode_chunk(k: int, raw: Bytes, out: Bytes) -> Bytes:
        return encode(code, arrays, raw, spans[k][0] // row_bytes)

    coding, name = (TRELLIS, "trellis") if code.states else (GRID, "grid")
    head = bytes([coding]) + grids.write_head(code, entropy.described(grid.plan))
    return Coded(coding, f"{name}+{code.coder}", why, head, spans, encode_chunk)


def _sample(read: Read, nbytes: int, width: int) -> Bytes:
    """Up to sixteen pieces, evenly spread; all of it if it is small."""
    size = PIECE * width
    if nbytes <= PIECES * size:
        return read(0, nbytes)
    starts = [(nbytes - size) // width * k // (PIECES - 1) * width for k in range(PIECES)]
    return np.concatenate([read(at, at + size) for at in starts])
