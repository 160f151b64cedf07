"""A life of the `station` lane, for `record_history`: keys, groups, and what became of parked commands."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from control.stationlane import StationLane
from ingest.claims import Claims
from streams.durability import Prover
from streams.handler import Handler
from streams.messages import Answer, Level, canonical, now
from streams.names import STATION_LANE
from streams.replay import stored
from streams.signing import Key, create_key, new_key
from streams.submit import Signed
from streams.vocabulary import ParkedRetry, plain
from streams.worker import LaneWorker
from tests.fix_servers import eventually, running_valkey
from tests.fix_streams import Hall, Scripted
from tests.test_histories import LANE


class Office:
    """A station lane at work, and who commands it."""

    def __init__(self, hall: Hall, chief: Key) -> None:
        self.hall, self.chief = hall, chief
        self._submitter = hall.submitter()

    def send(self, command: Signed) -> Answer:
        return self._submitter.submit(command, timeout=20)

    def do(self, type: str, key: Key, **params: Any) -> None:
        """Command it, signed by `key`, and wait for the outcome, which must be that it is done."""
        answer = self.send(self.hall.command(type, "", key=key, params=params))
        assert answer.outcome == "completed", answer

    def speak(self, **levels: float | None) -> None:
        """Measure these sources once, as an ingest node writes it (None: digital silence)."""
        told = [
            Level(source=source, at=now(), rms_dbfs=level, peak_dbfs=level, seconds=1.0)
            for source, level in levels.items()
        ]
        self.hall.link.call("XADD", self.hall.station.lane(LANE).telemetry, "*", "l", canonical(told))

    def switched(self) -> list[str]:
        """To which sources it was switched, in order."""
        return [one.event.data["to"] for one in self.hall.events() if one.event.type == "group.switched"]


@contextmanager
def _owning(hall: Hall, lane: str, handler: Handler, keys: StationLane) -> Iterator[None]:
    """Own a lane meanwhile, in a thread of this process; the `station` lane's handler knows the keys."""
    worker = LaneWorker(
        hall.settings, lane, "here", handler,
        keyring=keys.keyring, groups=keys.groups_of, prover=Prover(hall.settings.redis),
    )  # fmt: skip
    stop = threading.Event()
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    try:
        assert worker.owned.wait(30), f"{lane} was not acquired"
        yield
    finally:
        stop.set()
        thread.join(30)


def record_station(folder: Path) -> list[tuple[bytes, bytes]]:
    """Keys are made, rotated and revoked, groups switch, and parked commands are retried and dropped."""
    with running_valkey(folder / "valkey") as redis:
        hall = Hall(redis, folder, lane=STATION_LANE)
        chief = create_key(folder / "keys", "chief", "engineer", "ed25519")
        files = {**hall.keyring, chief.id: chief}
        lane = StationLane(hall.settings, Prover(hall.settings.redis), files)
        office = Office(hall, chief)
        claims = Claims(hall.new_link("claims"), hall.station)
        for source in ("noaa", "relay"):
            claims.claim(source, LANE)
        with _owning(hall, LANE, Scripted(), lane), _owning(hall, STATION_LANE, lane, lane):
            _switch_groups(office)
            desk, second = _make_keys(office)
            _decide_over_parked(office, second)
            seen = {"episode": 3, "rule": "stalled", "subject": "noaa"}
            office.do("condition.acknowledge", desk, **seen)
            _end_keys(office, second)
            # While it is owned: a log as it stands on most days.
            entries = list(stored(hall.link, hall.keys))
        hall.close()
    return entries


def _switch_groups(office: Office) -> None:
    """A group's first member is heard, then falls silent; another group comes and goes."""

    def hear(switches: list[str], **levels: float | None) -> None:
        def switched() -> bool:
            office.speak(**levels)
            return office.switched() == switches

        eventually(switched, f"switches: {switches}")

    named = {"group": "news", "name": "News \N{EN DASH} K\u00f6ln", "members": ["noaa", "relay"]}
    office.do("group.create", office.chief, **named, fallback_after=1, back_after=86400)
    office.do("group.create", office.chief, group="old", members=["relay"])
    hear(["noaa"], noaa=-12.5, relay=None)
    office.do("group.remove", office.chief, group="old")
    hear(["noaa", "relay"], noaa=None, relay=-18.25)


def _make_keys(office: Office) -> tuple[Key, Key]:
    """An operator's key with limits, and an engineer's that is rotated."""
    desk, second = new_key("desk", "operator", "ed25519"), new_key("second", "engineer", "ed25519")
    limits = {"sources": ["noaa*"], "groups": ["news"]}
    office.do("key.create", office.chief, id="desk", public=desk.public, role="operator", **limits)
    office.do("key.create", office.chief, id="second", public=second.public, role="engineer")
    turned = new_key("second", "engineer", "ed25519")
    office.do("key.rotate", second, id="second", public=turned.public, grace=0)
    return desk, turned


def _decide_over_parked(office: Office, key: Key) -> None:
    """Of two parked commands one is retried, the other dropped."""
    hall = office.hall
    for decided in ("parked.retry", "parked.drop"):
        was = hall.command("source.polish", "noaa", lane=LANE)
        assert office.send(was).reason == "parked"
        if decided == "parked.drop":
            office.do(decided, key, lane=LANE, id=was.command.id)
            continue
        again = hall.command("source.polish", "noaa", lane=LANE, key=key, cause=was.command.id)
        asked = ParkedRetry(
            lane=LANE, id=was.command.id, request=again.raw.decode(), signature=again.signature
        )
        office.do(decided, key, **plain(asked))


def _end_keys(office: Office, second: Key) -> None:
    """A key that was a file is rotated; one of the log and one of a file are revoked."""
    turned = new_key("chief", "engineer", "ed25519")
    office.do("key.rotate", office.chief, id="chief", public=turned.public)
    office.do("key.revoke", second, id="desk", reason="its laptop was lost")
    office.do("key.revoke", second, id=office.hall.key.id)
