"""Archives one lane, and says `rows` and waits between the rows and the commit, to be killed there."""

from __future__ import annotations

import sys
import threading
import time

from sqlalchemy import Connection

from projections import archive
from projections.database import open_engine
from streams.connection import connect
from streams.messages import Logged
from streams.names import StationKeys
from streams.settings import load

keep = archive.keep


def keep_and_wait(connection: Connection, lane: str, events: list[Logged]) -> None:
    keep(connection, lane, events)
    print("rows", flush=True)
    time.sleep(60)


archive.keep = keep_and_wait
settings = load(None)
archive.Archiver(
    open_engine(settings.postgres, name="slow-archiver"),
    connect(settings.redis, "slow-archiver"),
    sys.argv[1],
    StationKeys(settings.station.id).lane(sys.argv[1]),
    threading.Event(),
).run()
