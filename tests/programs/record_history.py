"""Record a lane's log from a real run: `python -m tests.programs.record_history LIFE [NAME]`, two files.

`tests/histories/schema-N/NAME.jsonl` has an event's bytes (as text) and hash per line, as they stood in
Redis; `NAME.expected.json` has what the folds of today make of them. A history that is committed stays as it
is: new versions of the code must read it. Record another, under another name, where there is more to tell.
`LIFE` is what is played: `sources`, `accidents` (a failover that takes events, a fork, a command parked),
`evidence` (alerts, recordings, conditions, another node's report, a flood), or `station` (that lane: keys,
groups, what became of parked commands).
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import soundfile

from ingest.claims import Claims
from ingest.lane import SourcesLane
from streams.connection import Unreachable
from streams.drafts import Draft
from streams.durability import Prover
from streams.history import Archive, Entry
from streams.messages import SCHEMA, digest, now
from streams.replay import stored
from streams.submit import Signed
from streams.tail import Position
from streams.worker import LaneWorker
from tests.fix_ingest import equipment
from tests.fix_servers import eventually, running_valkey
from tests.fix_streams import Hall, insist
from tests.programs.history_evidence import Nowhere, record_evidence
from tests.programs.history_station import record_station
from tests.test_histories import FOLDER, LANE, folds, lane_of, read

RATE = 8000
MINUTE = timedelta(minutes=1)


class Run:
    """A lane of sources at work."""

    def __init__(self, hall: Hall, claims: Claims, archive: Archive | None = None) -> None:
        self.hall = hall
        self.handler = SourcesLane(LANE, Nowhere(), claims, equipment())
        self.worker = LaneWorker(
            hall.settings, LANE, "here", self.handler, keyring=lambda: hall.keyring,
            prover=Prover(hall.settings.redis), archive=archive,
        )  # fmt: skip
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.worker.run, args=(self._stop,))
        self._thread.start()
        assert self.worker.owned.wait(20)

    def end(self) -> None:
        self._stop.set()
        self._thread.join(30)


class Otherwise:
    """An archive of another branch of the lane than the one that stands."""

    def __init__(self, after: int) -> None:
        self._head = Position(after + 3, digest(b"another branch"))

    def head(self, lane: str) -> Position:
        return self._head

    def after(self, lane: str, seq: int, upto: int | None = None) -> Iterator[Entry]:
        return iter(())

    def before(self, lane: str, seq: int | None) -> Iterator[Entry]:
        return iter(())

    def hash_at(self, lane: str, seq: int) -> str:
        return digest(b"another branch")


def record_accidents(folder: Path) -> list[tuple[bytes, bytes]]:
    """A failover takes events and the owner puts them back; a command is parked; the archive has a fork."""
    with running_valkey(folder / "valkey") as redis:
        hall = Hall(redis, folder)
        hall.keys = hall.station.lane(LANE)
        claims = Claims(hall.new_link("claims"), hall.station)

        def do(type: str, source: str, **params: Any) -> str:
            return insist(hall.submitter(), hall.command(type, source, lane=LANE, params=params)).outcome

        def logged() -> set[str]:
            try:
                return {one.event.type for one in hall.events()}
            except Unreachable:
                return set()

        file = {"kind": "file", "path": str(folder / "none.wav")}
        run = Run(hall, claims)
        do("source.add", "noaa", settings=file, name="NOAA")
        own = [*hall.link.call("KEYS", f"{hall.keys.prefix}*")]
        dump = {key: hall.link.call("DUMP", key) for key in own}
        do("source.add", "second", settings=file, name="")
        do("source.polish", "noaa")
        gone = [("DEL", key) for key in hall.link.call("KEYS", f"{hall.keys.prefix}*")]
        back = [("RESTORE", key, 0, value) for key, value in dump.items()]
        hall.link.batch([("MULTI",), *gone, *back, ("DEL", hall.keys.lease), ("EXEC",)])
        hall.link.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        eventually(lambda: "log.restored" in logged(), "the events put back")
        do("source.start", "second")
        run.end()
        run = Run(hall, claims, Otherwise(len(hall.events())))
        eventually(lambda: "log.forked" in logged(), "the fork told")
        do("source.remove", "second")
        run.end()
        entries = list(stored(hall.link, hall.keys))
        hall.close()
    return entries


def record(folder: Path) -> list[tuple[bytes, bytes]]:
    """Play a life of several sources and return the log."""
    for name, seconds in (("long.wav", 2.0), ("short.wav", 0.3)):
        sine = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)
        soundfile.write(folder / name, sine, RATE, subtype="PCM_16")
    with running_valkey(folder / "valkey") as redis:
        hall = Hall(redis, folder)
        hall.keys = hall.station.lane(LANE)
        claims, stop = Claims(hall.new_link("claims"), hall.station), threading.Event()
        freeing = threading.Thread(target=claims.run, args=(stop,))
        freeing.start()
        submitter = hall.submitter()

        def do(type: str, source: str, **params: Any) -> str:
            return submitter.submit(hall.command(f"source.{type}", source, lane=LANE, params=params)).outcome

        def file(name: str, **more: Any) -> dict[str, Any]:
            return {"kind": "file", "path": str(folder / name), **more}

        run = Run(hall, claims)
        do(
            "add",
            "noaa",
            settings=file("long.wav", loop=True),
            name="NOAA Weather Radio \N{EN DASH} K\u00f6ln",
        )
        do("add", "noaa", settings=file("short.wav"), name="another")
        do("add", "once", settings=file("short.wav"), name="")
        do("add", "lost", settings=file("none.wav"), name="A file that is not there")
        do("add", "gone", settings=file("long.wav"), name="")
        do("add", "Not An Id", settings=file("long.wav"), name="")
        do("start", "noaa")
        do("start", "once")
        do("start", "lost")
        do("start", "nobody")
        do("update", "gone", name="soon gone")
        do("update", "noaa", settings=file("long.wav", loop=True, pace="realtime"), name="NOAA")
        do("remove", "gone")
        late = hall.command(
            "source.stop", "noaa", lane=LANE, issued_at=now() - MINUTE * 5, expires_at=now() - MINUTE
        )
        submitter.submit(late)
        verbs = ("restart", "stop", "start", "restart")
        piled: list[Signed] = [hall.command(f"source.{verb}", "lost", lane=LANE) for verb in verbs]
        for command in piled:
            submitter.accept(command, timeout=5)
        for command in piled:
            submitter.submit(command)
        forged = hall.command("source.stop", "noaa", lane=LANE)
        submitter.submit(msgspec.structs.replace(forged, signature="forged"))
        run.worker._post(Draft(type="source.stalled", source="noaa", data={"reason": "no audio for 6 s"}))

        def logged() -> set[str]:
            return {one.event.type for one in hall.events()}

        eventually(lambda: {"source.stalled", "source.failed", "source.stopped"} <= logged(), "facts")
        run.end()
        run = Run(hall, claims)
        do("stop", "lost")
        do("restart", "noaa")
        run.end()
        stop.set()
        freeing.join(10)
        entries = list(stored(hall.link, hall.keys))
        hall.close()
    return entries


LIVES: dict[str, Callable[[Path], list[tuple[bytes, bytes]]]] = {
    "sources": record,
    "accidents": record_accidents,
    "evidence": record_evidence,
    "station": record_station,
}


def main(life: str, name: str) -> None:
    """Record one history."""
    place = FOLDER / f"schema-{SCHEMA}"
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{name}.jsonl"
    if path.exists():
        raise SystemExit(f"{path} is recorded already, and stays as it is")
    with tempfile.TemporaryDirectory(prefix="history-") as folder:
        entries = LIVES[life](Path(folder))
    lines = [msgspec.json.encode({"event": raw.decode(), "hash": stated.decode()}) for raw, stated in entries]
    path.write_bytes(b"\n".join(lines) + b"\n")
    expected = msgspec.json.format(
        msgspec.json.encode(folds(lane_of(path), read(path)), order="sorted"), indent=1
    )
    path.with_suffix(".expected.json").write_bytes(expected + b"\n")
    print(f"{path}: {len(entries)} events")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[-1])
