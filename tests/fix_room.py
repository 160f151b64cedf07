"""The control room's station: real servers with Sentinels, projections, the web process, sources that sound.

One for all tests of the pages: what a test changes it changes back, or it adds what the others do not mind.
"""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from control.station.folder import Folder, with_value
from control.station.ports import free_port
from projections.database import open_engine
from projections.schema import migrate
from projections.tables import levels
from streams.connection import Unreachable, connect
from streams.library import load_library
from streams.looking import looked_at
from streams.messages import Level, canonical, now
from streams.names import STATION_LANE
from streams.readings import Readings
from streams.settings import PostgresSection, RedisSection, load
from tests.fix_alerts import received
from tests.fix_booth import Booth, running_booth
from tests.fix_cli import made_folder
from tests.fix_projections import LANE, Chain, Yard
from tests.fix_servers import Trio, eventually, new_database, running_trio
from tests.fix_web import Web, running_web

FAR_LANE = "p3"
"""The lane of the source `remote`, which a test may own: nobody else writes there once it is populated."""
Loudness = tuple[float, float]
"""What a source's RMS sways around, and by how much, in dBFS."""
SOUNDS: dict[str, Loudness] = {
    "keax": (-21.0, 5.0), "kec61": (-27.0, 9.0), "wtop": (-16.0, 4.0), "lp1": (-19.0, 6.0),
    "studio": (-33.0, 12.0),
}  # fmt: skip


class Calendar(Chain):
    """A chain whose events happen when it is told; by default now."""

    at: datetime | None = None

    def moment(self) -> datetime:
        return self.at or now()


