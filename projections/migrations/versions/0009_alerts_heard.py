"""Alerts as they were heard, and what each source's decoder has heard."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("lane", sa.Text, primary_key=True),
        sa.Column("alert", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("header", sa.Text, nullable=False),
        sa.Column("originator", sa.Text),
        sa.Column("originator_name", sa.Text),
        sa.Column("event", sa.Text),
        sa.Column("event_name", sa.Text),
        sa.Column("locations", ARRAY(sa.Text), nullable=False),
        sa.Column("places", ARRAY(sa.Text), nullable=False),
        sa.Column("valid_minutes", sa.BigInteger),
        sa.Column("issued_at", TIME),
        sa.Column("expires_at", TIME),
        sa.Column("station", sa.Text),
        sa.Column("problems", ARRAY(sa.Text), nullable=False),
        sa.Column("confirmed", sa.Boolean, nullable=False),
        sa.Column("confidence", sa.Double),
        sa.Column("heard", sa.BigInteger, nullable=False),
        sa.Column("first_at", TIME, nullable=False),
        sa.Column("last_at", TIME, nullable=False),
        sa.Column("ended_at", TIME),
        sa.Column("hearings", JSONB, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
    )
    latest = (sa.text("last_at DESC"), "alert")
    op.create_index("alerts_latest", "alerts", [*latest])
    op.create_index("alerts_of_source", "alerts", ["source", *latest])
    op.create_index("alerts_of_event", "alerts", ["event", *latest])
    op.create_index("alerts_same", "alerts", ["alert"])
    op.create_table(
        "decoders",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("lane", sa.Text, primary_key=True),
        sa.Column("since", TIME),
        sa.Column("bursts", sa.BigInteger, nullable=False),
        sa.Column("last_burst_at", TIME),
        sa.Column("last_test_at", TIME),
        sa.Column("alerts", JSONB, nullable=False),
    )
    # Alerts are read from their own table now.
    op.drop_index("archive_alerts")


def downgrade() -> None:
    op.execute("CREATE INDEX archive_alerts ON archive (at DESC) WHERE type LIKE 'alert.%'")
    op.drop_table("decoders")
    op.drop_table("alerts")
