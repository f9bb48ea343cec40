"""What the first packing or unpacking of a kind of floats has to compile, done by two processes at once.

numba compiles one loop after the other, whatever the threads. So where a command finds that loops are missing, a second
process compiles those of chunks while this one compiles those of heads and plans. Either leaves what it has made in the
folder of loops, where the other and the command then find it. Nothing depends on the second process: if it fails, the
command compiles more itself.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import struct
import sys
import threading
from contextlib import suppress
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from mc import blob
from mc.checkpoint import Source, read_layout
from mc.codec import chunks, decoding, entropy, fit, fixed, floats, heads, huffman_tables, planes, symbols, tails, whole
from mc.codec.codings import FLOATS
from mc.codec.compiled import FOLDER
from mc.codec.fields import Reader
from mc.codec.floats import FloatCode
from mc.codec.frequencies import STATES
from mc.codec.tables import NO_WINDOW, Tables
from mc.codec.typing import Bytes, Counts, Ints
from mc.errors import DamagedError, McError
from mc.folder import scan_folder
from mc.manifest import is_packed, read_packed
from mc.parallel import processors

LEAST = 1 << 20  # words: smaller files may be done without most loops
PATIENCE = 60.0  # seconds that the second process is waited for when this one is done; it has as much to do
SIDE = 512  # rows and columns of what is planned: enough words for a sample of them
# A copy of this process has imported all that it needs. Only Linux promises that copies work whatever was imported.
WAY = "fork" if sys.platform == "linux" else "spawn"
COLS = fixed.NARROWEST  # of what is coded: one row

Command = Literal["pack", "unpack"]
COMMANDS: tuple[Command, ...] = ("pack", "unpack")


class Use(NamedTuple):
    """What loops are compiled for."""

    command: Command
    dtype: str
    level: str

    def mark(self, folder: str) -> Path:
        """The empty file that says that these loops were compiled."""
        return Path(folder, "-".join(self))

    @property
    def coder(self) -> str:
        """The one that tensors of this level are coded with; the other is rare."""
        return fit.EFFORTS[self.level].coder


def compile_for(command: Command, source: Path | BinaryIO, level: str = "default") -> None:
    """Compile what `command` needs for most of `source`, unless that was done before, nothing can be kept, there is
    one processor only, or `source` can be read but once. Whatever is wrong with it is left to the command to say."""
    if FOLDER is None or not isinstance(source, Path) or processors() < 2:
        return
    use = use_of(command, source, level)
    if use is None or use.mark(FOLDER).exists():
        return
    context: Any = multiprocessing.get_context(WAY)
    other = context.Process(target=_second, args=(use,), daemon=True)
    collects = gc.isenabled()
    gc.disable()  # a twentieth of the time; the copy ends too soon for it to pay there
    try:
        other.start()
        first_half(use)
        other.join(PATIENCE)
    except (OSError, McError):
        return  # there can't be another process, or this one was wrong about what is needed: the command compiles it
    finally:
        if other.pid is not None:
            other.kill()
            other.join()
        if collects:
            gc.enable()
    with suppress(OSError):
        use.mark(FOLDER).touch()


def use_of(command: Command, source: Path, level: str) -> Use | None:
    """What `source`, a file or a folder, is to be packed or unpacked as: the floats that it has most of. None if that
    is something else, if they are few, or if the source isn't sound."""
    try:
        if source.is_dir():
            source = source / scan_folder(source).shards[0]
        with Source.of(source) as opened:
            layout = read_layout(opened)
            if is_packed(layout, opened.where) is (command == "pack"):
                return None
            tensors = [(one.dtype, one.shape) for one in layout.tensors]
            if command == "unpack":
                manifest = read_packed(layout, opened.where).manifest
                level, tensors = manifest.level, [(one.dtype, one.shape) for one in manifest.entries.values()]
    except (McError, OSError, IndexError):
        return None
    words: dict[str, int] = {}
    for dtype, shape in tensors:
        words[dtype] = words.get(dtype, 0) + prod(shape)
    most = max(words, key=lambda dtype: words[dtype], default="")
    known = most in planes.GEOMETRIES and level in fit.EFFORTS
    return Use(command, most, level) if known and words[most] >= LEAST else None


def all_done() -> None:
    """Note that every loop is compiled."""
    if FOLDER is None:
        return
    for command, dtype, level in product(COMMANDS, planes.GEOMETRIES, fit.EFFORTS):
        Use(command, dtype, level).mark(FOLDER).touch()


