"""The demo source of `tocsin up --demo`: a recording in the station's folder, played in a loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from control.desk import Desk, Wish
from streams.settings import Settings
from streams.vocabulary import FileSettings, SourceAdd, plain

SOURCE = "demo"
TIMEOUT = 30.0
"""Seconds that each of the two commands may take while the station is coming up."""


class NotPlaying(Exception):
    """Raised when the demo source could not be added or started."""


def play(settings: Settings, directory: Path, record: Callable[[Path], None]) -> None:
    """Add and start the demo source; `record` writes the recording where there is none yet.

    Raises NotPlaying, and what Desk.submit raises.
    """
    path = directory.absolute() / "media" / "weekly-test.wav"
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_name("weekly-test.part.wav")
        record(fresh)
        fresh.replace(path)
    added = SourceAdd(settings=FileSettings(path=str(path), loop=True), name="Generated weekly test")
    desk = Desk(settings.as_role("submitter"), directory)
    try:
        answer = desk.add(
            Wish(type="source.add", source=SOURCE, params=plain(added)), kind="file", timeout=TIMEOUT
        )
        if answer.outcome == "completed":
            answer = desk.submit(Wish(type="source.start", source=SOURCE), answer.lane, timeout=TIMEOUT)
        if answer.outcome != "completed":
            raise NotPlaying(f"{answer.outcome}: {answer.reason or answer.detail or 'no reason was given'}")
    finally:
        desk.close()
