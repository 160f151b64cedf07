"""The archive partitioned by month; what it held before becomes its first partition, uncopied."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

from projections import partitions

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
ALERTS = "CREATE INDEX archive_alerts ON archive (at DESC) WHERE type LIKE 'alert.%'"


def upgrade() -> None:
    op.drop_index("archive_alerts")
    op.rename_table("archive", "archive_before")
    op.execute("ALTER TABLE archive_before DROP CONSTRAINT archive_pkey")
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
        sa.Column("logged_at", TIME, primary_key=True),
        postgresql_partition_by="RANGE (logged_at)",
    )
    op.execute("ALTER TABLE archive ALTER COLUMN raw SET STORAGE EXTERNAL")
    op.execute(ALERTS)
    op.execute(f"CREATE TABLE {partitions.REST} PARTITION OF archive DEFAULT")
    now = datetime.now(UTC).date()
    bind = op.get_bind()
    if bind.scalar(sa.text("SELECT EXISTS (SELECT FROM archive_before)")):
        end = partitions.following(now)
        limit = f"'{end} 00:00:00+00'"
        old = f"archive_before_{end:%Y%m}"
        op.rename_table("archive_before", old)
        # What a clock that ran ahead has logged.
        op.execute(
            f"WITH moved AS (DELETE FROM {old} WHERE logged_at >= {limit} RETURNING *)"  # noqa: S608  # our own names
            f" INSERT INTO {partitions.REST} SELECT * FROM moved"
        )
        op.execute(f"ALTER TABLE {old} ADD PRIMARY KEY (lane, seq, logged_at)")
        op.execute(f"ALTER TABLE archive ATTACH PARTITION {old} FOR VALUES FROM (MINVALUE) TO ({limit})")
    else:
        op.drop_table("archive_before")
    partitions.make_ahead(bind, partitions.wanted(now))


def downgrade() -> None:
    op.rename_table("archive", "archive_parted")
    op.drop_index("archive_alerts")
    op.execute("ALTER INDEX archive_pkey RENAME TO archive_parted_pkey")
    op.execute("CREATE TABLE archive (LIKE archive_parted INCLUDING STORAGE)")
    op.execute("INSERT INTO archive SELECT * FROM archive_parted")
    op.drop_table("archive_parted")
    op.execute("ALTER TABLE archive ADD PRIMARY KEY (lane, seq)")
    op.execute(ALERTS)
