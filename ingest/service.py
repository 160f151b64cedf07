"""The ingest process: a worker for each lane this node may own, telemetry, and the heartbeat."""

from __future__ import annotations

import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType

import structlog

from ingest.claims import Claims
from ingest.courier import Courier, reporter
from ingest.equipment import equip
from ingest.heartbeat import Heartbeat
from ingest.inputs import Inputs
from ingest.keeper import Keeper
from ingest.lane import SourcesLane
from ingest.listener import Noted
from ingest.sound import SoundServer
from ingest.telemetry import Looks, TelemetryWriter
from streams.breaker import Breakers
from streams.connection import connect
from streams.durability import Prover
from streams.history import Archive
from streams.keywatch import KeyWatch
from streams.messages import now
from streams.names import StationKeys, floating_lanes, node_lane
from streams.readiness import make_ready
from streams.recordings import RECORDING_EVENTS, RecordingFact
from streams.settings import Settings
from streams.signing import load_keyring
from streams.vocabulary import plain
from streams.worker import LaneWorker

STOP_WITHIN = 3.0
"""Seconds that the lanes have to be released, all together."""
QUIET_WITHIN = 0.5
"""Seconds that whatever else runs has to end; what hangs then ends with the process."""

log = structlog.get_logger(__name__)


class Node:
    """One node's ingest. `run` blocks until `stopping` is set."""

    def __init__(
        self, settings: Settings, archive: Archive | None = None, breakers: Breakers | None = None
    ) -> None:
        self.breakers = breakers or Breakers(settings.breaker)
        self.stopping = threading.Event()
        self._settings = settings
        self._archive = archive
        self._keys = StationKeys(settings.station.id)
        self._name = settings.ingest.node
        self._prover = Prover(settings.redis)
        files = load_keyring(Path(settings.keys.directory))
        self._keywatch = KeyWatch(settings, self._name, files, archive)
        self._quiet = threading.Event()
        self._telemetry = TelemetryWriter(connect(settings.redis, f"{self._name}-telemetry"), self._keys)
        self._claims = Claims(connect(settings.redis, f"{self._name}-claims"), self._keys)
        self._equipment = equip(settings)
        self._inputs = Inputs(settings.fetch, settings.pipes)
        self._sound: SoundServer | None = None
        self._handlers: dict[str, SourcesLane] = {}
        self._workers: dict[str, LaneWorker] = {}
        self._threads: list[threading.Thread] = []

    def run(self) -> None:
        """Own lanes until told to stop, then release them and stop telemetry and heartbeat."""
        make_ready(self._settings.redis, f"{self._name}-library", self.stopping)
        names = [node_lane(self._name), *floating_lanes(self._settings.station.lanes)]
        self._start("telemetry", self._telemetry.run, self._quiet)
        self._start("meters", self._equipment.meters.run, self._quiet)
        looks = Looks(
            connect(self._settings.redis, f"{self._name}-looks"), self._keys, self._equipment.meters.look_at
        )
        self._start("looks", looks.run, self._quiet)
        self._keep_evidence()
        self._start("claims", self._claims.run, self._quiet)
        self._start("keys", self._keywatch.run, self._quiet)
        lanes = [self._start(f"lane-{lane}", self._add(lane).run, self.stopping) for lane in names]
        heartbeat = Heartbeat(
            connect(self._settings.redis, f"{self._name}-heartbeat"),
            self._keys,
            self._name,
            lanes=self._owned,
            sources=self._counts,
            breakers=self.breakers,
            folder=Path(self._settings.keys.directory),
            sound=(self._sound.address, self._sound.secret) if self._sound else None,
        )
        self._start("heartbeat", heartbeat.run, self._quiet)
        log.info("ingest runs", node=self._name, lanes=len(names))
        self.stopping.wait()
        _join(lanes, STOP_WITHIN)
        self._quiet.set()
        self._inputs.close()
        _join(self._threads, QUIET_WITHIN)
        log.info("ingest stopped", node=self._name)

    def _add(self, lane: str) -> LaneWorker:
        handler = self._handlers[lane] = SourcesLane(
            lane, self._telemetry.lane(lane), self._claims, self._equipment, self._inputs
        )
        worker = self._workers[lane] = LaneWorker(
            self._settings,
            lane,
            self._name,
            handler,
            keyring=self._keywatch.keyring,
            known=self._keywatch.fresh,
            groups=self._keywatch.groups,
            prover=self._prover,
            archive=self._archive,
        )
        return worker

    def _owned(self) -> list[str]:
        return [lane for lane, worker in self._workers.items() if worker.owned.is_set()]

    def _keep_evidence(self) -> None:
        """Start what records, serves and looks after recordings, and sees to the spool."""
        parts, settings = self._equipment, self._settings
        if parts.recorder is None or parts.spool is None:
            return
        keeper = Keeper(parts.recorder, parts.recordings, self._tell, parts.spool.tells_end)
        keeper.salvage()
        self._start("recorder", parts.recorder.run, self._quiet)
        self._start("keeper", keeper.run, self._quiet)
        submitter = reporter(settings, f"{self._name}-reports", self._prover)
        courier = Courier(
            settings, connect(settings.redis, f"{self._name}-courier"), submitter, parts.spool,
            owned=self._owned, keyring=self._keywatch.keyring,
        )  # fmt: skip
        self._start("courier", courier.run, self._quiet)
        try:
            self._sound = SoundServer(
                parts.recorder.folder, settings.ingest.host, settings.ingest.port, parts.on_air
            )
        except OSError as error:
            at = f"{settings.ingest.host}:{settings.ingest.port}"
            log.error("recordings are not served", address=at, detail=str(error))
            return
        self._start("sound", self._sound.run, self._quiet)

    def _tell(self, lane: str, source: str, fact: RecordingFact) -> None:
        """Log what became of a recording, whoever owns its lane by now."""
        noted = Noted(fact, now())
        if (handler := self._handlers.get(lane)) is not None:
            handler.notes.note(source, noted)
        elif self._equipment.spool is not None:
            self._equipment.spool.keep(lane, source, RECORDING_EVENTS[type(fact)], plain(fact), noted.at)

    def _start(
        self, name: str, body: Callable[[threading.Event], None], stop: threading.Event
    ) -> threading.Thread:
        thread = threading.Thread(target=body, args=(stop,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _counts(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for handler in self._handlers.values():
            total.update(handler.counts())
        return dict(total)


def _join(threads: Iterable[threading.Thread], seconds: float) -> None:
    until = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(until - time.monotonic(), 0))


def serve(settings: Settings, archive: Archive | None = None, breakers: Breakers | None = None) -> None:
    """Run this node's ingest until SIGTERM or SIGINT. Call it from the main thread.

    `archive` is asked for what a lane's log lost, whenever a lane is taken over; the heartbeat tells how
    `breakers` stand.

    Raises WrongServer, InvalidKey.
    """
    node = Node(settings, archive, breakers)
    # A stream takes five pipes and a connection.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    def stop(number: int, frame: FrameType | None) -> None:
        node.stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    node.run()
