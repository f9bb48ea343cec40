"""What a trellis would give, from some rows of each tensor: where a search of its step begins."""

from __future__ import annotations

from collections.abc import Sequence

from mc.lossy import arrays, trellises
from mc.lossy.files import naming, read_array
from mc.lossy.passes import Job, framed
from mc.lossy.shards import Held, held_bytes
from mc.parallel import Workers

SAMPLE = 1 << 16  # weights of a tensor, at least: bits and error are right to about one in a hundred


def estimated(job: Job, tensors: Sequence[Held], step: float, work: Workers) -> tuple[float, float]:
    """Squared error over all tensors, relative to their squares, and their bits, with trellises of this relative
    step."""

    def estimate(held: Held) -> tuple[float, float, float]:
        source, tensor = held
        with naming(source.where, tensor.name):
            w = arrays.as_matrix(read_array(source, tensor), tensor.dtype, tensor.shape)
            request = job.wanted[tensor.name]
            _, frame = framed(tensor.name, w, request, job)
            if frame is None:
                raise ValueError(f"{tensor.name} has no step")
            every = max(1, w.size // SAMPLE)
            absolute = arrays.absolute_step(step, frame) * trellises.AS_GRID
            sums = trellises.estimate(w, frame, absolute, request.effort, min(every, len(w)))
            share = len(w) / -(-len(w) // min(every, len(w)))
            return sums[0] * share, sums[1] * share, sums[2] * share

    found = list(work.each(estimate, tensors, held_bytes))
    error, power, bits = (sum(one[k] for one in found) for k in range(3))
    return (error / power if power else 0.0), bits


def only_trellises(job: Job, tensors: Sequence[Held]) -> bool:
    """Whether the estimates hold for all of these."""
    return all(job.wanted[tensor.name].kind == "trellis" for _, tensor in tensors)


def expected_rest(tensors: Sequence[Held], stepped: Sequence[Held]) -> float:
    """About the packed bytes of all other tensors: four fifths of what they take."""
    inside = {tensor.name for _, tensor in stepped}
    return 0.8 * sum(held_bytes(one) for one in tensors if one[1].name not in inside)
