"""A life of what is heard, for `record_history`: alerts, evidence, conditions, reports and a flood."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import soundfile
from uuid_utils import uuid7

from ingest import courier
from ingest.claims import Claims
from ingest.entered import FIELD
from ingest.equipment import Equipment
from ingest.inputs import Inputs
from ingest.lane import SourcesLane
from ingest.listener import Noted
from ingest.meters import Meters
from ingest.recorder import HEARD, PART, Recorder
from ingest.shelf import outlived, salvaged
from ingest.spool import Spool
from ingest.weekly_test import RATE as WEEKLY_RATE
from ingest.weekly_test import Samples, burst, silence, tone, weekly_test, write_weekly_test
from streams import rejections
from streams.inputs import FetchSection, PipeSection
from streams.messages import Event, Level, canonical, now
from streams.replay import stored
from streams.sound import RecordingsSection
from tests.fix_servers import eventually, running_valkey
from tests.fix_streams import Hall, working
from tests.test_histories import LANE

RATE = 8000
RECORDED = RecordingsSection(free_megabytes=0.0, ring_seconds=15.0)
MINUTE = timedelta(minutes=1)
QUARTER = timedelta(days=91)
"""After which recordings are older than they are kept."""
RECEIVER = PipeSection(command=("sh", "-c", "head -c 960000 /dev/urandom; exec sleep 600"), rate=RATE)
"""A program that writes a minute of noise at once, more than the disk can follow, and then hangs."""


class Nowhere:
    """Telemetry that is not kept."""

    def put(self, level: Level) -> None:
        pass


class Desk:
    """A lane of sources at work, and who commands it."""

    def __init__(self, hall: Hall, folder: Path, parts: Equipment, claims: Claims) -> None:
        self.hall, self.folder = hall, folder
        self.inputs = Inputs(FetchSection(stalled_after=2.0), {"receiver": RECEIVER})
        self.handler = SourcesLane(hall.lane, Nowhere(), claims, parts, self.inputs)
        self._submitter = hall.submitter()

    def do(self, type: str, source: str, outcome: str = "completed", **params: Any) -> None:
        """Command it, and wait for the outcome, which must be this one."""
        answer = self._submitter.submit(self.hall.command(type, source, params=params), timeout=60)
        assert answer.outcome == outcome, answer

    def told(self, type: str, source: str = "noaa", **data: Any) -> list[Event]:
        """The events of this type and source whose data hold at least `data`."""
        log = [logged.event for logged in self.hall.events()]
        found = [one for one in log if (one.type, one.source) == (type, source)]
        return [one for one in found if data.items() <= one.data.items()]

    def wait(self, type: str, source: str = "noaa", **data: Any) -> Event:
        """Wait for such an event; the last."""
        eventually(lambda: self.told(type, source, **data), f"{type} of {source}")
        return self.told(type, source, **data)[-1]

    def file(self, name: str, **more: Any) -> dict[str, Any]:
        """The settings of a source that plays a file."""
        return {"kind": "file", "path": str(self.folder / name), "pace": "fast", **more}


@contextmanager
def _running(hall: Hall, claims: Claims, parts: Equipment) -> Iterator[None]:
    """Let claims, meters and the recorder work meanwhile."""
    assert parts.recorder is not None
    stop = threading.Event()
    bodies = (claims.run, parts.meters.run, parts.recorder.run)
    threads = [threading.Thread(target=body, args=(stop,)) for body in bodies]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)


def _message(header: str, signal: Samples, *, damaged: bool = False) -> list[Samples]:
    """A message as it is sent; damaged, each burst has another character that was heard wrong."""
    heard = [_replaced(header, at) if damaged else header for at in (9, 22, 30)]
    opening, closing = (
        [part for text in texts for part in (burst(text), silence(1.0))] for texts in (heard, ["NNNN"] * 3)
    )
    return [*opening, signal, silence(4.0), *closing, silence(9.0)]


def _replaced(text: str, at: int) -> str:
    """The text with one character replaced, by one of another bit."""
    return f"{text[:at]}{chr(ord(text[at]) ^ 1)}{text[at + 1 :]}"


def _write_broadcast(path: Path) -> None:
    """A weekly test, a tornado warning, and what nobody knows, damaged on its way."""
    issued = f"{now():%j%H%M}"
    attention = ((tone(853.0, 8.0) + tone(960.0, 8.0)) / 2).astype(np.float32)
    warning = _message(f"ZCZC-WXR-TOR-020103-020091+0045-{issued}-KEAX/NWS-", attention)
    unknown = _message(f"ZCZC-XYZ-QQQ-099999+0020-{issued}-NOBODY-", tone(1050.0, 8.0), damaged=True)
    samples = np.concatenate([weekly_test(now()), silence(5.0), *warning, *unknown])
    soundfile.write(path, samples, WEEKLY_RATE, subtype="PCM_16")


def record_evidence(folder: Path) -> list[tuple[bytes, bytes]]:
    """Three messages are heard, a source is silent, one breaks, a node reports, a flood is counted."""
    _write_broadcast(folder / "noaa.wav")
    write_weekly_test(folder / "weekly.wav")
    soundfile.write(folder / "quiet.wav", np.zeros(40 * RATE), RATE)
    with running_valkey(folder / "valkey") as redis, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rejections, "BURST", 1)
        patch.setattr(courier, "OTHERS", timedelta(0))
        hall = Hall(redis, folder, lane=LANE)
        claims = Claims(hall.new_link("claims"), hall.station)
        spool = Spool(folder / "spool", "here")
        parts = Equipment(Meters(), Recorder(folder / "recordings", RECORDED), spool, RECORDED)
        desk = Desk(hall, folder, parts, claims)
        with _running(hall, claims, parts), working(hall, desk.handler, node="here"):
            _salvage(desk)
            _hear(desk)
            _fall_silent(desk)
            _break_down(desk)
            _report(desk)
            _flood(desk)
            # A recording is begun when the lane is released: what becomes of it is in the spool alone.
            desk.do("source.update", "quiet", settings=desk.file("quiet.wav", loop=True, pace="realtime"))
            desk.do("recording.start", "quiet")
            desk.do("source.start", "quiet")
            desk.wait("recording.started", "quiet", kind="continuous")
        desk.inputs.close()
        entries = list(stored(hall.link, hall.keys))
        hall.close()
    return entries


def _salvage(desk: Desk) -> None:
    """A process before this one ended while it recorded an alert that was played as a test."""
    desk.do("source.add", "noaa", settings=desk.file("noaa.wav"), name="NOAA Weather Radio")
    recording, begun = str(uuid7()), now()
    part = desk.folder / f"recordings/{LANE}/noaa/{begun:%Y%m%dT%H%M%SZ}-alert-test-{recording}.flac{PART}"
    part.parent.mkdir(parents=True)
    soundfile.write(part, np.zeros(3 * RATE), RATE, format="FLAC", subtype="PCM_16")
    part.with_name(part.name.removesuffix(PART) + HEARD).write_bytes(canonical([str(uuid7())]))
    for one, fact in salvaged(desk.folder / "recordings"):
        desk.handler.notes.note(one.source, Noted(fact, now()))


def _hear(desk: Desk) -> None:
    """Three alerts, each recorded, and all the rest of the sound, too; the oldest recording goes."""
    desk.do("recording.start", "noaa")
    desk.do("source.start", "noaa")
    desk.wait("source.stopped")

    def recorded() -> bool:
        return len(desk.told("recording.finished", rate=WEEKLY_RATE)) == 4

    eventually(recorded, "the alerts recorded, and all of it")
    one, fact = next(outlived(desk.folder / "recordings", RECORDED, now() + QUARTER))
    desk.handler.notes.note(one.source, Noted(fact, now()))
    desk.wait("recording.removed")


def _fall_silent(desk: Desk) -> None:
    """A silent source whose recording fails; somebody has seen it, plays a test, and stops it."""
    desk.do("source.add", "quiet", settings=desk.file("quiet.wav", loop=True), name="")
    blocked = desk.folder / f"recordings/{LANE}/quiet"
    blocked.write_text("a file where a folder should be")
    desk.do("recording.start", "quiet")
    desk.do("source.start", "quiet")
    desk.wait("recording.failed", "quiet")
    desk.do("recording.stop", "quiet")
    blocked.unlink()
    opened = desk.wait("condition.opened", "quiet", kind="silence")
    desk.do("condition.acknowledge", "quiet", episode=opened.data["episode"])
    desk.do("source.inject", "quiet", path=str(desk.folder / "weekly.wav"))
    desk.wait("recording.finished", "quiet", injected=True)
    desk.do("source.stop", "quiet")
    desk.wait("condition.closed", "quiet")


def _break_down(desk: Desk) -> None:
    """A file that is not there; and a program that hangs, whose source is removed."""
    desk.do("source.add", "lost", settings=desk.file("none.wav"), name="A file that is not there")
    desk.do("source.start", "lost", outcome="failed")
    piled = [desk.hall.command(f"source.{verb}", "lost") for verb in ("restart", "start", "stop")]
    desk.hall.submitter().accept_all(piled, timeout=10)
    desk.wait("command.superseded", "lost")
    desk.wait("source.stopped", "lost")
    late = desk.hall.command("source.start", "lost", issued_at=now() - MINUTE * 5, expires_at=now() - MINUTE)
    assert desk.hall.submitter().submit(late).outcome == "expired"
    desk.do("source.add", "receiver", settings={"kind": "pipe", "pipe": "receiver", "gain_db": -6.0}, name="")
    desk.do("recording.start", "receiver")
    desk.do("source.start", "receiver")
    desk.wait("condition.opened", "receiver", kind="stalled")
    desk.do("source.remove", "receiver")
    assert desk.wait("recording.finished", "receiver").data["lost"] > 0


def _report(desk: Desk) -> None:
    """Another node heard the last message, too, and recorded it, while it could not log that."""
    hall, spool = desk.hall, Spool(desk.folder / "spool-there", "there")
    heard = desk.told("alert.received")[-1]
    recorded = desk.wait("recording.finished", hearings=[heard.data["hearing"]])
    begun = desk.wait("recording.started", recording=recorded.data["recording"])
    own = {heard.data["hearing"]: str(uuid7()), recorded.data["recording"]: str(uuid7())}
    for was in (desk.told("alert.burst")[-1], heard, begun, recorded):
        raw = canonical({key: value for key, value in was.data.items() if key != FIELD})
        for theirs, ours in own.items():
            raw = raw.replace(theirs.encode(), ours.encode())
        spool.keep(LANE, "noaa", was.type, msgspec.json.decode(raw), now())
    carrier = courier.Courier(
        hall.settings, hall.new_link("courier"), hall.submitter(), spool,
        owned=lambda: (), keyring=lambda: hall.keyring,
    )  # fmt: skip
    carrier.see_to(LANE)
    desk.wait("recording.finished", recording=own[recorded.data["recording"]])


def _flood(desk: Desk) -> None:
    """Unsigned commands, of which all but the first are counted."""
    hall = desk.hall
    forged = [msgspec.structs.replace(hall.command("source.stop", "noaa"), signature="") for _ in range(4)]
    hall.submitter().accept_all(forged, timeout=10)
    desk.wait("rejections.counted", "")
