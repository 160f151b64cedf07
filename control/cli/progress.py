"""How far a long reading has come, shown on a terminal and nowhere else."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable
from typing import TypeVar

Entry = TypeVar("Entry")

STEP = 1000
"""Entries between two updates."""


def counted(what: str, entries: Iterable[Entry], total: int) -> Generator[Entry]:
    """Pass `entries` on; while that lasts, standard error shows how many, how fast and the time left.

    Nothing is shown where standard error is no terminal. The line is gone at the end, and
    when the generator is closed before.
    """
    if not sys.stderr.isatty():
        yield from entries
        return
    # Only here: a piped verb must not cost this import.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Figures(ProgressColumn):
        """Events so far, of how many, and per second."""

        def render(self, task: Task) -> Text:
            rate = "" if task.speed is None else f", {task.speed:,.0f}/s"
            return Text(f"{task.completed:,.0f} of {task.total or 0:,.0f}{rate}")

    columns = (TextColumn("{task.description}"), BarColumn(20), Figures(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(what, total=total)
        number = 0
        for number, entry in enumerate(entries, 1):
            yield entry
            if number % STEP == 0:
                # More may have come since the head was asked for.
                progress.update(bar, completed=number, total=max(number, total))
        progress.update(bar, completed=number, total=max(number, total))
