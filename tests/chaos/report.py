"""The report of a run: one page without scripts, with a time line of faults, throughput and latency."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.checker import RULES, Violation
from tests.chaos.history import Told

WIDTH, HEIGHT = 1100, 150
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
       color: #1b1f24; background: #fff }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #d8dee4 }
.bad { color: #b3261e; font-weight: 600 }
.good { color: #1a7f37; font-weight: 600 }
svg { width: 100%; height: auto; background: #f6f8fa; border: 1px solid #d8dee4 }
figcaption { color: #57606a }
figure { margin: 1rem 0 }
@media (prefers-color-scheme: dark) {
  body { color: #e6edf3; background: #0d1117 }
  svg { background: #161b22; border-color: #30363d }
  th, td { border-color: #30363d }
  .bad { color: #ff7b72 }
  .good { color: #3fb950 }
  figcaption { color: #8b949e }
}
"""


def percentile(values: Iterable[float], part: float) -> float | None:
    """The smallest value that so large a part of them does not exceed; None of none."""
    found = sorted(values)
    return found[max(math.ceil(part * len(found)) - 1, 0)] if found else None


def write_report(
    path: Path, records: Sequence[dict[str, Any]], violations: Sequence[Violation], told: Sequence[Told]
) -> None:
    """Write the page to `path`."""
    path.write_text(page(records, violations, told), "utf-8")


def page(records: Sequence[dict[str, Any]], violations: Sequence[Violation], told: Sequence[Told]) -> str:
    """The page as text."""
    about = next((one for one in records if one["what"] == "begin"), {})
    end = next((one for one in records if one["what"] == "end"), {"complete": False, "seconds": 0})
    faults = [one for one in records if one["what"] == "fault"]
    counts = next((one for one in records if one["what"] == "history"), {})
    zero = float(about.get("monotonic", 0.0))
    verdict = f'<p class="{"bad" if violations else "good"}">{len(violations)} violations</p>'
    if not end["complete"]:
        verdict += f'<p class="bad">The run is not complete: {len(faults)} faults were played.</p>'
    failovers = sum(one["primary"][0] != one["primary"][1] for one in faults)
    facts = {
        "seed": about.get("seed"), "commit": about.get("commit"), "begun": about.get("at"),
        "took": f"{end['seconds']} s", "machine": about.get("machine"),
        "load average at the end": end.get("load"),
        "faults": len(faults), "of them with another primary afterwards": failovers,
        "commands told": counts.get("told"), "events logged": counts.get("events"),
        "put back after a failover (log.restored)": counts.get("restored"),
        "forks": counts.get("forked"), "alerts heard": counts.get("alerts"),
    }  # fmt: skip
    return "\n".join(
        [
            "<!doctype html><html lang=en><meta charset=utf-8><title>make chaos</title>",
            f"<style>{STYLE}</style><h1>make chaos</h1>",
            verdict,
            _table(("", ""), facts.items()),
            _recovery(faults),
            _time_line(faults, told, zero, float(end["seconds"])),
            "<h2>Rules</h2>",
            _table(("rule", "violations"), ((rule, _of(violations, rule)) for rule in RULES)),
            "<h2>Faults</h2>",
            _table(
                ("at", "fault", "", "primary", "no write", "nothing confirmed", "whole after"),
                (_row(one) for one in faults),
            ),
        ]
    )


def _recovery(faults: Sequence[dict[str, Any]]) -> str:
    rows = []
    for name, key in (("writable", "writable_again_seconds"), ("confirmed", "confirmed_again_seconds")):
        times = [one[key] for one in faults if one.get(key) is not None]
        if times:
            shown = (f"{percentile(times, part):.2f} s" for part in (0.5, 0.99, 1.0))
            rows.append((f"{name} again after the primary was killed", len(times), *shown))
    return _table(("", "times", "median", "p99", "longest"), rows) if rows else ""


def _time_line(faults: Sequence[dict[str, Any]], told: Sequence[Told], zero: float, seconds: float) -> str:
    """Answers a second, and how long they took, over bands where something was wrong."""
    if seconds <= 0:
        return ""
    scale = WIDTH / seconds
    per_second: dict[int, list[float]] = {}
    for one in told:
        per_second.setdefault(int(one.at - zero), []).append(one.at - one.began)
    most = max((len(some) for some in per_second.values()), default=1)
    longest = max((max(some) for some in per_second.values()), default=1.0)
    bands = "".join(_band(one, scale) for one in faults)
    bars, dots = "", ""
    for at, some in sorted(per_second.items()):
        high = len(some) / most * HEIGHT
        bars += _rectangle(at * scale, max(scale, 0.6), HEIGHT - high, high, 'fill="#0969da"')
        top = HEIGHT - max(some) / longest * HEIGHT
        dots += f'<circle cx="{at * scale:.1f}" cy="{top:.1f}" r="1.6" fill="#8250df"/>'
    first = f"Answers in each second (most: {most}); yellow: from a fault until the station was whole."
    second = f"The longest time to an answer among those of each second (top: {longest:.1f} s)."
    return f"<h2>Time line</h2>{_figure(bands + bars, first)}{_figure(bands + dots, second)}"


def _band(one: dict[str, Any], scale: float) -> str:
    """From the fault until the station was whole again; pointed at, it says which."""
    title = html.escape(f"{one['fault']}: {one.get('detail', '')}")
    wide = max((one["whole"] - one["began"]) * scale, 1)
    how = 'fill="#d29922" fill-opacity=".25"'
    return _rectangle(one["began"] * scale, wide, 0, HEIGHT, how, f"<title>{title}</title>")


def _rectangle(x: float, wide: float, y: float, high: float, how: str, within: str = "") -> str:
    return f'<rect x="{x:.1f}" width="{wide:.1f}" y="{y:.1f}" height="{high:.1f}" {how}>{within}</rect>'


def _figure(drawn: str, caption: str) -> str:
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{caption}"'
    return f"<figure><svg {box}>{drawn}</svg><figcaption>{caption}</figcaption></figure>"


def _row(one: dict[str, Any]) -> tuple[Any, ...]:
    before, after = one["primary"]
    return (
        f"{one['began']:.0f} s", one["fault"], one.get("detail", ""),
        before if before == after else f"{before} → {after}",
        f"{one['unwritable_seconds']:.1f} s", f"{one['unconfirmed_seconds']:.1f} s",
        f"{one['whole'] - one['began']:.1f} s",
    )  # fmt: skip


def _of(violations: Sequence[Violation], rule: str) -> str:
    found = [one.detail for one in violations if one.rule == rule]
    return "none" if not found else f"{len(found)}: " + "; ".join(found[:10])


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    titles = "".join(f"<th>{html.escape(one)}" for one in head)
    lines = ("<tr>" + "".join(f"<td>{html.escape(str(cell))}" for cell in row) for row in rows)
    return f"<table><tr>{titles}{''.join(lines)}</table>"
