"""Tensors that have the same bytes, such as tied weights: in one file they are stored once."""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from mc.checkpoint import Layout, Source, Tensor

FINGERPRINT = 256  # bytes at each of three places that two tensors must share to be compared
COMPARED = 1 << 20  # bytes compared at once
MOST_COMPARED = 4  # different tensors of one fingerprint that a further one is compared with


def find_twins(source: Source, layout: Layout) -> dict[str, str]:
    """Tensors whose bytes are those of an earlier one: its name by theirs. A fingerprint of the first, middle and
    last bytes sorts out the candidates; only a comparison of all bytes decides."""
    return find_twins_over([(source, layout)])


def find_twins_over(files: Sequence[tuple[Source, Layout]]) -> dict[str, str]:
    """The same of several files, whose tensors have names of their own: an earlier one may be in an earlier file."""
    twins: dict[str, str] = {}
    alike: dict[tuple[int, int], list[tuple[Source, Tensor]]] = {}
    for source, tensor in ((source, tensor) for source, layout in files for tensor in layout.tensors):
        nbytes = tensor.stop - tensor.start
        if nbytes == 0:
            continue
        digest = xxhash.xxh3_64()
        for at in (0, nbytes // 2, nbytes - min(nbytes, FINGERPRINT)):
            digest.update(source.read(tensor.start + at, tensor.start + min(at + FINGERPRINT, nbytes)))
        earlier = alike.setdefault((nbytes, digest.intdigest()), [])
        for theirs, other in earlier[:MOST_COMPARED]:
            if _equal(source, tensor, theirs, other):
                twins[tensor.name] = other.name
                break
        else:
            earlier.append((source, tensor))
    return twins


def _equal(source: Source, one: Tensor, theirs: Source, other: Tensor) -> bool:
    nbytes = one.stop - one.start
    return all(
        source.read(one.start + at, one.start + min(at + COMPARED, nbytes))
        == theirs.read(other.start + at, other.start + min(at + COMPARED, nbytes))
        for at in range(0, nbytes, COMPARED)
    )
