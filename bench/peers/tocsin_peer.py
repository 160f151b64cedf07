"""Tocsin's client: commands signed, submitted and confirmed, `source.update` that changes nothing."""

from __future__ import annotations

import argparse
import itertools
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


class Window:
    """Keeps commands in flight over one link: sends as many as were answered."""

    def __init__(self, submitter: Submitter, commands: Commands) -> None:
        self._submitter = submitter
        self._commands = commands

    def many(self, seconds: float, in_flight: int) -> int:
        """Keep `in_flight` commands in flight; return how many were confirmed by the end."""
        until = time.perf_counter() + seconds
        open_ids: set[str] = set()
        confirmed = 0
        while True:
            if time.perf_counter() < until:
                batch = [self._commands.next() for _ in range(in_flight - len(open_ids))]
                if batch:
                    accepted = self._submitter.accept_all(batch, timeout=PATIENCE)
                    assert accepted == [None] * len(batch), accepted
                    open_ids.update(one.command.id for one in batch)
            elif not open_ids:
                return confirmed
            answers = self._submitter.receive(PATIENCE)
            assert answers, f"no answer to {len(open_ids)} commands"
            for answer in answers:
                assert answer.outcome == "completed", answer
                open_ids.remove(answer.id)
            confirmed += len(answers)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["client"])
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument("--lane", action="append", required=True)
    parser.add_argument("--sources", type=int, required=True, help="how many, spread over the lanes")
    parser.add_argument("--key", required=True)
    parser.add_argument("--durability", default="memory")
    options = parser.parse_args()
    settings = load(options.settings).as_role("submitter")
    key = load_key(Path(settings.keys.directory), options.key)
    lanes = itertools.cycle(options.lane)
    places = [(next(lanes), f"bench-{index}") for index in range(options.sources)]
    commands = Commands(settings, places, key, options.durability)
    prover = Prover(settings.redis)
    submitter = Submitter(settings, connect(settings.redis, "bench"), prover)
    crowd = Submitter(settings, connect(settings.redis, "bench"), prover)
    window = Window(crowd, commands)
    serve(lambda: confirm(submitter, commands.next()), window.many, "redis", "hiredis", "msgspec")


if __name__ == "__main__":
    main()
