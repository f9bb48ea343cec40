"""Words without a float's structure, as planes of symbols: bytes, nibbles, or indices into a palette.

Each plane has a table of its own, or is stored raw; where a word is one byte and the matrix has rows, rows are sorted
by magnitude into classes instead, and each class has a table (an int8 grid with row scales looks like that).
"""

import struct
from dataclasses import dataclass

import numpy as np

from mc.codec import entropy
from mc.codec.chunks import CODED
from mc.codec.codings import plain_spans
from mc.codec.fields import Reader, write_array
from mc.codec.fixed import NARROWEST, WIDEST, rows_in_chunk
from mc.codec.floats import spans
from mc.codec.tables import Tables, histogram
from mc.codec.typing import Bytes, Counts, Ints
from mc.codec.ways import opened_chunk, raw_chunk
from mc.errors import DamagedError

CLASSES = 4
BYTE_PLANES, NIBBLE_PLANES, ROW_CLASSES, PALETTE = 0, 1, 2, 3
FORMS = ("bytes", "nibbles", "rows", "palette")


@dataclass(frozen=True)
class PlaneCode:
    """All that a chunk is coded with."""

    form: int
    width: int  # bytes a word
    cols: int  # words a row, for ROW_CLASSES
    classes: Bytes  # of every row, for ROW_CLASSES
    palette: Ints  # distinct words in rising order, for PALETTE
    raw: Bytes  # of every plane, 1 if it is stored as it is
    coder: str
    tables: Tables

    @property
    def tables_wanted(self) -> int:
        """Tables, of planes that are coded or of row classes."""
        return CLASSES if self.form == ROW_CLASSES else int((self.raw == 0).sum())


def plane_count(form: int, width: int) -> int:
    """Planes that words of `width` bytes fall into."""
    return {BYTE_PLANES: width, NIBBLE_PLANES: 2 * width}.get(form, 1)


def planes_of(code: PlaneCode, raw: Bytes, first_row: int) -> list[Bytes]:
    """The planes of a chunk (for ROW_CLASSES, one plane a class)."""
    if code.form == BYTE_PLANES:
        return [np.ascontiguousarray(raw[k :: code.width]) for k in range(code.width)]
    if code.form == NIBBLE_PLANES:
        halves = [(raw[k :: code.width] & 15, raw[k :: code.width] >> 4) for k in range(code.width)]
        return [half.astype(np.uint8) for pair in halves for half in pair]
    if code.form == PALETTE:
        return [np.searchsorted(code.palette, raw.view(code.palette.dtype)).astype(np.uint8)]
    matrix = raw.reshape(-1, code.cols)
    classes = code.classes[first_row : first_row + len(matrix)]
    return [matrix[classes == k].ravel() for k in range(CLASSES)]


def join_planes(code: PlaneCode, planes: list[Bytes], raw: Bytes, first_row: int) -> None:
    """Undo `planes_of` into `raw`."""
    if code.form == BYTE_PLANES:
        for k, plane in enumerate(planes):
            raw[k :: code.width] = plane
    elif code.form == NIBBLE_PLANES:
        for k in range(code.width):
            raw[k :: code.width] = (planes[2 * k] & 15) | planes[2 * k + 1] << 4
    elif code.form == PALETTE:
        if len(planes[0]) and int(planes[0].max()) >= len(code.palette):
            raise DamagedError("an index lies outside its palette")
        raw.view(code.palette.dtype)[:] = code.palette[planes[0]]
    else:
        matrix = raw.reshape(-1, code.cols)
        classes = code.classes[first_row : first_row + len(matrix)]
        for k in range(CLASSES):
            matrix[classes == k] = planes[k].reshape(-1, code.cols)


def spans_of(code: PlaneCode, nbytes: int) -> list[tuple[int, int]]:
    """First and last byte (exclusive) of each chunk."""
    return spans(nbytes, code.cols) if code.form == ROW_CLASSES else plain_spans(nbytes, code.width)


def counts_of(planes: list[Bytes]) -> Counts:
    """Histogram of each plane, [planes, 256]."""
    sizes = np.array([len(plane) for plane in planes], np.int64)
    return histogram(np.concatenate(planes), sizes)


