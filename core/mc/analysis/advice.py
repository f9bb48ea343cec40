"""What to do with a tensor, in sentences that carry the figures they rest on."""

from __future__ import annotations

from mc.analysis.bits import Bits, largest_gain
from mc.analysis.bounds import Bounds
from mc.analysis.fits import Fit
from mc.analysis.moments import Moments
from mc.analysis.structure import Structure
from mc.errors import quote

FEW = 4096  # words below which nothing is worth a change
WORTH = 0.02  # bits per word from which row and column contexts are
OUTLIERS = 30  # largest magnitude / RMS from which one scale for all is a poor idea
HEAVY = 3.0  # excess kurtosis


def advise(
    dtype: str, parameters: int, found: Moments, where: Bits, fits: tuple[Fit, ...] | None, built: Structure | None,
    limits: Bounds | None, predicted: dict[str, int] | None, nbytes: int,
) -> tuple[str, ...]:  # fmt: skip
    """Sentences about one tensor, what saves most first. Never empty."""
    if not nbytes:
        return ("Leave alone: it is empty.",)
    if where.duplicate_of is not None:
        return (f"Store once: it has the same bytes as {quote(where.duplicate_of)}.",)
    if where.constant and parameters == 1:
        return (f"Leave alone: it is a single number, {found.min:g}.",)
    if where.constant:
        return (f"Store one number: all {found.count} are {found.min:g}.",)
    said = [*_broken(found), *_narrower(dtype, where)]
    if parameters < FEW:
        return (*said, f"Leave alone: it has only {parameters} numbers, and errors in such tensors cost most.")
    said += _zeros(found)
    said += _contexts(where)
    said += _quantize(found, where, limits, fits)
    said += _structure(built)
    said += _whole_numbers(dtype, where, fits)
    if predicted is not None and predicted["best"] >= nbytes:
        said.append(f"Store as is: the best of three levels would take {predicted['best']} bytes of {nbytes}.")
    return tuple(said) or ("Leave alone: nothing was found that would save bits.",)


def _broken(found: Moments) -> list[str]:
    if not (found.nan or found.infinite):
        return []
    return [f"Look at it first: it holds {found.nan} NaN and {found.infinite} infinities."]


def _narrower(dtype: str, where: Bits) -> list[str]:
    if dtype == "C64":  # there is no narrower complex dtype
        return []
    for one in sorted(where.narrower, key=lambda one: (-one.share, one.dtype)):
        if one.share == 1:
            return [f"Is {dtype} that fits {one.dtype}: every number is one exactly, so casting loses nothing."]
        if one.share >= 0.01:
            return [f"Is partly {one.dtype}: {one.share:.0%} of it, {one.rows} rows, fit that exactly; pack sees it."]
    return []


def _zeros(found: Moments) -> list[str]:
    share = found.zeros / found.count if found.count else 0
    if share < 0.2:
        return []
    return [f"Is sparse already: {share:.0%} are zero, which entropy coding takes for almost nothing."]


def _contexts(where: Bits) -> list[str]:
    gain = largest_gain(where)
    if gain < WORTH or where.joint is None:
        return []
    return [
        f"Code with row contexts: scales of rows and columns save {gain:.2f} of {where.joint:.2f} bits a weight "
        f"(their own {where.scale_cost:.3f} bits counted)."
    ]


def _quantize(found: Moments, where: Bits, limits: Bounds | None, fits: tuple[Fit, ...] | None) -> list[str]:
    if limits is None or found.peak_to_rms is None or found.excess_kurtosis is None:
        return []
    b = limits.empirical["30"]
    if where.joint is not None and where.joint < b + 0.5:
        return [f"Don't quantize further: it has {where.joint:.2f} bits of entropy, and 30 dB need {b:.2f}."]
    shape = f"it looks like {_named(fits[0].model)} (KS {fits[0].ks:.3f})" if fits else "its shape fits no model"
    caution = ""
    if found.peak_to_rms > OUTLIERS:
        caution = f"; its largest weight is {found.peak_to_rms:.0f} times the RMS, so use escapes or scales for rows"
    elif found.excess_kurtosis > HEAVY:
        caution = f"; its tails are heavy (excess kurtosis {found.excess_kurtosis:.1f}), so clip nothing"
    return [
        f"Quantize at about {b + 0.25:.1f} bits for 30 dB ({limits.empirical['20'] + 0.25:.1f} for 20 dB): "
        f"the bound is {b:.2f}, a scalar grid with entropy coding needs 0.25 more; {shape}{caution}."
    ]


def _named(model: str) -> str:
    return f"{'an' if model[0] in 'aeiou' else 'a'} {model}"


def _structure(built: Structure | None) -> list[str]:
    if built is None:
        return []
    said = []
    if built.low_rank_best is not None and (built.low_rank_gain or 0) > 0:
        said.append(
            f"Factor at rank {built.low_rank_best}: that saves {built.low_rank_gain:.2f} bits a weight over quantizing "
            f"to the same error (effective rank {built.effective_rank:.0f} of {min(built.rows, built.columns)})."
        )
    if built.sparse_kept is not None and (built.sparse_gain or 0) > 0:
        said.append(
            f"Prune to {built.sparse_kept:.1%}: keeping the largest weights saves {built.sparse_gain:.2f} bits a "
            "weight over quantizing to the same error."
        )
    return said


def _whole_numbers(dtype: str, where: Bits, fits: tuple[Fit, ...] | None) -> list[str]:
    if where.sign is not None or where.joint is None or not fits:
        return []
    if where.joint > 0.95 * where.word:
        return [f"Store as is: {where.joint:.2f} of its {where.word:.0f} bits are used."]
    return [
        f"Code at its entropy: {where.joint:.2f} of {where.word:.0f} bits a number, {where.distinct} different ones; "
        f"{_named(fits[0].model)} would lose {max(0.0, fits[0].lost_bits):.2f} bits."
    ]
