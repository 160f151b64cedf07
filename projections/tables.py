"""The read model's tables in Postgres.

A row's key holds its lane: each lane is folded by itself, so a source that was removed from one
lane and added in another must not be changed by what the first still has to say.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, Index, Integer, LargeBinary, MetaData, Table, Text, desc
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData()

ARCHIVE = "archive"
"""The name under which `positions` holds how far the archive is; it is no projection."""

sources = Table(
    "sources",
    metadata,
    Column("id", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("node", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("settings", JSONB, nullable=False),
    Column("desired", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("rate", BigInteger),
    Column("channels", BigInteger),
    Column("since", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("hash", Text, nullable=False),
)

commands = Table(
    "commands",
    metadata,
    Column("id", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("source", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("state", Text),
    Column("reason", Text),
    Column("field", Text),
    Column("by", Text),
    Column("detail", Text),
    Column("issued_at", DateTime(timezone=True)),
    Column("received_at", DateTime(timezone=True)),
    Column("finished_at", DateTime(timezone=True), nullable=False),
    Column("seq", BigInteger, nullable=False),
)
Index("commands_latest", desc(commands.c.finished_at), desc(commands.c.seq))
Index("commands_of_source", commands.c.source, desc(commands.c.finished_at), desc(commands.c.seq))

positions = Table(
    "positions",
    metadata,
    Column("projection", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("hash", Text, nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    Column("checked_at", DateTime(timezone=True)),
    Column("trouble", Text),
)
"""How far each projection has folded each lane.

`checked_at`: when the log was last seen to hold nothing newer. `trouble`: why it cannot go on.
"""

heartbeats = Table(
    "heartbeats",
    metadata,
    Column("node", Text, primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False),
)
"""The last heartbeat seen of each ingest node; it is asked when Redis is away."""

archive = Table(
    "archive",
    metadata,
    Column("lane", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("token", BigInteger, nullable=False),
    Column("hash", Text, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("type", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("command", Text),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("logged_at", DateTime(timezone=True), nullable=False),
)
"""Every event there was: `raw` are its very bytes, `hash` is of them; the other columns are for asking."""
