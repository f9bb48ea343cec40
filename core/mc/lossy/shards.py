"""A checkpoint as the files that hold it: one, or the shards of a folder, whose tensors meet a limit together."""

from __future__ import annotations

from collections.abc import Sequence

from mc.checkpoint import Layout, Source, Tensor
from mc.errors import McError, quote
from mc.lossy.requests import Target

Files = Sequence[tuple[Source, Layout]]
Held = tuple[Source, Tensor]  # a tensor, and the file that it is in


def tensors_of(files: Files) -> list[Held]:
    """All tensors, in order of files and of data."""
    return [(source, tensor) for source, layout in files for tensor in layout.tensors]


def held_bytes(held: Held) -> int:
    """The bytes of a tensor."""
    return held[1].stop - held[1].start


def checkpoints(files: Files, target: Target | None) -> list[Files]:
    """The files as one checkpoint; or each as one of its own, where two hold tensors of one name. McError if these are
    to meet a limit together: it is of one checkpoint."""
    first: dict[str, str] = {}
    for source, tensor in tensors_of(files):
        if first.setdefault(tensor.name, source.where) != source.where:
            if target is not None and (target.kind != "error" or target.overall):
                raise McError(
                    f"{source.where} has a tensor {quote(tensor.name)}, and so has {first[tensor.name]}: two "
                    "checkpoints in one folder, which can't meet a limit together. Give --max-error, which is of each "
                    "tensor, or take one file at a time."
                )
            return [[one] for one in files]
    return [files]
