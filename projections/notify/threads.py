"""The notifier's threads: one that looks, one for each target, one for the dead man's switch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Event

from sqlalchemy import Engine

from projections.levels import Heard, Levels
from projections.notify.sender import Sender
from projections.notify.watcher import Watcher
from projections.snapshots import LaneState
from projections.views import LevelView
from streams.connection import Link
from streams.names import StationKeys
from streams.settings import Settings

Bodies = list[tuple[str, Callable[[], None]]]
"""Names and bodies of threads."""


def wanted(settings: Settings) -> bool:
    """Whether anybody is to be told anything."""
    return bool(settings.notify.rules or settings.notify.dead_man_file)


def connections(settings: Settings) -> int:
    """How many connections to Postgres the threads may hold at once."""
    return len(settings.notify.targets) + 2


def bodies(
    settings: Settings,
    engine: Engine,
    linked: Callable[[str], Link],
    lanes: Callable[[], Mapping[str, LaneState]],
    stopping: Event,
) -> Bodies:
    """What the threads do, by name."""
    notify, keys = settings.notify, StationKeys(settings.station.id)
    threads: Bodies = []
    if notify.rules:
        senders = [
            Sender(engine, settings.station.id, target, stopping, standbys=settings.postgres.standbys)
            for target in notify.targets
        ]

        def news() -> None:
            for sender in senders:
                sender.news.set()

        levels: Callable[[], Mapping[Heard, LevelView]] = dict
        if any(rule.on == "silence" for rule in notify.rules):
            # Its own: what it takes are peaks since it last took, and the snapshots take theirs.
            hearing = Levels(linked("notify-levels"), keys, lambda: tuple(lanes()), stopping)
            threads.append(("notify-levels", hearing.run))
            levels = hearing.take
        watcher = Watcher(
            engine,
            linked("notify"),
            keys,
            notify,
            node=settings.ingest.node,
            lanes=lanes,
            levels=levels,
            news=news,
            stopping=stopping,
        )
        threads.append(("notify", watcher.run))
        threads += [
            (f"notify-{target.name}", sender.run)
            for target, sender in zip(notify.targets, senders, strict=True)
        ]
    if notify.dead_man_file:
        # httpx is for this alone here.
        from projections.notify.dead_man import DeadMan

        switch = DeadMan(
            engine,
            notify.dead_man_file,
            notify.dead_man_every,
            node=settings.ingest.node,
            targets=[target.name for target in notify.targets],
            lanes=lanes,
            stopping=stopping,
        )
        threads.append(("dead-man", switch.run))
    return threads
