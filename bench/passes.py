"""Where the time goes: every pass over one chunk, in MB/s of the original, beside a copy of the same memory.

`python bench/passes.py` prints a table in Markdown (bench/README.md holds one). A chunk is 2 ** 18 words and lies in
the caches, as it does when the passes follow each other.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import xxhash
from numba import njit

from mc.codec import entropy, floats, planes, scales, symbols, tails
from mc.codec.decoding import decoder_of
from mc.codec.fit import EFFORTS, fit
from mc.memory import keep_freed

ROWS, COLS = 682, 384
ROUNDS = 61


def chunk(width: int) -> np.ndarray:
    """Gaussian weights whose rows differ in scale, as words of `width` bytes."""
    rng = np.random.default_rng(0)
    scale = np.exp2(rng.normal(0, 0.5, (ROWS, 1)))
    singles = (rng.normal(0, 0.02, (ROWS, COLS)) * scale).astype("<f4").view("<u4")
    words = singles if width == 4 else (singles >> 16).astype("<u2")
    raw = words.reshape(-1).view(np.uint8)
    raw.flags.writeable = False
    return raw


def rate(raw: np.ndarray, work: Callable[[], object]) -> float:
    """MB/s of the original, median of the rounds after one to warm up."""
    work()
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return raw.nbytes / statistics.median(seconds) / 1e6


# Pieces of the two loops that code a chunk, each compiled alone so that it can be timed.
take_apart = njit(nogil=True)(lambda *arguments: symbols.take_apart(*arguments))
put_together = njit(nogil=True)(lambda *arguments: symbols.put_together(*arguments))
pack_tails = njit(nogil=True)(lambda *arguments: tails.pack_tails(*arguments))


def passes(width: int, level: str) -> dict[str, float]:
    """The rate of every pass over a chunk of words of `width` bytes."""
    raw = chunk(width)
    geometry = planes.GEOMETRIES["F32" if width == 4 else "BF16"]
    fitted = fit(geometry, (ROWS, COLS), ROWS * COLS, lambda start, stop: raw[start:stop], EFFORTS[level], map)
    code, words, n = fitted.code, planes.words_of(raw, geometry), ROWS * COLS
    coder, decoder = entropy.encoder(code.coder, code.tables), entropy.decoder(code.coder, code.tables, n)
    window = floats.window_of(code)
    rows, columns, order, starts = code.scales_of(slice(0, ROWS))
    sizes, cursor = np.empty(code.tables_wanted, np.int64), np.empty(code.tables_wanted, np.int64)
    heads, line, escaping = np.empty(COLS, np.uint16), np.empty(COLS, np.uint8), np.empty(ROWS, np.int32)
    found, fields = np.empty(n, np.uint8), np.empty(n, np.uint8)
    contexts = (rows, columns, order, starts, sizes, cursor)
    apart = (words, COLS, code.low, 0, code.mantissa, None, window, *contexts, heads, line)
    take_apart(*apart, found, fields, escaping)
    stream = entropy.encode(found, sizes, coder).copy()
    stream.flags.writeable = False
    out, room = np.empty(3 * n, np.uint8), np.empty_like(raw)
    packed = out[: planes.pack_fields(fields, code.field_width, out, 0)].copy()
    packed.flags.writeable = False
    unpacked = planes.unpack_fields(packed, code.field_width, n)
    whole = np.frombuffer(bytes(2 * n if width == 4 else 0), np.uint8)
    restored = planes.words_of(room, geometry)
    together = (COLS, code.low, 0, code.mantissa, 0, *contexts, line, restored)
    whole_chunk = decoder_of(code, n)
    coded = memoryview(fitted.encode(0, raw, floats.NO_ROOM).tobytes())
    counts = np.zeros((code.tables_wanted, 256), np.int64)
    measured, sums = np.empty(ROWS, np.int16), np.zeros(0, np.int32)
    classes, sample = np.empty((geometry.tails, ROWS), np.uint8), np.empty(n, words.dtype)
    shift = code.step_shift
    return {
        "memory copy": rate(raw, lambda: np.copyto(room, raw)),
        "checksum": rate(raw, lambda: xxhash.xxh3_64_intdigest(raw.data)),
        "scales of rows, classes, sample": rate(
            raw,
            lambda: scales.scan(words, COLS, 0, shift, code.mantissa, 1, 16, 1, 1, measured, sums, classes, sample),
        ),
        "symbols of a sample counted": rate(
            raw,
            lambda: symbols.tally(words, COLS, shift, code.mantissa, None, window, rows, columns, counts),
        ),
        "words to symbols and fields": rate(raw, lambda: take_apart(*apart, found, fields, escaping)),
        "fields packed": rate(raw, lambda: planes.pack_fields(fields, code.field_width, out, 0)),
        "tails packed": rate(raw, lambda: pack_tails(words, COLS, code.classes, out, 0)) if width == 4 else 0,
        f"{code.coder} coding": rate(raw, lambda: entropy.encode(found, sizes, coder)),
        "chunk coded, in one call": rate(raw, lambda: fitted.encode(0, raw, floats.NO_ROOM)),
        f"{code.coder} decoding": rate(raw, lambda: entropy.decode(stream, sizes, decoder)),
        "fields unpacked": rate(raw, lambda: planes.unpack_fields(packed, code.field_width, n)),
        "words from symbols, fields, tails": rate(raw, lambda: put_together(found, unpacked, whole, *together)),
        "chunk decoded, in one call": rate(raw, lambda: whole_chunk.decode_chunk(coded, 0, room)),
    }


def main() -> None:
    """Print the table."""
    keep_freed()
    columns = [(width, level) for width in (2, 4) for level in ("fast", "default", "best")]
    found = [passes(width, level) for width, level in columns]
    names = list(dict.fromkeys(name for column in found for name in column))
    titles = " | ".join(f"{'bf16' if width == 2 else 'f32'} {level}" for width, level in columns)
    print(f"| MB/s | {titles} |\n| --- |{' ---: |' * len(columns)}")
    for name in names:
        print(f"| {name} | {' | '.join(f'{column[name]:.0f}' if column.get(name) else '' for column in found)} |")


if __name__ == "__main__":
    main()
