"""What decodes the chunks of float tensors: of one tensor chunk by chunk, or of many tensors at once."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mc.codec import chunks, entropy, floats, heads, planes
from mc.codec.codings import FLOATS, RAW
from mc.codec.fields import Reader
from mc.codec.floats import FloatCode
from mc.codec.heads import Heads
from mc.codec.segments import TABLES
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
        row = first * floats.rows_in_chunk(self.code.cols)
        at, fault = self._decode(data, sizes, (0, row, seed, 0, len(data), 0, 0, len(raw)), raw, None)
        if fault:
            raise DamagedError(f"chunk {first + at}: {chunks.FAULTS[fault]}")

    def _decode(
        self, data: Bytes, directory: Bytes, job: tuple[int, ...], raw: Bytes, present: Bytes | None
    ) -> tuple[int, int]:
        words, jobs, code = planes.words_of(raw, self.code.geometry), _records([job], heads.JOB), self.code
        absent = NOWHERE if present is None else np.uint8(code.zero_number)
        _, chunk, fault = chunks.decode(
            data, directory, jobs, self.heads, code.frequent_if_any, raw, words, present, absent
        )  # fmt: skip
        return int(chunk), int(fault)


def decoder_of(code: FloatCode, words: int) -> Decoder:
    """What decodes the chunks of a tensor of so many words; DamagedError if its tables are none to decode with."""
    tables, _ = entropy.decoder(code.coder, code.tables, words)
    return Decoder(code, joined([code], tables))


def joined(codes: Sequence[FloatCode], tables: Ints) -> Heads:
    """What is told of tensors with these codes, and as last of raw ones, given what is looked up."""
    facts: list[tuple[int, ...]] = []
    row, column, start, table = 0, 0, 0, 0
    for code in codes:
        rows, columns, used = len(code.row_scales), len(code.column_scales), len(code.tables.lone)
        facts.append((
            1, row, rows, column, columns, start, table, used, code.cols,
            floats.rows_in_chunk(code.cols), code.low, code.geometry.padding, code.mantissa, code.field_width,
        ))  # fmt: skip
        row, column, start, table = row + rows, column + columns, start + len(code.starts), table + used
    facts.append((*[0] * 8, floats.CHUNK, 1, 0, 0, 0, 0))
    return Heads(
        _records(facts, heads.FACTS),
        _joined([code.row_scales for code in codes]),
        _joined([code.column_scales for code in codes]),
        _joined([code.order for code in codes]),
        _joined([code.starts for code in codes]),
        _joined([code.classes for code in codes]),
        tables,
        _joined([code.tables.lone for code in codes]),
    )


def _joined(arrays: list[Ints]) -> Ints:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)


def _records(rows: Sequence[tuple[int, ...]], kind: np.dtype[Any]) -> NDArray[Any]:
    """Records of numbers of 64 bits; numpy takes ten times as long to make them itself."""
    records: NDArray[Any] = np.array(rows, np.int64).reshape(-1).view(kind)
    return records


class Placed(NamedTuple):
    """A whole blob of a float tensor, and where its decoded bytes belong."""

    head: memoryview
    most_chunks: int
    begin: int  # of its chunks' frames
    stop: int  # of the blob
    seed: int  # of the first chunk's checksums
    place: int  # of the first decoded byte
    nbytes: int  # of these


def decode_many(data: Bytes, blobs: Sequence[Placed], geometry: planes.Geometry, raw: Bytes) -> list[int]:
    """Decode whole tensors from `data` u8 to their places in `raw` u8; the numbers of those that are what was packed.
    The others are damaged, or not coded as most are; nobody knows what their places hold.

    Places are multiples of a word's size, and `raw` begins at one of eight; heads are what their checksums say."""
    plain: list[int] = []  # raw tensors, which are decoded with those of the coder that comes first
    coded: dict[str, list[tuple[int, FloatCode]]] = {}
    for number, blob in enumerate(blobs):
        if bytes(blob.head) == bytes([RAW]) and blob.most_chunks >= _raw_chunks(blob, geometry):
            plain.append(number)
        elif blob.head[:1] == bytes([FLOATS]):
            with suppress(DamagedError):
                code = _code_of(blob, geometry)
                if not len(code.frequent):
                    coded.setdefault(code.coder, []).append((number, code))
    done: list[int] = []
    words = planes.words_of(raw[: len(raw) // geometry.width * geometry.width], geometry)
    for coder, pairs in coded.items():
        tables, used = entropy.room_for(coder, TABLES * len(pairs)), 0
        numbers, jobs = [], []
        codes: list[FloatCode] = []
        for number, code in pairs:
            with suppress(DamagedError):
                after = used + len(code.tables.lone)
                entropy.decoder(coder, code.tables, blobs[number].nbytes // geometry.width, tables[used:after])
                many = -(-len(code.row_scales) // floats.rows_in_chunk(code.cols))
                jobs.append(_job(len(codes), blobs[number], many))
                numbers.append(number)
                codes.append(code)
                used = after
        if not codes:
            continue
        jobs += [_job(len(codes), blobs[number], _raw_chunks(blobs[number], geometry)) for number in plain]
        numbers += plain
        plain = []
        todo, told, first = _records(jobs, heads.JOB), joined(codes, tables), 0
        while first < len(todo):
            sound, _, _ = chunks.decode(data, data, todo[first:], told, None, raw, words, None, NOWHERE)
            done += numbers[first : first + sound]
            first += sound + 1  # the one that isn't is left out
    return done


def _code_of(blob: Placed, geometry: planes.Geometry) -> FloatCode:
    reader = Reader(blob.head[1:])
    code = floats.read_head(reader, geometry, blob.nbytes // geometry.width, blob.most_chunks)
    reader.end()
    return code


def _raw_chunks(blob: Placed, geometry: planes.Geometry) -> int:
    """Chunks of a raw tensor."""
    return -(-blob.nbytes // (floats.CHUNK * geometry.width))


def _job(slot: int, blob: Placed, many: int) -> tuple[int, ...]:
    """The heads.JOB that decodes all chunks of a tensor, of which there are so many."""
    directory = blob.stop - heads.ENTRY * many
    return slot, 0, blob.seed, blob.begin, directory, directory, blob.place, blob.nbytes
