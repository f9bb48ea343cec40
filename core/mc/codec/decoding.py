"""What decodes the chunks of float tensors: of one tensor chunk by chunk, or of many tensors at once."""

import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mc.codec import chunks, entropy, floats, heads, planes
from mc.codec.codings import FLOATS, RAW
from mc.codec.fields import Reader
from mc.codec.floats import Fixed, FloatCode
from mc.codec.heads import Heads
from mc.codec.rows import read_described
from mc.codec.tables import Tables
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
    return Decoder(code, heads_of(code, tables))


def heads_of(code: FloatCode, tables: Ints) -> Heads:
    """What is told of a tensor with this code, given what is looked up."""
    rows, columns, lone = code.row_scales, code.column_scales, code.tables.lone
    facts = (
        1, 0, len(rows), 0, len(columns), 0, 0, len(lone), code.cols, floats.rows_in_chunk(code.cols), code.low,
        code.geometry.padding, code.mantissa, code.field_width,
    )  # fmt: skip
    return Heads(_records([facts], heads.FACTS), rows, columns, code.order, code.starts, code.classes, tables, lone)


def _records(rows: Sequence[tuple[int, ...]], kind: np.dtype[Any]) -> NDArray[Any]:
    """Records of numbers of 64 bits; numpy takes ten times as long to make them itself."""
    numbers = [number for row in rows for number in row]
    return np.frombuffer(struct.pack(f"={len(numbers)}q", *numbers), kind)


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
    coded: dict[str, list[tuple[int, Fixed]]] = {}
    for number, blob in enumerate(blobs):
        if bytes(blob.head) == bytes([RAW]) and blob.most_chunks >= _raw_chunks(blob, geometry):
            plain.append(number)
        elif blob.head[:1] == bytes([FLOATS]):
            with suppress(DamagedError):
                words_in = blob.nbytes // geometry.width
                of = floats.read_fixed(Reader(blob.head[1:]), geometry, words_in, blob.most_chunks)
                if not of.frequent:
                    coded.setdefault(of.coder, []).append((number, of))
    done: list[int] = []
    words = planes.words_of(raw[: len(raw) // geometry.width * geometry.width], geometry)
    for found in coded.values():
        with suppress(DamagedError):  # one whose checksum is right takes a forger
            told = _read_heads(data, blobs, found, geometry)
            numbers = [number for number, _ in found] + plain
            many = [-(-of.rows // floats.rows_in_chunk(of.cols)) for _, of in found]
            many += [_raw_chunks(blobs[number], geometry) for number in plain]
            slots = [*range(len(found)), *[len(found)] * len(plain)]
            jobs = [_job(slot, blobs[number], n) for slot, number, n in zip(slots, numbers, many, strict=True)]
            plain = []
            todo, first = _records(jobs, heads.JOB), 0
            while first < len(todo):
                sound, _, _ = chunks.decode(data, data, todo[first:], told, None, raw, words, None, NOWHERE)
                done += numbers[first : first + sound]
                first += sound + 1  # the one that isn't is left out
    return done


def _read_heads(
    data: Bytes, blobs: Sequence[Placed], found: Sequence[tuple[int, Fixed]], geometry: planes.Geometry
) -> Heads:
    """What is told of these tensors of one coder, given their numbers and how their heads begin, and as last of raw
    ones; DamagedError if any of the heads makes no sense."""
    data = data[:]
    data.flags.writeable = False  # one kind of array, so that every loop is compiled once
    n, tables = len(found), [floats.tables_of(of.context) for _, of in found]
    rows, columns = np.empty(sum(of.rows for _, of in found), np.int16), sum(of.scaled_columns for _, of in found)
    column_scales, order = np.empty(columns, np.int16), np.empty(2 * columns, np.uint16)
    starts, classes = np.empty(heads.STARTS * n, np.int64), []
    numbers, lone = np.empty((sum(tables), 256), np.uint8), np.empty(sum(tables), np.int64)
    facts: list[tuple[int, ...]] = []
    row, column, start, table = 0, 0, 0, 0
    for (number, of), used in zip(found, tables, strict=True):
        last, right, behind, begin = row + of.rows, column + of.scaled_columns, table + used, blobs[number].begin
        head = data[begin - len(blobs[number].head) + 1 + floats.FIXED_BYTES : begin]
        after = start + heads.STARTS * (right > column)
        of_rows = np.empty((geometry.tails, of.rows), np.uint8)
        end = read_described(
            head, of.base, of.scaled, of.wide, numbers[table:behind], lone[table:behind], rows[row:last],
            column_scales[column:right], order[2 * column : 2 * right], starts[start:after], of_rows,
        )  # fmt: skip
        if end != len(head):
            raise DamagedError("a head makes no sense")
        classes.append(of_rows)
        low = geometry.mantissa - of.mantissa
        facts.append((
            1, row, of.rows, column, right - column, start, table, used, of.cols, floats.rows_in_chunk(of.cols), low,
            geometry.padding, of.mantissa, low + (not of.unsigned),
        ))  # fmt: skip
        row, column, start, table = last, right, after, behind
    facts.append((*[0] * 8, floats.CHUNK, 1, 0, 0, 0, 0))
    words = sum(blobs[number].nbytes for number, _ in found) // geometry.width
    looked_up, _ = entropy.decoder(found[0][1].coder, Tables(numbers, lone), words)
    return Heads(
        _records(facts, heads.FACTS), rows, column_scales, order, starts, np.concatenate(classes, axis=-1), looked_up,
        lone,
    )  # fmt: skip


def _raw_chunks(blob: Placed, geometry: planes.Geometry) -> int:
    """Chunks of a raw tensor."""
    return -(-blob.nbytes // (floats.CHUNK * geometry.width))


def _job(slot: int, blob: Placed, many: int) -> tuple[int, ...]:
    """The heads.JOB that decodes all chunks of a tensor, of which there are so many."""
    directory = blob.stop - heads.ENTRY * many
    return slot, 0, blob.seed, blob.begin, directory, directory, blob.place, blob.nbytes
