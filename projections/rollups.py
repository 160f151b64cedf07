"""Levels by minute and hour, from the lanes' telemetry: each measurement counts once.

Rows and the stream id of the last entry in them are one transaction. Ids come from the primary's
clock: after a failover some may be given out again, and what is not beyond the position is left out,
so nothing counts twice. What telemetry has dropped in the meantime is missing, as telemetry may.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from threading import Event
from typing import Any

import msgspec
import structlog
from redis.exceptions import ResponseError
from sqlalchemy import Connection, Engine, delete, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from projections.database import is_away
from projections.folds.data import identifier
from projections.folds.levels import SPANS, Key, RollUp, concerns, fold_all
from projections.rows import columns, structs
from projections.tables import levels, telemetry
from streams.backoff import Backoff
from streams.connection import Link, Unreachable
from streams.messages import Level, now
from streams.names import StationKeys

EVERY = 2.0
"""Seconds between two readings."""
BATCH = 1000
"""Entries in one transaction, at most."""
KEEP_MINUTES = timedelta(days=30)
"""How long rows of a minute are kept; those of an hour are kept for good."""
FORGET_EVERY = 1800
"""Readings after which old rows are deleted."""
LOUDEST = 300.0
"""dBFS beyond which, up or down, a measurement is none."""

Place = tuple[int, int]
"""The two halves of a stream id: milliseconds and number."""
START: Place = (0, 0)

_decode = msgspec.json.Decoder(list[Level]).decode


class RollUps:
    """Rolls up the telemetry of all lanes. `run` is the body of a thread."""

    def __init__(
        self,
        engine: Engine,
        link: Link,
        keys: StationKeys,
        lanes: Callable[[], Iterable[str]],
        stopping: Event,
    ) -> None:
        self._engine = engine
        self._link = link
        self._keys = keys
        self._lanes = lanes
        self._stopping = stopping
        self._readings = 0
        self._log = structlog.get_logger("projections.rollups")

    def run(self) -> None:
        """Read every other second until told to stop; what fails is tried again."""
        backoff = Backoff(self._stopping)
        while not self._stopping.wait(EVERY):
            try:
                for lane in self._lanes():
                    while self.read(lane) and not self._stopping.is_set():
                        continue
                if self._readings % FORGET_EVERY == 0:
                    self._forget()
                self._readings += 1
                backoff.reset()
            except (Unreachable, ResponseError, SQLAlchemyError) as error:
                away = not isinstance(error, SQLAlchemyError) or is_away(error)
                if backoff.failures == 0:
                    self._log.log(30 if away else 40, "no roll-up", detail=str(error).splitlines()[0])
                backoff.wait()
            except Exception:  # the thread never dies: it says what is wrong and tries again
                self._log.exception("roll-up failed")
                backoff.wait()
        self._link.close()

    def read(self, lane: str) -> bool:
        """Roll up the lane's next entries; whether there may be more. Raises Unreachable, DBAPIError."""
        with self._engine.begin() as connection:
            after = _place(connection, lane)
            key, start = self._keys.lane(lane).telemetry, f"{after[0]}-{after[1]}"
            streams = self._link.call("XREAD", "COUNT", BATCH, "STREAMS", key, start)
            if not streams:
                return False
            entries = streams[0][1]
            measured = [level for _, fields in entries for level in decoded(fields)]
            roll_up(connection, lane, measured)
            last = entries[-1][0].decode().split("-")
            _move(connection, lane, (int(last[0]), int(last[1])))
        return len(entries) == BATCH

    def _forget(self) -> None:
        with self._engine.begin() as connection:
            old = levels.c.at < now() - KEEP_MINUTES
            connection.execute(delete(levels).where(levels.c.span == SPANS[0], old))


def roll_up(connection: Connection, lane: str, measured: list[Level]) -> None:
    """Fold measurements of the lane into its rows, inside the caller's transaction."""
    keys = sorted({concerns(level, span) for level in measured for span in SPANS})
    if not keys:
        return
    put = insert(levels)
    fields = {column.name: put.excluded[column.name] for column in levels.c if not column.primary_key}
    after = fold_all(_load(connection, lane, keys), measured)
    rows = [{"lane": lane, **msgspec.structs.asdict(after[key])} for key in keys]
    connection.execute(
        put.on_conflict_do_update(index_elements=["source", "span", "at", "lane"], set_=fields), rows
    )


def decoded(fields: list[bytes]) -> list[Level]:
    """The measurements of one telemetry entry that can be kept; none where it cannot be read."""
    try:
        measured = _decode(dict(zip(fields[::2], fields[1::2], strict=True)).get(b"l", b""))
    except (msgspec.DecodeError, ValueError):
        return []
    return [level for level in measured if _is_level(level)]


def _is_level(level: Level) -> bool:
    meters = level.readings
    values = [level.rms_dbfs, level.peak_dbfs]
    values += [] if meters is None else [meters.momentary_lufs, meters.true_peak_dbtp]
    return (
        identifier(level.source) is not None
        and level.at.tzinfo is not None
        and all(value is None or abs(value) <= LOUDEST for value in values)
    )


def _load(connection: Connection, lane: str, keys: list[Key]) -> dict[Key, RollUp]:
    key = tuple_(levels.c.source, levels.c.span, levels.c.at)
    wanted = select(*columns(levels, RollUp)).where(levels.c.lane == lane, key.in_(keys))
    found: list[Any] = list(connection.execute(wanted))
    return {(row.source, row.span, row.at): row for row in structs(levels, RollUp, found)}


def _place(connection: Connection, lane: str) -> Place:
    """How far the lane is rolled up. The row stays locked until the transaction ends."""
    connection.execute(
        insert(telemetry).values(lane=lane, milliseconds=START[0], number=START[1]).on_conflict_do_nothing()
    )
    row = connection.execute(
        select(telemetry.c.milliseconds, telemetry.c.number).where(telemetry.c.lane == lane).with_for_update()
    ).one()
    return row.milliseconds, row.number


def _move(connection: Connection, lane: str, to: Place) -> None:
    put = insert(telemetry).values(lane=lane, milliseconds=to[0], number=to[1])
    connection.execute(
        put.on_conflict_do_update(index_elements=["lane"], set_={"milliseconds": to[0], "number": to[1]})
    )
