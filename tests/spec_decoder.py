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

WIDTHS = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "C64": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2, "I16": 2, "U16": 2}
FLOATS = {  # G, P, tails
    "F64": (4, 0, 3), "F32": (7, 0, 1), "C64": (7, 0, 1), "BF16": (7, 0, 0), "F16": (10, 0, 0),
    "F8_E4M3": (3, 8, 0), "F8_E4M3FNUZ": (3, 8, 0), "F8_E5M2": (2, 8, 0), "F8_E5M2FNUZ": (2, 8, 0),
}  # fmt: skip
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


Decode = Callable[[Reader, int, int], bytes]  # (coded chunk, first byte in the tensor, bytes) -> bytes


def unpack(packed: bytes) -> tuple[bytes, set[str]]:
    """The original of a packed file, and which parts of the format it takes; ValueError if a rule is broken."""
    seen: set[str] = set()
    header, stored = layout(packed[: 8 + int.from_bytes(packed[:8], "little")])
    marks = header["__metadata__"]
    need(marks["mc.format"] == "1", "2.2: another version")
    stated = b'"mc.digest":"' + marks["mc.digest"].encode() + b'"'
    prefix = packed[: stored[0][1]]
    blank = hashlib.sha256(prefix.replace(stated, b'"mc.digest":"' + b"0" * 64 + b'"'))
    need(prefix.count(stated) == 1 and blank.hexdigest() == marks["mc.digest"], "3.2: digest")
    manifest = json.loads(marks["mc.manifest"])
    need(manifest["needs"] <= 1 and manifest["base"] is None, "3.1: a later version")
    need(stored[0][0] == "__mc__" and stored[-1][2] == len(packed), "2: the data")
    blobs = {name: packed[start:stop] for name, start, stop in stored}
    original = reserved(Reader(blobs.pop("__mc__")), seen)
    listed, tensors = layout(original)
    names = list(blobs)
    need([name for name, _, _ in tensors] == list(manifest["tensors"]) == names, "8.3: the lists of tensors")
    for name, start, stop in tensors:
        dtype, shape, coding, *why = manifest["tensors"][name]
        need([dtype, shape] == [listed[name]["dtype"], listed[name]["shape"]], "8.3: dtype and shape")
        twin = why[0] if coding == "same" else name
        need(twin == name or (not blobs[name] and twin in names[: names.index(name)]), "3.1: a twin")
        if stop > start:
            original += decode_blob(Reader(blobs[twin]), names.index(twin), listed[twin]["dtype"], stop - start, seen)
        seen.add("same" if twin != name else "own" if stop > start else "empty")
    need(hashlib.sha256(original).hexdigest() == manifest["sha256"], "3.1: the sha256")
    return original, seen


def layout(prefix: bytes) -> tuple[dict[str, Any], list[tuple[str, int, int]]]:  # name, start, stop in data order
    header = json.loads(prefix[8:])
    at = [(k, *(len(prefix) + o for o in v["data_offsets"])) for k, v in header.items() if k != "__metadata__"]
    return header, sorted(at, key=lambda tensor: tensor[1:])


def reserved(reader: Reader, seen: set[str]) -> bytes:  # section 2.3
    method, size, checksum = (reader.number(kind) for kind in "BIQ")
    prefix = inflate(reader.take(), size) if method else reader.take()
    need(len(prefix) == size and xxhash.xxh3_64_intdigest(prefix, 0) == checksum, "2.3: checksum")
    seen.add(f"reserved {method}")
    return prefix


def inflate(body: bytes, size: int) -> bytes:
    need(zstandard.frame_content_size(body) == size, "7.5: declared size")
    return zstandard.ZstdDecompressor().decompress(body, max_output_size=size, allow_extra_data=False)


def decode_blob(blob: Reader, tensor: int, dtype: str, size: int, seen: set[str]) -> bytes:  # section 4
    def checksum(data: bytes, chunk: int) -> int:
        return xxhash.xxh3_64_intdigest(data, tensor << 32 | chunk)

    length, head_sum = (blob.number(kind) for kind in "IQ")
    head = Reader(blob.take(length))
    need(checksum(head.data, 0xFFFFFFFF) == head_sum, "4: head checksum")
    coding = head.number("B")
    width = 1 if size % WIDTHS.get(dtype, 1) else WIDTHS.get(dtype, 1)
    openers = (open_raw, open_floats, open_affine, open_planes, open_zstd, open_grid, open_trellis, open_sparse)
    span, decode = openers[coding](head, dtype, width, size, seen)
    head.end()
    out, sizes = [], []
    for chunk, start in enumerate(range(0, size, span)):
        coded_size, coded_sum, raw_sum = (blob.number(kind) for kind in "IQQ")
        coded = Reader(blob.take(coded_size))
        need(checksum(coded.data, chunk) == coded_sum, "4: coded checksum")
        raw = decode(coded, start, min(span, size - start))
        coded.end()
        need(checksum(raw, chunk) == raw_sum, "4: raw checksum")
        out.append(raw)
        sizes.append(coded_size)
    need(blob.numbers("I", len(sizes)) == sizes, "4: directory")
    blob.end()
    seen.update((f"coding {coding} of {dtype}", "one chunk" if len(sizes) == 1 else "many chunks"))
    return b"".join(out)


def open_raw(head: Reader, dtype: str, width: int, size: int, seen: set[str]) -> tuple[int, Decode]:  # 7.1
    return width << 18, lambda coded, start, count: coded.take(count)


