"""What decodes the chunks of float tensors: of one tensor chunk by chunk, or of many tensors at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mc.codec import chunks, entropy, heads, planes
from mc.codec.floats import FloatCode
from mc.codec.heads import Heads
from mc.codec.rows import rows_in_chunk
from mc.codec.typing import Bytes, Counts, Ints
from mc.errors import DamagedError

UNFRAMED = np.frombuffer(b"", np.uint8)  # the directory of a chunk without a frame
NOWHERE = np.uint8(0)  # the number of the word that is absent where all are present


@dataclass(frozen=True)
class Decoder:
    """What it takes to decode any chunk of a tensor."""

    geometry: planes.Geometry
    heads: Heads  # of this tensor alone
    frequent: Ints | None
    absent: np.uint8  # the number of the word that is absent where not all are present

    @property
    def cols(self) -> int:
        """Columns of the matrix."""
        return int(self.heads.facts[0, heads.COLS])

    def decode_chunk(self, coded: memoryview, first_row: int, raw: Bytes, present: Bytes | None = None) -> None:
        """Fill `raw` with the chunk whose rows begin at `first_row`, given which words of a sparse one are `present`
        u8; DamagedError if `coded` makes no sense."""
        data = np.frombuffer(coded, np.uint8)
        _, fault = self._decode(
            data, UNFRAMED, (0, first_row, 0, 0, len(data), heads.FRAMELESS, 0, len(raw)), raw, present
        )
        if fault:
            raise DamagedError(chunks.FAULTS[fault])

    def decode_frames(self, frames: memoryview, directory: memoryview, seed: int, first: int, raw: Bytes) -> None:
        """Fill `raw` with chunks from number `first` on, in frames one behind the other, and compare their checksums,
        whose first `seed` is given; DamagedError, which names the chunk, if one isn't what was packed."""
        data, sizes = np.frombuffer(frames, np.uint8), np.frombuffer(directory, np.uint8)
        row = first * rows_in_chunk(self.cols)
        at, fault = self._decode(data, sizes, (0, row, seed, 0, len(data), 0, 0, len(raw)), raw, None)
        if fault:
            raise DamagedError(f"chunk {first + at}: {chunks.FAULTS[fault]}")

    def _decode(
        self, data: Bytes, directory: Bytes, job: tuple[int, ...], raw: Bytes, present: Bytes | None
    ) -> tuple[int, int]:
        words, faults = planes.words_of(raw, self.geometry), np.empty((1, 2), np.int64)
        jobs = np.array([job])
        chunks.decode(data, directory, jobs, self.heads, self.frequent, raw, words, present, self.absent, faults)
        return int(faults[0, 0]), int(faults[0, 1])


def decoder_of(code: FloatCode, words: int) -> Decoder:
    """What decodes the chunks of a tensor of so many words; DamagedError if its tables are none to decode with."""
    tables, lone = entropy.decoder(code.coder, code.tables, words)
    return Decoder(code.geometry, alone(code, tables, lone), code.frequent_if_any, np.uint8(code.zero_number))


def alone(code: FloatCode, tables: Ints, lone: Counts) -> Heads:
    """What `heads.read` would make of this one tensor's head."""
    facts = np.zeros((1, heads.FACTS), np.int64)
    of, cols = facts[0], code.cols
    of[heads.CODING], of[heads.COUNT], of[heads.COLUMNS] = heads.FLOATS, len(code.row_scales), len(code.column_scales)
    of[heads.COLS], of[heads.HEIGHT], of[heads.TABLES_USED] = cols, rows_in_chunk(cols), len(lone)
    of[heads.LOW], of[heads.PADDING] = code.low, code.geometry.padding
    of[heads.MANTISSA], of[heads.WIDTH] = code.mantissa, code.field_width
    return Heads(
        facts, code.row_scales, code.column_scales, code.order, code.starts.reshape(1, -1), code.classes.reshape(-1),
        tables.reshape(1, *tables.shape), lone.reshape(1, -1),
    )  # fmt: skip


def read_decoder(head: memoryview, geometry: planes.Geometry, words: int, most_chunks: int) -> Decoder | None:
    """What decodes the chunks of a tensor of so many words, from its whole head; None for one that `read_head` has to
    look at."""
    coder = head[heads.CODER] if len(head) > heads.CODER else len(entropy.CODERS)
    if coder >= len(entropy.CODERS):
        return None
    blobs = np.array([(0, len(head), words * geometry.width, most_chunks, 0, 0, 0)])
    found, _ = heads.read(np.frombuffer(head, np.uint8), blobs, heads.shape_of(geometry), entropy.LOOK_UPS[coder])
    return Decoder(geometry, found, None, NOWHERE) if found.facts[0, heads.CODING] == heads.FLOATS else None


class Placed(NamedTuple):
    """A whole blob of a float tensor, and where its decoded bytes belong."""

    head: int  # its first byte
    head_end: int
    nbytes: int  # decoded
    most_chunks: int
    stop: int  # of the blob
    seed: int  # of the first chunk's checksums
    place: int  # of the first decoded byte


def decode_many(data: Bytes, blobs: Sequence[Placed], geometry: planes.Geometry, coder: int, raw: Bytes) -> list[int]:
    """Decode whole tensors from `data` u8 to their places in `raw` u8, if coded with the coder of that number; the
    numbers of those that are what was packed. The others are damaged, or not coded as most are; nobody knows what their
    places hold.

    Places are multiples of a word's size, and `raw` begins at one of eight; heads are what their checksums say."""
    found, jobs = heads.read(data, np.array(blobs), heads.shape_of(geometry), entropy.LOOK_UPS[coder])
    words = planes.words_of(raw[: len(raw) // geometry.width * geometry.width], geometry)
    faults = np.empty((len(blobs), 2), np.int64)
    chunks.decode(data, data, jobs, found, None, raw, words, None, NOWHERE, faults)
    codings = found.facts[:, heads.CODING].tolist()
    return [number for number, (_, fault) in enumerate(faults.tolist()) if not fault and codings[number] != heads.OTHER]
