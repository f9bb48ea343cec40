"""safetensors in: the header, kept verbatim, and where each tensor's bytes lie.

The format is eight bytes of header length, a JSON header, and data without holes
(https://huggingface.co/docs/safetensors). Everything a header claims is checked here, once, before any number
of it is used. What the reference reader accepts is accepted, with three exceptions that leave a file with
more than one meaning: a key given twice, unknown fields in a tensor's entry, and space before the opening
brace.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from mc.dtypes import element_bits
from mc.errors import DamagedError, quote
from mc.source import Source
from mc.strict_json import describe, parse_json

__all__ = ["LONGEST_HEADER", "Layout", "Source", "Tensor", "parse_layout", "read_layout", "write_prefix"]

LONGEST_HEADER = 100_000_000  # bytes; the reference reader's limit

_LENGTH_BYTES = 8
_LIMIT = 2**63  # dimensions and offsets stay below
_FIELDS = ("dtype", "shape", "data_offsets")
_in_order = itemgetter(*_FIELDS)
_ADVICE = "The file is damaged or was written wrongly: fetch or write it again."

_OTHER_FORMATS = {
    b"version ": "It is a Git LFS pointer and not the file itself: fetch that with 'git lfs pull'.",
    b"PK\x03\x04": "It is a zip archive, as torch.save writes: load it in torch and save it as safetensors.",
    b"\x80\x02": "It is a Python pickle: load it where it was made and save it as safetensors.",
    b"GGUF": "It is a GGUF file, which is not supported.",
    b"<": "It looks like a web page: the download went wrong.",
}


class Tensor(NamedTuple):
    """One tensor as the header describes it."""

    name: str
    dtype: str  # as written in the header; may be unknown to mc.dtypes
    shape: tuple[int, ...]
    start: int  # bytes from the start of the file
    stop: int


_START, _STOP = Tensor._fields.index("start"), Tensor._fields.index("stop")


@dataclass(frozen=True)
class Layout:
    """What a safetensors file holds, and where."""

    prefix: bytes  # header length and header, verbatim
    tensors: tuple[Tensor, ...]  # in data order; empty tensors come before what starts at the same byte
    metadata: dict[str, str]  # `__metadata__`, empty if there is none
    size: int  # bytes of the whole file


def read_layout(source: Source) -> Layout:
    """The layout of the safetensors file in `source`, after every rule of the format has been checked.

    Reads the header and nothing else. Raises DamagedError, naming the tensor, if a rule is broken; McError if
    the source cannot be read.
    """
    return parse_layout(_read_prefix(source), source.size, source.where)


def write_prefix(metadata: Mapping[str, str], listed: Mapping[str, object]) -> bytes:
    """The length and header of a file with this metadata, if there is any, and these entries by tensor."""
    header = {**({"__metadata__": dict(metadata)} if metadata else {}), **listed}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def parse_layout(prefix: bytes, size: int | None, where: str) -> Layout:
    """The layout that `prefix`, the length and header of a file of `size` bytes, describes.

    With size None (a pipe), the file is taken to be as long as its header says. Raises DamagedError as
    `read_layout` does; `where` names the file in messages.
    """
    header = parse_json(memoryview(prefix)[_LENGTH_BYTES:], f"{where}: the header")
    if not isinstance(header, dict):  # it starts with '{', but mypy cannot know
        raise _damaged(f"{where}: the header is {describe(header)}, not an object")
    metadata = _metadata(header.pop("__metadata__", None), where)
    tensors = []
    for name, entry in header.items():
        try:
            tensors.append(_described(name, entry, len(prefix)))
        except _Fault as fault:
            raise _damaged(f"{where}: tensor {quote(name)} {fault}") from None
    tensors.sort(key=itemgetter(_START, _STOP))  # stable: ties stay in header order
    if size is None:
        size = tensors[-1].stop if tensors else len(prefix)
    _check_cover(tensors, len(prefix), size, where)
    return Layout(prefix, tuple(tensors), metadata, size)


def _read_prefix(source: Source) -> bytes:
    where, size = source.where, source.size
    if size < _LENGTH_BYTES:
        found = "is empty" if size == 0 else f"has only {size} bytes"
        raise DamagedError(
            f"{where} {found}, but a safetensors file begins with 8 bytes of header length. Fetch it again."
        )
    start = bytes(source.read(0, _LENGTH_BYTES))
    length = int.from_bytes(start, "little")
    limit = min(LONGEST_HEADER, size - _LENGTH_BYTES)
    if length > limit:
        allowed = "the format allows" if limit == LONGEST_HEADER else "the file has room for"
        # Text and other formats read as enormous lengths; a plausible length is a header that was cut.
        formats = _OTHER_FORMATS.items() if length > LONGEST_HEADER else ()
        advice = next((text for magic, text in formats if start.startswith(magic)), _ADVICE)
        raise DamagedError(
            f"{where} claims a header of {length} bytes, but {allowed} only {limit}, so it is not a whole "
            f"safetensors file. {advice}"
        )
    prefix = bytes(source.read(0, _LENGTH_BYTES + length))
    check_begins(prefix, where)
    return prefix


def check_begins(prefix: bytes, where: str) -> None:
    """DamagedError unless the header behind the length begins with a brace, as the reference reader wants it."""
    if not prefix.startswith(b"{", _LENGTH_BYTES):
        found = repr(prefix[_LENGTH_BYTES:][:8])[1:] if len(prefix) > _LENGTH_BYTES else "nothing"
        raise _damaged(f"{where}: the header starts with {found}, where '{{' was expected")


def _metadata(found: object, where: str) -> dict[str, str]:
    if found is None:  # absent, or null, which the reference reader takes for absent
        return {}
    if not isinstance(found, dict):
        raise _damaged(f"{where}: __metadata__ is {describe(found)}, where an object was expected")
    for key, value in found.items():
        if not isinstance(value, str):
            at = f"{where}: __metadata__ has {describe(value)} under {quote(key)}"
            raise _damaged(f"{at}, where text was expected")
    return found


class _Fault(Exception):
    """What is wrong with a tensor's entry: a sentence that its name goes before."""


