"""The runner: each event is folded exactly once, whatever fails in between."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import OperationalError

from projections.database import open_engine
from projections.projection import ALERTS, ALL, COMMANDS, SOURCES
from projections.runner import MANY, LogBroken, Positions, Runner, check_joined
from projections.store import PositionLost, note_trouble
from streams.connection import connect
from streams.messages import Logged
from streams.tail import START, Position
from tests.fix_alerts import received
from tests.fix_projections import LANE, Chain, Scribe, Yard, folded
from tests.fix_servers import eventually

SOURCES_IN_STORIES = ("mic", "tower", "icecast")


def story(scribe: Scribe, count: int, seed: int = 1) -> None:
    """A busy lane: sources come, fail, run and go, and commands are settled."""
    draw = random.Random(seed)
    for number in range(count):
        source = draw.choice(SOURCES_IN_STORIES)
        kind = draw.choice(
            ("added", "starting", "running", "failed", "stopped", "updated", "removed", "result")
        )
        if kind == "result":
            scribe.settle(f"command-{draw.randrange(count)}", source, draw.choice(("completed", "failed")))
        elif kind == "added":
            scribe.write(
                "source.added", source, settings={"kind": "file", "path": f"/{number}"}, name=f"n{number}"
            )
        else:
            scribe.write(f"source.{kind}", source, reason=f"because {number}", desired="running", rate=number)


def runner_of(yard: Yard, stopping: threading.Event, engine: Engine | None = None) -> Runner:
    link = connect(yard.settings.redis, "runner")
    return Runner(engine or yard.engine, link, LANE, yard.keys.lane(LANE), stopping)


@contextmanager
def running(*runners: Runner, stopping: threading.Event) -> Iterator[None]:
    threads = [threading.Thread(target=runner.run) for runner in runners]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join(timeout=10)
            assert not thread.is_alive()


def caught_up(yard: Yard, seq: int) -> Callable[[], bool]:
    def check() -> bool:
        with yard.engine.connect() as connection:
            at = connection.execute(
                text(
                    "SELECT min(seq), count(*) FROM positions WHERE lane = :lane AND projection <> 'archive'"
                ),
                {"lane": LANE},
            )
            return tuple(at.one()) == (seq, len(ALL))

    return check


def test_rows_equal_a_fresh_replay(yard: Yard) -> None:
    """What the runner keeps in Postgres is what folding the whole log in one go gives."""
    scribe, stopping = yard.scribe(), threading.Event()
    story(scribe, 60)
    with running(runner_of(yard, stopping), stopping=stopping):
        story(scribe, 60, seed=2)
        eventually(caught_up(yard, 120), "all events folded")
    assert yard.all_rows() == folded(scribe.chain.events)


def test_many_alerts_at_once_are_folded(yard: Yard) -> None:
    """Rows that are copied have lists of text too: many alerts in a lane do not make it stand still."""
    scribe, count = yard.scribe(), 30
    for number in range(count):
        scribe.write("alert.received", f"source-{number}", **received(f"h-{number}"))
    stopping = threading.Event()
    with running(runner_of(yard, stopping), stopping=stopping):
        eventually(lambda: len(yard.rows(ALERTS)) == count, "all of them")
    assert yard.all_rows() == folded(scribe.chain.events)


@pytest.mark.parametrize("where", ["positions", "INSERT INTO sources", "INSERT INTO commands", "COMMIT"])
def test_a_transaction_that_fails_anywhere_leaves_no_trace(yard: Yard, where: str) -> None:
    """Rows and position come together: a failure rolls both back, and the retry repeats nothing."""
    scribe, stopping = yard.scribe(), threading.Event()
    scribe.add("mic", running=True)
    scribe.settle("c-1", "mic")
    runner = runner_of(yard, stopping)
    positions = runner.positions()
    before = yard.all_rows()

    with failing(yard.engine, where), pytest.raises(OperationalError):
        runner.commit(positions, scribe.chain.events)

    assert yard.all_rows() == before
    assert runner.positions() == positions
    runner.commit(positions, scribe.chain.events)
    assert yard.all_rows() == folded(scribe.chain.events)


@contextmanager
def failing(engine: Engine, where: str) -> Iterator[None]:
    """Break the connection to Postgres as soon as a statement that begins so would be run."""

    def before_statement(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if where in statement and not statement.startswith("SELECT"):
            connection.connection.driver_connection.close()

    def before_commit(connection: Any) -> None:
        connection.connection.driver_connection.close()

    name, hook = (
        ("commit", before_commit) if where == "COMMIT" else ("before_cursor_execute", before_statement)
    )
    event.listen(engine, name, hook)
    try:
        yield
    finally:
        event.remove(engine, name, hook)


def test_a_commit_whose_answer_was_lost_is_not_repeated(yard: Yard) -> None:
    """Committed, but the connection died before saying so: the runner asks where it stands."""
    scribe, stopping = yard.scribe(), threading.Event()
    scribe.add("mic", running=True)
    lost: list[str] = []

    def after_commit_cut(connection: Any) -> None:
        if not lost and "seen" in connection.info:
            lost.append("cut")
            raw = connection.connection.driver_connection
            raw.commit()
            raw.close()

    def saw_rows(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("INSERT INTO sources"):
            connection.info["seen"] = True

    engine = open_engine(yard.settings.postgres, name="cut")
    event.listen(engine, "before_cursor_execute", saw_rows)
    event.listen(engine, "commit", after_commit_cut)
    with running(runner_of(yard, stopping, engine), stopping=stopping):
        eventually(caught_up(yard, 3), "the first events folded")
        scribe.write("source.stopped", "mic", reason="asked", desired="stopped")
        eventually(caught_up(yard, 4), "the next event folded")
    engine.dispose()
    assert lost == ["cut"]
    assert yard.all_rows() == folded(scribe.chain.events)


def test_the_second_of_two_runners_writes_nothing(yard: Yard) -> None:
    """A runner whose position was moved by another gets PositionLost and leaves the rows as they are."""
    scribe = yard.scribe()
    scribe.add("mic", running=True)
    one, other = (runner_of(yard, threading.Event()) for _ in range(2))
    positions = one.positions()
    one.commit(positions, scribe.chain.events)
    scribe.write("source.failed", "mic", reason="late")
    with pytest.raises(PositionLost):
        other.commit(positions, scribe.chain.events)
    assert yard.rows(SOURCES) == folded(scribe.chain.events[:3])["sources"]


def test_two_runners_side_by_side_are_harmless(yard: Yard) -> None:
    """Two runners on one lane fold a growing log together, each event once."""
    scribe, stopping = yard.scribe(), threading.Event()
    runners = [runner_of(yard, stopping) for _ in range(2)]
    with running(*runners, stopping=stopping):
        for seed in range(8):
            story(scribe, 25, seed)
        eventually(caught_up(yard, 200), "all events folded")
    assert yard.all_rows() == folded(scribe.chain.events)


def test_the_slower_of_two_gives_way_and_takes_over_what_is_left_lying(yard: Yard) -> None:
    """Whoever was second once looks on while the other folds, and goes on by itself once that one ends."""
    scribe = yard.scribe()
    lost: list[Runner] = []
    stopping: dict[Runner, threading.Event] = {}

    class Counting(Runner):
        def commit(self, positions: Positions, events: list[Logged]) -> Positions:
            try:
                return super().commit(positions, events)
            except PositionLost:
                lost.append(self)
                raise

    def contender() -> Runner:
        stop = threading.Event()
        link = connect(yard.settings.redis, "runner")
        one = Counting(yard.engine, link, LANE, yard.keys.lane(LANE), stop, linger=0.0)
        stopping[one] = stop
        return one

    first, second = contender(), contender()
    threads = {one: threading.Thread(target=one.run) for one in (first, second)}
    for thread in threads.values():
        thread.start()
    try:
        until = time.monotonic() + 30
        while not lost and time.monotonic() < until:
            story(scribe, 1, seed=len(scribe.chain.events))
            eventually(caught_up(yard, len(scribe.chain.events)), "the event folded")
        assert lost, "they never met"
        loser = lost[0]
        winner = first if loser is second else second
        met, written = len(lost), len(scribe.chain.events)
        for _ in range(30):
            story(scribe, 1, seed=len(scribe.chain.events))
            eventually(caught_up(yard, len(scribe.chain.events)), "the event folded")
        assert len(lost) - met <= 3, "they go on getting in one another's way"
        stopping[winner].set()
        threads[winner].join()
        story(scribe, 5)
        eventually(caught_up(yard, written + 35), "the other one went on")
    finally:
        for stop in stopping.values():
            stop.set()
        for thread in threads.values():
            thread.join(timeout=10)
    assert yard.all_rows() == folded(scribe.chain.events)


def test_where_many_come_they_wait_for_more(yard: Yard) -> None:
    """Behind a transaction of many events the next waits five times as long for others."""
    scribe, stopping = yard.scribe(), threading.Event()
    link = connect(yard.settings.redis, "runner")
    runner = Runner(yard.engine, link, LANE, yard.keys.lane(LANE), stopping, linger=0.2)
    with running(runner, stopping=stopping):
        story(scribe, MANY)
        eventually(caught_up(yard, MANY), "many events folded")
        began = time.monotonic()
        story(scribe, 1, seed=1)
        eventually(caught_up(yard, MANY + 1), "the event folded")
        assert time.monotonic() - began > 0.8


def test_whoever_gives_way_goes_on_whatever_was_noted(yard: Yard) -> None:
    """A trouble that is over, and still noted, keeps no runner looking on where nobody else works."""
    scribe, stopping = yard.scribe(), threading.Event()
    scribe.add("mic", running=True)
    runner = runner_of(yard, stopping)
    runner.positions()
    with yard.engine.begin() as connection:
        for projection in ALL:
            note_trouble(connection, projection, LANE, "Postgres refused something", "database")
    runner._second = True
    with running(runner, stopping=stopping):
        eventually(caught_up(yard, len(scribe.chain.events)), "the events folded")
    assert yard.all_rows() == folded(scribe.chain.events)


SERVE = "from projections.service import serve; from streams.settings import load; serve(load(None))"


def test_killed_at_any_moment_it_goes_on_where_it_was(yard: Yard) -> None:
    """The projections' process is killed again and again while events come; rows and position stay one."""
    scribe = yard.scribe()
    for kill in range(3):
        process = subprocess.Popen([sys.executable, "-c", SERVE], env={**os.environ, **yard.environment()})
        story(scribe, 100, seed=kill)
        goal = 100 * kill + 20
        eventually(lambda goal=goal: seq_of(yard) > goal, "some events folded")
        process.kill()
        process.wait()
        eventually(lambda: not connected(yard), "the transactions of the killed process ended")
        assert yard.rows(SOURCES) == folded(scribe.chain.events[: seq_of(yard)])["sources"]
    stopping = threading.Event()
    with running(runner_of(yard, stopping), stopping=stopping):
        eventually(caught_up(yard, 300), "all events folded")
    assert yard.all_rows() == folded(scribe.chain.events)


