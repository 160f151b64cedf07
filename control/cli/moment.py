"""Points in time on the command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from typing import Any

import click
import msgspec

from streams.messages import now

_EVENT = re.compile(r"(station|p\d{1,2}|node\.[a-z0-9][a-z0-9-]{0,31}):(\d{1,18})")


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """A moment, or an event of a lane. `text` is what was written."""

    text: str
    at: datetime | None = None
    lane: str = ""
    seq: int = 0


class Moment(click.ParamType[datetime]):
    """A moment in UTC unless it names a zone: `2026-05-01T03:00:00`, or `03:00` for the latest such."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return moment(str(value), now())
        except ValueError:
            self.fail(f"{value!r} is no time; write 2026-05-01T03:00:00Z, or 03:00", param, ctx)


class PointInLog(click.ParamType[Point]):
    """A moment, or an event as LANE:SEQ."""

    name = "time|lane:seq"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Point:
        if isinstance(value, Point):
            return value
        text = str(value)
        if found := _EVENT.fullmatch(text):
            return Point(text=text, lane=found[1], seq=int(found[2]))
        return Point(text=text, at=Moment().convert(text, param, ctx))


def moment(text: str, present: datetime) -> datetime:
    """The moment that `text` names; a time of day is the latest one before `present`. Raises ValueError."""
    try:
        hour = time.fromisoformat(text)
    except ValueError:
        found = datetime.fromisoformat(text)
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    today = datetime.combine(present.astimezone(UTC).date(), hour, hour.tzinfo or UTC)
    return today if today <= present else today - timedelta(days=1)
