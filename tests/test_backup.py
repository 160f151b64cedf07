"""Backup and restore: a station in one file, made anew from it, and compared."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import msgspec
import pytest
from sqlalchemy import text

from control.backup import Unusable, opened
from projections import backup
from projections.archive_reader import ArchiveReader
from projections.database import open_engine
from streams.history import Entry
from tests.fix_archive import rows_of
from tests.fix_projections import LANE, Yard, folded
from tests.fix_servers import eventually
from tests.fix_whole import Whole


def emptied(yard: Yard) -> None:
    """Make the yard's database a new one."""
    with yard.engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))


def dumped(yard: Yard, path: Path) -> backup.Tables:
    with ZipFile(path, "w", ZIP_DEFLATED) as file:
        return backup.dump(yard.settings.postgres, file)


def loaded(yard: Yard, path: Path, said: backup.Tables) -> None:
    with ZipFile(path) as file:
        backup.load(yard.settings.postgres, file, msgspec.json.encode(said))


@pytest.fixture
def lived(yard: Yard) -> Yard:
    """A station with a past: sources, results, an alert that was told of, all of it archived and folded."""
    scribe = yard.scribe()
    scribe.add("mic", running=True)
    scribe.add("tower")
    scribe.settle("c-1", "mic", "completed", state="running")
    scribe.settle(
        "c-2", "tower", "failed", reason="unreadable", detail="NUL \x00, tab \t, back\\slash, \u2603"
    )
    scribe.append([scribe.chain.event("source.running", f"s{n}", n=n) for n in range(1200)])
    with yard.projections():
        eventually(lambda: len(rows_of(yard, LANE)) == len(scribe.chain.events), "everything archived")
        eventually(lambda: yard.all_rows() == folded(scribe.chain.events), "everything folded")
    with yard.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO episodes (rule, kind, subject, detail, opened_at, repeats)"
                " VALUES ('silence', 'silence', 'mic', 'quiet', now(), 0)"
            )
        )
    return yard


def test_tables_come_back_as_they_were(lived: Yard, tmp_path: Path) -> None:
    """Every row of every table is in the new database, byte for byte, and its numbering goes on."""
    said = dumped(lived, tmp_path / "first")
    events, rows = rows_of(lived, LANE), lived.all_rows()
    assert said.lanes[LANE].seq == len(events) == said.tables["archive"].rows
    emptied(lived)
    loaded(lived, tmp_path / "first", said)
    assert rows_of(lived, LANE) == events
    assert lived.all_rows() == rows
    assert dumped(lived, tmp_path / "second") == said
    with lived.engine.begin() as connection:
        added = text(
            "INSERT INTO episodes (rule, kind, subject, detail, opened_at, repeats)"
            " VALUES ('silence', 'silence', 'tower', 'quiet', now(), 0) RETURNING id"
        )
        assert connection.scalar(added) == 2
        places = connection.scalars(text("SELECT DISTINCT tableoid::regclass::text FROM archive")).all()
        assert places == ["archive_202605"]


def test_a_database_that_holds_events_is_left_alone(lived: Yard, tmp_path: Path) -> None:
    """Nothing is restored over a past that there is."""
    said = dumped(lived, tmp_path / "backup")
    events = rows_of(lived, LANE)
    with pytest.raises(backup.NotEmpty):
        loaded(lived, tmp_path / "backup", said)
    assert rows_of(lived, LANE) == events


def test_a_backup_that_was_altered_restores_nothing(lived: Yard, tmp_path: Path) -> None:
    """A row that is another than was backed up ends the restore, and the database stays empty."""
    said = dumped(lived, tmp_path / "backup")
    altered = tmp_path / "altered"
    with ZipFile(tmp_path / "backup") as source, ZipFile(altered, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content.replace(b"tower", b"power") if "archive" in name else content)
    emptied(lived)
    with pytest.raises(backup.Damaged, match="archive"):
        loaded(lived, altered, said)
    assert rows_of(lived, LANE) == []


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_station_backed_up_is_restored_into_a_new_one_and_goes_on(
    stations: list[Whole], tmp_path: Path, record: Any
) -> None:
    """Given a station with a past, one made from its backup has the same events and rows, and goes on.

    The same station then loses all of Redis: it comes back from the archive by itself.
    """
    first, second = stations
    file = tmp_path / "station.backup"
    first.start()
    recording = record(2.0)
    first.json("source", "add", "tone", "--file", str(recording), "--loop", "--start")
    for verb in ("stop", "start", "restart"):
        first.json("source", verb, "tone")
    told = first.json("backup", str(file), "--with-keys")["backup"]
    assert told["lacking"] == {}
    assert file.stat().st_mode & 0o777 == 0o600
    with opened(file) as (packed, manifest):
        assert manifest.keys
        said = msgspec.json.decode(manifest.database, type=backup.Tables)
        assert packed.testzip() is None
    events, rows = past(first, said), rows_of_commands(first)
    first.stop()
    restored = second.json("restore", str(file))["restored"]
    assert restored["lanes"] == told["database"]
    # As it was restored, before anything goes on.
    second.start()
    assert past(second, said) == events
    assert second.verdict().fault is None
    eventually(lambda: second.source("tone").get("state") == "running", "the source runs there", 30)
    # What is archived outlives Redis, and nothing else does.
    stopped = second.json("source", "stop", "tone", "--durability", "archive")
    assert stopped["command"]["sequence"] == 6
    assert rows_of_commands(second)[: len(rows)] == rows
    before = past(second)
    second.stop()
    for number in (1, 2, 3):
        shutil.rmtree(second.folder.server(f"redis-{number}"))
    second.start()
    found = second.json("restore")["lanes"]
    assert all(lane["whole"] for lane in found)
    after = past(second)
    assert {lane: after[lane][: len(entries)] for lane, entries in before.items()} == before
    assert second.verdict().fault is None
    assert second.json("source", "start", "tone")["command"]["sequence"] == 7


def past(station: Whole, said: backup.Tables | None = None) -> dict[str, list[Entry]]:
    """Bytes and hash of every archived event by lane, up to where a backup ends."""
    reader = ArchiveReader(station.settings.postgres)
    heads = {lane: head.seq for lane, head in said.lanes.items()} if said else dict.fromkeys(reader.lanes())
    return {lane: list(reader.after(lane, 0, seq)) for lane, seq in heads.items()}


def rows_of_commands(station: Whole) -> list[tuple[Any, ...]]:
    """The read model of commands, in the order of their results."""
    engine = open_engine(station.settings.postgres, name="test", connections=1)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM commands ORDER BY finished_at, seq")).all()
    engine.dispose()
    return [tuple(row) for row in rows]


@pytest.fixture
def stations(tmp_path: Path) -> Iterator[list[Whole]]:
    """Two stations, not started."""
    made = [Whole(tmp_path / name) for name in ("first", "second")]
    yield made
    for station in made:
        station.stop()


def test_what_is_no_backup_is_said(tmp_path: Path) -> None:
    """A file of another kind, and one that was cut short, are refused with their names."""
    path = tmp_path / "some.file"
    path.write_bytes(b"no backup at all")
    for named in (path, tmp_path / "some.file.that.is.not.there"):
        with pytest.raises(Unusable, match=r"some\.file"), opened(named):
            pass
