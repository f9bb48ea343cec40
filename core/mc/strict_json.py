"""JSON from outside, read without surprises: any bytes parse to one meaning or are refused.

Python's own reader lets duplicate keys, NaN, lone surrogates and numbers of any length pass, makes 1e999 infinite, and
answers deep nesting with RecursionError. Here each of these is a DamagedError that says what was found.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from math import isinf

import orjson

from mc.errors import DamagedError, quote

_LONGEST_INTEGER = 20  # characters: the sign and digits of any 64-bit integer
_DIGITS_AS_ZEROS = bytes(48 if 48 <= byte < 58 else byte for byte in range(256))


def parse_json(text: bytes | memoryview, what: str) -> object:
    """The value that `text` holds, with objects as dict and arrays as list.

    `what` opens every message: "model.safetensors: the header". Integers have at most 20 characters,
    and "-0" is a float, as it is to other readers. All strings can be encoded as UTF-8. Raises DamagedError.
    """

    def check(value: object) -> None:
        """Every text in it, keys too."""
        if isinstance(value, dict):
            for key, held in value.items():
                check(key)
                check(held)
        elif isinstance(value, list):
            for held in value:
                check(held)
        elif isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise DamagedError(
                    f"{what} holds the text {quote(value)}, with half of a surrogate pair, which stands for "
                    "no character. It has to be written again."
                ) from None

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise DamagedError(
                f"{what} has the key {quote(twice)} twice in one object, so it has no single meaning. "
                "It has to be written again with every key once."
            )
        return found

    def integer(digits: str) -> int | float:
        if len(digits) > _LONGEST_INTEGER:
            raise DamagedError(
                f"{what} holds a number of {len(digits)} characters, {quote(digits, 40)}; no integer here "
                f"needs more than {_LONGEST_INTEGER}. It is damaged."
            )
        return -0.0 if digits == "-0" else int(digits)

    def real(digits: str) -> float:
        number = float(digits)
        if isinf(number):
            raise DamagedError(
                f"{what} holds the number {quote(digits, 40)}, which is beyond any float of 64 bits. It has to be "
                "written again."
            )
        return number

    def constant(name: str) -> object:
        raise DamagedError(f"{what} holds the word {name}, which is not JSON. It has to be written again.")

    raw = bytes(text)
    # What is written again as it stands has each key once, whole characters alone and no number that others read in
    # another way. Most headers are such, and are read in a third of the time.
    with suppress(orjson.JSONDecodeError, orjson.JSONEncodeError):
        value: object = orjson.loads(raw)
        if orjson.dumps(value) == raw.rstrip(b" "):
            return value
    try:
        decoded = str(text, "utf-8")
    except UnicodeDecodeError as error:
        raise DamagedError(
            f"{what} is not UTF-8 text: byte 0x{error.object[error.start]:02x} at offset {error.start} "
            f"({error.reason}). It is damaged or was never JSON."
        ) from None
    try:
        # A header is mostly integers: where none can be too long or "-0", they are read without a call for each.
        # Looking for one character takes a tenth of the time that two take.
        digits = raw.translate(_DIGITS_AS_ZEROS)
        whole = integer if (b"-" in digits and b"-0" in digits) or b"0" * _LONGEST_INTEGER in digits else int
        value = json.loads(
            decoded, object_pairs_hook=unique, parse_int=whole, parse_float=real, parse_constant=constant
        )
        if "\\" in decoded and "\\u" in decoded:  # half of a surrogate pair can only come from an escape
            check(value)
        return value
    except json.JSONDecodeError as error:
        raise DamagedError(
            f"{what} is not valid JSON: {error.msg} at character {error.pos}. It is damaged or was cut."
        ) from None
    except RecursionError:
        raise DamagedError(
            f"{what} nests lists or objects too deeply to be read; it needs three levels. It is damaged."
        ) from None


def describe(value: object) -> str:
    """What `value` is, short enough for a message: its text if it is plain, else 'a list' or 'an object'."""
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, list) and len(value) <= 8 and all(isinstance(item, int | float) for item in value):
        return json.dumps(value)
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    return json.dumps(value)
