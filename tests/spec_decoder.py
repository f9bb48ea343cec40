"""A decoder of packed files written from FORMAT.md alone, as a check of that document.

It shares no line with `mc`, is slow, and takes the simplest way everywhere. Section numbers are those of FORMAT.md.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from typing import Any

import xxhash
import zstandard

WIDTHS = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "C64", "I32", "U32"), 4),
    **dict.fromkeys(("BF16", "F16", "I16", "U16"), 2),
}
FLOATS = {  # G, P, tails
    "F64": (4, 0, 3),
    **dict.fromkeys(("F32", "C64"), (7, 0, 1)),
    "BF16": (7, 0, 0),
    "F16": (10, 0, 0),
    **dict.fromkeys(("F8_E4M3", "F8_E4M3FNUZ"), (3, 8, 0)),
    **dict.fromkeys(("F8_E5M2", "F8_E5M2FNUZ"), (2, 8, 0)),
}
ESCAPE = 255
HUFFMAN, ANS = 0, 1


def need(rule: bool, broken: str) -> None:
    """Reject what breaks a rule, with ValueError."""
    if not rule:
        raise ValueError(broken)


class Reader:
    """A position in bytes."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        need(self.at + size <= len(self.data), "something ends too early")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, kind: str) -> int:
        return int(struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0])

    def numbers(self, kind: str, count: int) -> list[int]:
        return [self.number(kind) for _ in range(count)]

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def end(self) -> None:
        need(self.at == len(self.data), "something goes on too long")


Decode = Callable[[Reader, int, int], bytes]  # (coded chunk, first byte in the tensor, bytes) -> bytes


def unpack(packed: bytes) -> tuple[bytes, set[str]]:
    """The original of a packed file, and which parts of the format it takes; ValueError if a rule is broken."""
    seen: set[str] = set()
    header, stored = layout(packed[: 8 + int.from_bytes(packed[:8], "little")])
    marks = header["__metadata__"]
    need(marks["mc.format"] == "1", "2.2: another version")
    stated = b'"mc.digest":"' + marks["mc.digest"].encode() + b'"'
    prefix = packed[: stored[0][1]]
    need(len(marks["mc.digest"]) == 64 and prefix.count(stated) == 1, "3.2: no digest")
    blank = prefix.replace(stated, b'"mc.digest":"' + b"0" * 64 + b'"')
    need(hashlib.sha256(blank).hexdigest() == marks["mc.digest"], "3.2: another digest")
    manifest = json.loads(marks["mc.manifest"])
    need(manifest["needs"] <= 1 and manifest["base"] is None, "3.1: a later version")
    need(stored[0][0] == "__mc__" and stored[-1][2] == len(packed), "2: the data")
    blobs = {name: packed[start:stop] for name, start, stop in stored}
    original = reserved(Reader(blobs.pop("__mc__")), seen)
    listed, tensors = layout(original)
    names = [name for name, _, _ in tensors]
    need(names == list(manifest["tensors"]) == list(blobs), "8.3: the lists of tensors")
    for name, start, stop in tensors:
        dtype, shape, coding, *why = manifest["tensors"][name]
        need([dtype, shape] == [listed[name]["dtype"], listed[name]["shape"]], "8.3: dtype and shape")
        twin = why[0] if coding == "same" else name
        if twin != name:
            need(not blobs[name] and twin in names[: names.index(name)], "3.1: a twin")
            need(manifest["tensors"][twin][2] != "same", "3.1: the twin of a twin")
            seen.add("same")
        need(bool(blobs[twin]) == (stop > start), "8.3: a blob where none belongs")
        if stop > start:
            original += decode_blob(Reader(blobs[twin]), names.index(twin), listed[twin]["dtype"], stop - start, seen)
        seen.add("empty" if stop == start else "full")
    need(len(original) == manifest["bytes"], "3.1: the size")
    need(hashlib.sha256(original).hexdigest() == manifest["sha256"], "3.1: the sha256")
    return original, seen


def layout(prefix: bytes) -> tuple[dict[str, Any], list[tuple[str, int, int]]]:
    """A header, and name, start and stop in the file of each tensor in data order (section 1)."""
    need(int.from_bytes(prefix[:8], "little") == len(prefix) - 8, "8.3: length")
    header = json.loads(prefix[8:])
    offsets = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    at = [(name, len(prefix) + start, len(prefix) + stop) for name, (start, stop) in offsets.items()]
    return header, sorted(at, key=lambda tensor: tensor[1:])


