"""Numbers and small arrays in the head of a coded tensor: read with every length checked, written to match."""

import struct
from functools import cache

import numpy as np

from mc.codec import arrays, entropy
from mc.codec.compiled import Loop
from mc.codec.tables import Tables, read_tables
from mc.codec.typing import Bytes, Ints
from mc.errors import DamagedError


class Reader:
    """A position in bytes that come from outside."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data.toreadonly(), 0

    @property
    def left(self) -> int:
        """Bytes that weren't taken yet."""
        return len(self._data) - self._at

    def take(self, size: int) -> memoryview:
        """The next `size` bytes; DamagedError if there are fewer."""
        start, stop = self._at, self._at + size
        if stop > len(self._data):
            raise DamagedError(f"its head ends {stop - len(self._data)} bytes too early")
        self._at = stop
        return self._data[start:stop]

    def bytes(self, size: int) -> Bytes:
        """The next `size` bytes as a read-only array."""
        return np.frombuffer(self.take(size), np.uint8)

    def words(self, count: int, width: int) -> Ints:
        """The next `count` little-endian unsigned words as a read-only array, aligned."""
        if count == 0:
            return np.empty(0, f"<u{width}")
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
        of = _little_endian(layout)
        return of.unpack(self.take(of.size))

    def tables(self, count: int, coder: str) -> Tables:
        """Code tables, as `write_tables` wrote them."""
        tables, used = read_tables(self._rest(), count, coder == entropy.ANS)
        self._at += used
        return tables

    def array(self, count: int) -> Bytes:
        """Undo `write_array` for an array of `count` bytes."""
        out = np.empty(count, np.uint8)
        self.filled(_read_array, out)
        return out

    def filled(self, loop: Loop, *arguments: object) -> None:
        """Let a loop fill its arguments from what comes next; DamagedError, which says what is wrong, where it returns
        a fault of `arrays` in place of the bytes that it took."""
        end = int(loop(self._rest(), *arguments))
        if end < 0:
            raise DamagedError(arrays.FAULTS[-end])
        self._at += end

    def end(self) -> None:
        """DamagedError if anything is left."""
        if self._at < len(self._data):
            raise DamagedError(f"its head has {self.left} bytes too many")

    def _rest(self) -> Bytes:
        return np.frombuffer(self._data, np.uint8)[self._at :]


def _read_array(data: Bytes, out: Bytes) -> int:
    return int(arrays.read(data, np.int64(0), out))


@cache
def _little_endian(layout: str) -> struct.Struct:
    return struct.Struct("<" + layout)


def write_array(values: Bytes) -> bytes:
    """A u8 array in the shortest of three ways: as it is, as one repeated byte, or Huffman-coded."""
    out = np.empty(entropy.capacity(len(values), 1) + 600, np.uint8)
    return out[: arrays.write(values, out)].tobytes()
