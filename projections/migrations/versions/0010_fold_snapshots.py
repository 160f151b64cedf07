"""Fold snapshots: each lane's past at every so many events."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "fold_snapshots",
        sa.Column("lane", sa.Text, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("folds", sa.Text, nullable=False),
        sa.Column("rows", sa.LargeBinary, nullable=False),
    )
    # They are compressed already.
    op.execute("ALTER TABLE fold_snapshots ALTER COLUMN rows SET STORAGE EXTERNAL")


def downgrade() -> None:
    op.drop_table("fold_snapshots")
