"""Verdicts over the lanes' logs; of an episode: the source it is about, and when it ends by itself."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "verdicts",
        sa.Column("lane", sa.Text, primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.Column("checked_at", TIME),
        sa.Column("fault", sa.Text),
        sa.Column("whole_at", TIME),
        sa.Column("whole_fault", sa.Text),
    )
    op.add_column("episodes", sa.Column("source", sa.Text, nullable=False, server_default=""))
    op.add_column("episodes", sa.Column("expires_at", TIME))
    op.execute("UPDATE episodes SET expires_at = opened_at + interval '1 day' WHERE kind = 'alert'")


def downgrade() -> None:
    op.drop_column("episodes", "expires_at")
    op.drop_column("episodes", "source")
    op.drop_table("verdicts")
