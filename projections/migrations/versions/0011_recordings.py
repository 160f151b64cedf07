"""Recordings; alerts that were heard in a test."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "recordings",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("lane", sa.Text, primary_key=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("begun_at", TIME, nullable=False),
        sa.Column("ended_at", TIME),
        sa.Column("seconds", sa.Double),
        sa.Column("rate", sa.BigInteger),
        sa.Column("channels", sa.BigInteger),
        sa.Column("bytes", sa.BigInteger),
        sa.Column("sha256", sa.Text),
        sa.Column("file", sa.Text),
        sa.Column("hearings", postgresql.ARRAY(sa.Text), nullable=False),
        sa.Column("lost", sa.Double, nullable=False),
        sa.Column("salvaged", sa.Boolean, nullable=False),
        sa.Column("injected", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("seq", sa.BigInteger, nullable=False),
    )
    op.create_index("recordings_latest", "recordings", [sa.text("begun_at DESC"), "id"])
    op.create_index("recordings_of_source", "recordings", ["source", sa.text("begun_at DESC"), "id"])
    # The default is for the rows there are, until they are folded anew.
    op.add_column("alerts", sa.Column("injected", sa.Boolean, nullable=False, server_default=sa.false()))
    op.alter_column("alerts", "injected", server_default=None)


def downgrade() -> None:
    op.drop_column("alerts", "injected")
    op.drop_table("recordings")
