"""`tocsin backup` and `tocsin restore`: a station in one file, and what Redis lost given back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from control import outcomes
from control.backup import Database, Unusable, is_local, opened, save, unpack
from control.cli import options, session, show
from control.cli.trouble import Trouble
from control.restoring import Restored, load_functions, restore_lane
from control.station.folder import Folder
from streams.connection import Link, Unreachable, connect
from streams.names import StationKeys
from streams.settings import PostgresSection, Settings, load

DATABASE = "tocsin.database"
"""Where in the click context's `meta` the composition root puts what dumps and loads the tables."""
PATIENCE = 10.0
"""Seconds that a backup waits for what the log has to be archived."""

in_file = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@click.command("backup")
@in_file
@click.option(
    "--with-keys", is_flag=True, help="Its keys and passwords too: keep the file as safe as they are."
)
@options.reading
def backup(file: Path, with_keys: bool) -> None:
    """Write the whole station to FILE: its past, its read models and its settings. It goes on meanwhile."""
    here = session.place()
    settings, folder = here.settings(), Folder(here.folder())
    lacking = _lacking(settings)
    with _database(folder, settings) as postgres:
        settings = msgspec.structs.replace(settings, postgres=postgres)
        made = save(file, folder, settings, _tables(), keys=with_keys)
    told = {"file": str(file), "bytes": file.stat().st_size, "keys": with_keys, "lacking": lacking}
    if options.wants_json():
        show.as_json({"backup": {**told, "database": msgspec.json.decode(made.database)["lanes"]}})
        return
    show.table(
        ("LANE", "EVENTS"),
        ((lane, head["seq"]) for lane, head in msgspec.json.decode(made.database)["lanes"].items()),
    )
    click.echo(f"{file}: {told['bytes']:,} bytes, {'with' if with_keys else 'without'} keys and passwords")
    if lacking is None:
        click.echo("Redis cannot be asked whether it has events that are not archived yet.", err=True)
    for lane, count in (lacking or {}).items():
        click.echo(f"{count} events of lane {lane} are not archived yet and not in the backup.", err=True)


@click.command("restore")
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@options.reading
def restore(file: Path | None) -> int:
    """Give back to Redis what it lost, from the archive; with FILE make a new station from a backup."""
    return _restore_lanes() if file is None else _restore_file(file)


def _restore_lanes() -> int:
    settings = session.place().settings()
    archive = session.archive(settings)
    if archive is None:
        raise Trouble("there is nothing to restore from", why="the station has no archive (postgres.url)")
    load_functions(settings)
    found = [restore_lane(settings, lane, archive) for lane in archive.lanes()]
    if options.wants_json():
        show.as_json({"lanes": [{**msgspec.to_builtins(one), "whole": one.whole} for one in found]})
    else:
        show.table(("LANE", "WAS AT", "IS AT", "ARCHIVED", "CLAIMS", "RESTORED"), map(_row, found))
    return 0 if all(one.whole for one in found) else outcomes.EXIT_CODES["failed"]


def _row(one: Restored) -> tuple[object, ...]:
    by = {"us": "from the archive", "owner": f"by its owner, {one.owner}", "nobody": "nothing was missing"}
    told = by[one.by] if one.whole else f"NOT YET: {one.owner or 'nobody'} holds the lane; run it again"
    return one.lane, one.before, one.seq, one.archived, one.sources, told


def _restore_file(file: Path) -> int:
    path = session.place().folder()
    try:
        with opened(file) as (packed, manifest):
            folder = unpack(packed, manifest, path)
            settings = load(folder.settings)
            with _database(folder, settings) as postgres:
                _tables().load(postgres, packed, bytes(manifest.database))
    except (Unusable, ValueError) as error:
        raise Trouble("nothing was restored", why=str(error), code=outcomes.WRONG_USAGE) from error
    lanes = msgspec.json.decode(manifest.database)["lanes"]
    if options.wants_json():
        show.as_json({"restored": {"station": manifest.station, "folder": str(path), "lanes": lanes}})
    else:
        show.table(("LANE", "EVENTS"), ((lane, head["seq"]) for lane, head in lanes.items()))
        click.echo(f"The station {manifest.station!r} of {manifest.made_at:%Y-%m-%d %H:%M} UTC is in {path}.")
        if not manifest.keys:
            click.echo("The backup was made without keys: the station has new ones of its own.")
        if is_local(folder, settings):
            click.echo(f"Start it: tocsin up --station {path}")
    return 0


@contextmanager
def _database(folder: Folder, settings: Settings) -> Iterator[PostgresSection]:
    """The station's Postgres; its own is started meanwhile where the station is down."""
    from control.station import instance
    from control.station.lone import own_postgres

    running = instance.read(folder)
    if not is_local(folder, settings) or (running and instance.is_alive(running.pid, running.started)):
        yield settings.postgres
        return
    try:
        with own_postgres(folder) as postgres:
            yield postgres
    except instance.AlreadyRunning as error:
        raise Trouble(str(error), next="wait until it has started or ended, and try again") from error


def _tables() -> Database:
    find: Callable[[], Database] = click.get_current_context().meta[DATABASE]
    return find()


def _lacking(settings: Settings) -> dict[str, int] | None:
    """How many events of each lane are not archived, after some patience; None where nobody can say."""
    archive = session.archive(settings)
    if archive is None:
        return None
    reading = settings.as_role("reader")
    link, deadline = connect(reading.redis, "backup"), time.monotonic() + PATIENCE
    try:
        with session.desk() as desk:
            lanes = session.lanes(desk, None)
        wanted = {lane: _head(link, settings, lane) for lane in lanes}
        while True:
            missing = {lane: seq - _archived(link, settings, lane) for lane, seq in wanted.items()}
            missing = {lane: count for lane, count in missing.items() if count > 0}
            if not missing or time.monotonic() > deadline:
                return missing
            time.sleep(0.1)
    except Unreachable:
        return None
    finally:
        link.close()


def _head(link: Link, settings: Settings, lane: str) -> int:
    return int(link.call("HGET", StationKeys(settings.station.id).lane(lane).head, "seq") or 0)


def _archived(link: Link, settings: Settings, lane: str) -> int:
    return int(link.call("HGET", StationKeys(settings.station.id).lane(lane).archived, "seq") or 0)
