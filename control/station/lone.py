"""The station's own PostgreSQL without the rest of it: for a backup or a restore while it is down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from control.station import folder as place
from control.station import instance, postgres
from control.station.folder import Folder
from control.station.ports import free_port
from control.station.process import end
from streams.settings import PostgresSection


@contextmanager
def own_postgres(folder: Folder) -> Iterator[PostgresSection]:
    """The server of a local station that is down, started meanwhile. Raises AlreadyRunning, StartFailed."""
    with instance.only_one(folder):
        instance.end_leftovers(folder)
        database = postgres.Database(folder.path / "postgres", folder.log(place.POSTGRES), free_port(()))
        password = folder.secret("postgres.password")
        postgres.create(database, password)
        process, launch = postgres.start(database)
        try:
            yield PostgresSection(url=database.url, password=password)
        finally:
            end(process, launch)
