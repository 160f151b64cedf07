"""Starts every container of a compose file and has one command confirmed.

`python -m tests.chaos.parade FOLDER [COMPOSE]` prints what came of it as one JSON object. The deployment
in FOLDER is used, or made.
"""

from __future__ import annotations

import json
import random
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from control.deployment.folder import init_deploy
from tests.chaos import namespace
from tests.chaos.faults import promote_postgres
from tests.chaos.stage import Missing
from tests.chaos.station import COMPOSE, NotReady, Station


def parade(folder: Path, compose: Path = COMPOSE) -> dict[str, Any]:
    """What came of starting it: who runs, what was confirmed, what the web says."""
    station = Station(folder, compose)
    began = time.monotonic()
    told: dict[str, Any] = {}
    try:
        station.start()
        if "sentinel-1" in station.names:
            station.wait("two replicas in sync", lambda: station.replicas() == 2)
        answer: dict[str, Any] = {}

        def confirmed() -> bool:
            words = ("source", "add", "lobby", "--file", "/srv/media/lobby.wav", "--durability", "replica")
            code, said = station.cli(*words, "--json")
            if code == 0:
                answer.update(json.loads(said.splitlines()[-1]))
            return code == 0

        station.wait("a command confirmed at `replica`", confirmed)
        told["confirmed"] = answer["command"]["outcome"]
        told["seconds"] = round(time.monotonic() - began, 1)
        station.wait("Postgres' standby in sync", station.standby_in_sync)
        told["archived"] = _archived(station)
        station.wait("the web processes ready", lambda: _asked(station)["page"] == 200)
        told["web"] = _asked(station)
        told["scraped"] = station.wait("Prometheus scraped", lambda: _scraped(station)) >= 0
        # Killed, and started again at once after the other was promoted: it follows, by itself.
        promote_postgres(station, random.Random(0))
        told["rejoined"] = station.wait("Postgres' standby in sync again", station.standby_in_sync) >= 0
        told["doctor"] = json.loads(station.cli("doctor", "--json")[1].splitlines()[-1])
    except NotReady as error:
        told["not_ready"] = str(error)
    told["running"] = station.stage.running()
    told["starts"] = {name: one.starts for name, one in station.stage.containers.items() if one.starts}
    told["users"] = {name: _user(station, name) for name in told["running"]}
    station.close()
    return told


def _archived(station: Station) -> str:
    """What was answered to a command whose result waits for the archive. Raises NotReady."""
    said = ["not asked"]

    def archived() -> bool:
        # Postgres may have been away until now, and then is asked again only after the breaker's time.
        code, said[0] = station.cli("source", "stop", "lobby", "--durability", "archive")
        return code == 0

    try:
        station.wait("a command confirmed at `archive`", archived)
    except NotReady as error:
        raise NotReady(f"{error}: {said[0]}") from None
    return said[0]


def _asked(station: Station) -> dict[str, Any]:
    """What is read through the published port, with the station's own authority and token."""
    trusted = ssl.create_default_context(cafile=str(station.deployment / "authority" / "ca.pem"))
    token = (station.deployment / "secrets" / "web.token").read_text().strip()
    url = "https://front:8443/api/audio/sources"
    with httpx.Client(verify=trusted, trust_env=False) as client:
        return {
            "without_token": client.get(url).status_code,
            "with_token": client.get(url, headers={"Authorization": f"Bearer {token}"}).status_code,
            "page": client.get("https://front:8443/").status_code,
        }


def _scraped(station: Station) -> bool:
    with httpx.Client(trust_env=False) as client:
        told = client.get("http://prometheus:9090/api/v1/targets").json()["data"]["activeTargets"]
    return all(target["health"] == "up" for target in told)


def _user(station: Station, name: str) -> int:
    """The uid outside of the container's command."""
    processes = station.stage.containers[name].processes()
    return processes[0].uids().real if processes else -1


if __name__ == "__main__":
    if namespace.is_inside():
        namespace.settle()
        try:
            print(json.dumps(parade(*map(Path, sys.argv[1:]))))
        except Missing as error:
            print(json.dumps({"missing": str(error)}))
    else:
        # Outside, where we are who we are.
        init_deploy(Path(sys.argv[1]) / "deployment")
        sys.exit(namespace.enter("tests.chaos.parade", *sys.argv[1:]))
