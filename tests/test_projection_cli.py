"""`tocsin projection …` as a user runs it, beside a station whose projections run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from projections.projection import ALL, COMMANDS, SOURCES
from projections.runner import Runner
from streams.connection import connect
from tests.fix_cli import Ran, Terminal
from tests.fix_projections import LANE, Yard, folded
from tests.fix_rebuild import busy, named, position_of, refusing
from tests.fix_servers import eventually

Run = Callable[..., Ran]


@pytest.fixture
def run(yard: Yard, tmp_path: Path) -> Run:
    """The command, in a folder of this station."""
    (tmp_path / "station.toml").write_text("")
    terminal = Terminal(tmp_path)

    def run(*words: str, **env: str) -> Ran:
        return terminal("projection", *words, **{**yard.environment(), **env})

    return run


def test_rebuilt_on_demand_and_waited_for(yard: Yard, run: Run) -> None:
    """Status, rebuild and wait agree on what there is; the rows come out the same."""
    scribe = yard.scribe()
    busy(scribe, 20)
    with yard.projections():
        assert run("wait", "--timeout", "20").out == "All is folded.\n"
        done = run("rebuild", "sources", "commands", "--json")
        assert done.code == 0, done.err
        assert {one["projection"]: (one["state"], one["done"]) for one in done.json["rebuilds"]} == {
            "commands": ("done", scribe.chain.seq),
            "sources": ("done", scribe.chain.seq),
        }
        told = run("status", "--json").json["projections"]
    assert yard.all_rows() == folded(scribe.chain.events)
    assert [one["projection"] for one in told] == [one.name for one in ALL]
    assert {(one["state"], one["lag"], one["skipped"]) for one in told} == {("following", 0, 0)}
    text = run("status").out
    assert "sources       following" in text
    assert f"done, {scribe.chain.seq} events" in text
    assert "node.local" in run("status", "--lanes").out


def test_a_parked_event_is_listed_retried_and_dropped(yard: Yard, run: Run) -> None:
    """Status shows what cannot be folded and what it holds back; retry and drop say what came of it."""
    scribe = yard.scribe()
    for name in ("mic", "tower"):
        scribe.add(name)
        scribe.write("source.updated", name, name="poison")
        scribe.write("source.updated", name, name="follower")
    link = connect(yard.settings.redis, "runner")
    bad = refusing(SOURCES, named("poison"))
    runner = Runner(
        yard.engine, link, LANE, yard.keys.lane(LANE), threading.Event(), projections=(bad, COMMANDS)
    )
    runner.commit(runner.positions(), scribe.chain.events)
    link.close()
    with yard.projections():
        assert run("wait", "--timeout", "20").code == 0
        found = {one["projection"]: one for one in run("status", "--json").json["projections"]}
        assert found["sources"]["skipped"] == 4
        assert [(one["seq"], one["followers"]) for one in found["sources"]["parked"]] == [(2, 1), (5, 1)]
        assert "parked: sources node.local:2 (source.updated), 1 held back: Refused" in run("status").out
        assert run("retry", "sources", "node.local:2").out == "Folded.\n"
        assert run("drop", "sources", "node.local:5").code == 0
    assert {id: row.name for id, row in yard.rows(SOURCES).items()} == {
        "mic": "follower",
        "tower": "follower",
    }
    refused = run("retry", "sources", "node.local:2", "--json")
    assert refused.code == 4
    assert refused.json["error"]["what"] == "event node.local:2 is not parked in sources"


def test_lag_and_gap_are_told_of_what_is_not_folded(yard: Yard, run: Run) -> None:
    """A projection that stands still is behind by so many events, for as long as the first has waited."""
    scribe = yard.scribe()
    busy(scribe, 10)
    with yard.projections():
        eventually(lambda: position_of(yard)[0] == scribe.chain.seq, "all folded")
        assert run("wait").code == 0
    with yard.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE positions SET seq = 4 WHERE projection = 'sources'")
    found = {one["projection"]: one for one in run("status", "--json").json["projections"]}
    assert found["sources"]["state"] == "behind"
    assert found["sources"]["lag"] == scribe.chain.seq - 4
    assert found["sources"]["gap_seconds"] > 1000
    assert found["commands"]["lag"] == 0
    late = run("wait", "sources", "--timeout", "0.5")
    assert late.code == 7
    assert "sources (behind, lag" in late.err


def test_what_cannot_be_done_is_said_with_what_to_do(yard: Yard, run: Run) -> None:
    """No such projection, nobody to rebuild, no Postgres: each has its exit code and a next step."""
    assert run("rebuild", "nothing").code == 4
    assert "sources" in run("rebuild", "nothing").err
    assert run("rebuild").code == 2
    alone = run("rebuild", "sources", "--timeout", "0.5")
    assert alone.code == 7
    assert "no projections process has begun it" in alone.err
    away = run("status", TOCSIN_POSTGRES_URL="postgresql://tocsin@127.0.0.1:1/tocsin")
    assert away.code == 8
    assert "tocsin doctor" in away.err
