"""The real ingest process of a station of its own, and what a test asks of it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from ingest.ledger import sources_of
from ingest.state import Source
from streams.audit import head_of, verify
from streams.messages import Answer, Event, Level
from streams.names import LaneKeys, node_lane
from streams.replay import replay, stored
from streams.submit import Signed
from tests.fix_servers import eventually
from tests.fix_streams import Hall

ROOT = Path(__file__).parent.parent
NODE_LANE = node_lane("local")
AS_SHIPPED = ("-m", "control.composition", "run", "ingest", "--station")
GATED = ("-m", "tests.programs.gated_ingest")


class Ingest:
    """The ingest process of a hall's station; its recordings are wired to the lane `node.local`."""

    def __init__(self, hall: Hall, folder: Path) -> None:
        self.hall = hall
        self.link = hall.link
        self.keys: LaneKeys = hall.station.lane(NODE_LANE)
        self._folder = folder
        self._output = folder / "ingest.log"
        redis = hall.settings.redis
        (folder / "secret").write_text(redis.password)
        (folder / "station.toml").write_text(
            f'[station]\nid = "{hall.settings.station.id}"\nlanes = 2\n'
            f'[redis]\nurl = "{redis.url}"\npassword_file = "secret"\n'
            f'[keys]\ndirectory = "keys"\n[log]\nformat = "json"\n'
        )
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self, how: tuple[str, ...] = AS_SHIPPED) -> subprocess.Popen[bytes]:
        """Start the process and do not wait for it."""
        self._output.write_text("")
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *how, str(self._folder)], stdout=output, stderr=output, cwd=ROOT
            )
        return self.process

    def start(self, how: tuple[str, ...] = AS_SHIPPED) -> None:
        """Start the process and wait until it owns its three lanes."""
        process = self.launch(how)

        def owned() -> bool:
            assert process.poll() is None, self.said
            return self.said.count('"lane acquired"') == 3

        eventually(owned, "the lanes have an owner")

    @property
    def said(self) -> str:
        """What it logged since its last start."""
        return self._output.read_text()

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        return self.process

    def end(self) -> float:
        """SIGTERM; return how many seconds it took to end."""
        begun = time.monotonic()
        self.running.send_signal(signal.SIGTERM)
        assert self.running.wait(20) == 0, self.said
        return time.monotonic() - begun

    def kill(self) -> None:
        """SIGKILL, and bring the end of its leases forward."""
        self.running.kill()
        self.running.wait(20)
        for lane in (NODE_LANE, "p0", "p1"):
            self.link.call("DEL", self.hall.station.lane(lane).lease)

    def cpu(self) -> float:
        """Seconds of CPU it has used."""
        times = psutil.Process(self.running.pid).cpu_times()
        return float(times.user + times.system)

    def command(self, type: str, source: str, **params: Any) -> Signed:
        return self.hall.command(type, source, lane=NODE_LANE, params=params)

    def do(self, type: str, source: str, *, timeout: float = 15.0, **params: Any) -> Answer:
        """Submit and wait for the outcome."""
        return self.hall.submitter().submit(self.command(type, source, **params), timeout=timeout)

    def add(self, source: str, path: Path, **settings: Any) -> Answer:
        return self.do("source.add", source, settings={"kind": "file", "path": str(path), **settings})

    def log(self) -> list[Event]:
        return [logged.event for logged in replay(self.link, self.keys)]

    def types(self, source: str) -> list[str]:
        """The types of the source's events, in order."""
        return [event.type for event in self.log() if event.source == source]

    def results(self, id: str) -> list[str]:
        """What became of the command, as often as the log says it."""
        return [e.type for e in self.log() if e.command == id and e.type.startswith("command.")]

    def source(self, id: str) -> Source | None:
        """What a fold of the whole log says of the source."""
        return sources_of(replay(self.link, self.keys)).get(id)

    def state(self, id: str) -> str | None:
        found = self.source(id)
        return found.state if found else None

    def levels(self, source: str) -> list[Level]:
        """The levels of the source that stand in telemetry now."""
        entries = self.link.call("XRANGE", self.keys.telemetry, "-", "+")
        found = [msgspec.json.decode(fields[1], type=list[Level]) for _, fields in entries]
        return [level for levels in found for level in levels if level.source == source]

    def sounds(self, source: str) -> bool:
        """Whether levels of the source come in now; takes a third of a second."""
        before = len(self.levels(source))
        time.sleep(0.35)
        return len(self.levels(source)) > before

    def heartbeat(self) -> dict[str, str]:
        flat = [text.decode() for text in self.link.call("HGETALL", self.hall.station.node("local"))]
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def verified(self) -> bool:
        head = head_of(self.link, self.keys)
        return verify(NODE_LANE, stored(self.link, self.keys), head).fault is None

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(20)


@pytest.fixture
def ingest(hall: Hall, tmp_path: Path) -> Iterator[Ingest]:
    """The ingest process of the hall's station; the test starts it."""
    made = Ingest(hall, tmp_path)
    yield made
    made.close()
