"""A real Prometheus that scrapes a real station, both as they are shipped."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from control.station import instance
from control.station.folder import Folder
from control.station.ports import LOOPBACK, free_port
from streams.settings import Settings, load
from tests.fix_servers import eventually

DEPLOY = Path(__file__).parent.parent / "deploy"


class Prometheus:
    """A running Prometheus, asked over its HTTP API."""

    def __init__(self, folder: Path, station: Settings) -> None:
        self.url = f"http://{LOOPBACK}:{free_port()}"
        self._folder = folder
        self._client = httpx.Client(base_url=f"{self.url}/api/v1", timeout=10, trust_env=False)
        # What is shipped, hurried, and led to this station.
        config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in config["rule_files"]]
        for scraped in config["scrape_configs"][0]["static_configs"]:
            scraped["targets"] = [f"{LOOPBACK}:{station.web.port}"]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    def start(self) -> None:
        with (self._folder / "prometheus.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address={self.url.removeprefix('http://')}",
                    "--log.level=warn",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        eventually(self._scrapes, "Prometheus scrapes the station")

    def _scrapes(self) -> bool:
        assert self.process.poll() is None, (self._folder / "prometheus.log").read_text()
        try:
            return self.value('up{job="tocsin"}') == 1
        except httpx.TransportError:
            return False

    def ask(self, path: str, **parameters: str) -> Any:
        """What the API answers; fails where that is an error."""
        response = self._client.get(path, params=parameters)
        body = response.json() if response.status_code != 503 else {"status": "starting", "data": {}}
        assert body["status"] in ("success", "starting"), f"{parameters}: {body}"
        return body["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that the expression gives now."""
        found: list[dict[str, Any]] = self.ask("/query", query=expression).get("result", [])
        return found

    def value(self, expression: str) -> float | None:
        """The one value that the expression gives now; None where it gives none."""
        found = self.query(expression)
        assert len(found) < 2, f"{expression} gives {len(found)} series"
        return float(found[0]["value"][1]) if found else None

    def active(self) -> set[tuple[str, str]]:
        """The alerts that fire or are about to: name, and the source that each is about."""
        found = self.ask("/alerts").get("alerts", [])
        return {(one["labels"]["alertname"], one["labels"].get("source", "")) for one in found}

    def stop(self) -> None:
        self._client.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Watched:
    """A whole station with its demo source, and the Prometheus that watches it."""

    def __init__(self, path: Path) -> None:
        self.folder = Folder(path)
        self.output = path.parent / "up.output"
        with self.output.open("ab") as output:
            self.up = subprocess.Popen(
                [sys.executable, "-m", "control.composition", "up", "--demo", "--station", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def open(self) -> None:
        """Wait until it is ready, and have it scraped."""
        eventually(lambda: re.search("Ready after|Error", self.output.read_text()), "a ready station", 60)
        self.settings = load(self.folder.settings)
        self.web = httpx.Client(
            base_url=f"http://{LOOPBACK}:{self.settings.web.port}",
            headers={"Authorization": f"Bearer {self.folder.secret('web.token')}"},
            timeout=30,
            trust_env=False,
        )
        eventually(lambda: self.state("demo") == "running", "the demo runs", 30)
        folder = self.folder.path.parent / "prometheus"
        folder.mkdir()
        self.prometheus = Prometheus(folder, self.settings)
        self.prometheus.start()

    def state(self, source: str) -> str | None:
        """What the read API says that the source does."""
        response = self.web.get(f"/api/audio/sources/{source}")
        return response.json()["data"]["state"] if response.status_code == 200 else None

    def command(self, verb: str, source: str = "demo") -> None:
        """Start or stop a source over HTTP, and wait for the outcome."""
        response = self.web.post(f"/api/audio/sources/{source}/{verb}", json={"timeout": 20})
        assert response.status_code in (200, 502), response.text

    def tocsin(self, *words: str) -> None:
        """Run a verb of the command line."""
        command = [sys.executable, "-m", "control.composition", "--station", str(self.folder.path), *words]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 0, ran.stderr

    def kill_web(self) -> None:
        """SIGKILL the web process, and wait until another serves in its place."""
        running = instance.read(self.folder)
        assert running is not None
        process = psutil.Process(running.children["web"].pid)
        for one in [*process.children(recursive=True), process]:
            one.kill()

        def another() -> bool:
            now = instance.read(self.folder)
            web = now.children.get("web") if now else None
            if web is None or web.pid in (0, process.pid):
                return False
            try:
                return self.web.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        eventually(another, "another web process", 30)

    def close(self) -> None:
        if hasattr(self, "prometheus"):
            self.prometheus.stop()
        if hasattr(self, "web"):
            self.web.close()
        self.up.send_signal(signal.SIGINT)
        try:
            self.up.wait(40)
        except subprocess.TimeoutExpired:
            self.up.kill()
            self.up.wait()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One station and its Prometheus for a module's tests, which leave the demo running and nothing else."""
    if shutil.which("prometheus") is None:
        pytest.skip("real part missing: prometheus")
    made = Watched(tmp_path_factory.mktemp("watched") / "station")
    try:
        made.open()
        yield made
    finally:
        made.close()