class Talk:
    """Sources that are measured ten times a second, as an ingest node does it."""

    def __init__(self, yard: Yard, sounds: dict[str, Loudness], lane: str = LANE) -> None:
        self._yard = yard
        self._key = yard.keys.lane(lane).telemetry
        self.sounds = dict(sounds)
        self.fixed: dict[str, tuple[float | None, float | None]] = {}
        """RMS and peak that a source has instead, while a test wants it."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="talk")

    def _run(self) -> None:
        link = connect(self._yard.settings.redis, "talk")
        draw, looked = random.Random(7), frozenset[str]()
        for count in itertools.count():
            if self._stop.wait(0.1):
                break
            at = now()
            measured = [sound(name, loud, at, count / 10, draw) for name, loud in self.sounds.items()]
            measured = [self._as_told(level) for level in measured]
            measured = [
                msgspec.structs.replace(level, spectrum=spectrum(draw)) if level.source in looked else level
                for level in measured
            ]
            try:
                if count % 10 == 0:
                    looked = looked_at(link, self._yard.keys)
                link.call("XADD", self._key, "MAXLEN", "~", 6000, "*", "l", canonical(measured))
            except Exception:  # a failover: it goes on with the next primary
                continue
        link.close()

    def _as_told(self, level: Level) -> Level:
        told = self.fixed.get(level.source)
        return msgspec.structs.replace(level, rms_dbfs=told[0], peak_dbfs=told[1]) if told else level

    def __enter__(self) -> Talk:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)


def sound(name: str, loud: Loudness, at: datetime, seconds: float, draw: random.Random) -> Level:
    """A measurement of a source that speaks."""
    mean, sway = loud
    wave = math.sin(seconds * 1.3 + len(name)) * math.sin(seconds * 0.37 + ord(name[0]))
    rms = min(-1.0, mean + sway * wave + draw.uniform(-1.5, 1.5))
    peak = min(-0.3, rms + draw.uniform(6, 11))
    readings = Readings(
        true_peak_dbtp=round(min(-0.1, peak + 0.4), 2), momentary_lufs=round(rms + 0.6, 2),
        short_term_lufs=round(mean + 0.4 * sway * wave, 2), integrated_lufs=mean, range_lu=7.2, clipped=0,
        dc_offset=0.0, flatness=0.02, silent_seconds=0.0, buffered_seconds=0.2, dropped_seconds=0.0,
        drift_ppm=None,
    )  # fmt: skip
    return Level(
        source=name, at=at, rms_dbfs=round(rms, 2), peak_dbfs=round(peak, 2), seconds=seconds,
        readings=readings,
    )  # fmt: skip


def spectrum(draw: random.Random) -> tuple[int, ...]:
    """Bands of somebody who speaks: less the higher they are, with a few that stand out."""
    voice = draw.uniform(4, 9)
    return tuple(
        round(-38 - band * 0.42 + 9 * math.sin(band / voice) + draw.uniform(-6, 6)) for band in range(128)
    )


class Room:
    """The station and what a test does with it."""

    def __init__(self, trio: Trio, web: Web, yard: Yard, chain: Calendar, talk: Talk, booth: Booth) -> None:
        self.booth = booth
        self.trio = trio
        self.web = web
        self.yard = yard
        self.chain = chain
        self.talk = talk
        self.scribe = yard.scribe(chain=chain)
        self.far = yard.scribe(FAR_LANE, Calendar())
        self.office = yard.scribe(STATION_LANE, Calendar())

    @property
    def url(self) -> str:
        return self.web.url

    def beat(self) -> None:
        """A heartbeat of the only node, with all that it says."""
        fields = {
            "time": msgspec.to_builtins(now()),
            "address": self.booth.server.address,
            "pass": self.booth.server.secret,
            "clock": "0.004",
            "version": "0.1.0",
            "lanes": msgspec.json.encode([LANE]),
            "sources": msgspec.json.encode({LANE: len(SOUNDS)}),
            "breakers": msgspec.json.encode({"redis": {"state": "closed"}, "postgres": {"state": "closed"}}),
            "disk": msgspec.json.encode({"free": 41_300_000_000, "size": 64_000_000_000}),
        }
        key = self.yard.keys.node("local")
        flat = [part for pair in fields.items() for part in pair]
        self.yard.link.batch([("HSET", key, *flat), ("EXPIRE", key, 60)])

    def ago(self, **span: float) -> datetime:
        """From now on events happen then; the log's own times never go back."""
        self.chain.at = now() - timedelta(**span)
        return self.chain.at

    def alert(
        self, source: str, event: str = "RWT", name: str = "Required Weekly Test", /, **given: Any
    ) -> str:
        """An alert as one source hears it, issued now and in force for an hour unless told otherwise."""
        at = self.chain.at or now()
        issued = at.replace(second=0, microsecond=0)
        until = issued + timedelta(minutes=given.pop("valid_minutes", 60))
        codes = given.setdefault("locations", ["020103"])
        station = given.setdefault("station", "KEAX/NWS")
        header = f"ZCZC-WXR-{event}-{'-'.join(codes)}+0100-{issued:%j%H%M}-{station}-"
        told = {
            "header": header, "event": event, "event_name": name, "valid_minutes": 60,
            "issued_at": msgspec.to_builtins(issued), "expires_at": msgspec.to_builtins(until), **given,
        }  # fmt: skip
        hearing = f"{source}-{self.chain.seq}"
        self.scribe.write("alert.received", source, **received(hearing, **told))
        return hearing

    def record(self, source: str, *hearings: str) -> None:
        """A recording of what was heard, which the node has."""
        at = (self.chain.at or now()) - timedelta(seconds=12)
        self.scribe.write("recording.finished", source, **self.booth.record(source, at, 22.0, *hearings))

    def settle(self, command: str, source: str, outcome: str = "completed", **data: Any) -> None:
        """The result of a start of `source`, a moment after it was received."""
        at = self.chain.at or now()
        received_at = msgspec.to_builtins(at - timedelta(seconds=0.18))
        request = {
            "id": command,
            "source": source,
            "type": "source.start",
            "key": "operator",
            "issued_at": received_at,
        }
        self.scribe.write(
            f"command.{outcome}", source, command, type="source.start", sequence=1,
            request=canonical(request).decode(), signature="", received_at=received_at, **data,
        )  # fmt: skip

    def populate(self) -> None:
        """What a station has that has been up for some weeks."""
        scribe = self.scribe
        names = {
            "keax": "KEAX Kansas City, 162.550", "kec61": "KEC61 Mobile, 162.550", "wtop": "WTOP 103.5 FM",
            "lp1": "Local Primary 1", "studio": "Studio B return",
        }  # fmt: skip
        self.ago(days=60)
        for name, shown in names.items():
            scribe.add(name, running=True, name=shown)
        scribe.add("tower", name="Tower 2 discriminator")
        scribe.add("spare", name="Spare receiver")
        for week in range(8, 0, -1):
            self.ago(days=7 * week - 4.6)
            for name in ("keax", "kec61", "wtop"):
                if (name, week) != ("wtop", 3):
                    self.alert(name)
        self.ago(days=2.3)
        self.alert(
            "keax",
            "RMT",
            "Required Monthly Test",
            originator="EAS",
            originator_name="EAS Participant",
            station="KMBC/TV ",
        )
        self.ago(hours=5)
        scribe.write("condition.opened", "studio", episode="e-1", kind="silence", detail="−∞ dBFS for 30 s")
        self.ago(hours=4.4)
        scribe.write("condition.closed", "studio", episode="e-1", kind="silence", detail="sound again")
        self.ago(hours=3)
        self.settle("c-1", "lp1", state="running")
        self.ago(hours=2.2)
        self.settle("c-2", "tower", "failed", reason="unreadable", detail="no such file: /media/tower.wav")
        scribe.write("source.starting", "tower", desired="running")
        scribe.write("source.failed", "tower", reason="no such file: /media/tower.wav")
        self.ago(hours=1.1)
        self.settle("c-3", "wtop", "superseded", by="c-4")
        self.settle("c-4", "wtop", state="running")
        self.ago(minutes=24)
        self.settle("c-5", "spare", "expired")
        self.settle(
            "c-6",
            "spare",
            "rejected",
            reason="unauthorised",
            field="source",
            detail="the key may not start it",
        )
        self.ago(minutes=11)
        counties = ["020103", "020209", "029047", "029095", "029165"]
        places = [
            "Leavenworth County, KS",
            "Wyandotte County, KS",
            "Clay County, MO",
            "Jackson County, MO",
            "Platte County, MO",
        ]
        for name, sure in (("keax", 0.999), ("lp1", 0.94)):
            hearing = self.alert(
                name,
                "TOR",
                "Tornado Warning",
                locations=counties[:2],
                places=places[:2],
                valid_minutes=45,
                confidence=sure,
            )
            self.record(name, hearing)
        self.ago(minutes=9)
        self.alert(
            "keax", "SVA", "Severe Thunderstorm Watch", locations=counties, places=places, valid_minutes=240
        )
        self.chain.at = None
        stream = {"kind": "stream", "url": "https://radio.example/remote.ogg"}
        self.far.write("source.added", "remote", settings=stream, name="Remote pickup", desired="stopped")
        self.settle("c-7", "keax", state="running")
        claimed = {**dict.fromkeys([*names, "tower", "spare"], LANE), "remote": FAR_LANE}
        self.yard.link.call("HSET", self.yard.keys.sources, *itertools.chain(*claimed.items()))
        self.yard.link.call("SET", self.yard.keys.lane(LANE).lease, "local 1 nonce", "PX", 3_600_000)
        group = {"group": "lp", "name": "Local primary", "members": ["lp1", "wtop"]}
        self.office.write("group.created", **group, fallback_after=20.0, back_after=60.0)
        self.office.write("group.switched", group="lp", to="lp1", reason="it is heard")
        self._past_levels()

    def _past_levels(self) -> None:
        """Roll-ups of a month for every source that sounds, with a gap where one was away."""
        rows = []
        top = now().replace(second=0, microsecond=0)
        draw = random.Random(3)
        for name, loud in SOUNDS.items():
            for span, count in ((60, 26 * 60), (3600, 30 * 24)):
                start = top if span == 60 else top.replace(minute=0)
                for back in range(1, count):
                    at = start - timedelta(seconds=back * span)
                    if name == "studio" and timedelta(hours=4.4) < top - at < timedelta(hours=5):
                        rows.append(_row(name, span, at, None, 0.0))
                    elif not (name == "wtop" and timedelta(hours=1.05) < top - at < timedelta(hours=1.5)):
                        mean = loud[0] + 3 * math.sin(back / 37) + draw.uniform(-1.2, 1.2)
                        rows.append(_row(name, span, at, mean, loud[1]))
        with self.yard.engine.begin() as connection:
            connection.execute(levels.insert(), rows)

    def writes(self) -> bool:
        """Whether all who write here have found the primary again."""
        try:
            for link in (self.yard.link, self.scribe.link, self.far.link, self.office.link):
                link.call("PING")
        except Unreachable:
            return False
        return True

    def heard(self, source: str) -> bool:
        """Whether the read model has a level of the source."""
        data = self.web.client.get("/api/audio/sources").json().get("data") or []
        return any(view["id"] == source and view["level"] for view in data)