def _described(name: str, entry: object, origin: int) -> Tensor:
    """The tensor that `entry` describes, its numbers checked against each other; data begins at `origin`."""
    if not isinstance(entry, dict):
        raise _Fault(f"is {describe(entry)}, where an object with {_listed(_FIELDS)} was expected")
    try:
        dtype, shape_found, offsets_found = _in_order(entry)
    except KeyError:
        raise _Fault(f"has no {_listed([field for field in _FIELDS if field not in entry])}") from None
    if len(entry) > len(_FIELDS):
        unknown = [quote(field) for field in entry if field not in _FIELDS]
        raise _Fault(f"has {_listed(unknown)} beside {_listed(_FIELDS)}, which alone are allowed")
    if not isinstance(dtype, str):
        raise _Fault(f"has {describe(dtype)} for its dtype, where a name such as F32 was expected")
    shape, offsets = _counts(shape_found, "shape"), _counts(offsets_found, "data_offsets")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        found = f"has data_offsets {describe(list(offsets))}"
        raise _Fault(f"{found}, where a start and a stop not before it were expected")
    start, stop = offsets
    size = _byte_length(dtype, shape)
    if size is not None and stop - start != size:
        found = f"has data_offsets [{start}, {stop}], which is {stop - start} bytes"
        raise _Fault(f"{found}, but {dtype} of shape {describe(list(shape))} takes {size} bytes")
    return Tensor(name, dtype, shape, origin + start, origin + stop)


def _counts(found: object, field: str) -> tuple[int, ...]:
    """`found` as whole numbers from 0 to 2**63 - 1."""
    if not isinstance(found, list):
        raise _Fault(f"has {describe(found)} for its {field}, where a list was expected")
    for item in found:
        if type(item) is not int or not 0 <= item < _LIMIT:  # a boolean is an int to isinstance
            wanted = "a whole number from 0 to 2**63 - 1"
            raise _Fault(f"has {describe(item)} in its {field}, where {wanted} was expected")
    return tuple(found)


def _byte_length(dtype: str, shape: tuple[int, ...]) -> int | None:
    """Bytes that `dtype` of `shape` takes, or None for an unknown dtype."""
    width = element_bits(dtype)
    if width is None:
        return None
    bits = width
    for count in shape:  # stops at the limit: a product of all would grow with the square of the header's length
        bits *= count
        if bits >= 8 * _LIMIT:
            raise _Fault(f"is {dtype} of shape {describe(list(shape))}, which takes 2**63 bytes or more")
    if bits % 8:
        found = f"is {dtype} of shape {describe(list(shape))}, which is {bits} bits"
        raise _Fault(f"{found} and does not fill whole bytes")
    return bits // 8


def _check_cover(tensors: list[Tensor], origin: int, size: int, where: str) -> None:
    """The tensors, in data order, must cover the file from `origin` to its end without hole or overlap."""
    end, last = origin, "the header"
    for index, tensor in enumerate(tensors):
        if tensor.start != end:
            between = abs(tensor.start - end)
            found = f"leaves {between} bytes unused after" if tensor.start > end else f"overlaps {between} bytes of"
            before = f"tensor {quote(tensors[index - 1].name)}" if index else last
            raise _damaged(f"{where}: tensor {quote(tensor.name)} {found} {before}")
        end = tensor.stop
    if tensors:
        last = f"tensor {quote(tensors[-1].name)}"
    if end > size:
        raise DamagedError(f"{where} was cut: it has {size} bytes, but its header describes {end}. Fetch it again.")
    if end < size:
        raise _damaged(f"{where} goes on for {size - end} bytes after {last}, where it should end")


def _damaged(sentence: str) -> DamagedError:
    return DamagedError(f"{sentence}. {_ADVICE}")


def _listed(words: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'; of many, the first few."""
    if len(words) > 4:
        return f"{', '.join(words[:3])} and {len(words) - 3} more"
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
