"""Loudness of what was, and what of each source is recorded."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("levels", sa.Column("loudness", sa.Double, nullable=False, server_default="0"))
    op.add_column("levels", sa.Column("loud", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("levels", sa.Column("momentary_most", sa.Double))
    op.add_column("levels", sa.Column("true_peak", sa.Double))
    op.add_column("sources", sa.Column("recorded", sa.Text, nullable=False, server_default="alerts"))


def downgrade() -> None:
    op.drop_column("sources", "recorded")
    for name in ("true_peak", "momentary_most", "loud", "loudness"):
        op.drop_column("levels", name)
