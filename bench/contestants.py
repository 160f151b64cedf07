"""Who is measured beside whom, and the processes that run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bench.stage import ED25519, HMAC, Stage

READY = 60.0
"""Seconds that a client may take to its first confirmed command."""
BASELINE = "pubsub-asyncio"


@dataclass(frozen=True)
class Contestant:
    """One row of the table. `group` is `tocsin`, `pubsub` (what it replaces) or `queue`."""

    name: str
    module: str
    group: str
    arguments: tuple[str, ...] = ()


CONTESTANTS = (
    *(
        Contestant(
            f"tocsin-{durability}-{algorithm}",
            "tocsin_peer",
            "tocsin",
            ("--durability", durability, "--key", key),
        )
        for durability in ("memory", "replica")
        for algorithm, key in (("hmac", HMAC), ("ed25519", ED25519))
    ),
    Contestant(BASELINE, "pubsub_asyncio", "pubsub"),
    Contestant("pubsub-blocking", "pubsub_blocking", "pubsub"),
    Contestant("faststream", "faststream_peer", "queue"),
    Contestant("taskiq-redis", "taskiq_peer", "queue"),
    Contestant("arq", "arq_peer", "queue"),
    Contestant("dramatiq", "dramatiq_peer", "queue"),
    Contestant("docket", "docket_peer", "queue"),
)


class Failed(Exception):
    """Raised when a contestant's process ended or said something else than an answer."""


class Running:
    """A contestant's client, and its worker where it is not the station's own."""

    def __init__(self, contestant: Contestant, stage: Stage, database: int, python: str, logs: Path) -> None:
        self.contestant = contestant
        self._log = (logs / f"{contestant.name}.log").open("ab")
        self._processes: list[subprocess.Popen[bytes]] = []
        own = contestant.group == "tocsin"
        interpreter = python if contestant.group == "queue" else sys.executable
        self._command = (interpreter, "-W", "ignore", "-m", f"bench.peers.{contestant.module}")
        self._env = {**os.environ}
        arguments: Sequence[str] = contestant.arguments
        if own:
            lanes = [word for lane in stage.lanes for word in ("--lane", lane)]
            sources = ("--sources", str(stage.sources))
            arguments = ("--settings", str(stage.path), *arguments, *lanes, *sources)
        else:
            self._env["BENCH_REDIS_URL"] = stage.redis_url(database)
            self._start("worker", ())
        self._client = self._start("client", arguments)
        self.versions: dict[str, str] = self._read()["ready"]

    def latency(self, seconds: float) -> dict[str, Any]:
        """One confirmed command after the other."""
        return self._ask({"do": "latency", "seconds": seconds})

    def throughput(self, seconds: float, in_flight: int) -> dict[str, Any]:
        """Many in flight, all confirmed."""
        return self._ask({"do": "throughput", "seconds": seconds, "in_flight": in_flight})

    def close(self) -> None:
        """End the processes."""
        for process in reversed(self._processes):
            if process.stdin is not None:
                process.stdin.close()
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                continue
            process.terminate()
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
        for process in self._processes:
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._log.close()

    def _start(self, role: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        talks = role == "client"
        process = subprocess.Popen(
            (*self._command, role, *arguments),
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talks else self._log,
            stderr=self._log,
            env=self._env,
        )
        self._processes.append(process)
        return process

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        pipe: IO[bytes] | None = self._client.stdin
        assert pipe is not None
        pipe.write(json.dumps(request).encode() + b"\n")
        pipe.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._client.stdout is not None
        line = self._client.stdout.readline()
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            said = line.decode("utf-8", "replace") + Path(self._log.name).read_text("utf-8", "replace")
            raise Failed(f"{self.contestant.name} gave no answer; it said:\n{said.strip()[-2000:]}") from None
        return answer
