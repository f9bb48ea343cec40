"""What decodes the chunks of a float tensor, one by one or several at once."""

from dataclasses import dataclass

import numpy as np

from mc.codec import chunks, entropy, fixed, heads, planes
from mc.codec.floats import FloatCode
from mc.codec.heads import Heads
from mc.codec.typing import Bytes, Ints
from mc.errors import DamagedError

UNFRAMED = np.frombuffer(b"", np.uint8)  # the directory of a chunk without a frame
NOWHERE = np.uint8(0)  # the number of the word that is absent where all are present


@dataclass(frozen=True)
class Decoder:
    """What it takes to decode any chunk of a tensor."""

    code: FloatCode
    heads: Heads  # of this tensor alone

    def decode_chunk(self, coded: memoryview, first_row: int, raw: Bytes, present: Bytes | None = None) -> None:
        """Fill `raw` with the chunk whose rows begin at `first_row`, given which words of a sparse one are `present`
        u8; DamagedError if `coded` makes no sense."""
        data = np.frombuffer(coded, np.uint8)
        job = 0, first_row, 0, 0, len(data), heads.FRAMELESS, 0, len(raw)
        _, fault = self._decode(data, UNFRAMED, job, raw, present)
        if fault:
            raise DamagedError(chunks.FAULTS[fault])

    def decode_frames(self, frames: memoryview, directory: memoryview, seed: int, first: int, raw: Bytes) -> None:
        """Fill `raw` with chunks from number `first` on, in frames one behind the other, and compare their checksums,
        whose first `seed` is given; DamagedError, which names the chunk, if one isn't what was packed."""
        data, sizes = np.frombuffer(frames, np.uint8), np.frombuffer(directory, np.uint8)
        row = first * fixed.rows_in_chunk(self.code.cols)
        at, fault = self._decode(data, sizes, (0, row, seed, 0, len(data), 0, 0, len(raw)), raw, None)
        if fault:
            raise DamagedError(f"chunk {first + at}: {chunks.FAULTS[fault]}")

    def _decode(
        self, data: Bytes, directory: Bytes, job: tuple[int, ...], raw: Bytes, present: Bytes | None
    ) -> tuple[int, int]:
        words, jobs, code = planes.words_of(raw, self.code.geometry), heads.records([job], heads.JOB), self.code
        absent = NOWHERE if present is None else np.uint8(code.zero_number)
        _, chunk, fault = chunks.decode(
            data, directory, jobs, self.heads, code.frequent_if_any, raw, words, present, absent
        )  # fmt: skip
        return int(chunk), int(fault)


def decoder_of(code: FloatCode, words: int) -> Decoder:
    """What decodes the chunks of a tensor of so many words; DamagedError if its tables are none to decode with."""
    tables, _ = entropy.decoder(code.coder, code.tables, words)
    return Decoder(code, heads_of(code, tables))


def heads_of(code: FloatCode, tables: Ints) -> Heads:
    """What is told of a tensor with this code, given what is looked up."""
    rows, columns, lone = code.row_scales, code.column_scales, code.tables.lone
    facts = (
        1, 0, len(rows), 0, len(columns), 0, 0, len(lone), code.cols, fixed.rows_in_chunk(code.cols), code.low,
        code.geometry.padding, code.mantissa, code.field_width,
    )  # fmt: skip
    return Heads(
        heads.records([facts], heads.FACTS), rows, columns, code.order, code.starts, code.classes, tables, lone
    )
