"""What codes in a header stand for, by the tables that the package EAS2Text-Remastered ships.

Only its data file is read: importing the package fetches newer tables from a web site, and asks for
packages that it does not name. A code that is not in the tables is unknown, which is no fault: new
events are defined, and seas have numbers too.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import msgspec
import structlog

PACKAGE = "EAS2Text-Remastered"
TABLES = "EAS2Text/same-us.json"
WHOLE_COUNTRY = "000000"


class Tables(msgspec.Struct, frozen=True, rename={"places": "SAME", "parts": "SUBDIV"}):
    """The tables as they stand in the file; places by SSCCC, parts of a place by P."""

    places: dict[str, str] = {}
    parts: dict[str, str] = {}
    originators: dict[str, str] = msgspec.field(name="ORGS", default_factory=dict)
    events: dict[str, str] = msgspec.field(name="EVENTS", default_factory=dict)


@cache
def tables() -> Tables:
    """The tables, read once; empty ones where they cannot be read: no alert is lost over a name."""
    try:
        path = Path(str(distribution(PACKAGE).locate_file(TABLES)))
        return msgspec.json.decode(path.read_bytes(), type=Tables)
    except (PackageNotFoundError, OSError, msgspec.DecodeError) as error:
        structlog.get_logger(__name__).warning("no names for the codes of alerts", detail=str(error))
        return Tables()


def event_name(code: str) -> str | None:
    """What an event code (EEE) stands for, like "Required Weekly Test"; None: unknown."""
    return _bare(tables().events.get(code))


def originator_name(code: str) -> str | None:
    """Who an originator code (ORG) stands for, like "National Weather Service"; None: unknown."""
    return _bare(tables().originators.get(code))


def place_name(code: str) -> str | None:
    """The place that a location (PSSCCC) names, like "Northwest Harris County, TX"; None: unknown."""
    name = tables().places.get(code[1:])
    part = tables().parts.get(code[:1], "")
    return f"{part} {name}" if name and part and code != WHOLE_COUNTRY else name


def _bare(name: str | None) -> str | None:
    """The name without its article."""
    article, _, rest = (name or "").partition(" ")
    return rest if rest and article.lower() in ("a", "an", "the") else name
