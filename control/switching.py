"""Listening to the members of groups by their telemetry, wherever they are captured, and switching."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

import msgspec
import structlog
from redis.exceptions import ResponseError

from control.groups import Ear, Group, Groups, choose
from streams.backoff import Backoff
from streams.connection import Link, Unreachable
from streams.messages import Level
from streams.names import StationKeys

PERIOD = 0.5
"""Seconds between two looks."""
LANES = 10.0
"""Seconds after which it is looked anew in which lane a source lives."""
MOST = 100
"""Entries of telemetry read at once: ten seconds."""

Switch = Callable[[Group, str, str], None]

log = structlog.get_logger(__name__)
_decode = msgspec.json.Decoder(list[Level]).decode


class Switcher:
    """Follows groups; `switch` is told which member is to count, and why. `run` is the body of a thread.

    Below `silence` (dBFS, RMS) a source is silent, as for its meters.
    """

    def __init__(
        self, link: Link, keys: StationKeys, groups: Callable[[], Groups], switch: Switch, silence: float
    ) -> None:
        self._link = link
        self._keys = keys
        self._groups = groups
        self._switch = switch
        self._silence = silence
        self._ears: dict[str, Ear] = {}
        self._lanes: dict[str, str] = {}
        self._looked = 0.0
        self._after: dict[str, str] = {}
        self.stop = threading.Event()

    def run(self) -> None:
        """Listen and switch until `stop` is set. While Redis is away nothing is known, nor switched."""
        backoff = Backoff(self.stop)
        while not self.stop.is_set():
            try:
                self.look()
                backoff.reset()
                self.stop.wait(PERIOD)
            except (Unreachable, ResponseError) as error:
                if backoff.failures == 0:
                    log.warning("members of groups are not heard", detail=str(error))
                self._forget()
                backoff.wait()
            except Exception:  # one group that cannot be followed must not end all others
                log.exception("groups are not followed")
                backoff.wait()
        self._link.close()

    def look(self) -> None:
        """Hear all members once, and switch what is to be switched. Raises Unreachable, ResponseError."""
        groups = self._groups()
        now = time.monotonic()
        wanted = {member for group in groups.values() for member in group.members}
        self._ears = {one: self._ears.get(one) or Ear(begun=now) for one in wanted}
        if not wanted:
            return
        self._place(wanted, now)
        patience = dict[str, float]()
        for group in groups.values():
            for member in group.members:
                patience[member] = max(group.fallback_after, patience.get(member, 0.0))
        for level in self._levels():
            if (ear := self._ears.get(level.source)) is not None:
                loud = level.rms_dbfs is not None and level.rms_dbfs >= self._silence
                ear.hear(now, loud=loud, patience=patience[level.source])
        for group in groups.values():
            if (chosen := choose(group, self._ears, now)) is not None:
                self._switch(group, *chosen)

    def _place(self, members: set[str], now: float) -> None:
        """Know in which lane each member lives."""
        if members <= self._lanes.keys() and now - self._looked < LANES:
            return
        names = sorted(members)
        found = self._link.batch([("HGET", self._keys.sources, name) for name in names])
        self._lanes = {
            name: lane.decode() for name, lane in zip(names, found, strict=True) if isinstance(lane, bytes)
        }
        self._looked = now

    def _levels(self) -> Iterable[Level]:
        """What was measured since the last look, in the lanes where members live."""
        streams = [self._keys.lane(lane).telemetry for lane in sorted(set(self._lanes.values()))]
        asked = [
            ("XRANGE", key, f"({self._after[key]}", "+", "COUNT", MOST)
            if key in self._after
            else ("XREVRANGE", key, "+", "-", "COUNT", 1)
            for key in streams
        ]
        for key, entries in zip(streams, self._link.batch(asked), strict=True):
            if isinstance(entries, ResponseError):
                raise entries
            begins = key not in self._after
            self._after[key] = entries[-1][0].decode() if entries else self._after.get(key, "0-0")
            if begins:
                # What stood there before we listened may be of long ago.
                continue
            for _, fields in entries:
                told = dict(zip(fields[::2], fields[1::2], strict=True))
                try:
                    yield from _decode(told.get(b"l", b"[]"))
                except msgspec.DecodeError:
                    continue

    def _forget(self) -> None:
        """Begin to listen anew: what was not heard while Redis was away says nothing of the sources."""
        self._after.clear()
        self._ears.clear()