def reserved(reader: Reader, seen: set[str]) -> bytes:  # section 2.3
    method, size, checksum = reader.number("B"), reader.number("I"), reader.number("Q")
    need(method < 2, "2.3: method")
    prefix = inflate(reader.rest(), size) if method else reader.rest()
    need(len(prefix) == size and xxhash.xxh3_64_intdigest(prefix, 0) == checksum, "2.3: checksum")
    seen.add(f"reserved {method}")
    return prefix


def inflate(body: bytes, size: int) -> bytes:
    need(zstandard.frame_content_size(body) == size, "7.5: declared size")
    return zstandard.ZstdDecompressor().decompress(body, max_output_size=size, allow_extra_data=False)


def decode_blob(blob: Reader, tensor: int, dtype: str, size: int, seen: set[str]) -> bytes:  # section 4

    def checksum(data: bytes, chunk: int) -> int:
        return xxhash.xxh3_64_intdigest(data, tensor << 32 | chunk)

    length, head_sum = blob.number("I"), blob.number("Q")
    head = Reader(blob.take(length))
    need(checksum(head.data, 0xFFFFFFFF) == head_sum, "4: head checksum")
    coding = head.number("B")
    need(coding < 5, "4: coding")
    span, decode = (open_raw, open_floats, open_affine, open_planes, open_zstd)[coding](head, dtype, size, seen)
    head.end()
    out, sizes = b"", []
    for chunk, start in enumerate(range(0, size, span)):
        coded_size, coded_sum, raw_sum = (blob.number(kind) for kind in "IQQ")
        coded = Reader(blob.take(coded_size))
        need(checksum(coded.data, chunk) == coded_sum, "4: coded checksum")
        raw = decode(coded, start, min(span, size - start))
        coded.end()
        need(checksum(raw, chunk) == raw_sum, "4: raw checksum")
        out += raw
        sizes.append(coded_size)
    need(blob.numbers("I", len(sizes)) == sizes, "4: directory")
    blob.end()
    seen.update((f"coding {coding} of {dtype}", "one chunk" if len(sizes) == 1 else "many chunks"))
    return out


def width_of(dtype: str, size: int) -> int:  # section 4
    width = WIDTHS.get(dtype, 1)
    return 1 if size % width else width


def open_raw(head: Reader, dtype: str, size: int, seen: set[str]) -> tuple[int, Decode]:  # section 7.1
    return width_of(dtype, size) << 18, lambda coded, start, count: coded.take(count)


