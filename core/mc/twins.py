"""Tensors that have the same bytes, such as tied weights: in one file they are stored once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import xxhash

from mc.checkpoint import Layout, Source, Tensor

FINGERPRINT = 256  # bytes at each of three places that two tensors must share to be compared
COMPARED = 1 << 20  # bytes compared at once
MOST_COMPARED = 4  # different tensors of one fingerprint that a further one is compared with


def find_twins(source: Source, layout: Layout) -> dict[str, str]:
    """Tensors whose bytes are those of an earlier one, of any dtype and shape: its name by theirs."""
    return _found([(source, tensor) for tensor in layout.tensors], lambda tensor: None)


def find_tied(files: Sequence[tuple[Source, Layout]]) -> dict[str, str]:
    """Tensors that are an earlier one once more, dtype and shape included, so that what is done to that can be done to
    them; of several files, whose tensors have names of their own, an earlier one may be in an earlier file."""
    listed = [(source, tensor) for source, layout in files for tensor in layout.tensors]
    return _found(listed, lambda tensor: (tensor.dtype, tensor.shape))


def tied_with(name: str, twins: Mapping[str, str]) -> list[str]:
    """A tensor and all that it is tied to, the earliest first."""
    first = twins.get(name, name)
    return [first, *(other for other, one in twins.items() if one == first)]


def _found(listed: Sequence[tuple[Source, Tensor]], kind: Callable[[Tensor], object]) -> dict[str, str]:
    """The first tensor of its kind with the same bytes, by name. A fingerprint of the first, middle and last bytes
    sorts out the candidates; only a comparison of all bytes decides."""
    twins: dict[str, str] = {}
    alike: dict[tuple[object, int, int], list[tuple[Source, Tensor]]] = {}
    for source, tensor in listed:
        nbytes = tensor.stop - tensor.start
        if nbytes == 0:
            continue
        digest = xxhash.xxh3_64()
        for at in (0, nbytes // 2, nbytes - min(nbytes, FINGERPRINT)):
            digest.update(source.read(tensor.start + at, tensor.start + min(at + FINGERPRINT, nbytes)))
        earlier = alike.setdefault((kind(tensor), nbytes, digest.intdigest()), [])
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
