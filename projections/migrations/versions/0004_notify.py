"""Notifications: episodes, what goes out about them, and how far the notifier has read."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "episodes",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("lane", sa.Text),
        sa.Column("seq", sa.BigInteger),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("opened_at", TIME, nullable=False),
        sa.Column("closed_at", TIME),
        sa.Column("muted", sa.Text),
        sa.Column("repeats", sa.Integer, nullable=False),
        sa.Column("notified_at", TIME),
        sa.Column("acknowledged_at", TIME),
        sa.Column("acknowledged_by", sa.Text),
    )
    op.create_index("episodes_of_event", "episodes", ["rule", "subject", "lane", "seq"], unique=True)
    op.create_index(
        "episodes_open",
        "episodes",
        ["rule", "subject"],
        unique=True,
        postgresql_where=sa.text("closed_at IS NULL AND kind <> 'alert'"),
    )
    op.create_index(
        "episodes_waiting",
        "episodes",
        ["id"],
        postgresql_where=sa.text("closed_at IS NULL OR notified_at IS NULL"),
    )
    op.create_table(
        "notifications",
        sa.Column("episode", sa.BigInteger, primary_key=True),
        sa.Column("target", sa.Text, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("next_try", TIME, nullable=False),
        sa.Column("claimed_at", TIME),
        sa.Column("sent_at", TIME),
        sa.Column("detail", sa.Text),
    )
    op.create_index(
        "notifications_due",
        "notifications",
        ["target", "next_try"],
        postgresql_where=sa.text("state <> 'sent'"),
    )
    op.create_table(
        "marks",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("at", TIME, nullable=False),
    )


def downgrade() -> None:
    for table in ("marks", "notifications", "episodes"):
        op.drop_table(table)