def open_affine(head: Reader, dtype: str, size: int, seen: set[str]) -> tuple[int, Decode]:  # section 7.2
    width, first, step = (head.number(kind) for kind in "BQQ")
    need(width in (1, 2, 4, 8) and size % width == 0, "7.2: width")

    def chunk(coded: Reader, start: int, count: int) -> bytes:
        words = (first + step * i & (1 << 8 * width) - 1 for i in range(start // width, (start + count) // width))
        return b"".join(word.to_bytes(width, "little") for word in words)

    return width_of(dtype, size) << 18, chunk


def open_zstd(head: Reader, dtype: str, size: int, seen: set[str]) -> tuple[int, Decode]:  # section 7.5

    def chunk(coded: Reader, start: int, count: int) -> bytes:
        method = coded.number("B")
        need(method < 2, "7.5: method")
        return inflate(coded.rest(), count) if method else coded.take(count)

    return head.number("B") << 18, chunk


def open_planes(head: Reader, dtype: str, size: int, seen: set[str]) -> tuple[int, Decode]:  # sections 7.3 and 7.4
    form, width, coder, cols = (head.number(kind) for kind in "BBBI")
    need(form < 4 and width in (1, 2, 4, 8) and size % width == 0 and coder < 2, "7.3: head")
    need(form != 2 or (width == 1 and 0 < cols <= 1 << 20 and size % cols == 0), "7.3: cols")
    raw = head.numbers("B", (width, 2 * width, 1, 1)[form])
    classes = array(head, size // cols) if form == 2 else []
    palette = [head.take(width) for _ in range(head.number("H"))] if form == 3 else []
    streams = Streams(head, 4 if form == 2 else raw.count(0), coder)
    seen.update((f"form {form}, coder {coder}", f"raw planes {max(raw)}"))

    def chunk(coded: Reader, start: int, count: int) -> bytes:
        method, n = coded.number("B"), count // width
        need(method < 2, "7.3: method")
        if method == 0:
            return coded.take(count)
        stream = Reader(coded.take(coded.number("I")))
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


def open_floats(head: Reader, dtype: str, size: int, seen: set[str]) -> tuple[int, Decode]:  # section 5
    need(dtype in FLOATS and size % WIDTHS.get(dtype, 1) == 0, "5: dtype")
    g, padding, tail_count = FLOATS[dtype]
    width = WIDTHS.get(dtype, 1)
    m, context, coder, cols, base = (head.number(kind) for kind in "BBBIh")
    low, words = g - m, size // width
    need(0 <= low <= 7 and context < 3 and coder < 2, "5: head")
    need(min(64, words) <= cols <= min(words, 1 << 20), "5: cols")
    need(context < 2 or (words % cols == 0 and cols < 1 << 16), "5: cols")
    count = -(-words // cols)
    streams = Streams(head, 4 if context else 1, coder)
    rows = [base + above for above in array(head, count)] if context else [base] * count
    columns = [(c ^ 128) - 128 for c in array(head, cols)] if context == 2 else [0] * cols
    tail_classes = [array(head, count) for _ in range(tail_count)]
    seen.update((f"context {context}, coder {coder}", f"{dtype}, context {context}"))

    def magnitudes(stream: Reader, row_of: list[int]) -> list[int]:  # section 5.1: the v of each word, -1 for an escape
        scales = [rows[row] + columns[i % cols] for i, row in enumerate(row_of)]
        orders: list[list[int]] = [[] for _ in streams.tables]
        for first in range(0, len(scales), cols):
            line = list(range(first, min(first + cols, len(scales))))
            if context == 2:
                line.sort(key=lambda i: scales[i] % 8)  # stable
            for i in line:
                orders[scales[i] >> 1 & 3 if context else 0].append(i)
        out = [0] * len(scales)
        segments = streams.decode(stream, [len(order) for order in orders])
        for order, segment in zip(orders, segments, strict=True):
            for i, k in zip(order, segment, strict=True):
                v = (k - 192 + ((scales[i] >> 3) << m)) % (1 << 16)
                out[i] = 0 if k == 0 else -1 if k == ESCAPE else v
        return out

    def tail(coded: Reader, classes: list[int]) -> list[int]:  # section 5.4
        whole = iter(coded.numbers("H", classes.count(0)))
        tops = iter(fields(coded, 3, classes.count(1)))
        seen.update(f"class {c}" for c in classes)
        return [next(whole) if c == 0 else next(tops) << 13 if c == 1 else 0 for c in classes]

    def chunk(coded: Reader, start: int, count: int) -> bytes:  # section 5.5
        method, n = coded.number("B"), count // width
        need(method in (0, 1, 3), "5.5: method")
        seen.add(f"floats method {method}, context {context}")
        if method == 0:
            return coded.take(count)
        row_of = [start // width // cols + i // cols for i in range(n)]
        values = magnitudes(Reader(coded.take(coded.number("I"))), row_of)
        bits = fields(coded, low + 1, n)
        tails = [tail(coded, [classes[row] for row in row_of]) for classes in tail_classes]
        if method == 3:
            where = coded.numbers("I", coded.number("I"))
            need(where == [i for i, v in enumerate(values) if v < 0], "5.5: positions")
            for i, v in zip(where, coded.numbers("H", len(where)), strict=True):
                values[i] = v
        out = bytearray()
        for i, (v, f) in enumerate(zip(values, bits, strict=True)):
            word = (v << low + padding & 0x7FFF) | (f >> low) << 15 | (f & (1 << low) - 1) << padding
            for below in tails:
                word = word << 16 | below[i]
            out += (word >> padding if width == 1 else word).to_bytes(width, "little")
        return bytes(out)

    return cols * max(1, (1 << 18) // cols) * width, chunk


def fields(coded: Reader, width: int, n: int) -> list[int]:  # section 5.3
    if width == 6:
        a, b, c = (coded.take(-(-n // 4)) for _ in range(3))
        last = [x >> 6 | y >> 6 << 2 | z >> 6 << 4 for x, y, z in zip(a, b, c, strict=True)]
        return ([byte & 63 for byte in a + b + c] + last)[:n]
    out, shift = [0] * n, 0
    for bits in (1, 2, 4, 8):
        if width & bits:
            q = -(-n // (8 // bits))
            plane = coded.take(q)
            for i in range(n):
                out[i] |= (plane[i % q] >> bits * (i // q) & (1 << bits) - 1) << shift
            shift += bits
    return out


def array(head: Reader, n: int) -> list[int]:  # section 5.2
    method = head.number("B")
    need(method < 3, "5.2: method")
    if method < 2:
        return list(head.take(n)) if method == 0 else [head.number("B")] * n
    streams = Streams(head, 1, HUFFMAN)
    return list(streams.decode(Reader(head.take(head.number("I"))), [n])[0])


class Streams:
    """Tables (5.2), and the streams coded with them (6)."""

    def __init__(self, head: Reader, count: int, coder: int) -> None:
        self.coder = coder
        self.tables = [self.table(head) for _ in range(count)]

    def table(self, head: Reader) -> Any:
        """An int for a lone symbol, None for none, else a decoder's table."""
        low, high = head.take(2)
        if low == 255:
            need(high < 2, "5.2: table")
            symbol = head.number("B")
            return None if high else symbol
        need(low >= 1 and high <= 254, "5.2: window")
        symbols = [0, 255, *range(low, high + 1)]
        listed = list(head.take(len(symbols) if self.coder == ANS else (len(symbols) + 1) // 2))
        if self.coder == HUFFMAN:
            listed = [nibble for byte in listed for nibble in (byte & 15, byte >> 4)]
        numbers = {s: c for s, c in zip(symbols, listed, strict=False) if c}
        return ans_table(numbers) if self.coder == ANS else huffman_table(numbers)

    def decode(self, stream: Reader, sizes: list[int]) -> list[bytes]:  # section 6.3: the symbols of each segment
        segments: list[bytes] = []
        for n, table in zip(sizes, self.tables, strict=True):
            if n == 0 or isinstance(table, int):
                segments.append(bytes([table or 0]) * n)
                continue
            need(table is not None, "6.3: symbols without a table")
            lanes, segment = (4 if n >= 4096 else 1), b""
            for lane, lane_head in enumerate([stream.numbers("I", 1 + self.coder) for _ in range(lanes)]):
                count = n // lanes if lane < lanes - 1 else n - n // lanes * (lanes - 1)
                data = stream.take(lane_head[0])
                lane_of = ans_lane if self.coder == ANS else huffman_lane
                segment += lane_of(data, count, table, lane_head[-1])
            segments.append(segment)
        stream.end()
        return segments


def bits_at(data: bytes, at: int, count: int) -> int:
    """`count` bits from bit `at` on; zeros beyond the end."""
    return int.from_bytes(data[at >> 3 : (at >> 3) + 4], "little") >> (at & 7) & (1 << count) - 1


def huffman_table(lengths: dict[int, int]) -> list[tuple[int, int]]:  # section 6.1: symbol and length by the next 12 bits of a stream
    need(max(lengths.values(), default=0) <= 12, "6.1: too long")
    need(sum(1 << 12 - length for length in lengths.values()) == 4096, "6.1: not complete")
    table, code, before = [(0, 0)] * 4096, 0, 0
    for length, symbol in sorted((length, symbol) for symbol, length in lengths.items()):
        code = code + 1 << length - before if before else 0
        before = length
        for at in range(int(f"{code:0{length}b}"[::-1], 2), 4096, 1 << length):
            table[at] = symbol, length
    return table


def huffman_lane(data: bytes, count: int, table: list[tuple[int, int]], _: int) -> bytes:
    at, out = 0, bytearray()
    for _ in range(count):
        symbol, length = table[bits_at(data, at, 12)]
        out.append(symbol)
        at += length
    need(-(-at // 8) == len(data), "6.3: the size of a lane")
    return bytes(out)


def ans_table(steps: dict[int, int]) -> list[tuple[int, int, int]]:  # section 6.2: symbol, bits and next of each state
    need(all(c <= 96 or c == 255 for c in steps.values()), "6.2: step")
    need(list(steps.values()).count(255) == 1, "6.2: the rest")
    seen = {s: 0 if c == 255 else (8 + (c - 1) % 8 << (c - 1) // 8) >> 3 for s, c in steps.items()}
    seen[next(s for s, c in steps.items() if c == 255)] = 4096 - sum(seen.values())
    need(min(seen.values()) > 0, "6.2: frequencies")
    symbols, x = [0] * 4096, 0
    for s in sorted(seen):
        for _ in range(seen[s]):
            symbols[x] = s
            x = (x + 2563) % 4096
    table = []
    for s in symbols:
        bits = next(b for b in range(13) if seen[s] << b >= 4096)
        table.append((s, bits, (seen[s] << bits) - 4096))
        seen[s] += 1
    return table


def ans_lane(data: bytes, count: int, table: list[tuple[int, int, int]], start: int) -> bytes:
    need(start >> 27 == 0, "6.3: lane head")
    now, other, at, out = start & 4095, start >> 12 & 4095, start >> 24, bytearray()
    for _ in range(count):
        symbol, length, base = table[now]
        now, other = other, base + bits_at(data, at, length)
        out.append(symbol)
        at += length
    need(now == other == 0 and at == 8 * len(data), "6.3: the end of a lane")
    return bytes(out)
