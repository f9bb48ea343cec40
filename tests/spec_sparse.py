"""Of the second decoder, the codings that leave one word out: sparse and scarce tensors (sections 7.8 and 7.9)."""

from __future__ import annotations

from typing import Any

from spec_codings import Decode, open_floats, open_grid
from spec_streams import ANS, Arithmetic, Reader, Streams, array, need


def open_sparse(head: Reader, dtype: str, width: int, size: int, seen: set[str]) -> tuple[int, Decode]:  # 7.8
    coding, begin = head.number("B"), head.at
    need(coding in (1, 5, *range(8, 15)), "7.8: coding")
    bits, packed = {8: 4, 9: 8, 10: 2, 11: 3, 12: 5, 13: 6, 14: 7}.get(coding, 0), 0
    if bits:
        seen.add(f"packed integers of {bits} bits")
        of_row = int.from_bytes(head.data[begin + 4 : begin + 8], "little")
        packed = -(-of_row * bits // 8)
        need(packed > 0 and size % packed == 0, "7.8: rows of packed integers")
        size = size // packed * of_row
    span, decode = (open_floats if coding == 1 else open_grid)(head, dtype, width, size, seen)
    if coding != 1:
        width = head.data[begin]
    cols = int.from_bytes(head.data[begin + 4 : begin + 8], "little")
    need(not bits or width == 1, "7.8: packed")
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
        if bits:
            start, count = start // packed * cols, count // packed * cols
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
        if not bits:
            return words
        out = b""
        for at in range(0, len(words), cols):
            fields = [(word ^ 128) - 128 + (1 << bits - 1) for word in words[at : at + cols]]
            need(all(0 <= field < 1 << bits for field in fields), "7.8: bits")
            out += sum(field << bits * i for i, field in enumerate(fields)).to_bytes(packed, "little")
        return out

    return span // cols * packed if bits else span, chunk


def open_scarce(head: Reader, dtype: str, width: int, size: int, seen: set[str]) -> tuple[int, Decode]:  # 7.9
    width, kind, deep, group, expected = head.take(5)
    need(width in (1, 2, 4, 8) and size % width == 0 and kind < 3 and deep <= min(13, 8 * width), "7.9: head")
    need(group <= 64 and (expected < group or expected == group == 0), "7.9: group")
    need(size // width % max(group, 1) == 0, "7.9: groups")
    absent, bits, step = head.take(width), 8 * width, max(1, group)
    seen.add(f"scarce, kind {kind}, groups {group > 0}")

    def chunk(coded: Reader, start: int, count: int) -> bytes:
        if coded.number("B") == 0:
            return coded.take(count)
        n = count // width
        listed, low = (n // group * expected, 0) if group else divmod(coded.number("I"), 1 << 24)[::-1]
        need(listed <= n and low < 24, "7.9: count")
        stream, place = Arithmetic(coded.take()), -1
        models: dict[Any, list[int]] = {}
        out, due = bytearray(absent * n), expected

        def string(key: str, count: int, modelled: int) -> int:
            number = 1
            for i in range(count):
                before = number if i < modelled else -i
                fixed = key == "remainder" and i >= modelled
                number = number << 1 | (stream.bit(32768) if fixed else stream.learnt(models, (key, before)))
            return number - (1 << count)

        for _ in range(listed):
            if group:
                bit = 0
                while not bit:
                    place += 1
                    left = group - place % group
                    due = expected if left == group else due
                    bit = int(due == left) if due in (0, left) else stream.bit(65536 * due // left)
                due -= 1
            else:
                quotient = 0
                while stream.learnt(models, ("run", min(quotient, 3))):
                    quotient += 1
                place += 1 + (quotient << low) + string("remainder", low, 3)
            need(place < n, "7.9: place")
            number = string("number", bits, deep)
            rest, sign = number >> 1, number & 1
            rest ^= (1 << bits - 1) - 1 if kind == 2 and sign else 0
            word = rest | sign << bits - 1 if kind else number
            out[place * width : (place + 1) * width] = word.to_bytes(width, "little")
        need(0 <= stream.at - len(stream.data) <= 4, "6.4: the end of the stream")
        return bytes(out)

    return (1 << 23) // width // step * step * width, chunk
