"""The settings `[notify]`: who is told of what, when, and where the secret addresses are kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, time
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

Kind = Literal[
    "source.failed", "source.stalled", "silence", "heartbeat", "parked", "trouble", "verify", "alert"
]
OF_NO_SOURCE = frozenset({"heartbeat", "trouble", "verify"})
"""Kinds that are about a node or a lane."""
Name = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9][a-z0-9._-]{0,63}\Z")]
Quiet = Annotated[str, msgspec.Meta(pattern=r"\A(([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d)?\Z")]
County = Annotated[str, msgspec.Meta(pattern=r"\A\d{6}\Z")]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=30 * 86400)]

SHAPES = {
    r"\A[a-z0-9][a-z0-9._-]{0,63}\Z": "of lower-case letters, digits, dots and hyphens",
    r"\A(([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d)?\Z": "like 22:00-06:00",
    r"\A\d{6}\Z": "like 048201, as alerts name a county",
}
"""What the patterns mean, for errors."""

DELAYS: Mapping[Kind, float] = {"silence": 30.0, "trouble": 30.0, "verify": 30.0}
"""Seconds before it counts, where a rule says nothing: speech has pauses, and failovers are mended."""


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[notify.rules]]`: of what (`on`) whom (`to`) to tell.

    Empty filters mean all; `sources` and `lanes` may hold `*`. It is told once it has lasted `delay`
    seconds, and again every `repeat` until it is over or acknowledged. What begins again within
    `settle` seconds of its end is the same episode. Nothing goes out in the `quiet` hours of `zone`.
    """

    name: Name
    on: Kind
    to: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    sources: tuple[str, ...] = ()
    lanes: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    counties: tuple[County, ...] = ()
    delay: Seconds | None = None
    repeat: Seconds = 0.0
    settle: Seconds = 60.0
    below: float = -60.0
    quiet: Quiet = ""
    zone: str = "UTC"

    @property
    def holds_for(self) -> float:
        """Seconds that an episode must last before it is told."""
        if self.delay is not None:
            return self.delay
        return DELAYS.get(self.on, 0.0)

    def is_quiet(self, at: datetime) -> bool:
        """Whether `at` lies in the quiet hours."""
        if not self.quiet:
            return False
        begin, end = (time.fromisoformat(part) for part in self.quiet.split("-"))
        clock = at.astimezone(ZoneInfo(self.zone)).time()
        return begin <= clock < end if begin < end else clock >= begin or clock < end


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[notify.targets]]`: `url_file` holds its secret address, as apprise writes addresses.

    `dedups`: it knows by the id in a notification that it has it already, so that one of which nobody
    knows whether it went out may be sent again.
    """

    name: Name
    url_file: Annotated[str, msgspec.Meta(min_length=1)]
    dedups: bool = False


class Maintenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[notify.maintenance]]`: from when until when nothing goes out.

    `lanes` and `sources` say about what, as in a rule; without both it is about anything. What is about
    no source (a node that is not heard, say) is not among any `sources`; a node's lane is `node.NAME`.
    """

    begin: Moment = msgspec.field(name="from")
    until: Moment
    sources: tuple[str, ...] = ()
    lanes: tuple[str, ...] = ()


class NotifySection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[notify]`: rules and targets, and the address that is asked for while all is well."""

    rules: tuple[Rule, ...] = ()
    targets: tuple[Target, ...] = ()
    maintenance: tuple[Maintenance, ...] = ()
    dead_man_file: str = ""
    dead_man_every: Annotated[float, msgspec.Meta(ge=1, le=86400)] = 60.0


def contradiction(notify: NotifySection) -> tuple[str, str] | None:
    """The first field that does not go with the others, and why; None where all is in order."""
    targets = [target.name for target in notify.targets]
    rules = [rule.name for rule in notify.rules]
    for noun, names in (("targets", targets), ("rules", rules)):
        for place, name in enumerate(names):
            if name in names[:place]:
                return f"notify.{noun}[{place}].name", f"{name!r} is the name of another one too"
    for place, rule in enumerate(notify.rules):
        field = f"notify.rules[{place}]"
        for name in rule.to:
            if name not in targets:
                return f"{field}.to", f"{name!r} is none of the targets ({', '.join(targets) or 'none'})"
        if rule.zone and not _is_zone(rule.zone):
            return f"{field}.zone", f"{rule.zone!r} is no time zone known here (like Europe/Vienna)"
        if rule.quiet and len(set(rule.quiet.split("-"))) == 1:
            return f"{field}.quiet", f"{rule.quiet!r} begins when it ends"
        if (rule.events or rule.counties) and rule.on != "alert":
            other = "events" if rule.events else "counties"
            return f"{field}.{other}", f"only alerts have {other}, and this rule is on {rule.on!r}"
        if rule.sources and rule.on in OF_NO_SOURCE:
            return f"{field}.sources", f"{rule.on!r} is about no source; choose by lanes (node.NAME, p*)"
    for place, window in enumerate(notify.maintenance):
        if window.until <= window.begin:
            return f"notify.maintenance[{place}].until", f"{window.until} is not after {window.begin}"
    return None


def _is_zone(name: str) -> bool:
    if not re.fullmatch(r"[A-Za-z0-9_+/-]+", name):
        return False
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True
