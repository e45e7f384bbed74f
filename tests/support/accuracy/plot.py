"""The learning curves as an SVG, without a library: two panels of lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, PANEL, LEFT, TOP, GAP = 900, 250, 50, 40, 70
RIGHT = 20
FULL_PERCENT = 60
FONT = 'font-family="sans-serif" font-size="13"'
COLOURS = {
    "shared": "#999999",
    "today": "#cc3311",
    "today, helped": "#ee9944",
    "mailhooks all": "#88bbdd",
    "mailhooks balanced": "#004488",
}

Curve = Sequence[tuple[int, float | None]]


def draw(panels: Mapping[str, Mapping[str, Curve]], width_messages: int) -> str:
    """Draw one panel for each order of the stream, one line for each contender with a colour."""
    height = TOP + len(panels) * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {FONT}>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        *_legend(),
    ]
    for number, (title, curves) in enumerate(panels.items()):
        top = TOP + 30 + number * (PANEL + GAP)
        parts += _panel(f"{title}: error of the last {width_messages} messages", curves, top)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend() -> list[str]:
    parts = []
    for number, (name, colour) in enumerate(COLOURS.items()):
        x = LEFT + number * 165
        parts.append(f'<rect x="{x}" y="14" width="22" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 28}" y="21">{escape(name)}</text>')
    return parts


def _panel(title: str, curves: Mapping[str, Curve], top: int) -> list[str]:
    bottom, right = top + PANEL, WIDTH - RIGHT
    last = max((x for curve in curves.values() for x, _ in curve), default=1)
    parts = [f'<text x="{LEFT}" y="{top - 8}">{escape(title)}</text>']
    for percent in range(0, FULL_PERCENT + 1, 10):
        y = bottom - percent * PANEL / FULL_PERCENT
        parts.append(
            f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>'
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{percent}%</text>'
        )
    for message in range(0, last + 1, 500):
        x = LEFT + message * (right - LEFT) / last
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{message}</text>')
    for name, colour in COLOURS.items():
        points = " ".join(
            f"{LEFT + x * (right - LEFT) / last:.1f},"
            f"{bottom - min(y, FULL_PERCENT) * PANEL / FULL_PERCENT:.1f}"
            for x, y in curves.get(name, ())
            if y is not None
        )
        if points:
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
            )
    return parts
