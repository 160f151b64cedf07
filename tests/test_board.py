"""What a page is given that has seen some frames and lacks the others."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from projections.board import KEPT, NOTHING, Board
from projections.views import Envelope, LevelView, SourceView

AT = datetime(2026, 5, 1, 12, tzinfo=UTC)


def source(id: str, state: str = "running", level: float | None = None) -> SourceView:
    """A source in a state; with a level, if one is given."""
    heard = LevelView(at=AT, rms_dbfs=level, peak_dbfs=level, seconds=1.0) if level is not None else None
    return SourceView(
        id=id, lane="p0", node="local", kind="file", name=id, settings={}, desired="running", state=state,
        reason=None, rate=None, channels=None, since=AT, updated_at=AT, seq=1, hash="", level=heard,
    )  # fmt: skip


def read(*views: SourceView, age: float = 0.1) -> Envelope[list[SourceView]]:
    return Envelope(data=list(views), source="snapshot", age_seconds=age, stale=False)


def told(frames: bytes) -> list[tuple[str, str, Any]]:
    """The frames as (event, id, data)."""
    found = []
    for frame in frames.decode().split("\n\n")[:-1]:
        event, id, data = (line.partition(": ")[2] for line in frame.split("\n"))
        found.append((event, id, json.loads(data)))
    return found


def test_a_new_page_is_given_all_and_then_what_changes() -> None:
    """First every source and the latest of every topic; then only what is another one."""
    board = Board()
    board.put("alerts", b"[]")
    board.put_sources(read(source("mic"), source("tower")))
    seen, frames = board.after(NOTHING)
    assert [event for event, _, _ in told(frames)] == ["alerts", "sources"]
    board.put_sources(read(source("mic", "stopped"), source("tower", level=-20.0)))
    seen, frames = board.after(seen)
    ((event, _, data),) = told(frames)
    assert (event, [view["id"] for view in data["changed"]], data["removed"]) == ("changed", ["mic"], [])
    board.put_sources(read(source("tower")))
    assert told(board.after(seen)[1])[0][2]["removed"] == ["mic"]


def test_a_page_that_comes_back_is_given_what_it_missed() -> None:
    """By the id of the last frame it has: the changes alone, or nothing; of levels only the latest."""
    board = Board()
    board.put_sources(read(source("mic")))
    _, frames = board.after(NOTHING)
    last = told(frames)[-1][1]
    for state in ("stalled", "failed"):
        board.put("levels", b"{}")
        board.put_sources(read(source("mic", state)))
    _, frames = board.after(board.resumed(last))
    assert [event for event, _, _ in told(frames)] == ["changed", "levels", "changed"]
    assert board.after(board.resumed(told(frames)[-1][1]))[1] == b""


def test_a_page_that_missed_too_much_is_given_all() -> None:
    """Also one that comes from another process, or says what no process said."""
    board = Board()
    board.put_sources(read(source("mic")))
    last = told(board.after(NOTHING)[1])[-1][1]
    for count in range(KEPT + 2):
        board.put_sources(read(source("mic", "failed" if count % 2 else "running")))
    for id in (last, "deadbeef-7", "nonsense", f"{last}x", "-", "deadbeef-"):
        events = [event for event, _, _ in told(board.after(board.resumed(id))[1])]
        assert events == ["sources"], id


@pytest.mark.parametrize("missed", [0, 1, KEPT - 1, KEPT, KEPT + 1])
def test_whatever_was_missed_it_ends_up_with_the_same(missed: int) -> None:
    """A page that applies what it is given has the station's state, however long it was away."""
    board = Board()
    board.put_sources(read(*(source(str(n)) for n in range(5))))
    seen, frames = board.after(NOTHING)
    have = {view["id"]: view["state"] for view in told(frames)[-1][2]["data"]}
    states = {str(n): "running" for n in range(5)}
    for step in range(missed):
        states[str(step % 7)] = ("failed", "running", "stopped")[step % 3]
        if step % 5 == 4:
            states.pop(str((step + 3) % 7), None)
        board.put_sources(read(*(source(id, state) for id, state in states.items())))
    for event, _, data in told(board.after(seen)[1]):
        if event == "sources":
            have = {view["id"]: view["state"] for view in data["data"]}
        else:
            have |= {view["id"]: view["state"] for view in data["changed"]}
            have = {id: state for id, state in have.items() if id not in data["removed"]}
    assert have == states


def test_while_nothing_can_be_read_nothing_older_is_shown() -> None:
    """A page that comes then is told so and not what was; afterwards it is given all again."""
    board = Board()
    board.put_sources(read(source("mic")))
    board.put_unavailable("neither can be read")
    seen, frames = board.after(NOTHING)
    assert told(frames)[0][0] == "unavailable"
    assert len(told(frames)) == 1
    board.put_sources(read(source("mic")))
    assert [event for event, _, _ in told(board.after(seen)[1])] == ["sources"]


def test_levels_and_ages_are_no_changes() -> None:
    """Only confirmed again: a change frame without sources, which says how old what is known is."""
    board = Board()
    board.put_sources(read(source("mic", level=-20.0)))
    seen, _ = board.after(NOTHING)
    board.put_sources(read(msgspec.structs.replace(source("mic", level=-3.0), as_of=AT), age=0.7))
    ((event, _, data),) = told(board.after(seen)[1])
    assert (event, data["changed"], data["age_seconds"]) == ("changed", [], 0.7)
