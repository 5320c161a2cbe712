"""Draws lines over time as SVG: small, without a library, readable on a light and on a dark page. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

WIDTH: Final = 960
HEIGHT: Final = 260
LEFT: Final = 56
BOTTOM: Final = 34
TOP: Final = 34
RIGHT: Final = 12
COLOURS: Final = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#e377c2")
TICKS: Final = 6
PEAK_FACTOR: Final = 3.0
"""A peak is cut off if it is higher than this many times what 80 % of the values stay below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line: a name, and points of (seconds, value) in the order of time."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something that happened: drawn as a band behind the lines.

    Attributes:
        heavy: drawn strongly; for what is rare among many.
    """

    since: float
    until: float
    heavy: bool = False


def draw(title: str, lines: Sequence[Line], marks: Sequence[Mark] = (), *, unit: str) -> str:
    """Return an SVG picture of lines over time."""
    points = [point for line in lines for point in line.points]
    seconds = max([1.0, *(at for at, _ in points), *(mark.until for mark in marks)])
    values = sorted([1.0, *(value for _, value in points)])
    usual = values[int((len(values) - 1) * 0.8)]
    cut = values[-1] > PEAK_FACTOR * usual
    most = 2 * usual if cut else values[-1] * 1.05
    heading = f"{title}, {unit}" + (f"; peaks are cut off, the highest is {values[-1]:.0f}" if cut else "")

    def x(at: float) -> float:
        return round(LEFT + at / seconds * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - min(value, most) / most * (HEIGHT - BOTTOM - TOP), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/><g font-size="12">',
        f'<text x="{LEFT}" y="18" font-weight="bold">{escape(heading)}</text>',
    ]
    for mark in marks:
        width = max(1.5, x(mark.until) - x(mark.since))
        parts.append(
            f'<rect x="{x(mark.since)}" y="{TOP}" width="{width:.1f}" height="{HEIGHT - TOP - BOTTOM}" '
            f'fill="{"#d62728" if mark.heavy else "#ff7f0e"}" opacity="{0.45 if mark.heavy else 0.18}"/>'
        )
    for tick in range(TICKS + 1):
        at, value = seconds * tick / TICKS, most * tick / TICKS
        anchor = "end" if tick == TICKS else "middle"
        parts.append(f'<text x="{x(at)}" y="{HEIGHT - 14}" text-anchor="{anchor}" fill="#555">{_time(at)}</text>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4}" text-anchor="end" fill="#555">{value:.0f}</text>')
        parts.append(f'<path d="M{LEFT} {y(value)}H{WIDTH - RIGHT}" stroke="#ddd"/>')
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x(at)},{y(value)}" for at, value in line.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.4"/>')
        parts.append(
            f'<text x="{WIDTH - RIGHT - 150 * (len(lines) - 1 - number)}" y="18" text-anchor="end" fill="{colour}">'
            f"{escape(line.name)}</text>"
        )
    parts.append("</g></svg>")
    return "\n".join(parts) + "\n"


def rates(counted: Sequence[tuple[float, float]], window_seconds: float) -> list[tuple[float, float]]:
    """Return the growth of a counter a second, over windows of that length."""
    found: list[tuple[float, float]] = []
    start = 0
    for number, (at, value) in enumerate(counted):
        while number > start + 1 and at - counted[start + 1][0] >= window_seconds:
            start += 1
        before_at, before = counted[start]
        if at - before_at >= window_seconds / 2:
            found.append((at, max(0.0, (value - before) / (at - before_at))))
    return found


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return by how much a value grows a second, by least squares; 0 of fewer than two points."""
    if len(points) < 2:
        return 0.0
    mean_at = sum(at for at, _ in points) / len(points)
    mean = sum(value for _, value in points) / len(points)
    spread = sum((at - mean_at) ** 2 for at, _ in points)
    return sum((at - mean_at) * (value - mean) for at, value in points) / spread if spread else 0.0


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