def open_affine(head: Reader, dtype: str, width: int, size: int, seen: set[str]) -> tuple[int, Decode]:  # 7.2
    w, first, step = (head.number(kind) for kind in "BQQ")

    def chunk(coded: Reader, start: int, count: int) -> bytes:
        words = (first + step * i & (1 << 8 * w) - 1 for i in range(start // w, (start + count) // w))
        return b"".join(word.to_bytes(w, "little") for word in words)

    return width << 18, chunk


def open_zstd(head: Reader, dtype: str, width: int, size: int, seen: set[str]) -> tuple[int, Decode]:  # 7.5
    span = head.number("B") << 18
    return span, lambda coded, _, count: inflate(coded.take(), count) if coded.number("B") else coded.take(count)


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


def open_floats(head: Reader, dtype: str, width: int, size: int, seen: set[str]) -> tuple[int, Decode]:  # 5
    need(dtype in FLOATS and width == WIDTHS.get(dtype, 1), "5: dtype")
    g, padding, tail_count = FLOATS[dtype]
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


def open_sparse(head: Reader, dtype: str, width: int, size: int, seen: set[str]) -> tuple[int, Decode]:  # 7.8
    coding, begin = head.number("B"), head.at
    need(coding in (1, 5, 8, 9), "7.8: coding")
    bits = {8: 4, 9: 8}.get(coding, 0)
    per = 8 // bits if bits else 1
    size *= per
    span, decode = (open_floats if coding == 1 else open_grid)(head, dtype, width, size, seen)
    if coding != 1:
        width = head.data[begin]
    cols = int.from_bytes(head.data[begin + 4 : begin + 8], "little")
    need(not bits or (width == 1 and cols % per == 0), "7.8: packed")
    absent = bytes(width) if coding == 1 else head.take(width)
    height, across, form, coder, tables, shift = (head.number(kind) for kind in "IIBBBB")
    rows = size // width // cols
    need(size % (width * cols) == 0 and 0 < height <= rows and 0 < across <= cols and form < 3, "7.8: head")
    blocks = (cols + across - 1) // across
    line = blocks if form == 0 else (blocks + 7) // 8
    if form == 2:
        line, (group, expected) = blocks, head.take(2)
        need(2 <= group <= min(64, blocks) and expected <= group and coder == ANS and tables > 2, "7.8: group")
    else:
        of_rows, of_columns = array(head, -(-rows // height)), array(head, line)
    streams = Streams(head, tables, coder)
    seen.add(f"sparse {coding}, form {form}, blocks {min(height, 2)} {min(across, 2)}")

    def groups_of(coded: Reader, n: int) -> list[int]:  # form 2
        lone = [one if isinstance(one, int) else None for one in streams.tables]
        counted = [t for t, table in enumerate(streams.tables) if table is not None and lone[t] is None]
        wide = ((n * line).bit_length() + 7) // 8
        counts = {t: int.from_bytes(coded.take(wide), "little") for t in counted}
        stream = Reader(coded.take(coded.number("I")))
        segments = [list(one) for one in streams.decode(stream, [counts.get(t, 0) for t in range(tables)])]
        found: list[int] = []
        for at in range(n * line):
            column = at % line
            if column % group == 0:
                due = expected
            left = min(group - column % group, line - column)
            table = 0 if due <= 0 else 1 if due >= left else 2 + due * (tables - 2) // left
            need(lone[table] is not None or bool(segments[table]), "7.8: a bit that isn't there")
            bit = lone[table] if table not in counts else segments[table].pop(0)
            need(bit in (0, 1), "7.8: bit")
            found.append(int(bit or 0))
            due -= found[-1]
        need(not any(segments), "7.8: bits left over")
        return found

    def mask_of(coded: Reader, first: int, last: int) -> list[int]:
        if form == 2:
            return groups_of(coded, last - first)
        if coded.number("B") == 0:
            return list(coded.take((last - first) * line))
        stream = Reader(coded.take(coded.number("I")))
        contexts = [min(tables - 1, row + column >> shift) for row in of_rows[first:last] for column in of_columns]
        segments = [iter(one) for one in streams.decode(stream, [contexts.count(t) for t in range(tables)])]
        symbols = [next(segments[context]) for context in contexts]
        return [coded.number("B") if k == 255 else (-(k + 1 >> 1) if k & 1 else k >> 1) & 255 for k in symbols]

    def chunk(coded: Reader, start: int, count: int) -> bytes:
        if coded.number("B") == 0:
            return coded.take(count)
        start, count = start * per, count * per
        row, n = start // (cols * width), count // (cols * width)
        first = row // height
        part = Reader(coded.take(coded.number("I")))
        mask = mask_of(part, first, (row + n - 1) // height + 1)
        part.end()

        def there(r: int, c: int) -> int:
            begin, block = (r // height - first) * line, c // across
            return mask[begin + block // 8] >> block % 8 & 1 if form == 1 else mask[begin + block] & 1

        of_words: Any = decode
        all_there = [there(r, c) for r in range(row, row + n) for c in range(cols)]
        words = bytes(of_words(coded, start, count, all_there, absent))
        if bits == 8:
            return bytes(word ^ 128 for word in words)
        fields = [(word + 8) & 255 for word in words] if bits else []
        need(all(field < 16 for field in fields), "7.8: four bits")
        pairs = zip(fields[::2], fields[1::2], strict=True)
        return bytes(low | high << 4 for low, high in pairs) if bits else words

    return span // per, chunk


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


def bits_at(data: bytes, at: int, count: int) -> int:  # zeros beyond the end
    return int.from_bytes(data[at >> 3 : (at >> 3) + 4], "little") >> (at & 7) & (1 << count) - 1


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
