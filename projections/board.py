"""What every open page is to show: the latest frame of each topic, and the changes of late.

Frames are numbered in one sequence. Who has seen the frames up to some number is given what came behind
it: the changes to the sources where they are still here, else all sources anew, and of every other
topic the latest frame alone. A page that was away, or is slow, so gets no more than it needs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from secrets import token_hex
from typing import Any

import msgspec

from projections.views import Envelope, SourceView

KEPT = 200
"""Changes that a page may have missed and still be given: at least 40 seconds of them."""
NOTHING = 0
"""The number of what a page has seen that has seen nothing."""

Frame = tuple[int, bytes]
"""A number and the bytes of an event."""


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """What changed since the frame before: sources that came or changed, the ids of those that went."""

    changed: list[SourceView]
    removed: list[str]
    source: str
    age_seconds: float | None
    stale: bool


class Board:
    """Any number of threads may put something up or look."""

    def __init__(self) -> None:
        self._boot = token_hex(4)
        self._lock = threading.Lock()
        self._count = NOTHING
        self._topics: dict[str, Frame] = {}
        self._whole: Envelope[list[SourceView]] | None = None
        self._whole_frame: Frame | None = None
        self._changes: deque[Frame] = deque(maxlen=KEPT)
        self._complete_from = NOTHING

    def wipe(self) -> None:
        """Take everything down: nobody looked after it for a while."""
        with self._lock:
            self._topics.clear()
            self._forget_sources()

    def put(self, topic: str, data: bytes) -> None:
        """The latest of a topic, in the place of what stood there."""
        with self._lock:
            self._topics[topic] = self._frame(topic, data)

    def put_sources(self, read: Envelope[list[SourceView]]) -> None:
        """The sources as they are now."""
        with self._lock:
            self._topics.pop("unavailable", None)
            before, self._whole, self._whole_frame = self._whole, read, None
            if before is None:
                self._count += 1
                self._complete_from = self._count
                return
            if len(self._changes) == KEPT:
                self._complete_from = self._changes[0][0]
            data = msgspec.json.encode(changes(before, read))
            self._changes.append(self._frame("changed", data))

    def put_unavailable(self, message: str) -> None:
        """That nothing can be read: a page that comes now is shown nothing older."""
        with self._lock:
            self._forget_sources()
            self._topics["unavailable"] = self._frame(
                "unavailable", msgspec.json.encode({"message": message})
            )

    def after(self, seen: int) -> tuple[int, bytes]:
        """What came behind the frame `seen`, and the number of the last of it."""
        with self._lock:
            frames = [frame for frame in self._topics.values() if frame[0] > seen]
            if self._whole is not None:
                if seen >= self._complete_from:
                    frames += [frame for frame in self._changes if frame[0] > seen]
                else:
                    frames.append(self._all_sources())
            return self._count, b"".join(data for _, data in sorted(frames))

    def resumed(self, last_event_id: str) -> int:
        """Up to where a page has seen that says so; NOTHING where that was told by another process."""
        boot, _, number = last_event_id.partition("-")
        if boot != self._boot or not number.isascii() or not number.isdigit():
            return NOTHING
        return min(int(number), self._count)

    def _all_sources(self) -> Frame:
        if self._whole_frame is None:
            number = self._changes[-1][0] if self._changes else self._complete_from
            self._whole_frame = (number, self._bytes("sources", number, msgspec.json.encode(self._whole)))
        return self._whole_frame

    def _forget_sources(self) -> None:
        self._whole = self._whole_frame = None
        self._changes.clear()

    def _frame(self, topic: str, data: bytes) -> Frame:
        self._count += 1
        return self._count, self._bytes(topic, self._count, data)

    def _bytes(self, topic: str, number: int, data: bytes) -> bytes:
        return b"event: %s\nid: %s-%d\ndata: %s\n\n" % (topic.encode(), self._boot.encode(), number, data)


def changes(before: Envelope[list[SourceView]], after: Envelope[list[SourceView]]) -> Changed:
    """What is to be told of a state to whoever has the one before; levels and ages are told apart."""
    was, is_ = _by_id(before.data), _by_id(after.data)
    return Changed(
        changed=[view for id, view in is_.items() if id not in was or told(view) != told(was[id])],
        removed=[id for id in was if id not in is_],
        source=after.source,
        age_seconds=after.age_seconds,
        stale=after.stale,
    )


def told(view: SourceView) -> SourceView:
    """What of a source is a change when it is another one."""
    return msgspec.structs.replace(view, as_of=None, level=None)


def same(one: Any, other: Any) -> bool:
    """Whether two reads of the sources differ in nothing but levels and ages."""
    if one is None or other is None:
        return False
    alike = (one.source, one.stale) == (other.source, other.stale) and len(one.data) == len(other.data)
    return alike and all(told(a) == told(b) for a, b in zip(one.data, other.data, strict=True))


def _by_id(views: Sequence[SourceView]) -> dict[str, SourceView]:
    return {view.id: view for view in views}
