"""Of the second decoder, the codings of every word: raw, floats, runs, planes, zstd, grids, trellises, two parts.

Sections 5, 7.1 to 7.7 and 7.10 of FORMAT.md. Each reads a blob's head, and gives how many bytes a chunk has and what
decodes one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spec_streams import WIDTHS, Reader, Streams, array, fields, inflate, need

FLOATS = {  # G, P, tails
    "F64": (4, 0, 3), "F32": (7, 0, 1), "C64": (7, 0, 1), "BF16": (7, 0, 0), "F16": (10, 0, 0),
    "F8_E4M3": (3, 8, 0), "F8_E4M3FNUZ": (3, 8, 0), "F8_E5M2": (2, 8, 0), "F8_E5M2FNUZ": (2, 8, 0),
}  # fmt: skip
Decode = Callable[[Reader, int, int], bytes]  # (coded chunk, first byte in the tensor, bytes) -> bytes


def open_raw(head: Reader, dtype: str, width: int, size: int, seen: set[str]) -> tuple[int, Decode]:  # 7.1
    return width << 18, lambda coded, start, count: coded.take(count)


def open_floats(head: Reader, dtype: str, width: int, size: int, seen: set[str]) -> tuple[int, Decode]:  # 5
    need(dtype in FLOATS and width == WIDTHS.get(dtype, 1), "5: dtype")
    return floats_of(head, FLOATS[dtype], width, size, seen)


def floats_of(
    head: Reader, geometry: tuple[int, int, int], width: int, size: int, seen: set[str]
) -> tuple[int, Decode]:
    g, padding, tail_count = geometry
    m, flags, context, coder, cols, base, count = (head.number(kind) for kind in "BBBBIhB")
    low, words, frequent = g - m, size // width, [head.take(width) for _ in range(count)]
    need(0 <= low <= 7 and flags < 2 and context < 3 and coder < 2 and count <= 8, "5: head")
    need(min(64, words) <= cols <= min(words, 1 << 20) and (context < 2 or words % cols == 0), "5: cols")
    count = -(-words // cols)
    streams = Streams(head, 4 if context else 1, coder)
    rows = [base + above for above in array(head, count)] if context else [base] * count
    columns = [(c ^ 128) - 128 for c in array(head, cols)] if context == 2 else [0] * cols
    tail_classes = [array(head, count) for _ in range(tail_count)]
    seen.update((f"context {context}, coder {coder}", f"flags {flags}, frequent {min(len(frequent), 2)}"))

    # Section 5.1: symbol and v of each word.
    def magnitudes(stream: Reader, row_of: list[int], there: Any) -> tuple[list[int], list[int]]:
        scales = [rows[row] + columns[i % cols] for i, row in enumerate(row_of)]
        orders: list[list[int]] = [[] for _ in streams.tables]
        for first in range(0, len(scales), cols):
            line = list(range(first, min(first + cols, len(scales))))
            if context == 2:
                line.sort(key=lambda i: scales[i] % 8)  # stable
            for i in line:
                if there and not there[i]:
                    continue
                orders[scales[i] >> 1 & 3 if context else 0].append(i)
        out = [frequent.index(bytes(width)) if there else 0] * len(scales)
        segments = streams.decode(stream, [len(order) for order in orders])
        for order, segment in zip(orders, segments, strict=True):
            for i, k in zip(order, segment, strict=True):
                out[i] = k
        return out, [(k - 192 + ((s >> 3) << m)) % (1 << 16) if k else 0 for k, s in zip(out, scales, strict=True)]

    def tail(coded: Reader, classes: list[int]) -> list[int]:  # section 5.4
        whole = iter(coded.numbers("H", classes.count(0)))
        tops = iter(fields(coded, 3, classes.count(1)))
        seen.update(f"class {c}" for c in classes)
        return [next(whole) if c == 0 else next(tops) << 13 if c == 1 else 0 for c in classes]

    def chunk(coded: Reader, start: int, count: int, there: Any = None, absent: bytes = b"") -> bytes:  # section 5.5
        method, n = coded.number("B"), count // width
        seen.add(f"floats method {method}, context {context}")
        if method == 0:
            return coded.take(count)
        row_of = [start // width // cols + i // cols for i in range(n)]
        symbols, values = magnitudes(Reader(coded.take(coded.number("I"))), row_of, there)
        present = [i for i, k in enumerate(symbols) if k >= len(frequent)]
        bits = dict(zip(present, fields(coded, low + 1 - flags, len(present)), strict=True))
        tails = [dict(zip(present, tail(coded, [of[row_of[i]] for i in present]), strict=True)) for of in tail_classes]
        if method == 3:
            where = coded.numbers("I", coded.number("I"))
            need(where == [i for i, k in enumerate(symbols) if k == 255], "5.5: positions")
            for i, v in zip(where, coded.numbers("H", len(where)), strict=True):
                values[i] = v
        out = bytearray()
        for i, v in enumerate(values):
            sign, rest = divmod(bits.get(i, 0), 1 << low)
            word = (v << low + padding & 0x7FFF) | sign << 15 | rest << padding  # the head
            for below in tails:
                word = word << 16 | below.get(i, 0)
            whole = (word >> padding if width == 1 else word).to_bytes(width, "little")
            out += frequent[symbols[i]] if symbols[i] < len(frequent) else whole
        return bytes(out)

    return cols * max(1, (1 << 18) // cols) * width, chunk


def open_affine(head: Reader, dtype: str, width: int, size: int, seen: set[str]) -> tuple[int, Decode]:  # 7.2
    w, first, step = (head.number(kind) for kind in "BQQ")

    def chunk(coded: Reader, start: int, count: int) -> bytes:
        words = (first + step * i & (1 << 8 * w) - 1 for i in range(start // w, (start + count) // w))
        return b"".join(word.to_bytes(w, "little") for word in words)

    return width << 18, chunk


def open_planes(head: Reader, dtype: str, width: int, size: int, seen: set[str]) -> tuple[int, Decode]:  # 7.3, 7.4
    form, width, coder, cols = (head.number(kind) for kind in "BBBI")
    need(form < 4 and width in (1, 2, 4, 8) and size % width == 0 and coder < 2, "7.3: head")
    need(form != 2 or (width == 1 and 0 < cols <= 1 << 20 and size % cols == 0), "7.3: cols")
    raw = head.numbers("B", (width, 2 * width, 1, 1)[form])
    classes = array(head, size // cols) if form == 2 else []
    palette = [head.take(width) for _ in range(head.number("H"))] if form == 3 else []
    streams = Streams(head, 4 if form == 2 else raw.count(0), coder)
    seen.update((f"form {form}, coder {coder}", f"raw planes {max(raw)}"))

    def chunk(coded: Reader, start: int, count: int) -> bytes:
        if coded.number("B") == 0:
            return coded.take(count)
        stream, n = Reader(coded.take(coded.number("I"))), count // width
        if form == 2:
            rows = classes[start // cols : (start + count) // cols]
            sorted_rows = [Reader(s) for s in streams.decode(stream, [rows.count(c) * cols for c in range(4)])]
            return b"".join(sorted_rows[c].take(cols) for c in rows)
        segments = streams.decode(stream, [n] * raw.count(0))
        planes = [coded.take(n) if flag else segments.pop(0) for flag in raw]
        if form == 3:
            need(max(planes[0]) < len(palette), "7.4: index")
            return b"".join(palette[index] for index in planes[0])
        if form == 1:
            pairs = zip(planes[::2], planes[1::2], strict=True)
            planes = [bytes(a & 15 | (b & 15) << 4 for a, b in zip(*pair, strict=True)) for pair in pairs]
        return bytes(byte for word in zip(*planes, strict=True) for byte in word)

    return (cols * max(1, (1 << 18) // cols) if form == 2 else width << 18), chunk


def open_zstd(head: Reader, dtype: str, width: int, size: int, seen: set[str]) -> tuple[int, Decode]:  # 7.5
    span = head.number("B") << 18
    return span, lambda coded, _, count: inflate(coded.take(), count) if coded.number("B") else coded.take(count)


def open_grid(head: Reader, dtype: str, width: int, size: int, seen: set[str]) -> tuple[int, Decode]:  # 7.6
    width, coder, count_of_tables, shift, cols = (head.number(kind) for kind in "BBBBI")
    need(width in (1, 2, 4) and size % width == 0 and coder < 2, "7.6: head")
    need(0 < count_of_tables <= 64 and shift <= 8 and 0 < cols <= 1 << 20 and size % (width * cols) == 0, "7.6: head")
    rows, columns = array(head, size // width // cols), array(head, cols)
    streams = Streams(head, count_of_tables, coder)
    seen.add(f"grid of {width}")

    def chunk(coded: Reader, start: int, count: int, there: Any = None, absent: bytes = b"") -> bytes:
        if coded.number("B") == 0:
            return coded.take(count)
        stream = Reader(coded.take(coded.number("I")))
        there = there or [1] * (count // width)
        first = start // (cols * width)
        here = rows[first : first + count // (cols * width)]
        contexts = [min(count_of_tables - 1, row + column >> shift) for row in here for column in columns]
        used = [context for context, here in zip(contexts, there, strict=True) if here]
        segments = streams.decode(stream, [used.count(t) for t in range(count_of_tables)])
        sorted_symbols = [iter(segment) for segment in segments]
        out = bytearray()
        for context, here in zip(contexts, there, strict=True):
            if not here:
                out += absent
                continue
            k = next(sorted_symbols[context])
            v = -(k + 1 >> 1) if k & 1 else k >> 1
            out += coded.take(width) if k == 255 else v.to_bytes(width, "little", signed=True)
            if k == 255:
                seen.add("grid escapes")
        return bytes(out)

    return cols * max(1, (1 << 18) // cols) * width, chunk


def open_trellis(head: Reader, dtype: str, width: int, size: int, seen: set[str]) -> tuple[int, Decode]:  # 7.7
    exponent, width, coder, classes, shift, cols = (head.number(kind) for kind in "BBBBBI")
    need(exponent in (2, 3, 6, 8) and width in (1, 2, 4) and size % width == 0 and coder < 2, "7.7: head")
    need(0 < classes <= 64 and shift <= 8 and 0 < cols <= 1 << 20 and size % (width * cols) == 0, "7.7: head")
    back, ahead = {2: (2, 1), 3: (5, 2), 6: (33, 10), 8: (166, 121)}[exponent]
    rows, columns = array(head, size // width // cols), array(head, cols)
    streams = Streams(head, 2 * classes, coder)
    seen.add(f"trellis of {1 << exponent}")

    def chunk(coded: Reader, start: int, count: int) -> bytes:
        if coded.number("B") == 0:
            return coded.take(count)
        first = start // (cols * width)
        here = rows[first : first + count // (cols * width)]
        of = [[min(classes - 1, row + column >> shift) for column in columns] for row in here]
        words = [sum(line.count(t) for line in of) for t in range(classes)]
        odd = [int.from_bytes(coded.take(-(-n.bit_length() // 8)), "little") for n in words]
        stream = Reader(coded.take(coded.number("I")))
        sizes = [n for whole, some in zip(words, odd, strict=True) for n in (whole - some, some)]
        need(min(sizes) >= 0, "7.7: odd words")
        segments = [iter(segment) for segment in streams.decode(stream, sizes)]
        out = bytearray()
        for line in of:
            state = 0
            for t in line:
                k = next(segments[2 * t + state % 2])
                v = -(k + 1 >> 1) if k & 1 else k >> 1
                word = coded.take(width) if k == 255 else v.to_bytes(width, "little", signed=True)
                out += word
                state = state // 2 ^ (back if state % 2 else 0) ^ (ahead if word[0] % 2 else 0)
                if k == 255:
                    seen.add("trellis escapes")
        return bytes(out)

    return cols * max(1, (1 << 18) // cols) * width, chunk


def open_split(head: Reader, dtype: str, width: int, size: int, seen: set[str]) -> tuple[int, Decode]:  # 7.10
    need(dtype in FLOATS and width == WIDTHS.get(dtype, 1) > 1, "7.10: dtype")
    (g, _, tails), z = FLOATS[dtype], head.number("B")
    need(z <= min(g - 2, 8) and z + tails > 0, "7.10: z")
    below = 16 * tails + z
    narrow = next(w for w in (1, 2, 4, 8) if 8 * w >= below)
    span, upper = floats_of(head, (g - z, z, 0), 2, size // width * 2, seen)
    need(head.data[head.at : head.at + 2] == bytes([0, narrow]), "7.10: planes")
    _, lower = open_planes(head, "U8", narrow, size // width * narrow, seen)
    seen.add(f"split of {dtype}")

    def chunk(coded: Reader, start: int, count: int) -> bytes:
        if coded.number("B") == 0:
            return coded.take(count)
        first, begin, n = Reader(coded.take(coded.number("I"))), start // width, count // width
        above = upper(first, 2 * begin, 2 * n)
        first.end()
        under = lower(coded, narrow * begin, narrow * n)
        words = [
            int.from_bytes(above[2 * i : 2 * i + 2], "little") << 16 * tails
            | int.from_bytes(under[narrow * i : narrow * (i + 1)], "little")
            for i in range(n)
        ]
        return b"".join(word.to_bytes(width, "little") for word in words)

    return span // 2 * width, chunk
