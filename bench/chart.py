"""Line charts as SVG: a few points on a logarithmic axis, nothing more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 60, 48
COLOURS = ("#0b6e99", "#c2410c", "#4d7c0f", "#7c3aed")

Points = Sequence[tuple[float, float]]


def chart(title: str, across: str, upwards: str, series: Mapping[str, Points]) -> str:
    """An SVG of `series` (name → points); x logarithmic, y from 0. Labels are the axes' names."""
    xs = sorted({x for points in series.values() for x, _ in points})
    top = _round_up(max(y for points in series.values() for _, y in points))
    low, high = math.log10(max(xs[0], 1)), math.log10(max(xs[-1], 10))

    def place(x: float, y: float) -> tuple[float, float]:
        share = (math.log10(max(x, 1)) - low) / ((high - low) or 1)
        return LEFT + share * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(WIDTH / 2, 22, title, "middle", size=14),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, across, "middle"),
        _text(LEFT, TOP - 8, upwards, "start"),
    ]
    for step in range(5):
        value = top * step / 4
        x, y = place(xs[0], value)
        parts.append(f'<path d="M{x:.1f} {y:.1f}H{WIDTH - RIGHT}" stroke="#e5e7eb"/>')
        parts.append(_text(x - 6, y + 4, f"{value:g}", "end"))
    for value in xs:
        x, y = place(value, 0)
        parts.append(_text(x, y + 18, f"{value:,.0f}", "middle"))
    for (name, points), colour in zip(series.items(), COLOURS, strict=False):
        placed = [place(x, y) for x, y in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
        x, y = placed[-1]
        parts.append(_text(x + 8, y + 4, name, "start", colour=colour))
    return "\n".join([*parts, "</svg>\n"])


def _text(x: float, y: float, text: str, anchor: str, *, size: int = 12, colour: str = "#111827") -> str:
    at = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"'
    return f"<text {at}>{escape(text)}</text>"


def _round_up(value: float) -> float:
    unit = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(step * unit for step in (1, 2, 4, 6, 8, 10) if step * unit >= value)
