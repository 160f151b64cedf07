"""The control process: owns the `station` lane and executes its commands."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType

import structlog

from control.stationlane import StationLane
from streams.breaker import Breakers
from streams.durability import Prover
from streams.history import Archive
from streams.lookout import redis_lookout
from streams.names import STATION_LANE
from streams.readiness import make_ready
from streams.settings import Settings
from streams.signing import load_keyring
from streams.worker import LaneWorker

STOP_WITHIN = 2.5
"""Seconds that the lane has to be released."""

log = structlog.get_logger(__name__)


def serve(settings: Settings, archive: Archive | None = None, breakers: Breakers | None = None) -> None:
    """Execute the station lane's commands until SIGTERM or SIGINT. Call it from the main thread.

    `archive` is asked for what the lane's log lost, whenever the lane is taken over; `breakers` are
    this process's.

    Raises WrongServer, InvalidKey.
    """
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    files = load_keyring(Path(settings.keys.directory))
    make_ready(settings.redis, "control-library", stopping)
    prover = Prover(settings.redis)
    handler = StationLane(settings, prover, files, archive)
    worker = LaneWorker(
        settings,
        STATION_LANE,
        settings.ingest.node,
        handler,
        keyring=handler.keyring,
        groups=handler.groups_of,
        prover=prover,
        archive=archive,
    )
    owner = threading.Thread(target=worker.run, args=(stopping,), name="lane-station", daemon=True)
    owner.start()
    if breakers is not None:
        redis_lookout(breakers.redis, settings.redis, "control").start(stopping)
    log.info("control runs", node=settings.ingest.node)
    stopping.wait()
    owner.join(STOP_WITHIN)
    log.info("control stopped", node=settings.ingest.node)
