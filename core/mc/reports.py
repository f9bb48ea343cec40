"""What an operation did, as plain data: `dataclasses.asdict` of any of these goes straight to JSON.

All sizes are bytes; every sha256 is 64 lower-case hexadecimal digits, the number that `sha256sum` shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class TensorReport:
    """How one tensor was packed."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    packed_bytes: int
    coding: str
    why: str
    head_bytes: int = 0  # of the packed ones, what all chunks share: contexts and tables


@dataclass(frozen=True)
class FileReport:
    """One file that was packed."""

    source: str
    target: str
    bytes: int
    packed_bytes: int
    sha256: str  # of the original
    tensors: tuple[TensorReport, ...]


@dataclass(frozen=True)
class PackReport:
    """Every shard that was packed, in order."""

    files: tuple[FileReport, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all originals."""
        return sum(file.bytes for file in self.files)

    @property
    def packed_bytes(self) -> int:
        """Bytes of all packed files."""
        return sum(file.packed_bytes for file in self.files)


@dataclass(frozen=True)
class RestoredFile:
    """One file that was unpacked."""

    source: str
    target: str
    bytes: int
    packed_bytes: int
    sha256: str  # of the original, as the manifest says
    checked: bool  # whether what was written was compared with it


@dataclass(frozen=True)
class UnpackReport:
    """Every shard that was unpacked, in order."""

    files: tuple[RestoredFile, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all restored files."""
        return sum(file.bytes for file in self.files)

    @property
    def packed_bytes(self) -> int:
        """Bytes of all packed files."""
        return sum(file.packed_bytes for file in self.files)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    file: str
    tensor: str | None
    place: str  # what was being looked at: "header", "index", a chunk
    message: str  # whole sentences


@dataclass(frozen=True)
class VerifiedFile:
    """One file that was checked."""

    path: str
    kind: Literal["packed", "plain"]
    bytes: int
    tensors: int
    chunks: int
    sha256: str | None  # of the original, if the check computed it
    quantized: Mapping[str, Mapping[str, object]] = field(default_factory=dict)  # scheme, error ... by tensor


@dataclass(frozen=True)
class VerifyReport:
    """All that was checked, and all that was found wrong."""

    files: tuple[VerifiedFile, ...]
    findings: tuple[Finding, ...]

    @property
    def intact(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.findings
