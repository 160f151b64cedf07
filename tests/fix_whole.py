"""A whole station on this machine, started by `tocsin up` as an operator starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from control.station import instance
from control.station.folder import Folder
from streams import audit
from streams.connection import connect
from streams.messages import Command, Logged, new_command
from streams.names import LaneKeys, StationKeys, node_lane
from streams.replay import replay, stored
from streams.settings import Settings, load
from tests.fix_servers import eventually

LANE = node_lane("local")
TOCSIN = (sys.executable, "-m", "control.composition")


class Whole:
    """A station started as an operator starts it, and what a test does with it."""

    def __init__(self, path: Path) -> None:
        self.folder = Folder(path)
        self.output = path.parent / f"{path.name}.output"
        self.up: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start it with the `options` of `up`, and wait until it is ready."""
        with self.output.open("wb") as output:
            self.up = subprocess.Popen(
                [*TOCSIN, "up", *options, "--station", str(self.folder.path)],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        eventually(lambda: "Ready after" in self.output.read_text(), f"ready; {self.output}", 150)
        if "--demo" not in options:
            return
        eventually(lambda: self.source("demo").get("state") == "running", "the demo runs", 60)

    def tocsin(self, *words: str, timeout: float = 40) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "TOCSIN_STATION": str(self.folder.path)}
        return subprocess.run([*TOCSIN, *words], env=env, capture_output=True, text=True, timeout=timeout)

    def json(self, *words: str) -> Any:
        ran = self.tocsin(*words, "--json")
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    def source(self, id: str) -> dict[str, Any]:
        ran = self.tocsin("source", "show", id, "--json")
        return json.loads(ran.stdout)["source"] if ran.returncode == 0 else {}

    @property
    def settings(self) -> Settings:
        return load(self.folder.path / "station.toml").as_role("admin")

    @property
    def lane(self) -> LaneKeys:
        return StationKeys(self.settings.station.id).lane(LANE)

    def child(self, name: str) -> int:
        running = instance.read(self.folder)
        assert running is not None
        return running.children[name].pid

    def log(self) -> list[Logged]:
        with self.link() as link:
            return list(replay(link, self.lane))

    def verdict(self) -> audit.Verdict:
        with self.link() as link:
            head = audit.head_of(link, self.lane)
            return audit.verify(LANE, stored(link, self.lane), head)

    def link(self) -> Any:
        return closing(connect(self.settings.redis, "test"))

    def results(self, id: str) -> list[Logged]:
        """What the log says became of a command."""
        return [
            one for one in self.log() if one.event.command == id and one.event.type.startswith("command.")
        ]

    def command(self, **changed: Any) -> Command:
        wanted = {"station": self.settings.station.id, "lane": LANE, "source": "demo", "params": {}}
        return new_command(**{**wanted, "type": "source.stop", "key": "operator", **changed})

    def stop(self) -> None:
        if self.up is not None and self.up.poll() is None:
            self.up.send_signal(signal.SIGINT)
            self.up.wait(40)
