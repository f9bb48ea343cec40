"""A tensor as a blob: a head that says how it is coded, its chunks in frames, and their directory (FORMAT.md, 4).

Every part has a checksum, xxh3-64, seeded with the tensor's and the chunk's number, so that a chunk in the place of
another is damage too. The coded bytes of a chunk are checked before a decoder touches them, the decoded ones after.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import xxhash
import zstandard

from mc.codec.checksum import SHORT
from mc.codec.choose import Coded
from mc.codec.heads import OF_HEAD
from mc.codec.opening import Opened, opened
from mc.codec.typing import Bytes
from mc.errors import DamagedError

HEAD = struct.Struct("<IQ")  # bytes of the head, its checksum
FRAME = struct.Struct("<IQQ")  # coded bytes, checksums of the coded and of the decoded bytes
ENTRY = struct.Struct("<I")  # of the directory: coded bytes

RESERVED = struct.Struct("<BIQ")  # of the original header: method, bytes, checksum
PLAIN, ZSTD = 0, 1
HEADER_LEVEL = 9  # of zstd; 19 makes a header a tenth smaller and takes twenty times as long
# No header of honest names shrinks this much; a hostile one could claim 100 MB for a few bytes.
DENSEST = 256
ALLOWANCE = 1 << 16


class Stream(Protocol):
    """Bytes in order, from a file, a pipe or memory."""

    def take(self, size: int) -> memoryview:
        """The next `size` bytes; DamagedError if they end before."""


class Roaming(Stream, Protocol):
    """Bytes in order, of which any may be looked at before."""

    def beyond(self, start: int, stop: int) -> memoryview:
        """Bytes `start` to `stop` counted from the position, which stays; DamagedError if they end before."""


class Frame(NamedTuple):
    """A coded chunk on its way into a file."""

    coded: memoryview
    coded_sum: int
    raw_sum: int
    there: bool  # whether it is at the front of the room that it was given


def seed(tensor: int, chunk: int) -> int:
    """The seed of a checksum: where in the file the bytes belong."""
    return tensor << 32 | chunk


def write_head(head: bytes, tensor: int) -> bytes:
    """The first part of a blob, given what says how it is coded."""
    return HEAD.pack(len(head), xxhash.xxh3_64_intdigest(head, seed(tensor, OF_HEAD))) + head


def frame(coded: Coded, tensor: int, chunk: int, raw: Bytes, room: Bytes) -> Frame:
    """Code a chunk, in that room or elsewhere, and seal it."""
    payload, of = coded.encode(chunk, raw, room), seed(tensor, chunk)
    sums = xxhash.xxh3_64_intdigest(payload.data, of), xxhash.xxh3_64_intdigest(raw.data, of)
    return Frame(payload.data, *sums, np.may_share_memory(payload[:1], room[:1]))


def write_frame(sealed: Frame) -> tuple[bytes, memoryview | int]:
    """The parts of a frame in order; of the coded bytes how many there are, if they are in their room."""
    size = len(sealed.coded)
    return FRAME.pack(size, sealed.coded_sum, sealed.raw_sum), size if sealed.there else sealed.coded


def write_directory(sizes: Sequence[int]) -> bytes:
    """The last part of a blob: the coded bytes of each chunk."""
    return struct.pack(f"<{len(sizes)}I", *sizes)


def overhead(chunks: int) -> int:
    """Bytes of a blob that are neither its head nor coded chunks."""
    return HEAD.size + chunks * (FRAME.size + ENTRY.size)


def most_decoded(size: int) -> int:
    """Bytes that a blob of `size` bytes can decode to: each chunk costs a frame, and has at most 2 ** 20 words."""
    return size // (FRAME.size + ENTRY.size) * (1 << 23)


class Chunk(NamedTuple):
    """A coded chunk in a packed file, not yet compared with its checksums."""

    code: Opened
    seed: int
    number: int
    start: int  # first byte in the tensor
    stop: int
    coded: memoryview
    coded_sum: int
    raw_sum: int

    def decode(self, raw: Bytes) -> None:
        """Fill `raw` u8 [stop - start], and check it; DamagedError if it isn't what was packed. Words must lie where a
        machine can load them as words: `raw` begins at a multiple of eight bytes."""
        if xxhash.xxh3_64_intdigest(self.coded, self.seed) != self.coded_sum:
            raise DamagedError(f"chunk {self.number}: its coded bytes don't match their checksum")
        try:
            self.code.decode(self.number, self.coded, raw)
        except DamagedError as error:
            raise DamagedError(f"chunk {self.number}: {error}") from error
        if xxhash.xxh3_64_intdigest(raw.data, self.seed) != self.raw_sum:
            raise DamagedError(f"chunk {self.number}: its decoded bytes don't match their checksum")


class Stretch(NamedTuple):
    """Chunks that follow each other in a packed file, to be decoded in one call: none is compared with its checksums
    yet."""

    together: Callable[[memoryview, memoryview, int, int, Bytes], None]
    seed: int  # of the first
    number: int  # of the first
    start: int  # first byte in the tensor
    stop: int
    frames: memoryview
    directory: memoryview

    def decode(self, raw: Bytes) -> None:
        """Fill `raw` u8 [stop - start], and check it, as `Chunk.decode` does."""
        self.together(self.frames, self.directory, self.seed, self.number, raw)


def decoded(piece: Chunk | Stretch) -> Bytes:
    """The bytes u8 [stop - start] of a chunk, or of several; DamagedError if they aren't what was packed."""
    raw = np.empty(piece.stop - piece.start, np.uint8)
    piece.decode(raw)
    return raw


