"""A rolling upgrade: processes of two versions on one log and one database, and back again.

There is only one version yet. The newer one is made here: its events say schema 2, have a field and a type
that this version does not know, and its migration adds a column and a table.
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from projections import schema
from projections.projection import SOURCES
from projections.runner import Runner
from projections.schema import migrate
from streams.audit import head_of, verify
from streams.connection import connect
from streams.messages import Logged, canonical, decode_event, digest
from streams.replay import stored
from tests.fix_projections import LANE, Chain, Yard
from tests.fix_servers import eventually

NEWER = """
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "9999", "{before}", None, None


def upgrade():
    op.add_column("sources", sa.Column("region", sa.Text))
    op.create_table("regions", sa.Column("id", sa.Text, primary_key=True))
"""


class Newer(Chain):
    """Writes as the newer version does."""

    def event(self, type: str, source: str = "", command: str | None = None, /, **data: Any) -> Logged:
        before = self.hash
        logged = super().event(type, source, command, **data)
        plain = {**msgspec.to_builtins(logged.event), "schema": 2, "region": "north", "prev": before}
        raw = canonical(plain)
        newer = Logged(decode_event(raw), raw, digest(raw))
        self.events[-1], self.hash = newer, newer.hash
        return newer


@pytest.fixture
def newer_migrations(tmp_path: Path) -> Path:
    """The migrations of the newer version: ours, and one more."""
    folder = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, folder)
    last = max(path.name for path in (folder / "versions").glob("[0-9]*.py")).split("_")[0]
    (folder / "versions" / "9999_regions.py").write_text(NEWER.format(before=last))
    return folder


def test_both_versions_work_on_one_log_and_one_database(
    yard: Yard, newer_migrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer process comes while an older one folds, and an older one starts after it."""
    chain = Newer()
    scribe = yard.scribe(chain=chain)
    stopping = threading.Event()
    older = Runner(yard.engine, connect(yard.settings.redis, "older"), LANE, yard.keys.lane(LANE), stopping)
    thread = threading.Thread(target=older.run)
    thread.start()

    def state() -> str | None:
        row = yard.rows(SOURCES).get("mic")
        return row.state if row else None

    try:
        scribe.add("mic", running=True)
        eventually(lambda: state() == "running", "the older version folds")
        with monkeypatch.context() as patch:
            patch.setattr(schema, "MIGRATIONS", newer_migrations)
            migrate(yard.engine)
        scribe.write("region.added", "mic", name="north")
        scribe.write("source.failed", "mic", reason="unreadable")
        eventually(lambda: state() == "failed", "the older version folds on")
        # As it starts: it finds the tables of the newer version.
        migrate(yard.engine)
        with yard.engine.connect() as connection:
            assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"
            assert connection.scalar(text("SELECT count(*) FROM regions")) == 0
        verdict = verify(
            LANE, stored(yard.link, yard.keys.lane(LANE)), head_of(yard.link, yard.keys.lane(LANE))
        )
        assert verdict.fault is None
    finally:
        stopping.set()
        thread.join()
