"""Alerts found without looking through all events."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX archive_alerts ON archive (at DESC) WHERE type LIKE 'alert.%'")


def downgrade() -> None:
    op.drop_index("archive_alerts")
