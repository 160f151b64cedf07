"""A whole station on the stage, as `tocsin init-deploy` and the shipped compose file make it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path

import psutil
from redis.connection import Connection

from control.guard import replication, rules
from control.guard.remote import Remote
from ingest.weekly_test import write_weekly_test
from streams import sentinel
from streams.connection import connect
from streams.names import StationKeys, floating_lanes
from streams.sentinel import NoPrimary
from streams.settings import Settings, load
from tests.chaos import namespace
from tests.chaos.compose import Mount, Service, env_file, normalised, read
from tests.chaos.operator import PACE
from tests.chaos.stage import ROOT, Stage

OPERATORS = ("operator-1", "operator-2")
RADIO = "radio"
"""What the nodes listen to by the network: such a source's lane moves between them."""
KEEP = 60
"""Seconds that events stay in Redis, so that a run has them trimmed (shipped: an hour)."""
POSTGRES = ("postgres-1", "postgres-2")
REDIS = ("redis-1", "redis-2", "redis-3")
DISK = "256m"
"""Of one Redis, to be filled by a fault; a long run writes its log anew with each full synchronisation."""
FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
COMPOSE = ROOT / "docker-compose.sentinel.yml"
SETTINGS = ROOT / "deploy" / "tocsin" / "station.toml"
READY_WITHIN = 90.0
IN_SYNC = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state <> 'async'"


class NotReady(Exception):
    """Raised when something that was waited for did not come; says what."""


