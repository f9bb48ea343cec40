"""The safetensors reader against every rule of the format, the reference reader, and random damage."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mc.checkpoint import Layout, Source, Tensor, read_layout
from mc.dtypes import DTYPES, element_bits, numpy_dtype
from mc.errors import DamagedError, McError

ENTRY: dict[str, Any] = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}


def file_of(header: object, data: bytes = b"") -> bytes:
    """A safetensors file with `header`: bytes, text, or a value to be written as JSON."""
    if not isinstance(header, bytes | str):
        header = json.dumps(header)
    text = header if isinstance(header, bytes) else header.encode()
    return len(text).to_bytes(8, "little") + text + data


def reference_of(data: bytes) -> dict[str, tuple[str, list[int], bytes]]:
    """What the reference reader finds in `data`."""
    found = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    return {name: (view["dtype"], view["shape"], bytes(view["data"])) for name, view in found}


def layout_of(data: bytes) -> Layout:
    with Source.of(data, "m.safetensors") as source:
        return read_layout(source)


def values(layout: Layout, data: bytes) -> dict[str, tuple[str, list[int], bytes]]:
    """The same of `layout`, for comparison."""
    return {t.name: (t.dtype, list(t.shape), data[t.start : t.stop]) for t in layout.tensors}


def test_layout_says_where_everything_lies() -> None:
    header = '{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,1],"data_offsets":[2,10]}, "a": %s}   '
    data = file_of(header % json.dumps(ENTRY), bytes(10))
    layout = layout_of(data)
    origin = len(data) - 10
    assert layout.tensors == (
        Tensor("a", "U8", (2,), origin, origin + 2),
        Tensor("b", "F32", (2, 1), origin + 2, origin + 10),
    )
    assert layout.prefix == data[:origin]
    assert layout.metadata == {"format": "pt"}
    assert layout.size == len(data)


def test_empty_tensors_come_before_what_starts_at_the_same_byte_in_header_order() -> None:
    empty = {"dtype": "F32", "shape": [0, 3], "data_offsets": [0, 0]}
    end = {"dtype": "F32", "shape": [0], "data_offsets": [2, 2]}
    layout = layout_of(file_of({"a": ENTRY, "z": empty, "y": empty, "end": end}, b"12"))
    assert [tensor.name for tensor in layout.tensors] == ["z", "y", "a", "end"]


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ("{}", b""),
        ({"__metadata__": {}}, b""),
        ('{"__metadata__":null}', b""),
        ({"": {**ENTRY, "shape": []}}, b"1"),
        ({"\x00 é \U0001f600": {**ENTRY, "shape": [1]}}, b"1"),
        ({"a": {"dtype": "F4", "shape": [4, 1], "data_offsets": [0, 2]}}, b"12"),
        ({"a": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}, b"123"),
        ({"a": {"dtype": "I64", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}, b""),
        ('{"a":{"shape":[1],\n"data_offsets":[0,1],\t"dtype":"U8"}} \r\n', b"1"),
    ],
)
def test_unusual_files_that_the_reference_accepts(header: object, data: bytes) -> None:
    if isinstance(header, dict):
        for entry in header.values():
            if entry.get("dtype") == "U8":
                entry["data_offsets"] = [0, len(data)]
    raw = file_of(header, data)
    assert values(layout_of(raw), raw) == reference_of(raw)


def changed(**fields: object) -> dict[str, object]:
    return {"a": {**ENTRY, **fields}}


BROKEN: dict[str, tuple[bytes, list[str]]] = {
    "empty file": (b"", ["m.safetensors is empty", "Fetch"]),
    "no length": (b"\x01\x00\x00", ["only 3 bytes", "8 bytes"]),
    "header over the limit": ((100_000_001).to_bytes(8, "little") + b"{}", ["100000001", "room for only 2"]),
    "header cut": (file_of("{}")[:-1], ["header of 2 bytes", "room for only 1"]),
    "no header": (file_of(""), ["starts with nothing", "'{'"]),
    "list": (file_of("[]"), ["starts with '[]'"]),
    "space before": (file_of(" {}"), ["starts with ' {}'"]),
    "byte order mark": (file_of("\ufeff{}"), [r"starts with '\xef\xbb\xbf{}'"]),
    "not UTF-8": (file_of(b'{"\xff'), ["not UTF-8", "0xff at offset 2"]),
    "surrogate in UTF-8": (file_of(b'{"\xed\xa0\x80":{}}'), ["not UTF-8", "0xed"]),
    "not JSON": (file_of('{"a":}'), ["not valid JSON", "at character 5"]),
    "JSON goes on": (file_of("{}\0"), ["not valid JSON", "Extra data"]),
    "tab in a string": (file_of('{"\t":{}}'), ["not valid JSON", "control character"]),
    "NaN": (file_of('{"a":NaN}'), ["the word NaN"]),
    "Infinity": (file_of('{"a":{"shape":[Infinity]}}'), ["the word Infinity"]),
    "-Infinity": (file_of('{"a":[-Infinity]}'), ["the word -Infinity"]),
    "deep lists": (file_of('{"a":' + "[" * 200_000), ["too deeply"]),
    "deep objects": (file_of('{"a":' * 200_000), ["too deeply"]),
    "endless digits": (file_of('{"a":%s}' % ("9" * 5000)), ["number of 5000 characters", "'999"]),
    "a digit too many": (file_of('{"a":%s}' % ("9" * 21)), ["number of 21 characters"]),
    "as many digits as can be": (file_of('{"a":%s}' % ("9" * 20)), ["9" * 20, "where an object"]),
    "a sign too many": (file_of('{"a":-%s}' % ("9" * 20)), ["number of 21 characters"]),
    "lone surrogate": (file_of(r'{"\ud800":1}'), ["surrogate", r"'\ud800'"]),
    "lone surrogate in dtype": (file_of(r'{"a":{"dtype":"\udc00"}}'), ["surrogate", r"'\udc00'"]),
    "lone surrogate in a list": (file_of(r'{"a":{"dtype":"U8","shape":[["\ud800"]]}}'), ["surrogate"]),
    "lone surrogate in metadata": (file_of(r'{"__metadata__":{"a":"\ud800"}}'), ["surrogate"]),
    "tensor twice": (file_of('{"a":{},"b":{},"a":{}}'), ["key 'a' twice"]),
    "field twice": (file_of('{"a":{"dtype":"U8","dtype":"I8"}}'), ["key 'dtype' twice"]),
    "metadata twice": (file_of('{"__metadata__":{},"__metadata__":{}}'), ["key '__metadata__' twice"]),
    "metadata is text": (file_of({"__metadata__": "x"}), ["__metadata__ is 'x'", "object"]),
    "metadata holds a number": (
        file_of({"__metadata__": {"k": 7}}),
        ["__metadata__ has 7 under 'k'", "text"],
    ),
    "metadata holds an object": (file_of({"__metadata__": {"k": {}}}), ["an object under 'k'"]),
    "entry is a list": (
        file_of({"a": ["U8", [2], [0, 2]]}),
        ["'a' is a list of 3", "dtype, shape and data_offsets"],
    ),
    "fields missing": (file_of({"a": {"dtype": "U8"}}), ["'a' has no shape and data_offsets"]),
    "field unknown": (file_of(changed(x=1), b"12"), ["'a' has 'x' beside"]),
    "dtype is a number": (file_of(changed(dtype=8)), ["has 8 for its dtype"]),
    "shape is text": (file_of(changed(shape="2")), ["has '2' for its shape", "list"]),
    "dimension negative": (file_of(changed(shape=[-2])), ["has -2 in its shape", "from 0"]),
    "dimension boolean": (file_of(changed(shape=[True])), ["has true in its shape"]),
    "dimension fraction": (file_of(changed(shape=[2.0])), ["has 2.0 in its shape"]),
    "dimension minus zero": (
        file_of('{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}'),
        ["-0.0 in its"],
    ),
    "dimension null": (file_of(changed(shape=[None])), ["has null in its shape"]),
    "dimension too large": (file_of(changed(shape=[2**63])), ["has 9223372036854775808 in its shape"]),
    "offset is an object": (file_of(changed(data_offsets=[{}, 1])), ["an object in its data_offsets"]),
    "three offsets": (
        file_of(changed(data_offsets=[0, 1, 2])),
        ["data_offsets [0, 1, 2]", "a start and a stop"],
    ),
    "offsets reversed": (file_of(changed(data_offsets=[2, 0])), ["data_offsets [2, 0]"]),
    "offset too large": (
        file_of(changed(data_offsets=[0, 2**64])),
        ["18446744073709551616 in its data_offsets"],
    ),
    "size wrong": (
        file_of(changed(shape=[3, 1], dtype="F32"), b"12"),
        ["data_offsets [0, 2], which is 2 bytes", "F32 of shape [3, 1] takes 12 bytes"],
    ),
    "size overflows": (file_of(changed(shape=[2**40, 2**40, 0])), ["2**63 bytes or more"]),
    "size of many dimensions": (
        file_of(changed(shape=[2**62] * 100_000)),
        ["shape a list of 100000", "or more"],
    ),
    "part of a byte": (file_of(changed(dtype="F4", shape=[3]), b"12"), ["F4 of shape [3], which is 12 bits"]),
    "data missing": (file_of({"a": ENTRY}, b"1"), ["was cut", "describes"]),
    "data goes on": (file_of({"a": ENTRY}, b"123"), ["goes on for 1 bytes after tensor 'a'"]),
    "data without tensors": (file_of("{}", b"1"), ["goes on for 1 bytes after the header"]),
    "hole at the start": (
        file_of(changed(data_offsets=[1, 3]), b"123"),
        ["'a' leaves 1 bytes unused after the header"],
    ),
    "hole": (
        file_of({"a": ENTRY, "b": {**ENTRY, "data_offsets": [3, 5]}}, b"12345"),
        ["'b' leaves 1 bytes unused after tensor 'a'"],
    ),
    "overlap": (
        file_of({"a": ENTRY, "b": {**ENTRY, "data_offsets": [1, 3]}}, b"123"),
        ["'b' overlaps 1 bytes of tensor 'a'"],
    ),
    "same bytes twice": (file_of({"a": ENTRY, "b": ENTRY}, b"12"), ["'b' overlaps 2 bytes of tensor 'a'"]),
    "empty tensor within another": (
        file_of({"a": ENTRY, "b": {**ENTRY, "shape": [0], "data_offsets": [1, 1]}}, b"12"),
        ["'b' overlaps 1 bytes"],
    ),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", ["git lfs pull"]),
    "zip": (b"PK\x03\x04\x00\x00\x08\x08\x00\x00", ["zip archive", "torch.save"]),
    "web page": (b"<!DOCTYPE html><html>", ["web page"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_rule_is_refused_in_words(case: str) -> None:
    data, words = BROKEN[case]
    with pytest.raises(DamagedError) as caught:
        layout_of(data)
    message = str(caught.value)
    assert message.startswith("m.safetensors")
    assert message.endswith(".")
    assert len(message) < 500
    for word in words:
        assert word in message


def test_a_long_name_is_shortened_in_messages() -> None:
    with pytest.raises(DamagedError) as caught:
        layout_of(file_of({"x" * 1_000_000 + "\n": 1}))
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_a_header_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes((100_000_001).to_bytes(8, "little"))
    os.truncate(path, 300_000_000)  # no bytes on disk
    with Source.of(path) as source, pytest.raises(DamagedError, match="the format allows only 100000000"):
        read_layout(source)


def test_an_unknown_dtype_takes_its_length_from_the_offsets() -> None:
    layout = layout_of(file_of(changed(dtype="F3_NEW", shape=[7, 7]), b"12"))
    assert [(t.dtype, t.shape, t.stop - t.start) for t in layout.tensors] == [("F3_NEW", (7, 7), 2)]
    assert element_bits("F3_NEW") is None
    with pytest.raises(McError, match="'F3_NEW' is not one of BOOL"):
        numpy_dtype("F3_NEW")


@pytest.mark.parametrize("name", DTYPES)
def test_the_reference_agrees_on_every_dtype(name: str) -> None:
    bits = DTYPES[name].bits
    raw = file_of({"a": {"dtype": name, "shape": [8], "data_offsets": [0, bits]}}, bytes(bits))
    assert [tensor.stop - tensor.start for tensor in layout_of(raw).tensors] == [bits]
    assert reference_of(raw) == {"a": (name, [8], bytes(bits))}
    assert numpy_dtype(name).itemsize * 8 == max(8, bits)


def test_the_list_of_dtypes_is_the_reference_list() -> None:
    with pytest.raises(safetensors.SafetensorError) as caught:
        reference_of(file_of(changed(dtype="?"), b"12"))
    assert set(str(caught.value).split("`")[3::2]) == set(DTYPES)


def test_numpy_types_read_what_the_reference_wrote() -> None:
    ones = {
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F32": np.float32,
        "I16": np.int16,
    }
    raw = safetensors.numpy.save({name: np.ones(3, kind) for name, kind in ones.items()})
    for tensor in layout_of(raw).tensors:
        assert tensor.dtype == tensor.name
        array = np.frombuffer(raw[tensor.start : tensor.stop], numpy_dtype(tensor.dtype))
        assert array.astype(np.float64).tolist() == [1, 1, 1]


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")
shapes = st.lists(st.integers(0, 4), max_size=4)
kinds = st.sampled_from([np.bool_, np.uint8, np.int16, np.float16, np.float32, np.uint64, np.complex64])


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(names, st.tuples(shapes, kinds), max_size=6),
    st.none() | st.dictionaries(names, st.text(st.characters(exclude_categories=["Cs"]))),
)
def test_whatever_the_reference_writes_is_read_alike(
    wanted: dict[str, tuple[list[int], type]], metadata: dict[str, str] | None
) -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {
        name: np.full(shape, i, kind) for i, (name, (shape, kind)) in enumerate(wanted.items(), 1)
    }
    assume(arrays or metadata is None)  # for metadata alone, version 0.8 writes what it cannot read
    raw = safetensors.numpy.save(arrays, metadata)
    layout = layout_of(raw)
    assert layout.metadata == (metadata or {})
    assert {t.name for t in layout.tensors} == set(arrays)
    for tensor in layout.tensors:
        array = arrays[tensor.name]
        assert tensor.shape == array.shape
        assert raw[tensor.start : tensor.stop] == array.tobytes()


SMALL = file_of(
    '{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[1,2],"data_offsets":[4,12]},'
    '"b":{"dtype":"F4","shape":[8],"data_offsets":[0,4]}}  ',
    bytes(12),
)
SPLICES = [
    *(b"NaN", b"-Infinity", b"[" * 5000, b'{"a":' * 3000, b"9" * 5000, b"-1", b"1e9", b"-0", b'"a"', b"null"),
    *(b"true", b"\\ud800", b"\\u0000", b"\xef\xbb\xbf", b"\xff", b'"shape":[],', b'"c":1,', b"0", b" ", b""),
]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), max_size=3),
    st.none() | st.tuples(st.integers(8, len(SMALL)), st.integers(0, 12), st.sampled_from(SPLICES)),
    st.booleans(),
    st.integers(0, len(SMALL)),
)
def test_random_damage_is_refused_or_read_as_the_reference_reads_it(
    flips: list[tuple[int, int]], splice: tuple[int, int, bytes] | None, fit: bool, cut: int
) -> None:
    damaged = bytearray(SMALL)
    for place, value in flips:
        damaged[place] = value
    if splice is not None:
        place, removed, put = splice
        damaged[place : place + removed] = put
        if fit:  # the header grows by what was put in, so that the damage is within it
            damaged[:8] = (len(damaged) - 12 - 8).to_bytes(8, "little", signed=True)[:8]
    raw = bytes(damaged if splice or flips else damaged[:cut])
    try:
        layout = layout_of(raw)
    except DamagedError:
        return
    if any(tensor.dtype not in DTYPES for tensor in layout.tensors):
        return
    assert values(layout, raw) == reference_of(raw)
