"""The real control process of a station folder, and what a test asks of its lanes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from control.parked import Copy, copies
from control.station.folder import Folder
from streams.connection import connect
from streams.messages import Answer, Event, new_command
from streams.names import STATION_LANE, StationKeys
from streams.replay import replay
from streams.settings import load
from streams.signing import load_key
from streams.submit import Signed, Submitter, signed
from tests.fix_servers import eventually

ROOT = Path(__file__).parent.parent


class Bureau:
    """A station's control process, which a test starts, kills and ends."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.settings = load(folder.settings)
        self.keys = StationKeys(self.settings.station.id)
        self.key = load_key(Path(self.settings.keys.directory), self.settings.keys.sign_with)
        self.link = connect(self.settings.redis, "test")
        self.submitter = Submitter(self.settings, self.link)
        self.process: subprocess.Popen[bytes] | None = None
        self._output = folder.path / "control.log"

    def launch(self, room: str = "control") -> subprocess.Popen[bytes]:
        """Start the process, or another room's, and do not wait for it."""
        argv = (sys.executable, "-m", "control.composition", "run", room, "--station")
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*argv, str(self.folder.path)], stdout=output, stderr=output, cwd=ROOT
            )
        return self.process

    def start(self) -> None:
        """Start the process and wait until it owns the station lane."""
        process = self.launch()

        def owned() -> bool:
            assert process.poll() is None, self.said
            return "lane acquired" in self.said

        eventually(owned, "the station lane has an owner")

    def await_lane(self, lane: str) -> None:
        """Wait until somebody owns the lane."""
        eventually(lambda: self.link.call("EXISTS", self.keys.lane(lane).lease), f"{lane} has an owner")

    @property
    def said(self) -> str:
        """What it logged since its last start."""
        return self._output.read_text()

    def end(self) -> float:
        """SIGTERM; return how many seconds it took to end."""
        assert self.process is not None
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0, self.said
        return time.monotonic() - begun

    def close(self) -> None:
        """Kill the process if it still runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)
        self.link.close()

    def command(self, type: str, lane: str, source: str = "", **more: Any) -> Signed:
        """A signed command for the lane, with `more` made to it before it is signed."""
        made = new_command(
            station=self.settings.station.id, lane=lane, source=source, type=type, params={}, key=self.key.id
        )
        return signed(msgspec.structs.replace(made, **more), self.key)

    def do(self, command: Signed) -> Answer:
        """Submit and wait for the outcome."""
        return self.submitter.submit(command, timeout=15)

    def parked(self, lane: str) -> list[Copy]:
        """The copies that the lane keeps."""
        return list(copies(self.link, self.keys.lane(lane), lane))

    def events(self, lane: str = STATION_LANE) -> list[Event]:
        """The lane's log."""
        return [logged.event for logged in replay(self.link, self.keys.lane(lane))]

    def results(self, lane: str) -> dict[str, list[str]]:
        """Command id → the outcomes that the lane's log holds for it, in order."""
        found: dict[str, list[str]] = {}
        for event in self.events(lane):
            if event.type.startswith("command.") and event.command:
                found.setdefault(event.command, []).append(event.type.removeprefix("command."))
        return found


@pytest.fixture
def bureau(station_folder: Folder) -> Iterator[Bureau]:
    """The control process of the station folder, not started yet."""
    made = Bureau(station_folder)
    yield made
    made.close()
