"""Numbers and small arrays in the head of a coded tensor: read with every length checked, written to match."""

import struct

import numpy as np

from mc.codec import entropy
from mc.codec.tables import Tables, histogram, read_tables
from mc.codec.typing import Bytes, Counts, Ints
from mc.errors import DamagedError

PLAIN, SAME, CODED = 0, 1, 2  # how an array of bytes is stored


class Reader:
    """A position in bytes that come from outside."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    @property
    def left(self) -> int:
        """Bytes that weren't taken yet."""
        return len(self._data)

    def take(self, size: int) -> memoryview:
        """The next `size` bytes; DamagedError if there are fewer."""
        if size > len(self._data):
            raise DamagedError(f"its head ends {size - len(self._data)} bytes too early")
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    def bytes(self, size: int) -> Bytes:
        """The next `size` bytes as a read-only array."""
        array = np.frombuffer(self.take(size), np.uint8)
        array.flags.writeable = False
        return array

    def words(self, count: int, width: int) -> Ints:
        """The next `count` little-endian unsigned words as a read-only array, aligned."""
        array = np.frombuffer(self.take(count * width), f"<u{width}").copy()
        array.flags.writeable = False
        return array

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def u32(self) -> int:
        """The next four bytes as a number."""
        return int.from_bytes(self.take(4), "little")

    def numbers(self, layout: str) -> tuple[int, ...]:
        """Little-endian numbers as `struct` names them."""
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    def tables(self, count: int, coder: str) -> Tables:
        """Code tables, as `write_tables` wrote them."""
        data = np.frombuffer(self._data, np.uint8)
        data.flags.writeable = False
        tables, used = read_tables(data, count, coder == entropy.ANS)
        self.take(used)
        return tables

    def array(self, count: int) -> Bytes:
        """Undo `write_array` for an array of `count` bytes."""
        method = self.byte()
        if method == PLAIN:
            return np.frombuffer(self.take(count), np.uint8)
        if method == SAME:
            return np.full(count, self.byte(), np.uint8)
        if method != CODED:
            raise DamagedError(f"an array in its head is stored in way {method}, and there are ways 0 to 2")
        decoder = entropy.decoder(entropy.HUFFMAN, self.tables(1, entropy.HUFFMAN), count)
        return entropy.decode(self.bytes(self.u32()), _one(count), decoder)

    def end(self) -> None:
        """DamagedError if anything is left."""
        if len(self._data):
            raise DamagedError(f"its head has {len(self._data)} bytes too many")


def write_array(values: Bytes) -> bytes:
    """A u8 array in the shortest of three ways: as it is, as one repeated byte, or Huffman-coded."""
    if len(values) and (values == values[0]).all():
        return bytes([SAME, int(values[0])])
    counts = histogram(values, _one(len(values)))
    plan = entropy.plan(entropy.HUFFMAN, counts)
    if plan.bits // 8 + 24 < len(values):
        coded = entropy.encode(values, _one(len(values)), entropy.encoder(entropy.HUFFMAN, plan.tables))
        listed = entropy.described(plan) + struct.pack("<I", len(coded)) + coded.tobytes()
        if len(listed) < len(values):
            return bytes([CODED]) + listed
    return bytes([PLAIN]) + values.tobytes()


def _one(count: int) -> Counts:
    return np.array([count], np.int64)
