"""The life of a command as a picture: an SVG with a row for each step, readable on light and on dark."""

from __future__ import annotations

from datetime import UTC
from xml.sax.saxutils import escape

from control.trace import Life, Step

WIDTH, LEFT, RIGHT = 960, 250, 40
TOP, ROW, BOTTOM = 104, 34, 54
WIDEST = 38
"""Characters of a label left of the axis."""

PAPER = {"paper": ("#ffffff", "#111827"), "band": ("#f9fafb", "#1f2937")}
INK = {"ink": ("#1f2937", "#f3f4f6"), "soft": ("#6b7280", "#9ca3af")}
MARKS = {
    "signed": ("#6b7280", "#9ca3af"),
    "received": ("#2563eb", "#60a5fa"),
    "waiting": ("#b45309", "#fbbf24"),
    "fact": ("#0f766e", "#2dd4bf"),
    "overtook": ("#b45309", "#fbbf24"),
    "result": ("#4d7c0f", "#a3e635"),
    "after": ("#0f766e", "#2dd4bf"),
    "bad": ("#dc2626", "#f87171"),
}
"""Colours on light and on dark paper, by class; marks by the kind of step."""


def _style(dark: int) -> str:
    # No CSS variables: programs that draw SVG outside a browser do not know them.
    rules = [f".{name}{{fill:{of[dark]}}}" for name, of in (PAPER | INK).items()]
    rules += [
        f".{name} .mark{{fill:{of[dark]}}}.{name} .way{{stroke:{of[dark]}}}" for name, of in MARKS.items()
    ]
    return "".join([*rules, f".grid{{stroke:{('#e5e7eb', '#374151')[dark]}}}"])


STYLE = f"{_style(0)}.way{{stroke-width:6;opacity:.45}}@media (prefers-color-scheme:dark){{{_style(1)}}}"


def timeline(life: Life) -> str:
    """An SVG of the steps over time, linear; each with what it was and how long it took."""
    steps = life.steps
    start, end = steps[0].at, max(step.at for step in steps)
    whole = (end - start).total_seconds() or 0.001
    height = TOP + ROW * len(steps) + BOTTOM
    what = " ".join(filter(None, (life.type, life.source, life.outcome or "no result yet")))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-size="13" role="img" '
        f'font-family="system-ui, sans-serif" aria-label="{_safe(f"Life of {life.id}: {what}")}">',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}"/>',
        _text(24, 34, what, size=18, weight=600),
        _text(24, 56, f"{life.id} in lane {life.lane}", kind="soft"),
        _text(24, 76, _summary(life), kind="soft"),
    ]
    floor = TOP + ROW * len(steps)
    for index, seconds in enumerate(_ticks(whole)):
        x = _across(seconds, whole)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP - 6}V{floor + 4}"/>')
        if index or seconds == 0:
            parts.append(_text(x, floor + 22, span(seconds), kind="soft", anchor="middle", size=12))
    parts.append(_text(24, floor + 22, f"since {start.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC",
                       kind="soft", size=12))  # fmt: skip
    for index, step in enumerate(steps):
        parts += _row(step, index, start.timestamp(), whole, failed=life.outcome in ("failed", "rejected"))
    return "\n".join([*parts, "</svg>\n"])


def span(seconds: float | None) -> str:
    """A span of time with three digits that matter and a unit: `1.25 ms`, `12.0 s`."""
    if seconds is None:
        return ""
    size = abs(seconds)
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if size >= factor or unit == "µs":
            value = seconds / factor
            return f"{value:.0f} {unit}" if abs(value) >= 100 or not value else f"{value:.3g} {unit}"
    raise AssertionError(seconds)


def _row(step: Step, index: int, start: float, whole: float, *, failed: bool) -> list[str]:
    y = TOP + ROW * index
    middle = y + ROW / 2
    seconds = step.at.timestamp() - start
    x, before = _across(seconds, whole), _across(seconds - (step.seconds or 0.0), whole)
    kind = "bad" if failed and step.kind == "result" else step.kind
    name = f"{step.what}  {step.lane}/{step.seq}" if step.seq is not None else step.what
    parts = [f'<g class="{kind}">']
    if index % 2 == 0:
        parts.append(f'<rect class="band" x="12" y="{y}" width="{WIDTH - 24}" height="{ROW}" rx="4"/>')
    if step.seconds:
        parts.append(f'<path class="way" d="M{before:.1f} {middle}H{x:.1f}"/>')
    parts.append(f'<circle class="mark" cx="{x:.1f}" cy="{middle}" r="5"/>')
    parts.append(_text(24, middle + 4.5, _short(name, WIDEST)))
    took = span(step.seconds)
    beside = " · ".join(filter(None, (f"+{took}" if took and step.seconds and step.seconds >= 0 else took,
                                      step.detail)))  # fmt: skip
    if beside:
        late = x > LEFT + (WIDTH - LEFT - RIGHT) / 2
        # What stands left of its mark must not reach the labels.
        room = int((x - LEFT - 12 if late else WIDTH - RIGHT - x + 24) / 6.6)
        at, anchor = (x - 12, "end") if late else (x + 12, "start")
        parts.append(_text(at, middle + 4.5, _short(beside, room), kind="soft", anchor=anchor, size=12))
    parts.append(
        f"<title>{_safe(f'{step.what} at {step.at.isoformat()} ({step.clock} clock) {step.detail}')}</title>"
    )
    return [*parts, "</g>"]


def _summary(life: Life) -> str:
    parts = [
        f"signed by {life.key}" if life.key else "",
        f"carried out by {life.node} under token {life.token}" if life.node else "",
        f"{span(life.seconds)} from receipt to the log" if life.seconds is not None else "",
        f"reason {life.reason}" if life.reason else "",
    ]
    return " · ".join(filter(None, parts))


def _across(seconds: float, whole: float) -> float:
    return LEFT + min(max(seconds / whole, 0.0), 1.0) * (WIDTH - LEFT - RIGHT)


def _ticks(whole: float) -> list[float]:
    """Round moments from 0 on, at most six."""
    step = 1e-6
    while True:
        for factor in (1, 2, 5):
            if whole / (step * factor) <= 5:
                return [index * step * factor for index in range(int(whole / (step * factor)) + 1)]
        step *= 10


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: max(longest - 1, 0)] + "…"


def _safe(text: str) -> str:
    """Text that an attribute or an element may hold: no control characters either."""
    printable = "".join(char if char.isprintable() else "\ufffd" for char in text)
    return escape(printable, {'"': "&quot;"})


def _text(
    x: float,
    y: float,
    text: str,
    *,
    kind: str = "ink",
    anchor: str = "start",
    size: int = 13,
    weight: int = 400,
) -> str:
    bold = f' font-weight="{weight}"' if weight != 400 else ""
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{bold}>'
        f"{_safe(text)}</text>"
    )
