"""Of the second decoder, what stands below all codings: numbers, bits, arrays, code tables and entropy-coded streams.

Sections 5.2, 5.3, 6 and 7.5 of FORMAT.md. It shares no line with `mc`, and takes the simplest way everywhere.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import zstandard

WIDTHS = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "C64": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2, "I16": 2, "U16": 2}
HUFFMAN, ANS = 0, 1


def need(rule: bool, broken: str) -> None:
    if not rule:
        raise ValueError(broken)


class Reader:  # a position in bytes
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int | None = None) -> bytes:  # None: the rest
        size = len(self.data) - self.at if size is None else size
        need(self.at + size <= len(self.data), "something ends too early")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, kind: str) -> int:
        return int(struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0])

    def numbers(self, kind: str, count: int) -> list[int]:
        return [self.number(kind) for _ in range(count)]

    def end(self) -> None:
        need(self.at == len(self.data), "something goes on too long")


def bits_at(data: bytes, at: int, count: int) -> int:  # zeros beyond the end
    return int.from_bytes(data[at >> 3 : (at >> 3) + 4], "little") >> (at & 7) & (1 << count) - 1


def inflate(body: bytes, size: int) -> bytes:
    need(zstandard.frame_content_size(body) == size, "7.5: declared size")
    return zstandard.ZstdDecompressor().decompress(body, max_output_size=size, allow_extra_data=False)


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
    if method < 2:
        return list(head.take(n)) if method == 0 else [head.number("B")] * n
    return list(Streams(head, 1, HUFFMAN).decode(Reader(head.take(head.number("I"))), [n])[0])


class Streams:  # tables (section 5.2), and the streams coded with them (section 6)
    def __init__(self, head: Reader, count: int, coder: int) -> None:
        self.coder = coder
        self.tables = [self.table(head) for _ in range(count)]

    def table(self, head: Reader) -> Any:  # an int for a lone symbol, None for none, else what decodes a lane
        low, high = head.take(2)
        if low == 255:
            return (head.number("B"), None)[high]
        need(low >= 1 and high <= 254, "5.2: window")
        symbols = [0, 255, *range(low, high + 1)]
        listed = list(head.take(len(symbols) if self.coder == ANS else (len(symbols) + 1) // 2))
        if self.coder == HUFFMAN:
            listed = [nibble for byte in listed for nibble in (byte & 15, byte >> 4)]
        numbers = {s: c for s, c in zip(symbols, listed, strict=False) if c}
        return ans(numbers) if self.coder == ANS else huffman(numbers)

    def decode(self, stream: Reader, sizes: list[int]) -> list[bytes]:  # section 6.3: the symbols of each segment
        segments: list[bytes] = []
        for n, table in zip(sizes, self.tables, strict=True):
            if n == 0 or isinstance(table, int):
                segments.append(bytes([table]) * n if n else b"")
                continue
            need(table is not None, "6.3: symbols without a table")
            lanes = 4 if n >= 4096 else 1
            lane_heads = [stream.numbers("I", 1 + self.coder) for _ in range(lanes)]
            counts = [n // lanes] * (lanes - 1) + [n - n // lanes * (lanes - 1)]
            pairs = zip(counts, lane_heads, strict=True)
            segments.append(b"".join(table(count, stream.take(size), *start) for count, (size, *start) in pairs))
        stream.end()
        return segments


def huffman(lengths: dict[int, int]) -> Callable[[int, bytes], bytes]:  # section 6.1
    need(sum(4096 >> length for length in lengths.values()) == 4096 and max(lengths.values()) <= 12, "6.1: code")
    symbols, code, before = {}, -1, 0
    for length, symbol in sorted((length, symbol) for symbol, length in lengths.items()):
        code, before = code + 1 << length - before, length
        symbols[length, code] = symbol

    def lane(count: int, data: bytes) -> bytes:
        at, out = 0, bytearray()
        for _ in range(count):
            length = code = 0
            while (length, code) not in symbols:
                length, code, at = length + 1, code << 1 | bits_at(data, at, 1), at + 1
            out.append(symbols[length, code])
        need(-(-at // 8) == len(data), "6.3: the size of a lane")
        return bytes(out)

    return lane


def ans(steps: dict[int, int]) -> Callable[[int, bytes, int], bytes]:  # section 6.2
    need(all(c <= 96 or c == 255 for c in steps.values()) and list(steps.values()).count(255) == 1, "6.2: steps")
    seen = {s: 0 if c == 255 else (8 + (c - 1) % 8 << (c - 1) // 8) >> 3 for s, c in steps.items()}
    seen[next(s for s, c in steps.items() if c == 255)] = 4096 - sum(seen.values())
    need(min(seen.values()) > 0, "6.2: frequencies")
    spread, x = [0] * 4096, 0
    for s in sorted(seen):
        for _ in range(seen[s]):
            spread[x] = s
            x = (x + 2563) % 4096
    states = []
    for s in spread:
        bits = next(b for b in range(13) if seen[s] << b >= 4096)
        states.append((s, bits, (seen[s] << bits) - 4096))
        seen[s] += 1

    def lane(count: int, data: bytes, start: int) -> bytes:
        need(start >> 27 == 0, "6.3: lane head")
        now, other, at, out = start & 4095, start >> 12 & 4095, start >> 24, bytearray()
        for _ in range(count):
            symbol, bits, following = states[now]
            now, other, at = other, following + bits_at(data, at, bits), at + bits
            out.append(symbol)
        need(now == other == 0 and at == 8 * len(data), "6.3: the end of a lane")
        return bytes(out)

    return lane


class Arithmetic:  # section 6.4
    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.code, self.range = data, 4, int.from_bytes(data[:4].ljust(4, b"\0"), "big"), 2**32 - 1

    def bit(self, p: int) -> int:
        bound = (self.range >> 16) * p
        bit = int(self.code < bound)
        self.code, self.range = (self.code, bound) if bit else (self.code - bound, self.range - bound)
        while self.range < 1 << 24:
            behind = self.data[self.at] if self.at < len(self.data) else 0
            self.code, self.range, self.at = (self.code << 8 | behind) % (1 << 32), self.range << 8, self.at + 1
        return bit

    def learnt(self, models: dict[Any, list[int]], key: Any) -> int:
        model = models.setdefault(key, [1 << 31, 0])
        (share, n), p = model, model[0] >> 16
        bit = self.bit(min(max(p, 32), 65504))
        rate = 65536 // (n + 2)
        model[:] = share + (65536 - p) * rate if bit else share - p * rate, min(n + 1, 1022)
        return bit