class Station:
    """The services of `compose` on a stage in `folder`."""

    def __init__(self, folder: Path, compose: Path = COMPOSE, *, seed: int = 0, pace: float = PACE) -> None:
        """`folder` has `deployment`, made by `init_deploy`; a `compose` of JSON comes from Compose itself."""
        self.deployment = folder / "deployment"
        if compose.suffix == ".json":
            services = normalised(json.loads(compose.read_text("utf-8")))
        else:
            services = read(compose, env_file(self.deployment / "compose.env"))
        self._cli = services["cli"]
        if "sentinel-1" in services:
            services |= {name: self._operator(name, seed, pace) for name in OPERATORS}
            services[RADIO] = self._radio()
        self.small_disk = "redis-3"
        self.struck = 0.0
        """When the last fault happened in earnest: monotonic seconds."""
        # Asked so often that a new connection each time would take much of the machine.
        self._remotes: dict[str, Remote] = {}
        self._sentinels: dict[str, Connection] = {}
        self.spooled: list[str] = []
        """The lanes and ids of facts that were seen in a node's spool."""
        self.stage = Stage(services, folder)
        self.names = [name for name, one in services.items() if not one.profiles]

    def start(self) -> None:
        """Start everything, and wait until commands can be confirmed."""
        self.stage.build()
        namespace.show_hosts({name: self.stage.address(name) for name in self.stage.containers})
        self.stage.start(*self.names)

    def prepare(self) -> None:
        """What a run has beside a station: audio, a clock that can be set, a disk that is soon full."""
        media = self.deployment / "media" / "weekly.wav"
        write_weekly_test(media)
        self._give(media)
        small = self.deployment / "data" / self.small_disk
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=777", "disk", str(small)], check=True
        )
        for name in ("ingest-1", "ingest-2", "control-1", "control-2"):
            self.stage.containers[name].extra = {"TOCSIN_ARCHIVE_KEEP": str(KEEP)}
        for name in ("ingest-1", "ingest-2"):
            self.stage.containers[name].extra |= {
                "PYTHONPATH": f"{Path(__file__).parent / 'within'}:{ROOT}",
                "TOCSIN_FETCH_PRIVATE": "10.99.0.0/16",
            }
        if FAKETIME:
            self.set_clock("ingest-2", 0)
            self.stage.containers["ingest-2"].extra |= {
                "LD_PRELOAD": str(FAKETIME[0]),
                "FAKETIME_TIMESTAMP_FILE": "/srv/station/clock",
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }

    def set_clock(self, name: str, seconds: float) -> None:
        """Let the container's clock go so many seconds fast (slow where negative)."""
        self.put(name, "clock", f"{seconds:+g}\n")

    def put(self, name: str, file: str, text: str) -> Path:
        """Write a file into the container's own folder."""
        path = self.deployment / "data" / name / file
        path.write_text(text)
        self._give(path)
        return path

    def stopped(self, name: str) -> bool:
        """Whether a process of the container has been stopped."""
        return any(one.status() == psutil.STATUS_STOPPED for one in self.stage.containers[name].processes())

    def oldest(self) -> dict[str, int]:
        """The seq of the oldest event that Redis has, by lane. Raises Unreachable."""
        keys, found = StationKeys(self.settings().station.id), {}
        with closing(connect(self.settings().redis, "look")) as link:
            for lane in floating_lanes(self.settings().station.lanes):
                entries = link.call("XRANGE", keys.lane(lane).events, "-", "+", "COUNT", 1)
                found[lane] = int(entries[0][0].split(b"-")[0]) if entries else 0
        return found

    def owner(self, lane: str, nodes: Iterable[str]) -> str | None:
        """Which of the nodes says that it owns the lane. Raises Unreachable."""
        keys = StationKeys(self.settings().station.id)
        with closing(connect(self.settings().redis, "look")) as link:
            said = {name: link.call("HGET", keys.node(name), "lanes") for name in nodes}
        return next((name for name, lanes in said.items() if lanes and lane in json.loads(lanes)), None)

    def leading_postgres(self) -> str | None:
        """Which of the two says that it leads, if one does."""
        asked = "SELECT pg_is_in_recovery()"
        return next((name for name in POSTGRES if self.ask_postgres(name, asked) == "f"), None)

    def standby_in_sync(self) -> bool:
        """Whether one Postgres leads and the other has all that it has."""
        leading = self.leading_postgres()
        return leading is not None and self.ask_postgres(leading, IN_SYNC) == "1"

    def ask_postgres(self, name: str, question: str) -> str:
        """What it answers, as its owner; empty where it does not."""
        return self.stage.execute(name, "psql", "-h", "/tmp", "-U", "postgres", "-Atc", question).strip()

    def whole(self, within: float) -> float:
        """Wait until all run, one leads, two follow and may be promoted, and no Sentinel sees a fault.

        The seconds that took. Raises NotReady.
        """
        return self.wait("the station is whole again", lambda: self.lacks() == "", within, every=0.4)

    def lacks(self) -> str:
        """What the station lacks to be whole; empty where nothing is lacking."""
        down = [
            name for name in self.names if name != "functions" and not self.stage.containers[name].processes()
        ]
        if down:
            return f"{', '.join(down)} not running"
        redis = self.settings().redis
        opinions = sentinel.ask(redis, kept=self._sentinels)
        named = {opinion.address for opinion in opinions}
        if len(opinions) < 3 or len(named) != 1 or any(opinion.failing for opinion in opinions):
            return f"the Sentinels name {sorted(map(str, named))}, {len(opinions)} of them"
        if any(opinion.replicas is not None and len(opinion.replicas) < 2 for opinion in opinions):
            # They ask the primary every ten seconds, so in its first ones nobody could be promoted.
            return "a Sentinel does not know both replicas yet"
        (leads,) = named
        said = {name: replication.standing(self.remote(name)) for name in REDIS}
        for name, one in said.items():
            if one is None or one.priority != rules.PROMOTABLE:
                return f"{name} is {one}"
            if (one.role == "master") != (name == leads.host) or not (one.role == "master" or one.linked):
                return f"{name} is {one}, and {leads.host} leads"
        if replication.attached(self.remote(leads.host)) != 2:
            return "the primary has not two replicas in sync"
        return "" if self.standby_in_sync() else "Postgres has no standby in sync"

    def told(self) -> list[Path]:
        """Where the operators write what they were told."""
        return [self.deployment / "data" / name / "told.jsonl" for name in OPERATORS]

    def _operator(self, name: str, seed: int, pace: float) -> Service:
        folder = self.deployment / "data" / name
        folder.mkdir(mode=0o700, exist_ok=True)
        user, group = self._cli.user
        if self.deployment.stat().st_uid == user:
            os.chown(folder, user, group)
        mounts = [one for one in self._cli.mounts if one.target != "/srv/station"]
        return replace(
            self._cli,
            name=name,
            command=(sys.executable, "-m", "tests.chaos.operator", name, str(seed), str(pace)),
            environment={**self._cli.environment, "PYTHONPATH": str(ROOT)},
            mounts=(*mounts, Mount(folder, "/srv/station", read_only=False)),
            restart="unless-stopped",
        )

    def _radio(self) -> Service:
        return replace(
            self._cli,
            name=RADIO,
            command=(sys.executable, "-m", "tests.chaos.radio", "/srv/media/weekly.wav"),
            environment={**self._cli.environment, "PYTHONPATH": str(ROOT)},
            mounts=tuple(one for one in self._cli.mounts if one.target == "/srv/media"),
            networks=("outside",),
            restart="unless-stopped",
        )

    def _give(self, path: Path) -> None:
        """To the containers' user, where that is somebody else."""
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)

    @cache  # noqa: B019 - one station lives as long as its process
    def settings(self) -> Settings:
        """The station's, for this very process, which is on all networks: as the role `admin`."""
        secrets = self.deployment / "secrets"
        env = {
            "TOCSIN_REDIS_CA_FILE": str(self.deployment / "authority" / "ca.pem"),
            "TOCSIN_REDIS_PASSWORD_DIRECTORY": str(secrets),
            "TOCSIN_POSTGRES_CA_FILE": str(self.deployment / "authority" / "ca.pem"),
            "TOCSIN_POSTGRES_PASSWORD_FILE": str(secrets / "postgres.password"),
            "TOCSIN_KEYS_DIRECTORY": str(self.deployment / "keys"),
            "TOCSIN_WEB_TOKEN_FILE": str(secrets / "web.token"),
        }
        return load(SETTINGS, env).as_role("admin")

    def primary(self) -> str | None:
        """The Redis that the Sentinels name; None while they do not agree."""
        try:
            redis = self.settings().redis
            return sentinel.chosen(sentinel.ask(redis, kept=self._sentinels), redis).host
        except NoPrimary:
            return None

    def replicas(self) -> int:
        """How many replicas in sync the primary counts."""
        primary = self.primary()
        return replication.attached(self.remote(primary)) if primary else 0

    def remote(self, name: str) -> Remote:
        """The Redis of that name, as the role `admin`, over a connection that is kept."""
        if name not in self._remotes:
            self._remotes[name] = Remote((name, 6379), self.settings().redis, kept=True)
        return self._remotes[name]

    def cli(self, *words: str, node: str = "", within: float = 40) -> tuple[int, str]:
        """Run `docker compose run cli WORDS…`: its exit code and what it said."""
        one = self.stage.containers["cli"]
        environment = {**self._cli.environment, **({"TOCSIN_INGEST_NODE": node} if node else {})}
        one.service = replace(self._cli, command=("tocsin", *words), environment=environment)
        before = len(self.stage.log("cli"))
        self.stage.start("cli")
        assert one.process is not None
        code = one.process.wait(within)
        one.wanted = False
        return code, self.stage.log("cli")[before:]

    def wait(
        self, what: str, condition: Callable[[], bool], within: float = READY_WITHIN, every: float = 0.1
    ) -> float:
        """Wait for it; the seconds that took. Raises NotReady."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() > began + within:
                raise NotReady(f"{what}: not within {within:.0f} s")
            time.sleep(every)
        return time.monotonic() - began

    def close(self) -> None:
        """End all."""
        self.stage.close()
