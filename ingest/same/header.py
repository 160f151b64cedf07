"""The header of an alert: `ZCZC-ORG-EEE-PSSCCC(-PSSCCC …)+TTTT-JJJHHMM-LLLLLLLL-`, by 47 CFR 11.31(c).

Whatever was heard is read as far as it can be: what breaks the format is told in `problems`, and
nothing is dropped for it. Times carry no year; the one that brings them nearest to now is meant.
"""

from __future__ import annotations

import re
from calendar import isleap
from datetime import UTC, datetime, timedelta

from ingest.same.names import event_name, originator_name, place_name
from streams.alerts import Header

MOST_LOCATIONS = 31
LONGEST_QUARTERS = 60
"""Minutes up to which a validity counts in quarters of an hour; beyond them it counts in halves."""

_START = "ZCZC-"
_CODE = re.compile(r"[A-Z]{3}")
_LOCATION = re.compile(r"[0-9]{6}")
_VALIDITY = re.compile(r"([0-9]{2})([0-5][0-9])")
_TIME = re.compile(r"([0-9]{3})([01][0-9]|2[0-3])([0-5][0-9])")
_STATION = re.compile(r"[ -,./0-~]{8}")


def parse(text: str, now: datetime) -> Header:
    """Read a header that was heard about `now`. Never raises."""
    problems: list[str] = []
    if not text.startswith(_START):
        problems.append(f"it does not begin with {_START}")
    if not text.endswith("-"):
        problems.append("it does not end with a dash")
    if "+" not in text:
        problems.append("there is no + before the validity")
    codes, tail = _parts(text.removeprefix(_START))
    originator = _code(codes[0], "originator", problems)
    event = _code(codes[1] if len(codes) > 1 else None, "event", problems)
    locations = _locations(codes[2:], problems)
    minutes = _validity(tail[0] if tail else None, problems)
    issued = _issued(tail[1] if len(tail) > 1 else None, now, problems)
    station = _station(tail[2] if len(tail) > 2 else None, problems)
    if len(tail) > 3:
        problems.append(f"something follows the station: {'-'.join(tail[3:])!r}")
    return Header(
        header=text,
        originator=originator,
        originator_name=originator_name(originator) if originator else None,
        event=event,
        event_name=event_name(event) if event else None,
        locations=locations,
        places=tuple(place_name(code) for code in locations),
        valid_minutes=minutes,
        issued_at=issued,
        expires_at=_later(issued, minutes),
        station=station,
        problems=tuple(problems),
    )


def _parts(text: str) -> tuple[list[str], list[str]]:
    """What stands before the + and after it; where there is none, what is six digits is a location."""
    what, plus, rest = text.partition("+")
    codes = what.split("-")
    if plus:
        return codes, rest.removesuffix("-").split("-")
    end = next((n for n, code in enumerate(codes[2:], 2) if not _LOCATION.fullmatch(code)), len(codes))
    return codes[:end], [code for code in codes[end:] if code]


def _code(found: str | None, what: str, problems: list[str]) -> str | None:
    if found is None:
        problems.append(f"there is no {what}")
        return None
    if not _CODE.fullmatch(found):
        problems.append(f"the {what} {found!r} is not three capital letters")
    return found or None


def _locations(found: list[str], problems: list[str]) -> tuple[str, ...]:
    if not found:
        problems.append("there is no location")
    if len(found) > MOST_LOCATIONS:
        problems.append(f"there are {len(found)} locations; at most {MOST_LOCATIONS} are allowed")
    problems += [
        f"the location {code!r} is not six digits" for code in found if not _LOCATION.fullmatch(code)
    ]
    return tuple(found)


def _validity(found: str | None, problems: list[str]) -> int | None:
    if found is None:
        problems.append("there is no validity")
        return None
    match = _VALIDITY.fullmatch(found)
    if match is None:
        problems.append(f"the validity {found!r} is not hours and minutes")
        return None
    minutes = int(match[1]) * 60 + int(match[2])
    if not minutes:
        problems.append("it is valid for no time at all")
    if minutes % (15 if minutes <= LONGEST_QUARTERS else 30):
        problems.append(f"the validity {found!r} is not in steps of 15 minutes to one hour, then of 30")
    return minutes


def _issued(found: str | None, now: datetime, problems: list[str]) -> datetime | None:
    if found is None:
        problems.append("there is no time of issue")
        return None
    match = _TIME.fullmatch(found)
    if match is None:
        problems.append(f"the time of issue {found!r} is not day of year, hour and minute")
        return None
    day, hour, minute = map(int, match.groups())
    moments = [
        datetime(year, 1, 1, hour, minute, tzinfo=UTC) + timedelta(days=day - 1)
        for year in range(now.year - 1, now.year + 2)
        if 1 <= day <= (366 if isleap(year) else 365)
    ]
    if not moments:
        problems.append(f"there is no day {day} in this year or the ones beside it")
        return None
    return min(moments, key=lambda moment: abs(moment - now))


def _later(issued: datetime | None, minutes: int | None) -> datetime | None:
    return None if issued is None or minutes is None else issued + timedelta(minutes=minutes)


def _station(found: str | None, problems: list[str]) -> str | None:
    if found is None:
        problems.append("there is no station")
        return None
    if not _STATION.fullmatch(found):
        problems.append(f"the station {found!r} is not eight characters")
    return found.strip() or None