def _row(source: str, span: int, at: datetime, mean: float | None, sway: float) -> dict[str, Any]:
    if mean is None:
        return {
            "source": source, "span": span, "at": at.astimezone(UTC), "lane": LANE, "count": 600,
            "power": 0.0, "rms_least": None, "rms_most": None, "peak": None, "silent": 600,
            "loudness": 0.0, "loud": 0,
        }  # fmt: skip
    return {
        "source": source, "span": span, "at": at.astimezone(UTC), "lane": LANE, "count": 600,
        "power": 600 * 10 ** (mean / 10), "rms_least": mean - sway - 3, "rms_most": min(-2.0, mean + sway),
        "peak": min(-0.3, mean + sway + 7), "silent": 0,
        "loudness": 600 * 10 ** ((mean + 2.5) / 10), "loud": 600,
    }  # fmt: skip


@contextmanager
def running_room(folder: Path, trio: Trio, postgres: PostgresSection) -> Iterator[Room]:
    """The control room's station, populated and heard."""
    made = room_folder(folder, trio.redis, postgres)
    settings = load(made.settings)
    engine = open_engine(settings.postgres, name="test")
    migrate(engine)
    engine.dispose()
    link = connect(settings.redis, "test")
    load_library(link)
    link.close()
    yard = Yard(settings)
    with (
        running_web(made) as web,
        Talk(yard, SOUNDS) as talk,
        running_booth(made.path / "recordings", LANE, "keax") as booth,
    ):
        room = Room(trio, web, yard, Calendar(), talk, booth)
        room.populate()
        stop = threading.Event()
        beats = threading.Thread(target=_keep_beating, args=(room, stop), name="beats")
        beats.start()
        try:
            with yard.projections():
                eventually(lambda: room.heard("keax"), "a level")
                yield room
        finally:
            stop.set()
            beats.join(10)
            yard.close()


def _keep_beating(room: Room, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            room.beat()
        except Exception:  # a failover
            time.sleep(0.2)
            continue
        stop.wait(2.0)


def room_folder(path: Path, redis: RedisSection, postgres: PostgresSection) -> Folder:
    """A station's folder whose settings name the Sentinels."""
    folder = made_folder(path, redis, postgres.url, free_port())
    text = folder.settings.read_text("utf-8")
    named = ", ".join(f'"{sentinel}"' for sentinel in redis.sentinels)
    text = with_value(text, "redis", "sentinels", f"[{named}]")
    text = with_value(text, "redis", "service", f'"{redis.service}"')
    text = with_value(text, "redis", "replicas", str(redis.replicas))
    folder.settings.write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresSection) -> Iterator[Room]:
    """The control room's station for a module's tests."""
    folder = tmp_path_factory.mktemp("room")
    with (
        running_trio(folder / "servers") as trio,
        new_database(postgres_server) as postgres,
        running_room(folder / "station", trio, postgres) as room,
    ):
        yield room
