"""numpy's .npy and .npz files, whose headers say nothing that is believed before it is held against their size.

numpy's own reader makes room for whatever a header claims, and answers odd files with errors of a dozen kinds.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from tokenize import TokenError
from typing import IO, Any

import numpy as np

from mc.dtypes import DTYPES
from mc.errors import DamagedError, McError, quote

OF_NUMPY = {str(one.numpy): name for name, one in DTYPES.items() if one.numpy is not None and one.bits >= 8}
READERS: dict[tuple[int, int], Callable[..., Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,  # it differs in the names of fields, which no tensor has
}
# All that reading a header as Python's literals raises for text that isn't one.
NO_HEADER = (ValueError, EOFError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError)
# All that zipfile raises for an archive that it can't read: encrypted, cut, of a method it doesn't know.
NO_ARCHIVE = (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, ValueError, EOFError, KeyError)


@dataclass(frozen=True)
class Header:
    """What is stored of an array."""

    shape: tuple[int, ...]
    fortran: bool  # first index fastest
    dtype: np.dtype[Any]
    nbytes: int

    def values(self, raw: bytes) -> np.ndarray[Any, Any]:
        """The array that `nbytes` bytes are."""
        return np.frombuffer(raw, self.dtype).reshape(self.shape, order="F" if self.fortran else "C")


def read_header(stream: IO[bytes], size: int, where: str) -> Header:
    """The header of a .npy stream of `size` bytes, which then stands at the values.

    Raises DamagedError where there is none, or values are missing; McError for a dtype that no tensor has."""
    try:
        version = np.lib.format.read_magic(stream)
        if version not in READERS:
            raise ValueError(f"version {version[0]}.{version[1]} of the format is not known")
        shape, fortran, dtype = READERS[version](stream)
    except NO_HEADER as error:
        raise DamagedError(f"{where} is no array that numpy can read: {error}. Save it again.") from error
    if any(isinstance(n, bool) or n < 0 for n in shape):
        raise DamagedError(f"{where} is no array: its header has the shape {shape}. Save it again.")
    if dtype.hasobject:
        raise DamagedError(f"{where} is no array of numbers: it holds pickled objects, which are never loaded.")
    if str(dtype.newbyteorder("=")) not in OF_NUMPY:
        raise McError(f"{where} has dtype {dtype}, which no tensor has. Convert it first.")
    nbytes = prod(shape) * dtype.itemsize
    there = size - stream.tell()
    if nbytes > there:
        raise DamagedError(f"{where} was cut: it has {there} bytes of values, and its header describes more.")
    return Header(tuple(map(int, shape)), bool(fortran), dtype, nbytes)


def read_npz(stream: IO[bytes], where: str) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """The arrays of a .npz file by their names. Raises as `read_header` does, also for what isn't an array, and for a
    name that occurs twice."""
    try:
        with zipfile.ZipFile(stream) as archive:
            seen = set()
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name == member.filename or name in seen:
                    fault = "occurs twice" if name in seen else "is no array: its name doesn't end in .npy"
                    raise DamagedError(f"{where}: {quote(member.filename)} {fault}. Save it again with numpy.savez.")
                seen.add(name)
                with archive.open(member) as file:
                    header = read_header(file, member.file_size, f"{where}: {quote(name)}")
                    yield name, header.values(file.read(header.nbytes))
    except NO_ARCHIVE as error:
        raise DamagedError(f"{where} is no archive of arrays that can be read: {error}. Save it again.") from error
