"""The front of a packed file: both headers, read and compared with each other before anything else is."""

from __future__ import annotations

from dataclasses import dataclass

from mc import blob
from mc.checkpoint import LONGEST_HEADER, Layout, check_begins, parse_layout
from mc.errors import DamagedError, quote
from mc.manifest import SAME, Packed, is_packed, read_packed
from mc.streams import Sequential


@dataclass(frozen=True)
class Opening:
    """The front of a packed file: its header and the original's."""

    packed: Packed
    original: Layout


def open_packed(stream: Sequential, size: int | None) -> Opening:
    """Read and check both headers from the front of a packed file of `size` bytes (None: a pipe, not known yet)."""
    where = stream.where
    length = int.from_bytes(stream.take(8), "little")
    if length > LONGEST_HEADER or (size is not None and length > size - 8):
        raise DamagedError(f"{where} claims a header of {length} bytes: it is no whole packed file. Fetch it again.")
    prefix = length.to_bytes(8, "little") + bytes(stream.take(length))
    check_begins(prefix, where)
    layout = parse_layout(prefix, size, where)
    if not is_packed(layout, where):
        raise DamagedError(f"{where} is a plain safetensors file, not a packed one. There is nothing to unpack.")
    packed = read_packed(layout, where)
    try:
        original = blob.read_reserved(stream.take(packed.reserved.stop - packed.reserved.start))
    except DamagedError as error:
        raise DamagedError(f"{where}: {error}") from error
    return Opening(packed, _original_layout(original, packed, where))


def _original_layout(prefix: bytes, packed: Packed, where: str) -> Layout:
    manifest = packed.manifest
    if int.from_bytes(prefix[:8], "little") != len(prefix) - 8:
        raise DamagedError(f"{where}: the original header isn't as long as it says")
    layout = parse_layout(prefix, manifest.size, f"{where}: the original header")
    entries = manifest.entries
    if [tensor[:3] for tensor in layout.tensors] != [(name, *entry[:2]) for name, entry in entries.items()]:
        raise DamagedError(f"{where}: the manifest lists other tensors than the original header")
    sizes = {tensor.name: tensor.stop - tensor.start for tensor in layout.tensors}
    for tensor, stored, entry in zip(layout.tensors, packed.blobs, entries.values(), strict=True):
        size, coded = tensor.stop - tensor.start, stored.stop - stored.start
        if entry.coding == SAME:
            if sizes[entry.why] != size:
                raise DamagedError(
                    f"{where}: tensor {quote(tensor.name)} can't be the same as {quote(entry.why)}: sizes differ"
                )
        elif size > blob.most_decoded(coded):
            raise DamagedError(f"{where}: tensor {quote(tensor.name)} has too few bytes for the {size} it claims")
        elif (coded == 0) != (size == 0):
            raise DamagedError(
                f"{where}: tensor {quote(tensor.name)} has a blob where it is empty, or none where it isn't"
            )
    return layout
