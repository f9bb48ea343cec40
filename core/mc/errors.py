"""What can go wrong, sorted by who has to act: the exit code of the command follows the class.

Every message is whole sentences that say what was being read, what was found, what was expected and what to
do.
"""

from __future__ import annotations

from typing import ClassVar


class McError(Exception):
    """Refused, or the system would not do it (exit code 1)."""

    exit_code: ClassVar[int] = 1


class UsageError(McError):
    """The options or arguments do not make sense (exit code 2)."""

    exit_code: ClassVar[int] = 2


class DamagedError(McError):
    """The bytes exist and are damaged, or are not what they claim to be (exit code 3)."""

    exit_code: ClassVar[int] = 3


class LimitError(McError):
    """A limit that was asked for was not met (exit code 4)."""

    exit_code: ClassVar[int] = 4


def quote(text: str, limit: int = 80) -> str:
    """`text` as one printable line in quotes, of at most about `limit` characters.

    Names come from files and may hold anything: control characters are escaped, long ones lose their middle.
    """
    if len(text) > limit:
        text = f"{text[: limit - 20]}...{text[-17:]}"
    return repr(text)


def reason(error: OSError) -> str:
    """The system's words for `error`, without number and path: 'Permission denied'."""
    return error.strerror or type(error).__name__
