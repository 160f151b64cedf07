"""Totals: results counted by type and outcome, with their durations."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "totals",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("lane", sa.Text, primary_key=True),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("buckets", ARRAY(sa.BigInteger), nullable=False),
        sa.Column("microseconds", sa.BigInteger, nullable=False),
        # Few rows that change with every result: room for the new version beside the old one.
        postgresql_with={"fillfactor": "50"},
    )


def downgrade() -> None:
    op.drop_table("totals")
