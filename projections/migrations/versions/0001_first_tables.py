"""The first tables: sources, commands, positions, heartbeats."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "sources",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("lane", sa.Text, primary_key=True),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("settings", JSONB, nullable=False),
        sa.Column("desired", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("rate", sa.BigInteger),
        sa.Column("channels", sa.BigInteger),
        sa.Column("since", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
    )
    op.create_table(
        "commands",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("lane", sa.Text, primary_key=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("state", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("field", sa.Text),
        sa.Column("by", sa.Text),
        sa.Column("detail", sa.Text),
        sa.Column("issued_at", TIME),
        sa.Column("received_at", TIME),
        sa.Column("finished_at", TIME, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
    )
    op.create_index("commands_latest", "commands", [sa.text("finished_at DESC"), sa.text("seq DESC")])
    op.create_index(
        "commands_of_source", "commands", ["source", sa.text("finished_at DESC"), sa.text("seq DESC")]
    )
    op.create_table(
        "positions",
        sa.Column("projection", sa.Text, primary_key=True),
        sa.Column("lane", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("checked_at", TIME),
        sa.Column("trouble", sa.Text),
    )
    op.create_table(
        "heartbeats",
        sa.Column("node", sa.Text, primary_key=True),
        sa.Column("at", TIME, nullable=False),
    )


def downgrade() -> None:
    for table in ("heartbeats", "positions", "commands", "sources"):
        op.drop_table(table)