class BlobReader:
    """A blob read front to back. Nothing is allocated that its bytes haven't earned: a chunk costs a frame."""

    def __init__(self, stream: Stream, size: int, tensor: int, dtype: str, nbytes: int) -> None:
        """Read the head of the blob of `size` bytes that codes `nbytes` >= 1; DamagedError if it is none."""
        if size < HEAD.size:
            raise DamagedError(f"it ends {HEAD.size - size} bytes too early")
        length, checksum = HEAD.unpack(stream.take(HEAD.size))
        left = size - HEAD.size - length
        if left < 0:
            raise DamagedError(f"it ends {-left} bytes too early")
        head = stream.take(length)
        if xxhash.xxh3_64_intdigest(head, seed(tensor, OF_HEAD)) != checksum:
            raise DamagedError("its head doesn't match its checksum")
        if nbytes > most_decoded(size):
            raise DamagedError(f"it has too few bytes for {nbytes} decoded ones")
        self.code: Opened = opened(head, dtype, nbytes, left // (FRAME.size + ENTRY.size))
        if left < len(self.code.spans) * (FRAME.size + ENTRY.size):
            raise DamagedError(f"its {left} bytes can't hold {len(self.code.spans)} chunks")
        self._stream, self._left, self._tensor = stream, left, tensor

    def chunks(self) -> Iterator[Chunk]:
        """Every chunk in order; at the end the directory is checked. DamagedError if frames and directory don't agree:
        then nothing after it can be trusted either."""
        code, take, left = self.code, self._stream.take, self._left
        sizes: list[int] = []
        behind = len(code.spans) * (FRAME.size + ENTRY.size)  # what has to come yet, at least
        for number, (start, stop) in enumerate(code.spans):
            size, coded_sum, raw_sum = FRAME.unpack(take(FRAME.size))
            left -= FRAME.size
            behind -= FRAME.size
            if size > left - behind:
                raise DamagedError(f"chunk {number} claims {size} bytes, where at most {left - behind} can be")
            left -= size
            sizes.append(size)
            yield Chunk(code, seed(self._tensor, number), number, start, stop, take(size), coded_sum, raw_sum)
        if left != behind or take(left) != write_directory(sizes):
            raise DamagedError("its directory doesn't agree with its frames")

    def stretches(self, stream: Roaming, most: int) -> Iterator[Stretch | Chunk]:
        """Every chunk in order, as `chunks` gives them, but as many at once as decode to `most` bytes where that is
        possible. `stream` is the one that the blob is read from."""
        spans, left, together = self.code.spans, self._left, self.code.together
        if together is None:
            yield from self.chunks()
            return
        directory = stream.beyond(left - ENTRY.size * len(spans), left)
        sizes = struct.unpack(f"<{len(spans)}I", directory)
        if sum(sizes) + len(spans) * (FRAME.size + ENTRY.size) != left:
            raise DamagedError("its directory doesn't agree with its frames")
        if min(min(sizes), spans[-1][1] - spans[-1][0]) <= SHORT:
            yield from self.chunks()
            return
        step = max(1, most // (spans[0][1] - spans[0][0]))
        for first in range(0, len(spans), step):
            last = min(first + step, len(spans))
            frames = stream.take(sum(sizes[first:last]) + (last - first) * FRAME.size)
            of, entries = seed(self._tensor, first), directory[ENTRY.size * first : ENTRY.size * last]
            yield Stretch(together, of, first, spans[first][0], spans[last - 1][1], frames, entries)

    def chunk_at(self, stream: Stream, number: int, size: int) -> Chunk:
        """The chunk of `size` coded bytes, at whose frame `stream` stands; DamagedError if the frame says otherwise."""
        stated, coded_sum, raw_sum = FRAME.unpack(stream.take(FRAME.size))
        if stated != size:
            raise DamagedError(f"chunk {number} claims {stated} bytes, and {size} in the directory")
        of, (start, stop) = seed(self._tensor, number), self.code.spans[number]
        return Chunk(self.code, of, number, start, stop, stream.take(size), coded_sum, raw_sum)


def write_reserved(prefix: bytes) -> bytes:
    """The reserved tensor: length and header of the original, compressed if that is shorter."""
    body = zstandard.ZstdCompressor(level=HEADER_LEVEL, write_content_size=True).compress(prefix)
    plain = len(body) >= len(prefix) or len(prefix) > len(body) * DENSEST + ALLOWANCE
    head = RESERVED.pack(PLAIN if plain else ZSTD, len(prefix), xxhash.xxh3_64_intdigest(prefix))
    return head + (prefix if plain else body)


def read_reserved(data: memoryview) -> bytes:
    """Undo `write_reserved`; DamagedError if that can't be done."""
    if len(data) < RESERVED.size:
        raise DamagedError("the original header is cut")
    method, size, checksum = RESERVED.unpack(data[: RESERVED.size])
    body = data[RESERVED.size :]
    if method == PLAIN:
        prefix = bytes(body)
    elif method == ZSTD and size <= len(body) * DENSEST + ALLOWANCE:
        prefix = _inflate(body, size)
    else:
        raise DamagedError(f"the original header is stored in way {method} and claims {size} bytes")
    if len(prefix) != size or xxhash.xxh3_64_intdigest(prefix) != checksum:
        raise DamagedError("the original header doesn't match its checksum")
    return prefix


def _inflate(body: memoryview, size: int) -> bytes:
    try:
        if zstandard.frame_content_size(body) != size:
            raise DamagedError(f"the original header's frame doesn't declare its {size} bytes")
        return zstandard.ZstdDecompressor(max_window_size=1 << 27).decompress(
            body, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise DamagedError(f"the original header can't be decoded ({error})") from error
