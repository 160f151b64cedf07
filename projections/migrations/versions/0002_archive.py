"""The archive: every event, by lane and seq."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "archive",
        sa.Column("lane", sa.Text, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("command", sa.Text),
        sa.Column("at", TIME, nullable=False),
        sa.Column("logged_at", TIME, nullable=False),
    )
    # An event's bytes hardly compress, and are read whole.
    op.execute("ALTER TABLE archive ALTER COLUMN raw SET STORAGE EXTERNAL")


def downgrade() -> None:
    op.drop_table("archive")
