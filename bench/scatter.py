"""Draws one figure against another as a plain SVG, ratio against speed above all: panels in two columns, a log axis
below, every point named, lines between points of one kind.

Knows nothing of the benchmark: `draw` takes panels of named points and returns the text of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 400  # of one panel, with its title and axes
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 40, 50  # what title and axes take of it
FONT, CHARACTER = 12, 6.7  # points, and the width of a character, rounded up: a label must not be too short
RADIUS = 5
OURS, PEERS, INK, GRID, PAPER = "#c2410c", "#1d4ed8", "#1f2937", "#e5e7eb", "#fcfcfb"
GREY = "#6b7280"

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Point:
    name: str
    speed: float
    ratio: float
    ours: bool  # drawn in another colour, and joined by a line to the others of ours


@dataclass(frozen=True)
class Line:
    name: str  # stands at its first point
    at: Sequence[tuple[float, float]]  # where it is along the axis below, and beside
    ours: bool
    dashed: bool = False  # and without a mark at each point


@dataclass(frozen=True)
class Panel:
    title: str
    axis: str
    points: Sequence[Point]
    lines: Sequence[Line] = ()
    beside: str = "packed / original"


@dataclass(frozen=True)
class Scale:
    """Where speeds and ratios are in a panel, in its own coordinates."""

    slowest: float
    fastest: float
    lowest: float
    highest: float

    def x(self, speed: float) -> float:
        part = math.log(speed / self.slowest) / math.log(self.fastest / self.slowest)
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def y(self, ratio: float) -> float:
        part = (self.highest - ratio) / (self.highest - self.lowest)  # the smallest file stands highest
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)


def draw(panels: Sequence[Panel], caption: str) -> str:
    """The picture of all panels, two in a row, with a line of text below them."""
    rows = math.ceil(len(panels) / 2)
    width, height = min(len(panels), 2) * WIDTH, rows * HEIGHT + 28
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="{FONT}" fill="{INK}">',
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
    ]
    for number, panel in enumerate(panels):
        lines.append(f'<g transform="translate({number % 2 * WIDTH} {number // 2 * HEIGHT})">')
        lines += _panel(panel)
        lines.append("</g>")
    lines += [_text(width / 2, height - 12, caption, "middle", 'fill="#6b7280"'), "</svg>", ""]
    return "\n".join(lines)


def _panel(panel: Panel) -> Iterator[str]:
    named = [Point(line.name, *line.at[0], line.ours) for line in panel.lines]
    scale = _scale([*panel.points, *(Point("", *at, line.ours) for line in panel.lines for at in line.at)])
    yield _text(LEFT, TOP - 16, panel.title, "start", 'font-size="14" font-weight="600"')
    yield from _axes(scale, panel.axis, panel.beside)
    for line in panel.lines:
        yield from _line(line, scale)
    ours = sorted((point for point in panel.points if point.ours), key=lambda point: point.speed)
    if len(ours) > 1:
        path = " ".join(f"{scale.x(point.speed):.1f},{scale.y(point.ratio):.1f}" for point in ours)
        yield f'<polyline points="{path}" fill="none" stroke="{OURS}" stroke-width="1.5" opacity="0.5"/>'
    yield from _labels([*named, *panel.points], scale)
    for point in panel.points:
        x, y, colour = scale.x(point.speed), scale.y(point.ratio), _colour(point)
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}" fill="{colour}" stroke="#fff"/>'


def _line(line: Line, scale: Scale) -> Iterator[str]:
    colour = GREY if line.dashed else OURS if line.ours else PEERS
    places = [(scale.x(along), scale.y(beside)) for along, beside in line.at]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    style = 'stroke-dasharray="5 3"' if line.dashed else 'opacity="0.6"'
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5" {style}/>'
    for x, y in () if line.dashed else places:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'


def _scale(points: Sequence[Point]) -> Scale:
    speeds = [point.speed for point in points]
    ratios = [point.ratio for point in points]
    margin = 0.12 * (max(ratios) - min(ratios)) or 0.1  # a single ratio still needs a height
    return Scale(min(speeds) / 1.6, max(speeds) * 2, min(ratios) - margin, max(ratios) + margin)


def _axes(scale: Scale, axis: str, beside: str) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for speed in _speed_ticks(scale.slowest, scale.fastest):
        x = scale.x(speed)
        yield f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="{GRID}"/>'
        yield _text(x, bottom + 17, f"{speed:,.10g}", "middle")
    for ratio in _ratio_ticks(scale.lowest, scale.highest):
        y = scale.y(ratio)
        yield f'<path d="M{LEFT} {y:.1f}H{right}" stroke="{GRID}"/>'
        yield _text(LEFT - 8, y + 4, f"{ratio:.10g}", "end")
    yield f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#9ca3af"/>'
    yield _text((LEFT + right) / 2, bottom + 37, axis, "middle")
    middle = (TOP + bottom) / 2
    yield _text(14, middle, beside, "middle", f'transform="rotate(-90 14 {middle})"')


def _speed_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    steps = (1, 2, 5) if high < 1000 * low else (1,)  # beyond three decades their names would lie over each other
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    return [tick for tick in ticks if low <= tick <= high]


def _ratio_ticks(low: float, high: float) -> list[float]:
    """Four to ten round numbers."""
    unit = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(unit * factor for factor in (10, 5, 2, 1) if (high - low) / (unit * factor) >= 4)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _labels(points: Sequence[Point], scale: Scale) -> Iterator[str]:
    """The names, each at the first of some places near its point that is free, else at the least taken."""
    dots = [(scale.x(point.speed), scale.y(point.ratio)) for point in points]
    reach = RADIUS + 3  # a name that touches another point would seem to be the name of that
    taken = [(x - reach, y - reach, x + reach, y + reach) for x, y in dots]
    for point, (x, y) in zip(points, dots, strict=True):
        box = min(_places(x, y, len(point.name) * CHARACTER), key=lambda place: _hidden(place, taken))
        taken.append(box)
        near, anchor = _side(box, x)
        if abs((box[1] + box[3]) / 2 - y) > 1.5 * FONT:
            line = f"M{x:.1f} {y:.1f}L{near:.1f} {(box[1] + box[3]) / 2:.1f}"
            yield f'<path d="{line}" stroke="{_colour(point)}" opacity="0.4"/>'
        weight = 'font-weight="600" ' if point.ours else ""
        # Twice, first wide in the colour of the paper, so that no line runs through a name.
        for style in (f'fill="{PAPER}" stroke="{PAPER}" stroke-width="3"', f'fill="{_colour(point)}"'):
            yield _text(near, box[3] - 3.5, point.name, anchor, weight + style)


def _side(box: Box, x: float) -> tuple[float, str]:
    """Where in its box a name is anchored: as near to its point as can be, however wide the font draws it."""
    if box[0] > x:
        return box[0], "start"
    if box[2] < x:
        return box[2], "end"
    return (box[0] + box[2]) / 2, "middle"


def _places(x: float, y: float, width: float) -> Iterator[Box]:
    """Where a name of this width may stand: right, left, above, below, then ever further up and down."""
    gap, height = RADIUS + 4.0, FONT + 2.0
    middles = [(gap, 0.0), (-gap - width, 0.0)]
    middles += [(-width / 2, -gap - height / 2), (-width / 2, gap + height / 2)]
    for step in range(1, 9):
        for dy in (-step * height, step * height):
            middles += [(gap + 4, dy), (-gap - 4 - width, dy)]
    for dx, dy in middles:
        yield x + dx, y + dy - height / 2, x + dx + width, y + dy + height / 2


def _hidden(box: Box, taken: Sequence[Box]) -> float:
    """How much of a box is over others, or outside the panel."""
    inside = _common(box, (LEFT + 2, TOP, WIDTH, HEIGHT - BOTTOM - 2))
    area = (box[2] - box[0]) * (box[3] - box[1])
    return round(sum(_common(box, other) for other in taken) + 4 * (area - inside), 3)


def _common(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)


def _colour(point: Point) -> str:
    return OURS if point.ours else PEERS


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'