def row_classes(means: Counts) -> Bytes:
    """Rows in four classes of equal number by their mean magnitude (any integer measure of it)."""
    rank = np.empty(len(means), np.int64)
    rank[np.argsort(means, kind="stable")] = np.arange(len(means))
    return (rank * CLASSES // max(len(means), 1)).astype(np.uint8)


def write_head(code: PlaneCode, described_tables: bytes) -> bytes:
    """The head of a tensor in planes, after its coding number."""
    parts = [struct.pack("<BBBI", code.form, code.width, entropy.CODERS.index(code.coder), code.cols)]
    parts.append(code.raw.tobytes())
    if code.form == ROW_CLASSES:
        parts.append(write_array(code.classes))
    if code.form == PALETTE:
        parts.append(struct.pack("<H", len(code.palette)) + code.palette.tobytes())
    return b"".join([*parts, described_tables])


def read_head(reader: Reader, nbytes: int, most_chunks: int) -> PlaneCode:
    """Undo `write_head` for a tensor of `nbytes` in as many chunks at most; DamagedError for anything that
    can't have been written."""
    form, width, coder, cols = reader.numbers("BBBI")
    if form >= len(FORMS) or coder >= len(entropy.CODERS) or width not in (1, 2, 4, 8) or nbytes % width:
        raise DamagedError(f"its head asks for form {form}, words of {width} bytes, coder {coder}")
    rows = 0
    if form == ROW_CLASSES:
        if width != 1 or not min(NARROWEST, nbytes) <= cols <= min(nbytes, WIDEST) or nbytes % cols:
            raise DamagedError(f"its head says {cols} columns, which doesn't fit {nbytes} bytes")
        rows = nbytes // cols
        if -(-rows // rows_in_chunk(cols)) > most_chunks:
            raise DamagedError(f"it has room for {most_chunks} chunks, too few for its {rows} rows")
    raw = np.frombuffer(reader.take(plane_count(form, width)), np.uint8)
    if raw.max() > (1 if form in (BYTE_PLANES, NIBBLE_PLANES) else 0):
        raise DamagedError("its head has a plane that is neither coded nor raw")
    classes = reader.array(rows) if rows else np.empty(0, np.uint8)
    if rows and classes.max() >= CLASSES:
        raise DamagedError(f"a row has class {classes.max()}, and there are {CLASSES}")
    palette: Ints = np.empty(0, np.uint8)
    if form == PALETTE:
        (size,) = reader.numbers("H")
        if not 1 <= size <= 256:
            raise DamagedError(f"its palette has {size} words, not 1 to 256")
        palette = np.frombuffer(reader.take(size * width), f"<u{width}")
        if (palette[1:] <= palette[:-1]).any():
            raise DamagedError("the words of its palette don't rise")
    name = entropy.CODERS[coder]
    blank = Tables(np.zeros((0, 256), np.uint8), np.zeros(0, np.int64))
    code = PlaneCode(form, width, cols, classes, palette, raw, name, blank)
    return PlaneCode(form, width, cols, classes, palette, raw, name, reader.tables(code.tables_wanted, name))


def encode_chunk(code: PlaneCode, coder: tuple[Ints, ...], raw: Bytes, first_row: int) -> Bytes:
    """A chunk, coded."""
    planes = planes_of(code, raw, first_row)
    as_it_is = np.zeros(len(planes), bool) if code.form == ROW_CLASSES else code.raw.astype(bool)
    coded = [plane for plane, plain in zip(planes, as_it_is, strict=True) if not plain]
    plain = [plane for plane, plain in zip(planes, as_it_is, strict=True) if plain]
    sizes = np.array([len(plane) for plane in coded], np.int64)
    symbols = np.concatenate(coded) if coded else np.empty(0, np.uint8)
    stream = entropy.encode(symbols, sizes, coder)
    pieces = [np.frombuffer(struct.pack("<BI", CODED, len(stream)), np.uint8), stream, *plain]
    coded_chunk = np.concatenate(pieces)
    return coded_chunk if len(coded_chunk) <= len(raw) else raw_chunk(raw)


def decode_chunk(code: PlaneCode, coder: tuple[Ints, Counts], coded: memoryview, first_row: int, raw: Bytes) -> None:
    """Fill `raw` with the chunk whose rows begin at `first_row`; DamagedError if `coded` makes no sense."""
    reader = opened_chunk(coded, raw)
    if reader is None:
        return
    (size,) = reader.numbers("I")
    stream = np.frombuffer(reader.take(size), np.uint8)
    words = len(raw) // code.width
    if code.form == ROW_CLASSES:
        classes = code.classes[first_row : first_row + words // code.cols]
        sizes = np.bincount(classes, minlength=CLASSES).astype(np.int64) * code.cols
    else:
        sizes = np.full(code.tables_wanted, words, np.int64)
    symbols = entropy.decode(stream, sizes, coder)
    coded_planes = iter(np.split(symbols, np.cumsum(sizes)[:-1]) if len(sizes) else [])
    if code.form == ROW_CLASSES:
        planes = list(coded_planes)
    else:
        planes = [np.frombuffer(reader.take(words), np.uint8) if plain else next(coded_planes) for plain in code.raw]
    reader.end()
    join_planes(code, planes, raw, first_row)
