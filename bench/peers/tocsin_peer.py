"""Tocsin's client: commands signed, submitted and confirmed, `source.update` that changes nothing."""

from __future__ import annotations

import argparse
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.peers.protocol import PATIENCE, serve
from streams.connection import connect
from streams.durability import Prover
from streams.messages import Durability, new_command
from streams.settings import Settings, load
from streams.signing import Key, load_key
from streams.submit import Signed, Submitter, signed

THREADS = 32
"""Threads that keep commands in flight, each with a connection, until a submitter takes many at once."""

Place = tuple[str, str]
"""A source to send commands to: its lane and its id."""


class Commands:
    """Signs no-op commands for one source after the other."""

    def __init__(self, settings: Settings, places: list[Place], key: Key, durability: Durability) -> None:
        self._station = settings.station.id
        self._places: Iterator[Place] = itertools.cycle(places)
        self._key = key
        self._durability = durability

    def next(self) -> Signed:
        lane, source = next(self._places)
        command = new_command(
            station=self._station,
            lane=lane,
            source=source,
            type="source.update",
            params={},
            key=self._key.id,
            durability=self._durability,
        )
        return signed(command, self._key)


def confirm(submitter: Submitter, command: Signed) -> None:
    """Submit and wait; raises AssertionError where the outcome is not `completed`."""
    answer = submitter.submit(command, timeout=PATIENCE)
    if answer.outcome != "completed":
        raise AssertionError(answer)


class Fleet:
    """Threads with a submitter each, kept from one measurement to the next."""

    def __init__(self, settings: Settings, commands: Commands, prover: Prover) -> None:
        self._settings = settings
        self._commands = commands
        self._prover = prover
        self._submitters: list[Submitter] = []

    def many(self, seconds: float, in_flight: int) -> int:
        """Keep commands in flight, as many as there are threads for; return how many were confirmed."""
        threads = min(in_flight, THREADS)
        while len(self._submitters) < threads:
            link = connect(self._settings.redis, "bench")
            self._submitters.append(Submitter(self._settings, link, self._prover))
        until = time.perf_counter() + seconds
        counts = [0] * threads
        faults: list[BaseException] = []

        def go_on(index: int) -> None:
            try:
                while time.perf_counter() < until:
                    confirm(self._submitters[index], self._commands.next())
                    counts[index] += 1
            except BaseException as fault:
                faults.append(fault)

        running = [threading.Thread(target=go_on, args=(index,)) for index in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        if faults:
            raise faults[0]
        return sum(counts)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["client"])
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument("--lane", action="append", required=True)
    parser.add_argument("--sources", type=int, required=True, help="how many, spread over the lanes")
    parser.add_argument("--key", required=True)
    parser.add_argument("--durability", default="memory")
    options = parser.parse_args()
    settings = load(options.settings)
    key = load_key(Path(settings.keys.directory), options.key)
    lanes = itertools.cycle(options.lane)
    places = [(next(lanes), f"bench-{index}") for index in range(options.sources)]
    commands = Commands(settings, places, key, options.durability)
    prover = Prover(settings.redis)
    submitter = Submitter(settings, connect(settings.redis, "bench"), prover)
    fleet = Fleet(settings, commands, prover)
    serve(lambda: confirm(submitter, commands.next()), fleet.many, "redis", "hiredis", "msgspec")


if __name__ == "__main__":
    main()