def first_half(use: Use) -> None:
    """Compile what plans a tensor, or reads its head."""
    geometry = planes.GEOMETRIES[use.dtype]
    if use.command == "pack":
        from mc.codec import choose  # all codings, which the other process is ready sooner without

        raw = _weights(geometry)
        choose.code(use.dtype, (SIDE, SIDE), len(raw), lambda start, stop: raw[start:stop], use.level, map)
        # What it looks up is made with the first chunk.
        entropy.encoder(use.coder, entropy.plan(use.coder, np.zeros((1, 256), np.int64)).tables)
        return
    entropy.decode(NOTHING, np.zeros(1, np.int64), _decoder(use.coder))  # what the other process soon needs too
    mantissa, number = _mantissa(geometry), entropy.CODERS.index(use.coder)
    head = struct.pack("<" + fixed.FIXED, mantissa, 0, fixed.ROWS, number, COLS, 0, 0)
    # Then come four tables with one symbol each, and arrays of one repeated byte.
    head += bytes([NO_WINDOW, 0, symbols.CENTRE]) * 4 + bytes([1, 0]) * (1 + geometry.tails)
    floats.read_head(Reader(memoryview(head)), geometry, COLS, 1)
    front = blob.write_head(bytes([FLOATS]) + head, 0)
    data = np.frombuffer(front + bytes(heads.FRAME + heads.ENTRY), np.uint8)
    list(whole.read_many(data, [heads.Blob(0, len(data), 0, 0, COLS * geometry.width)], geometry))


def second_half(use: Use) -> None:
    """Compile what codes or decodes a chunk, by one row of zeros, after what the first half soon needs too."""
    geometry = planes.GEOMETRIES[use.dtype]
    code, raw = _blank(geometry), np.zeros(COLS * geometry.width, np.uint8)
    if use.command == "unpack":
        planes.unpack_fields(NOTHING, 0, 0)  # first, while decoding of symbols is compiled by the other
        entropy.decoder(use.coder, code.tables, COLS)
        with suppress(DamagedError):  # the chunk ends behind its symbols
            decoder = decoding.Decoder(code, decoding.heads_of(code, _decoder(use.coder)[0]))
            decoder.decode_chunk(memoryview(bytes([chunks.CODED, 0, 0, 0, 0])), 0, raw)
        return
    raw.flags.writeable = False
    window, counts = floats.window_of(code), np.zeros((1, 256), np.int64)
    symbols.smooth(counts, 0, 0, 0)
    for classes in code.classes:
        tails.tail_bytes(COLS, COLS, classes)
    words = planes.words_of(raw, geometry)
    symbols.tally(words, COLS, 0, 0, None, window, code.row_scales, code.column_scales, counts)
    floats.encode_chunk(code, window, _encoder(use.coder), raw, 0)


def _weights(geometry: planes.Geometry) -> Bytes:
    """Gaussian weights whose rows and columns differ in scale, so that all contexts are tried."""
    draw = np.random.default_rng(0)
    values = draw.normal(size=(SIDE, SIDE)) * np.exp2(draw.normal(size=(SIDE, 1)) + draw.normal(size=(1, SIDE)))
    bits = values.view(np.uint64) if geometry.width == 8 else values.astype(np.float32).view(np.uint32)
    words = bits >> bits.dtype.type(8 * (bits.itemsize - geometry.width))
    raw = words.astype(f"<u{geometry.width}").reshape(-1).view(np.uint8)
    raw.flags.writeable = False
    return raw


def _mantissa(geometry: planes.Geometry) -> int:
    """Mantissa bits in a symbol: so many that the others fit a field."""
    return min(fit.JOINT[geometry.mantissa], geometry.mantissa)


NOTHING = np.frombuffer(b"", np.uint8)
LONE = np.full(1, symbols.ZERO, np.int64)  # the only symbol of the only table: nothing is looked up


def _blank(geometry: planes.Geometry) -> FloatCode:
    """The code of one row of words, with no contexts and all low bits raw."""
    words = np.empty(0, f"<u{geometry.width}")
    return FloatCode(
        geometry, _mantissa(geometry), COLS, fixed.ALONE, np.zeros(1, np.int16),
        symbols.EMPTY_SCALES, symbols.EMPTY_WORDS, symbols.EMPTY_COUNTS, np.zeros((geometry.tails, 1), np.uint8),
        words, True, entropy.HUFFMAN, Tables(np.zeros((1, 256), np.uint8), LONE),
    )  # fmt: skip


def _encoder(coder: str) -> tuple[Ints, ...]:
    """What `entropy.encoder` makes, not filled."""
    if coder == entropy.HUFFMAN:
        return np.empty((1, 256), np.uint32), np.empty((1, huffman_tables.PAIRS), np.uint32), LONE
    return np.empty((1, STATES), np.uint16), np.empty((1, 256), np.int64), np.empty((1, 256), np.int64), LONE


def _decoder(coder: str) -> tuple[Ints, Counts]:
    """What `entropy.decoder` makes, not filled."""
    return entropy.look_ups(coder, 1), LONE


def _second(use: Use) -> None:
    """What the second process does: its half, without a word. It ends with the process that started it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    gc.disable()
    with open(os.devnull, "w") as nothing:
        sys.stdout = sys.stderr = nothing
        for stream in (1, 2):
            os.dup2(nothing.fileno(), stream)
        threading.Thread(target=_end_with_first, daemon=True).start()
        second_half(use)


def _end_with_first() -> None:
    first = multiprocessing.parent_process()
    if first is not None:
        first.join()
        os._exit(1)
