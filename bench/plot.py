"""Plots as SVG: bars with their spread, on a scale of their own for each plot."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from bench.ratios import Spread

WIDTH, LABEL, FIGURE = 760, 230, 150
"""Of the picture, of the names on the left, of the figures on the right, in pixels."""
ROW, TOP, GAP = 20, 34, 8
OURS, OTHERS = "#1f6feb", "#8b949e"
FONT: Final = 'font-family="sans-serif" font-size="12"'


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar."""

    label: str
    spread: Spread
    ours: bool


def bars(title: str, unit: str, rows: Sequence[Bar]) -> str:
    """Return a picture of horizontal bars: the length is the median, the line from the smallest to the largest."""
    most = max((row.spread.high for row in rows), default=1.0)
    height = TOP + len(rows) * (ROW + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {FONT}>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{GAP}" y="20" font-weight="bold">{escape(title)}</text>',
    ]
    for place, row in enumerate(rows):
        parts += _bar(TOP + place * (ROW + GAP), row, most, unit)
    return "\n".join([*parts, "</svg>", ""])


def _bar(top: int, row: Bar, most: float, unit: str) -> list[str]:
    def x(value: float) -> float:
        return LABEL + value / most * (WIDTH - LABEL - FIGURE)

    middle = top + ROW / 2
    width = x(row.spread.median) - LABEL
    low, high = x(row.spread.low), x(row.spread.high)
    return [
        f'<text x="{LABEL - GAP}" y="{middle + 4}" text-anchor="end">{escape(row.label)}</text>',
        f'<rect x="{LABEL}" y="{top}" width="{width:.1f}" height="{ROW}" fill="{OURS if row.ours else OTHERS}"/>',
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="black" stroke-width="1.5"/>',
        f'<text x="{high + GAP:.1f}" y="{middle + 4}">{figure(row.spread.median)}{escape(unit)}</text>',
    ]


def figure(value: float) -> str:
    """Return a figure with three digits that count."""
    if value >= 1000:  # noqa: PLR2004 - from here on the digits before the point are enough
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004
