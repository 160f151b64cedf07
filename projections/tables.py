"""The read model's tables in Postgres.

A row's key holds its lane: each lane is folded by itself, so a source that was removed from one
lane and added in another must not be changed by what the first still has to say.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    desc,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from projections.heard_tables import alerts as alerts
from projections.heard_tables import decoders as decoders
from projections.heard_tables import metadata as metadata
from projections.heard_tables import recordings as recordings
from projections.heard_tables import weekly_tests as weekly_tests

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
    Column("recorded", Text, nullable=False, server_default="alerts"),
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

totals = Table(
    "totals",
    metadata,
    Column("id", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("type", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("buckets", ARRAY(BigInteger), nullable=False),
    Column("microseconds", BigInteger, nullable=False),
)
"""Results counted by type and outcome: counters over a lane are summed when they are read."""

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
    Column("failure", Text),
)
"""How far each projection has folded each lane.

`checked_at`: when the log was last seen to hold nothing newer. `trouble`: why it cannot go on, and
`failure` of what class that is (`projections.failures`).
"""

history = Table(
    "history",
    metadata,
    Column("id", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("source", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("node", Text, nullable=False),
    Column("since", DateTime(timezone=True), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("until", DateTime(timezone=True)),
    Column("until_seq", BigInteger),
)
"""In which state each source was, from when until when; `until` is null for the present one."""
Index("history_of_source", history.c.source, desc(history.c.since))

conditions = Table(
    "conditions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("source", Text, nullable=False),
    Column("condition", Text, nullable=False),
    Column("detail", Text),
    Column("opened_at", DateTime(timezone=True), nullable=False),
    Column("closed_at", DateTime(timezone=True)),
    Column("acknowledged_at", DateTime(timezone=True)),
    Column("acknowledged_by", Text),
    Column("command", Text),
    Column("seq", BigInteger, nullable=False),
)
"""Episodes of what was wrong with a source."""
Index("conditions_of_source", conditions.c.source, desc(conditions.c.opened_at))

leases = Table(
    "leases",
    metadata,
    Column("id", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("node", Text, nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("since", DateTime(timezone=True), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("until", DateTime(timezone=True)),
    Column("ending", Text),
)
"""Which node owned each lane, from when until when; the row `now` stands."""

parked = Table(
    "parked",
    metadata,
    Column("id", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("home", Text),
    Column("source", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("type", Text),
    Column("why", Text),
    Column("deliveries", BigInteger),
    Column("by", Text),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("seq", BigInteger, nullable=False),
)
"""Commands that were parked (`home` is null), and what became of them (told in the station's lane)."""

levels = Table(
    "levels",
    metadata,
    Column("source", Text, primary_key=True),
    Column("span", Integer, primary_key=True),
    Column("at", DateTime(timezone=True), primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("power", Double, nullable=False),
    Column("rms_least", Double),
    Column("rms_most", Double),
    Column("peak", Double),
    Column("silent", BigInteger, nullable=False),
    Column("loudness", Double, nullable=False, server_default="0"),
    Column("loud", BigInteger, nullable=False, server_default="0"),
    Column("momentary_most", Double),
    Column("true_peak", Double),
)
"""Levels rolled up by minute and hour (`span`, in seconds)."""
Index("levels_at", levels.c.span, levels.c.at)

telemetry = Table(
    "telemetry",
    metadata,
    Column("lane", Text, primary_key=True),
    Column("milliseconds", BigInteger, nullable=False),
    Column("number", BigInteger, nullable=False),
)
"""How far each lane's telemetry is rolled up: the two halves of the last entry's stream id."""

poisoned = Table(
    "poisoned",
    metadata,
    Column("projection", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("hash", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("followers", BigInteger, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
)
"""Events that a projection's fold could not take: parked (with how many followers), or dropped."""

rebuilds = Table(
    "rebuilds",
    metadata,
    Column("projection", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("wanted_at", DateTime(timezone=True), nullable=False),
    Column("started_at", DateTime(timezone=True)),
    Column("finished_at", DateTime(timezone=True)),
    Column("done", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("per_second", Double),
    Column("detail", Text),
)
"""The latest rebuild of each projection: wanted, running, done or failed; `done` of `total` events."""

rebuild_positions = Table(
    "rebuild_positions",
    metadata,
    Column("projection", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("hash", Text, nullable=False),
)
"""How far a rebuild that is under way has folded each lane."""

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
    Column("logged_at", DateTime(timezone=True), primary_key=True),
    postgresql_partition_by="RANGE (logged_at)",
)
"""Every event there was: `raw` are its very bytes, `hash` is of them; the other columns are for asking.

A key must hold what the table is partitioned by. That a lane has each seq once is by the position.
"""

fold_snapshots = Table(
    "fold_snapshots",
    metadata,
    Column("lane", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("hash", Text, nullable=False),
    Column("folds", Text, nullable=False),
    Column("rows", LargeBinary, nullable=False),
)
"""Each lane's past after the event `seq`, whose hash stands there; `folds` says by which versions."""

episodes = Table(
    "episodes",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("rule", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("source", Text, nullable=False, server_default=""),
    Column("lane", Text),
    Column("seq", BigInteger),
    Column("detail", Text, nullable=False),
    Column("opened_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True)),
    Column("closed_at", DateTime(timezone=True)),
    Column("muted", Text),
    Column("repeats", Integer, nullable=False),
    Column("notified_at", DateTime(timezone=True)),
    Column("acknowledged_at", DateTime(timezone=True)),
    Column("acknowledged_by", Text),
)
"""What rules of notification found. `lane` and `seq` name the event that opened it, where one did.

`source` is the one it is about, if any. `expires_at`: when it ends by itself. `muted`: why it is not
told. `repeats`: how many notifications there were after the first.
"""
Index("episodes_of_event", *(episodes.c[name] for name in ("rule", "subject", "lane", "seq")), unique=True)
Index(
    "episodes_open",
    episodes.c.rule,
    episodes.c.subject,
    unique=True,
    postgresql_where=text("closed_at IS NULL AND kind <> 'alert'"),
)
Index("episodes_waiting", episodes.c.id, postgresql_where=text("closed_at IS NULL OR notified_at IS NULL"))

notifications = Table(
    "notifications",
    metadata,
    Column("episode", BigInteger, primary_key=True),
    Column("target", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("next_try", DateTime(timezone=True), nullable=False),
    Column("claimed_at", DateTime(timezone=True)),
    Column("sent_at", DateTime(timezone=True)),
    Column("detail", Text),
)
"""What goes out: due, sending, sent, perhaps (nobody knows), given up. `number` counts an episode's."""
Index(
    "notifications_due",
    notifications.c.target,
    notifications.c.next_try,
    postgresql_where=text("state <> 'sent'"),
)

marks = Table(
    "marks",
    metadata,
    Column("name", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
)
"""How far the notifier has read each lane's archive.

Under `live` stands since when it tells anything, under `looked` when it last looked for episodes.
"""

verdicts = Table(
    "verdicts",
    metadata,
    Column("lane", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("hash", Text, nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("checked_at", DateTime(timezone=True)),
    Column("fault", Text),
    Column("whole_at", DateTime(timezone=True)),
    Column("whole_fault", Text),
)
"""Whether each lane's log is sound. It is so up to (`seq`, `hash`, `token`), as seen at `checked_at`.

`fault` is what is wrong behind that; `whole_at` is when all of it was last verified from the first
event on, `whole_fault` what was wrong then.
"""
