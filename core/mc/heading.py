"""What is settled before the first tensor is coded: how long the header will be, and which tensors stay as they are.

The header is written last and its room is reserved first, so what varies in it has a greatest length.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mc import blob
from mc.checkpoint import Tensor
from mc.codec.planes import GEOMETRIES
from mc.manifest import SAME, Entry, Manifest, write_header

WHOLE = 1 << 22  # bytes of a tensor up to which it is one piece of work, read once
LONGEST_NAME = 15  # characters of a coding's name
LONGEST_NOTE, LONGEST_FLOAT_NOTE = 56, 36  # characters of the figures that explain a choice
COMPARED_FROM = 4096  # bytes of a tensor below which a choice isn't explained
# Choosing a code takes as long for a bias as for a matrix. Where tensors below COMPARED_FROM make less than one in
# TRIFLE bytes of the file, all levels but `best` leave them as they are.
TRIFLE = 512
# At `best`, tables of small float tensors outweigh what its coder saves; those of `default` take half. Where tensors
# below FEW bytes make less than one in FEW_SHARE bytes of the file they are coded as all are: other loops would have to
# be compiled for them.
FEW, FEW_SHARE = 1 << 15, 64


def header_room(
    tensors: Sequence[Tensor], whole: int, twins: dict[str, str], level: str, reserved: int,
    quantized: Mapping[str, Mapping[str, object]] | None = None, plan: dict[str, Any] | None = None,
) -> int:  # fmt: skip
    """Bytes that the header of a packed file takes, whatever becomes of the tensors of the original of `whole` bytes.
    twins: tensors stored once, the later one's name by the earlier one's; reserved: bytes of the reserved tensor;
    quantized: what is said of quantized tensors, at its longest; plan: what the manifest holds of it."""
    entries, sizes = {}, []
    for tensor in tensors:
        nbytes = tensor.stop - tensor.start
        name, note = "c" * LONGEST_NAME, "w" * longest_note(tensor, level)
        if tensor.name in twins:
            name, note = SAME, twins[tensor.name]
        entries[tensor.name] = Entry(tensor.dtype, tensor.shape, name, note)
        sizes.append(0 if not nbytes or tensor.name in twins else most_packed(nbytes))
    return len(write_header(Manifest("0" * 64, whole, level, entries, quantized or {}, plan), reserved, sizes))


def most_packed(nbytes: int) -> int:
    """Bytes that no blob of a tensor exceeds: small ones fall back to raw as a whole, large ones chunk by chunk, which
    are at least 128 KiB long, after a head that was expected to pay."""
    return nbytes + blob.overhead(1 + nbytes // (1 << 17)) + (1 if nbytes <= WHOLE else nbytes // 4)


def longest_note(tensor: Tensor, level: str) -> int:
    """Characters that the explanation of a tensor's coding may have: none where nothing is compared."""
    if tensor.stop - tensor.start < COMPARED_FROM:
        return 0
    return LONGEST_NOTE if tensor.dtype not in GEOMETRIES else 0 if level == "fast" else LONGEST_FLOAT_NOTE


def coded_from(sizes: Iterable[int], whole: int, level: str) -> int:
    """Bytes of a tensor from which it is coded; smaller ones are left as they are. sizes: of all tensors of a file of
    `whole` bytes."""
    little = sum(size for size in sizes if size < COMPARED_FROM)
    return COMPARED_FROM if level != "best" and little * TRIFLE < whole else 0


def few_below(sizes: Iterable[int], whole: int, level: str) -> int:
    """Bytes of a float tensor below which it is coded as at `default`. sizes: of all tensors of a file of `whole`
    bytes."""
    return FEW if level == "best" and FEW_SHARE * sum(size for size in sizes if size < FEW) >= whole else 0
