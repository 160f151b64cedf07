"""What was: histories, conditions, leases, levels; what a fold cannot take; rebuilds."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def key(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, primary_key=True) for name in names]


def upgrade() -> None:
    op.add_column("positions", sa.Column("failure", sa.Text))
    op.create_table(
        "history",
        *key("id", "lane"),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("until", TIME),
        sa.Column("until_seq", sa.BigInteger),
    )
    op.create_index("history_of_source", "history", ["source", sa.text("since DESC")])
    op.create_table(
        "conditions",
        *key("id", "lane"),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("condition", sa.Text, nullable=False),
        sa.Column("detail", sa.Text),
        sa.Column("opened_at", TIME, nullable=False),
        sa.Column("closed_at", TIME),
        sa.Column("acknowledged_at", TIME),
        sa.Column("acknowledged_by", sa.Text),
        sa.Column("command", sa.Text),
        sa.Column("seq", sa.BigInteger, nullable=False),
    )
    op.create_index("conditions_of_source", "conditions", ["source", sa.text("opened_at DESC")])
    op.create_table(
        "leases",
        *key("id", "lane"),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("until", TIME),
        sa.Column("ending", sa.Text),
    )
    op.create_table(
        "parked",
        *key("id", "lane"),
        sa.Column("home", sa.Text),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("type", sa.Text),
        sa.Column("why", sa.Text),
        sa.Column("deliveries", sa.BigInteger),
        sa.Column("by", sa.Text),
        sa.Column("at", TIME, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "weekly_tests",
        *key("id", "lane"),
        sa.Column("first_at", TIME, nullable=False),
        sa.Column("last_at", TIME, nullable=False),
        sa.Column("before_at", TIME),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("header", sa.Text),
        sa.Column("seq", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "levels",
        *key("source"),
        sa.Column("span", sa.Integer, primary_key=True),
        sa.Column("at", TIME, primary_key=True),
        *key("lane"),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("power", sa.Double, nullable=False),
        sa.Column("rms_least", sa.Double),
        sa.Column("rms_most", sa.Double),
        sa.Column("peak", sa.Double),
        sa.Column("silent", sa.BigInteger, nullable=False),
    )
    op.create_index("levels_at", "levels", ["span", "at"])
    op.create_table(
        "telemetry",
        *key("lane"),
        sa.Column("milliseconds", sa.BigInteger, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "poisoned",
        *key("projection", "lane"),
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("followers", sa.BigInteger, nullable=False),
        sa.Column("at", TIME, nullable=False),
    )
    op.create_table(
        "rebuilds",
        *key("projection"),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("wanted_at", TIME, nullable=False),
        sa.Column("started_at", TIME),
        sa.Column("finished_at", TIME),
        sa.Column("done", sa.BigInteger, nullable=False),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column("per_second", sa.Double),
        sa.Column("detail", sa.Text),
    )
    op.create_table(
        "rebuild_positions",
        *key("projection", "lane"),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
    )


def downgrade() -> None:
    for table in (
        "rebuild_positions",
        "rebuilds",
        "poisoned",
        "telemetry",
        "levels",
        "weekly_tests",
        "parked",
        "leases",
        "conditions",
        "history",
    ):
        op.drop_table(table)
    op.drop_column("positions", "failure")
