"""What the doctor says of Postgres' standbys, with a real one that lags, is not waited for, or is gone."""

from __future__ import annotations

from control.checks.finding import Finding
from control.checks.postgres import hosts, postgres
from streams.settings import PostgresSection
from tests.fix_postgres import Pair
from tests.fix_servers import eventually


def verdicts(section: PostgresSection) -> dict[str, Finding]:
    """What the check of Postgres finds, by part."""
    return {found.part: found for found in postgres(section)}


def test_standbys_that_are_away_behind_or_not_waited_for(pair: Pair) -> None:
    """A standby that nobody waits for, one far behind, one that commits wait for in vain: each is named."""
    section = pair.section(standbys=1)
    assert [found.verdict for found in hosts(section)] == ["ok", "ok"]
    # Given commits that wait for nobody,
    loose = [found for found in postgres(section) if found.verdict == "warning"]
    assert "synchronous_standby_names" in loose[0].next
    # and a standby that does not replay,
    pair.ask(pair.standby, "SELECT pg_wal_replay_pause()")
    pair.ask(pair.leader, "CREATE TABLE ballast AS SELECT repeat('x', 999) FROM generate_series(1, 25000)")
    pair.ask(pair.leader, "DROP TABLE ballast")
    behind = [found for found in postgres(section) if "MB behind" in found.told]
    assert [found.verdict for found in behind] == ["warning"]
    pair.ask(pair.standby, "SELECT pg_wal_replay_resume()")
    # commits that wait for one that is there,
    pair.synchronous(pair.standby)
    assert {found.verdict for found in postgres(section) if "behind" not in found.told} == {"ok"}
    # and for one that is gone.
    pair.kill(pair.standby)
    eventually(
        lambda: verdicts(section)["postgres standbys"].verdict == "trouble", "commits that wait in vain"
    )
    assert "take it off" in verdicts(section)["postgres standbys"].next
    away = [found for found in hosts(section) if found.verdict == "warning"]
    assert len(away) == 1
    assert "one more lost" in away[0].next
