"""The latest level of each source, from the lanes' telemetry streams.

Telemetry is not audited and not folded: a level that was missed is gone, the next comes 0.1 s later.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from threading import Event, Lock
from typing import Any

import msgspec
import structlog
from redis.exceptions import ResponseError

from projections.views import LevelView
from streams.backoff import Backoff
from streams.connection import Link, Unreachable
from streams.messages import Level
from streams.names import StationKeys
from streams.readings import Meters, meters_of

BLOCK = 0.5
"""Seconds that a read waits for levels; also how soon a new lane is heard."""
POLL = 0.1
"""Seconds between two reads in a cluster: what lies with several servers cannot be blocked on."""
SILENT_AFTER = 3.0
"""Seconds without a measurement after which a source has no level: unknown is not silence."""
NOTHING_YET = "0-0"

Heard = tuple[str, str]
"""Lane and source."""

_decode = msgspec.json.Decoder(list[Level]).decode


class Levels:
    """Follows the telemetry of all lanes. `run` is the body of a thread; `take` is called from another."""

    def __init__(
        self, link: Link, keys: StationKeys, lanes: Callable[[], Iterable[str]], stopping: Event
    ) -> None:
        self._link = link
        self._keys = keys
        self._lanes = lanes
        self._stopping = stopping
        self._positions: dict[str, str] = {}
        self._heard: dict[Heard, tuple[float, LevelView]] = {}
        self._taken: set[Heard] = set()
        self._lock = Lock()
        self._log = structlog.get_logger("projections.levels")

    def run(self) -> None:
        """Listen until told to stop; where Redis is away, begin again with what is measured then."""
        backoff = Backoff(self._stopping)
        while not self._stopping.is_set():
            try:
                self.listen()
                backoff.reset()
            except (Unreachable, ResponseError) as error:
                if backoff.failures == 0:
                    self._log.warning("telemetry cannot be read", detail=str(error))
                # Ids come from a primary's clock: those of the next primary may be smaller.
                self._positions.clear()
                backoff.wait()
            except Exception:  # the listener never dies: it says what is wrong and tries again
                self._log.exception("telemetry failed")
                backoff.wait()
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def listen(self) -> None:
        """Read once from all lanes. Raises Unreachable."""
        lanes = {self._keys.lane(lane).telemetry: lane for lane in self._lanes()}
        self._enter(key for key in lanes if key not in self._positions)
        for key, entries in self._read(list(lanes)):
            name = key.decode()
            self._positions[name] = entries[-1][0].decode()
            for _, fields in entries:
                self.hear(lanes[name], dict(zip(fields[::2], fields[1::2], strict=True)).get(b"l", b""))

    def _read(self, keys: list[str]) -> list[Any]:
        """What is new in the streams `keys`, as XREAD answers."""
        ids = [self._positions[key] for key in keys]
        read = ("XREAD", "COUNT", 100)
        if not self._link.spans_slots:
            block = ("BLOCK", int(BLOCK * 1000), "STREAMS")
            return self._link.call(*read, *block, *keys, *ids, timeout=BLOCK) or []
        replies = self._link.batch([(*read, "STREAMS", key, id) for key, id in zip(keys, ids, strict=True)])
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise reply
        new = [stream for reply in replies if reply for stream in reply]
        if not new:
            self._stopping.wait(POLL)
        return new

    def _enter(self, keys: Iterable[str]) -> None:
        new = list(keys)
        if not new:
            return
        latest = self._link.batch([("XREVRANGE", key, "+", "-", "COUNT", 1) for key in new])
        for key, entries in zip(new, latest, strict=True):
            if isinstance(entries, ResponseError):
                raise entries
            self._positions[key] = entries[0][0].decode() if entries else NOTHING_YET

    def hear(self, lane: str, raw: bytes) -> None:
        """Take one telemetry entry; one that cannot be read is left out."""
        try:
            levels = _decode(raw)
        except msgspec.DecodeError:
            return
        with self._lock:
            for level in levels:
                self._keep((lane, level.source), level)

    def _keep(self, key: Heard, level: Level) -> None:
        peak, meters = level.peak_dbfs, None if level.readings is None else meters_of(level.readings)
        before = self._heard.get(key)
        if before is not None and key not in self._taken:
            peak = louder(peak, before[1].peak_dbfs)
            meters = higher(meters, before[1].meters)
        self._taken.discard(key)
        view = LevelView(
            at=level.at,
            rms_dbfs=level.rms_dbfs,
            peak_dbfs=peak,
            seconds=level.seconds,
            decoded=level.decoded,
            meters=meters,
            spectrum=None if level.spectrum is None else list(level.spectrum),
            title=level.title,
        )
        self._heard[key] = (time.monotonic(), view)

    def take(self) -> dict[Heard, LevelView]:
        """The sources' levels now. A peak is the highest since the last take, so that none is missed."""
        earliest = time.monotonic() - SILENT_AFTER
        with self._lock:
            self._heard = {key: heard for key, heard in self._heard.items() if heard[0] >= earliest}
            self._taken = set(self._heard)
            return {key: view for key, (_, view) in self._heard.items()}


def higher(now: Meters | None, before: Meters | None) -> Meters | None:
    """The meters now, with the highest true peak and momentary loudness of both."""
    if now is None or before is None:
        return now
    return msgspec.structs.replace(
        now,
        true_peak_dbtp=louder(now.true_peak_dbtp, before.true_peak_dbtp),
        momentary_lufs=louder(now.momentary_lufs, before.momentary_lufs),
    )


def louder(one: float | None, other: float | None) -> float | None:
    """The higher of two levels in dBFS, None being −∞."""
    level = max(-math.inf if one is None else one, -math.inf if other is None else other)
    return None if level == -math.inf else level
