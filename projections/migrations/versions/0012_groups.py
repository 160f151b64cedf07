"""Groups of sources."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "groups",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("lane", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("members", postgresql.ARRAY(sa.Text), nullable=False),
        sa.Column("fallback_after", sa.Double, nullable=False),
        sa.Column("back_after", sa.Double, nullable=False),
        sa.Column("active", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("groups")
