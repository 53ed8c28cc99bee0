"""Line charts as SVG, for a page that has to work without any library and without a network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

COLORS = ("#0d9488", "#3b82f6", "#f59e0b", "#a855f7", "#ef4444", "#64748b")
_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 34, 44  # margins around the plot
_ROW, _NAMES, _VALUES = 26, 210, 70  # a bar's height, the room for names and for values


@dataclass(frozen=True)
class Line:
    """One curve: points from left to right, and what a reader is told of each.

    `group` chooses the color, so that the percentiles of one server look alike; `dash` sets them
    apart.
    """

    name: str
    points: list[tuple[float, float]]
    labels: list[str]
    group: str
    dash: int = 0


@dataclass(frozen=True)
class Chart:
    """A title, what the axes show with their units, and the lines."""

    title: str
    x: str
    y: str
    lines: list[Line]


def ticks(top: float, count: int = 5) -> list[float]:
    """Round numbers from 0 to at least `top`."""
    if top <= 0:
        return [0.0, 1.0]
    rough = top / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough * 0.999)
    return [step * number for number in range(math.ceil(top / step * 0.999) + 1)]


def one_load(chart: Chart) -> bool:
    """Whether there is no more than one point a line, so that bars tell more than lines."""
    return all(len(line.points) < 2 for line in chart.lines)


def svg(chart: Chart) -> str:
    """The chart as an SVG element, whose text takes the page's color."""
    return _bars(chart) if one_load(chart) else _lines(chart)


def _bars(chart: Chart) -> str:
    """A bar for each line's only point, with its value; what is the same for all is left out."""
    drawn = [line for line in chart.lines if line.points]
    top = max((y for line in drawn for _, y in line.points), default=0.0) or 1.0
    height = _TOP + _ROW * len(drawn)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(chart.title)}">',
        f'<text x="0" y="18" class="title">{escape(chart.title)}</text>',
        f'<text x="{_WIDTH - _RIGHT}" y="18" class="end">{escape(chart.y)}</text>',
    ]
    groups = list(dict.fromkeys(line.group for line in drawn))
    for number, line in enumerate(drawn):
        color = COLORS[groups.index(line.group) % len(COLORS)]
        value, y = line.points[0][1], _TOP + _ROW * number
        width = value / top * (_WIDTH - _NAMES - _VALUES)
        parts.append(
            f'<text x="{_NAMES - 8}" y="{y + 17}" class="end">{escape(line.name)}</text>'
            f'<rect x="{_NAMES}" y="{y + 4}" width="{width:.1f}" height="{_ROW - 8}" '
            f'fill="{color}"><title>{escape(line.labels[0])}</title></rect>'
            f'<text x="{_NAMES + width + 6:.1f}" y="{y + 17}">{value:,.4g}</text>'
        )
    return "".join([*parts, "</svg>"])


def _lines(chart: Chart) -> str:
    xs = ticks(max((x for line in chart.lines for x, _ in line.points), default=0))
    ys = ticks(max((y for line in chart.lines for _, y in line.points), default=0))

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + x / xs[-1] * (_WIDTH - _LEFT - _RIGHT)
        return across, _HEIGHT - _BOTTOM - y / ys[-1] * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 18 * len(chart.lines)}" role="img" '
        f'aria-label="{escape(chart.title)}">',
        f'<text x="{_LEFT}" y="18" class="title">{escape(chart.title)}</text>',
    ]
    for value in ys:
        x, y = place(0, value)
        parts.append(
            f'<line x1="{x}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
        )
        parts.append(f'<text x="{x - 6}" y="{y + 4:.1f}" class="end">{value:.6g}</text>')
    for value in xs:
        x, y = place(value, 0)
        parts.append(f'<text x="{x:.1f}" y="{y + 16}" class="middle">{value:.6g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 8}" class="middle">{escape(chart.x)}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="18" class="end">{escape(chart.y)}</text>')
    groups = list(dict.fromkeys(line.group for line in chart.lines))
    for number, line in enumerate(chart.lines):
        color = COLORS[groups.index(line.group) % len(COLORS)]
        dash = f' stroke-dasharray="{line.dash} 4"' if line.dash else ""
        where = [place(*point) for point in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in where)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>'
        )
        for (x, y), label in zip(where, line.labels, strict=True):
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}">'
                f"<title>{escape(label)}</title></circle>"
            )
        y = _HEIGHT + 18 * number + 6
        parts.append(
            f'<line x1="{_LEFT}" x2="{_LEFT + 26}" y1="{y}" y2="{y}" stroke="{color}" '
            f'stroke-width="2"{dash}/><text x="{_LEFT + 34}" y="{y + 4}">{escape(line.name)}</text>'
        )
    return "".join([*parts, "</svg>"])
