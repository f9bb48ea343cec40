"""Targets met: the step of a grid with which an error or a size is just not exceeded, found by exact trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, prod, sqrt

from mc.checkpoint import Layout, Source
from mc.errors import LimitError, UsageError
from mc.lossy import arrays, grids
from mc.lossy.files import naming, read_array
from mc.lossy.passes import Job, framed, results, wider, write
from mc.lossy.requests import STEPPED, Target
from mc.lossy.sampling import estimated, expected_rest, only_trellises
from mc.lossy.shards import Files, Held, held_bytes, tensors_of
from mc.lossy.sizes import packed_parts
from mc.parallel import Workers
from mc.recipe import WEIGHED
from mc.scratch import scratch

CLOSE = 0.995  # of a limit: near enough
CLOSER = 0.997  # the same of one tensor's error, as its search begins near by: .02 % of the size
ROUNDS = 24  # of a search, at most; it takes about five
LOOKED_AT, LEAST_ROWS = 1 << 15, 16  # weights and rows, at least, that a search for one tensor's step begins with
WIDEST = 64.0  # deviations in a step, where a search starts
STILL = 4.0  # times as wide a step that makes nothing smaller: there is nothing left
FINEST = 2.0**-23  # the same, where it ends: weights of f32 tell no more, and integers must not run out


def steps_for(where: str, files: Files, job: Job, work: Workers) -> dict[str, float]:
    """Relative steps by tensor, of all schemes that have one, so that the target is met: over all tensors of all files,
    where it is no limit of each. `where` names the whole."""
    gridded = [
        held
        for held in tensors_of(files)
        if (request := job.wanted.get(held[1].name)) is not None and request.kind in STEPPED
    ]
    target = job.target
    if not gridded:
        if target is not None and target.kind != "error":
            raise UsageError("A size can be met with grid, trellis and mantissa alone; other schemes have theirs.")
        return {}
    if target is None:
        raise UsageError(
            "The schemes grid, trellis and mantissa need a target: --bits, --max-error, --snr or --target-size."
        )
    if target.kind == "error" and not target.overall:
        return dict(work.each(lambda held: (held[1].name, _step_for(held, job, target.value)), gridded))
    if target.kind == "error":
        return _every(gridded, _meet_error(files, job, target.value, gridded, work))
    return _every(gridded, _meet_size(where, files, job, target, gridded, work))


def _every(gridded: Sequence[Held], step: float) -> dict[str, float]:
    return {tensor.name: step for _, tensor in gridded}


def _step_for(held: Held, job: Job, limit: float) -> float:
    """The relative step with which one tensor's error is just below the limit."""
    source, tensor = held
    with naming(source.where, tensor.name):
        w = arrays.as_matrix(read_array(source, tensor), tensor.dtype, tensor.shape)
        objective, frame = framed(tensor.name, w, job.wanted[tensor.name], job)

        def error(step: float, every: int = 1) -> float:
            some = w[::every]
            of = frame and grids.at_rows(frame, slice(None, None, every))
            shape = some.shape if every > 1 else tensor.shape
            found = arrays.quantize(
                tensor.name, some, tensor.dtype, shape, job.wanted[tensor.name], job.seed, step, objective, of,
                tensor.name in job.pruned,
            )  # fmt: skip
            return found.about.error

        scale = sqrt(float(frame.row_power.mean())) / frame.largest if frame and frame.unit else 1.0
        near = _near(job, [held], limit, sqrt(12 * limit) * scale, Workers(None, 1))
        every = min(w.size // LOOKED_AT, len(w) // LEAST_ROWS)
        if every > 1 and not only_trellises(job, [held]):
            near = _widest(lambda step: error(step, every), limit, near) or near
        return _widest(error, limit, near, CLOSER)


def _meet_error(files: Files, job: Job, limit: float, gridded: Sequence[Held], work: Workers) -> float:
    """The relative step with which the error over all is just below the limit."""

    def error(step: float) -> float:
        sums = [
            (found.error, found.power)
            for source, layout in files
            for _, found in results(source, layout, job, _every(gridded, step), work)
            if found
        ]
        power = sum(one for _, one in sums)
        return sum(one for one, _ in sums) / power if power else 0.0

    start = sqrt(12 * limit) * _typical(job, gridded, work)
    return _widest(error, limit, _near(job, gridded, limit, start, work))


def _near(job: Job, gridded: Sequence[Held], limit: float, start: float, work: Workers) -> float:
    """A step near the wanted one: of trellises, by the error of some rows; of others `start` itself."""
    if not only_trellises(job, gridded):
        return start
    return _widest(lambda step: estimated(job, gridded, step, work)[0], limit, start) or start


def _typical(job: Job, gridded: Sequence[Held], work: Workers) -> float:
    """About the relative step that is the weights' deviation."""
    if job.objective in WEIGHED:
        return 1 / wider(max(prod(tensor.shape) for _, tensor in gridded))
    if job.objective == "tensor":
        return 1.0

    def power(held: Held) -> tuple[float, int]:
        source, tensor = held
        with naming(source.where, tensor.name):
            w = arrays.as_matrix(read_array(source, tensor), tensor.dtype, tensor.shape)
            frame = grids.frame(w, job.objective, False)
            mean = float(frame.row_power.mean())
            return (mean / frame.largest**2 if frame.unit else 0.0) * w.size, w.size

    found = list(work.each(power, gridded, held_bytes))
    total = sum(one for one, _ in found)
    return sqrt(total / sum(size for _, size in found)) if total else 1.0


def _widest(error: Callable[[float], float], limit: float, start: float, close: float = CLOSE) -> float:
    """The widest step whose error is at most `limit`, and `close` of it where any is. The error grows about with the
    square of the step, so each trial aims anew; between two that bracket the limit it halves where that fails."""
    low, high = 0.0, inf  # steps below and above the limit
    step = start
    for _ in range(ROUNDS):
        found = error(step)
        if found <= limit:
            low = step
            if found >= close * limit or found == 0:
                break
        else:
            high = step
        aimed = step * sqrt(0.9985 * limit / found) if found else 2 * step
        inside = low < aimed < high
        step = aimed if inside else sqrt(low * high) if low and high < inf else step * (0.5 if found > limit else 2.0)
    return low


def _meet_size(where: str, files: Files, job: Job, target: Target, gridded: Sequence[Held], work: Workers) -> float:
    """The finest relative step with which the packed bytes are at most what the target allows."""
    weights = sum(prod(tensor.shape) for _, tensor in tensors_of(files) if tensor.name in job.wanted)
    free = sum(prod(tensor.shape) for _, tensor in gridded)
    limit = target.value * weights / 8 if target.kind == "bits" else target.value

    def packed_one(source: Source, layout: Layout, step: float) -> int:
        with scratch() as out:
            made = write(source, layout, job, _every(gridded, step), out, work, lambda _: None, trial=True)
            out.flush()
            parts, size = packed_parts(Source.of(out, source.where), made.recipe, job.level, work)
        return size if target.kind == "size" else sum(one.packed_bytes for one in parts.values())

    names = {tensor.name for _, tensor in gridded}
    stepped = [one for one in files if any(tensor.name in names for tensor in one[1].tensors)]
    fixed = sum(packed_one(*one, 0.0) for one in files if one not in stepped)  # whatever the step

    def packed(step: float) -> int:
        return fixed + sum(packed_one(*one, step) for one in stepped)

    typical = _typical(job, gridded, work)
    finest = FINEST * typical
    step: float = typical * max(FINEST, min(WIDEST, 3.5 * 2.0 ** -min(8 * limit / weights, 64.0)))
    if only_trellises(job, gridded):
        rest = expected_rest(tensors_of(files), gridded) if target.kind == "size" else 0.0
        near, _ = finest_step(lambda step: rest + estimated(job, gridded, step, work)[1] / 8, limit, free, step, finest)
        step = near if near < inf else step
    high, least = finest_step(packed, limit, free, step, finest)
    if high == inf:
        raise LimitError(
            f"{where} takes at least {int(least)} bytes, and the target allows {int(limit)}. "
            "Ask for more, or keep fewer tensors."
        )
    return high


def finest_step(
    size: Callable[[float], float], limit: float, free: int, step: float, finest: float
) -> tuple[float, float]:
    """The finest step, within half a per cent of the limit, that takes at most `limit` bytes, infinite if there is
    none; and the least bytes that were seen. Each trial aims anew from `step` on, for `free` weights; none is below
    `finest`."""
    low, high = 0.0, inf  # steps that take too many bytes, and few enough
    least, first = inf, step  # bytes, and the step that they were seen at first
    for _ in range(ROUNDS):
        found = size(step)
        if limit < found and high == inf and found >= least and step >= STILL * first:
            break  # all integers are zero: wider steps make nothing smaller
        if found < least:
            least, first = found, step
        if found <= limit:
            high = step
            if found >= CLOSE * limit or step <= finest:
                break
        else:
            low = step
        # A bit a weight for each octave of the step; fewer where the rate is low, hence the bracket.
        change = (found - 0.998 * limit) * 8 / free
        aimed = step * 2.0 ** min(max(change if found > free / 16 else 2 * change, -4), 4)
        step = (
            aimed
            if low < aimed < high
            else sqrt(low * high)
            if low and high < inf
            else step * (2 if found > limit else 0.5)
        )
        step = max(step, finest)
        if low and high < inf and high / low < 1 + 1e-9:
            break
    return high, least