def connected(yard: Yard) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tocsin-projections'"
    with yard.engine.connect() as connection:
        return int(connection.execute(text(query)).scalar_one())


def seq_of(yard: Yard) -> int:
    with yard.engine.connect() as connection:
        query = text(
            "SELECT coalesce(max(seq), 0) FROM positions WHERE lane = :lane AND projection = 'sources'"
        )
        return int(connection.execute(query, {"lane": LANE}).scalar_one())


def test_postgres_going_away_loses_and_repeats_nothing(yard: Yard) -> None:
    """Every connection to Postgres is cut again and again while events come; the rows come out right."""
    scribe, stopping = yard.scribe(), threading.Event()
    engine = open_engine(yard.settings.postgres, name="cut")
    cut = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tocsin-cut'")
    with running(runner_of(yard, stopping, engine), stopping=stopping):
        for seed in range(10):
            story(scribe, 30, seed)
            with yard.engine.connect() as connection:
                connection.execute(cut)
        eventually(caught_up(yard, 300), "all events folded")
    engine.dispose()
    assert yard.all_rows() == folded(scribe.chain.events)


def test_redis_connections_cut_lose_and_repeat_nothing(yard: Yard) -> None:
    """The runner's connections to Redis are killed while events come; the rows come out right."""
    scribe, stopping = yard.scribe(), threading.Event()
    with running(runner_of(yard, stopping), stopping=stopping):
        for seed in range(6):
            story(scribe, 30, seed)
            yard.link.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            scribe = yard.scribe(chain=scribe.chain)
        eventually(caught_up(yard, 180), "all events folded")
    assert yard.all_rows() == folded(scribe.chain.events)


