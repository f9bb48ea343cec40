"""Where the time goes: every pass over one chunk, in MB/s of the original, beside a copy of the same memory.

`python bench/passes.py` prints a table in Markdown (bench/README.md holds one). A chunk is 2 ** 18 words and lies in
the second-level cache, as it does when the passes follow each other; the line `cold` reads it from memory first.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import xxhash

from mc.codec import entropy, floats, planes, scales
from mc.codec.fit import EFFORTS, fit

ROWS, COLS = 682, 384
ROUNDS = 31


def chunk(width: int) -> np.ndarray:
    """Gaussian weights whose rows and columns differ in scale, as words of `width` bytes."""
    rng = np.random.default_rng(0)
    scale = np.exp2(rng.normal(0, 0.5, (ROWS, 1)) + rng.normal(0, 0.5, (1, COLS)))
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


def passes(width: int, level: str) -> dict[str, float]:
    """The rate of every pass over a chunk of words of `width` bytes."""
    raw = chunk(width)
    geometry = planes.GEOMETRIES["F32" if width == 4 else "BF16"]
    effort = EFFORTS[level]
    fitted = fit(geometry, (ROWS, COLS), ROWS * COLS, lambda start, stop: raw[start:stop], effort, map)
    code = fitted.code
    words = planes.words_of(raw, geometry)
    encode, decode = entropy.encoder(code.coder, code.tables), entropy.decoder(code.coder, code.tables, ROWS * COLS)
    fields, none = np.empty(len(words), np.uint8), np.empty(0, np.uint8)
    window = floats.window_of(code.tables.numbers, code)
    symbols, sizes, _ = floats.symbols_of(code, window, words, 0, fields)
    stream = encode(symbols, sizes).copy()
    stream.flags.writeable = False
    coded = memoryview(b"".join(piece.tobytes() for piece in floats.encode_chunk(code, window, encode, raw, 0)))
    packed = planes.pack_fields(fields, code.low + 1).copy()
    packed.flags.writeable = False
    counts, room = np.zeros((len(sizes), 256), np.int64), np.empty_like(raw)
    rows, columns = np.zeros(ROWS, np.int16), np.zeros(COLS, np.int32)
    facts = np.zeros(2, np.int64)
    shift, mantissa = code.step_shift, code.mantissa
    return {
        "memory copy": rate(raw, lambda: np.copyto(room, raw)),
        "checksum": rate(raw, lambda: xxhash.xxh3_64_intdigest(raw.data)),
        "scales of rows and columns": rate(
            raw, lambda: scales.scan(words, COLS, shift, mantissa, rows, columns, facts)
        ),
        "symbols, sorted": rate(raw, lambda: floats.symbols_of(code, window, words, 0, none)),
        "histogram": rate(raw, lambda: scales.histogram(symbols, sizes, counts)),
        "symbols and fields": rate(raw, lambda: floats.symbols_of(code, window, words, 0, fields)),
        "pack fields": rate(raw, lambda: planes.pack_fields(fields, code.low + 1)),
        f"{code.coder} encode": rate(raw, lambda: encode(symbols, sizes)),
        "chunk encoded": rate(raw, lambda: floats.encode_chunk(code, window, encode, raw, 0)),
        f"{code.coder} decode": rate(raw, lambda: decode(stream, sizes)),
        "unpack fields": rate(raw, lambda: planes.unpack_fields(packed, code.low + 1, len(words))),
        "chunk decoded": rate(raw, lambda: floats.decode_chunk(code, decode, coded, 0, room)),
    }


def main() -> None:
    """Print the table."""
    columns = [(width, level) for width in (2, 4) for level in ("fast", "default", "best")]
    found = [passes(width, level) for width, level in columns]
    names = list(dict.fromkeys(name for column in found for name in column))
    titles = " | ".join(f"{'bf16' if width == 2 else 'f32'} {level}" for width, level in columns)
    print(f"| MB/s | {titles} |\n| --- |{' ---: |' * len(columns)}")
    for name in names:
        print(f"| {name} | {' | '.join(f'{column[name]:.0f}' if name in column else '' for column in found)} |")


if __name__ == "__main__":
    main()
