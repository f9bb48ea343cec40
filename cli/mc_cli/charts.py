"""Pictures in text: a histogram in a cell, a large one with a curve, bars, and names cut to a width."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

BLOCKS: Final = " ▁▂▃▄▅▆▇█"
ACROSS: Final = " ▏▎▍▌▋▊▉█"


def spark(counts: Sequence[float], width: int) -> str:
    """Counts as one line of `width` blocks, the highest full."""
    heights = folded(counts, width)
    top = max(heights, default=0)
    if top <= 0:
        return " " * width
    return "".join(BLOCKS[max(1, round(8 * height / top)) if height > 0 else 0] for height in heights)


def folded(counts: Sequence[float], width: int) -> list[float]:
    """Counts summed into `width` columns of equal width."""
    edges = [round(k * len(counts) / width) for k in range(width + 1)]
    return [sum(counts[a:b]) for a, b in pairwise(edges)]


def plot(counts: Sequence[float], curve: Sequence[float] | None, width: int, height: int) -> list[str]:
    """A histogram of `height` lines, with a curve of expected counts drawn over it as dots."""
    bars = folded(counts, width)
    dots = folded(curve, width) if curve is not None else None
    top = max([*bars, *(dots or ())], default=0) or 1
    lines = []
    for row in range(height, 0, -1):
        cells = []
        for k, bar in enumerate(bars):
            level = bar / top * height
            cell = "█" if level >= row else BLOCKS[max(0, round(8 * (level - row + 1)))] if level > row - 1 else " "
            if dots is not None and row - 1 <= dots[k] / top * height < row:
                cell = "•"
            cells.append(cell)
        lines.append("".join(cells).rstrip())
    return lines


def bar(share: float, width: int) -> str:
    """A share from 0 to 1 as a horizontal bar."""
    eighths = round(8 * width * min(1.0, max(0.0, share)))
    return ("█" * (eighths // 8) + ACROSS[eighths % 8]).strip().ljust(width)


def shortened(name: str, width: int) -> str:
    """A name that is too long, without its middle."""
    if len(name) <= width:
        return name
    left = (width - 1) // 3
    return f"{name[:left]}…{name[-(width - 1 - left) :]}" if width > 1 else "…"


def figure(value: float | None, digits: int = 3) -> str:
    """A number in few characters; - where there is none."""
    if value is None:
        return "-"
    return f"{value:.{digits}g}"