def trouble_of(yard: Yard) -> str | None:
    with yard.engine.connect() as connection:
        query = text("SELECT max(trouble) FROM positions WHERE lane = :lane")
        found: str | None = connection.execute(query, {"lane": LANE}).scalar_one()
        return found


def test_a_log_that_was_rolled_back_is_never_skipped_over(yard: Yard) -> None:
    """A log whose head is behind the position stops the lane, loudly; restored, it goes on by itself."""
    scribe, stopping = yard.scribe(), threading.Event()
    scribe.add("mic", running=True)
    runner = runner_of(yard, stopping)
    with running(runner, stopping=stopping):
        eventually(caught_up(yard, 3), "the first events folded")
        rows, keys = yard.all_rows(), yard.keys.lane(LANE)
        yard.link.call("DEL", keys.events, keys.head)
        other = yard.scribe()
        other.write("source.added", "ghost", settings={"kind": "file"}, name="another history")
        eventually(lambda: trouble_of(yard), "the trouble noted")
        assert "PositionAhead" in (runner.trouble or "")
        assert yard.all_rows() == rows

        yard.link.call("DEL", keys.events, keys.head)
        scribe.append(scribe.chain.events)
        scribe.write("source.failed", "mic", reason="after the repair")
        eventually(caught_up(yard, 4), "the restored log folded")
        eventually(lambda: trouble_of(yard) is None, "the trouble gone")
    assert yard.all_rows() == folded(scribe.chain.events)


