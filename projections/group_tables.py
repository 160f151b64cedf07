"""The table of groups of sources."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, Double, Table, Text
from sqlalchemy.dialects.postgresql import ARRAY

from projections.tables import metadata

groups = Table(
    "groups",
    metadata,
    Column("id", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("members", ARRAY(Text), nullable=False),
    Column("fallback_after", Double, nullable=False),
    Column("back_after", Double, nullable=False),
    Column("active", Text),
    Column("reason", Text),
    Column("since", DateTime(timezone=True), nullable=False),
    Column("seq", BigInteger, nullable=False),
)
"""Groups of sources, with the member that counts (null: none yet)."""
