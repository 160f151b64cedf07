"""The table of keys."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, Table, Text
from sqlalchemy.dialects.postgresql import ARRAY

from projections.tables import metadata

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("role", Text),
    Column("algorithm", Text),
    Column("public", Text),
    Column("sources", ARRAY(Text), nullable=False),
    Column("groups", ARRAY(Text), nullable=False),
    Column("created_at", DateTime(timezone=True)),
    Column("created_by", Text),
    Column("rotated_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    Column("revoked_by", Text),
    Column("reason", Text),
    Column("seq", BigInteger, nullable=False),
)
"""Who may sign commands, and who could."""