def test_another_history_of_the_same_length_is_noticed(yard: Yard) -> None:
    """Position is seq *and* hash: a rewritten log with the same seqs is not taken for the old one."""
    scribe, stopping = yard.scribe(), threading.Event()
    scribe.add("mic")
    runner = runner_of(yard, stopping)
    with running(runner, stopping=stopping):
        eventually(caught_up(yard, 1), "the first event folded")
        rows, keys = yard.all_rows(), yard.keys.lane(LANE)
        yard.link.call("DEL", keys.events, keys.head)
        other = yard.scribe()
        other.add("ghost", running=True)
        eventually(lambda: runner.trouble, "the trouble seen")
        assert yard.all_rows() == rows


def test_a_gap_in_the_log_stops_the_lane() -> None:
    """Events that do not join on to the position, by number or by hash, are refused."""
    chain = Chain()
    events = [chain.event("source.added", name) for name in ("a", "b", "c")]
    check_joined(START, events)
    with pytest.raises(LogBroken, match="event 1 is missing"):
        check_joined(START, events[1:])
    with pytest.raises(LogBroken, match="event 2 is missing"):
        check_joined(START, [events[0], events[2]])
    with pytest.raises(LogBroken, match="does not follow"):
        check_joined(Position(1, "f" * 64), events[1:])


def test_nothing_beyond_the_watermark_is_folded(yard: Yard) -> None:
    """An event that is not known to be durable yet changes no row."""
    scribe, stopping = yard.scribe(), threading.Event()
    scribe.add("mic")
    runner = runner_of(yard, stopping)
    with running(runner, stopping=stopping):
        eventually(caught_up(yard, 1), "the first event folded")
        keys = yard.keys.lane(LANE)
        logged = scribe.chain.event("source.failed", "mic", reason="not durable")
        yard.link.call("XADD", keys.events, "2-1", "e", logged.raw, "h", logged.hash)
        yard.link.call("HSET", keys.head, "seq", 2, "hash", logged.hash)
        checked = runner.checked_at
        eventually(lambda: runner.checked_at != checked, "another look at the log")
        assert yard.rows(SOURCES)["mic"].state == "stopped"
        replid = yard.link.call("HGET", keys.head, "wm_replid")
        yard.link.call(
            "HSET", keys.head, "wm_seq", 2, "wm_hash", logged.hash, "wm_token", 1, "wm_replid", replid
        )
        eventually(caught_up(yard, 2), "the durable event folded")


def test_rows_of_a_newer_fold_are_left_alone(yard: Yard) -> None:
    """A projection that a newer version folded stands still here, and the others go on."""
    scribe, stopping = yard.scribe(), threading.Event()
    scribe.add("mic", running=True)
    runner = runner_of(yard, threading.Event())
    runner.commit(runner.positions(), scribe.chain.events)
    with yard.engine.begin() as connection:
        connection.execute(text("UPDATE positions SET version = 99 WHERE projection = 'sources'"))
    rows = yard.rows(SOURCES)
    old = runner_of(yard, stopping)
    with running(old, stopping=stopping):
        scribe.write("source.failed", "mic", reason="later")
        scribe.settle("c-1", "mic")
        eventually(
            lambda: yard.rows(COMMANDS) == folded(scribe.chain.events)["commands"], "the others folded"
        )
        eventually(lambda: old.trouble, "the newer version noticed")
        assert "NewerVersion" in (trouble_of(yard) or "")
    assert yard.rows(SOURCES) == rows


def test_rows_of_one_lane_are_not_touched_by_another(yard: Yard) -> None:
    """A source removed from one lane and added in another survives the first lane's late removal."""
    here, there = yard.scribe(LANE), yard.scribe("p0")
    here.add("mic")
    there.add("mic", running=True)
    here.write("source.removed", "mic")
    for lane, scribe in (("p0", there), (LANE, here)):
        link = connect(yard.settings.redis, "runner")
        runner = Runner(yard.engine, link, lane, yard.keys.lane(lane), threading.Event())
        runner.commit(runner.positions(), scribe.chain.events)
    assert yard.rows(SOURCES, LANE) == {}
    assert yard.rows(SOURCES, "p0")["mic"].state == "running"
    assert yard.rows(COMMANDS, "p0") == {}


def test_a_runner_stops_within_three_seconds(yard: Yard) -> None:
    """Told to stop while it waits for news, the runner ends."""
    stopping = threading.Event()
    runner = runner_of(yard, stopping)
    with running(runner, stopping=stopping):
        eventually(lambda: runner.checked_at, "the runner following")
        began = time.monotonic()
    assert time.monotonic() - began < 3
