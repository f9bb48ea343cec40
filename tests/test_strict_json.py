"""JSON from outside has one meaning, however it is read: at once, or word by word where it might have two."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mc.errors import DamagedError
from mc.strict_json import parse_json

NUMBERS = (
    "0", "-0", "-0.0", "1", "7e0", "1E5", "1e-5", "1e-05", "1e999", "0.1", "0.10", "9007199254740993.0", "1e16",
    "9223372036854775808", "18446744073709551615", "18446744073709551616", "-9223372036854775809",
    "123456789012345678901", "0.12345678901234567890123", "NaN", "-Infinity", "01",
)  # fmt: skip
KEYS = ('"a"', '"b"', '"\\u0061"', '"é"', '"\\ud800"')
WORDS = ("true", "null", '"a\x7fb"', '"\\/"', '"\x01"', '"\\u0001"', '"\u2028"')
escaped = st.text(max_size=5).map(json.dumps)
plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=5).map('"{}"'.format)
scalars = st.sampled_from((*NUMBERS, *KEYS, *WORDS)) | escaped | plain


def _nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(st.sampled_from(KEYS), inner).map(":".join)
    listed = st.lists(inner, max_size=4).map(",".join)
    return listed.map("[{}]".format) | st.lists(pairs, max_size=4).map(",".join).map("{{{}}}".format)


@given(st.recursive(scalars, _nested, max_leaves=12), st.sampled_from(("", " ", "\n", "\0", ",")))
@settings(max_examples=2000, deadline=None)
@example('{"a":1,"a":1}', "")
@example('[{"a":1,"\\u0061":1}]', "  ")
def test_what_is_read_at_once_is_what_is_read_word_by_word(text: str, behind: str) -> None:
    """A space before it has every text read word by word."""
    found = []
    for whole in (text + behind, " " + text + behind):
        try:
            found.append(repr(parse_json(whole.encode("utf-8"), "it")))
        except DamagedError as error:  # places are counted from the beginning
            found.append(re.sub(r"(character|offset) (\d+)", r"\1", str(error)))
    assert found[0] == found[1]


def test_minus_zero_is_a_float() -> None:
    assert repr(parse_json(b'{"a":-0}', "it")) == "{'a': -0.0}"


@pytest.mark.parametrize("text", ['{"a":1,"a":1}', '{"a":1e999}', '{"a":"\\ud800"}', "[" * 2000 + "]" * 2000])
def test_texts_without_one_meaning_are_refused(text: str) -> None:
    with pytest.raises(DamagedError, match=r"it (has|holds|nests)"):
        parse_json(text.encode(), "it")
