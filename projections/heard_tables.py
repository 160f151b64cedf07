"""The read model's tables of what was heard: alerts, recordings, decoders, weekly tests."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Double, Index, MetaData, Table, Text, desc
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData()

alerts = Table(
    "alerts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("alert", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("header", Text, nullable=False),
    Column("originator", Text),
    Column("originator_name", Text),
    Column("event", Text),
    Column("event_name", Text),
    Column("locations", ARRAY(Text), nullable=False),
    Column("places", ARRAY(Text), nullable=False),
    Column("valid_minutes", BigInteger),
    Column("issued_at", DateTime(timezone=True)),
    Column("expires_at", DateTime(timezone=True)),
    Column("station", Text),
    Column("problems", ARRAY(Text), nullable=False),
    Column("confirmed", Boolean, nullable=False),
    Column("confidence", Double),
    Column("heard", BigInteger, nullable=False),
    Column("first_at", DateTime(timezone=True), nullable=False),
    Column("last_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    Column("hearings", JSONB, nullable=False),
    Column("injected", Boolean, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("hash", Text, nullable=False),
)
"""Messages as each source heard them; `alert` is the same for all who heard one."""
Index("alerts_latest", desc(alerts.c.last_at), alerts.c.alert)
Index("alerts_of_source", alerts.c.source, desc(alerts.c.last_at), alerts.c.alert)
Index("alerts_of_event", alerts.c.event, desc(alerts.c.last_at), alerts.c.alert)
Index("alerts_same", alerts.c.alert)

recordings = Table(
    "recordings",
    metadata,
    Column("id", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("source", Text, nullable=False),
    Column("node", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("begun_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    Column("seconds", Double),
    Column("rate", BigInteger),
    Column("channels", BigInteger),
    Column("bytes", BigInteger),
    Column("sha256", Text),
    Column("file", Text),
    Column("hearings", ARRAY(Text), nullable=False),
    Column("lost", Double, nullable=False),
    Column("salvaged", Boolean, nullable=False),
    Column("injected", Boolean, nullable=False),
    Column("reason", Text),
    Column("seq", BigInteger, nullable=False),
)
"""Evidence: what was recorded, and which node has it."""
Index("recordings_latest", desc(recordings.c.begun_at), recordings.c.id)
Index("recordings_of_source", recordings.c.source, desc(recordings.c.begun_at), recordings.c.id)

decoders = Table(
    "decoders",
    metadata,
    Column("id", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("since", DateTime(timezone=True)),
    Column("bursts", BigInteger, nullable=False),
    Column("last_burst_at", DateTime(timezone=True)),
    Column("last_test_at", DateTime(timezone=True)),
    Column("alerts", JSONB, nullable=False),
)
"""What the decoder of each source has heard."""

weekly_tests = Table(
    "weekly_tests",
    metadata,
    Column("id", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("first_at", DateTime(timezone=True), nullable=False),
    Column("last_at", DateTime(timezone=True), nullable=False),
    Column("before_at", DateTime(timezone=True)),
    Column("count", BigInteger, nullable=False),
    Column("header", Text),
    Column("seq", BigInteger, nullable=False),
)
"""When each source (its id is the row's) heard Required Weekly Tests."""
