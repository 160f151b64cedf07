"""The station verifies its own logs: what was altered in the archive or in Redis is found, and told once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from projections import verdicts
from projections.metrics import families
from projections.scrape import Facts, PostgresFacts
from projections.verdicts import Verdict, follow
from projections.verifier import WHOLE_AGAIN, WHOLE_EVERY, Verifier, is_due
from projections.views import Standing
from streams.chain import Joint
from streams.connection import connect
from streams.messages import Logged, now
from tests.fix_notify import Bell, rule
from tests.fix_projections import LANE, Chain, Yard
from tests.fix_servers import eventually
from tests.test_notify import ringing, told, writing


def chain(length: int) -> list[Logged]:
    """So many events that join on."""
    made = Chain()
    for number in range(length):
        made.event("source.updated", "mic", None, name=str(number))
    return made.events


def rows(events: list[Logged]) -> list[tuple[int, bytes, str]]:
    return [(one.event.seq, one.raw, one.hash) for one in events]


def altered(raw: bytes) -> bytes:
    """The bytes with one of them another."""
    return raw.replace(b"mic", b"mac", 1)


EVENTS = chain(20)
SOUND = Joint(20, EVENTS[-1].hash, 1)


@given(split=st.integers(0, 20))
def test_what_is_sound_is_sound_in_whatever_parts_it_is_read(split: int) -> None:
    """A log is followed to its end, and a second part from where the first one ended."""
    middle, fault = follow(Joint(), rows(EVENTS[:split]), {})
    assert (middle.seq, fault) == (split, None)
    assert follow(middle, rows(EVENTS[split:]), {}) == (SOUND, None)


@given(bad=st.integers(1, 20), how=st.sampled_from(["bytes", "hash", "missing", "twice", "redis"]))
def test_the_first_bad_event_is_named_and_all_before_it_stands(bad: int, how: str) -> None:
    """Altered bytes, another hash, a gap, a repetition, other bytes in Redis: sound up to the one before."""
    found, log = rows(EVENTS), dict[int, bytes]()
    seq, raw, stated = found[bad - 1]
    match how:
        case "bytes":
            found[bad - 1] = (seq, altered(raw), stated)
        case "hash":
            found[bad - 1] = (seq, raw, "0" * 64)
        case "missing":
            found[bad - 1 : bad] = []
        case "twice":
            found.insert(bad, found[bad - 1])
        case "redis":
            log[seq] = altered(raw)
    at, fault = follow(Joint(), found, log)
    if how == "missing" and bad == 20:
        assert (at.seq, fault) == (19, None), "what is cut off at the end is for whoever knows the end"
    elif how == "twice":
        assert at.seq == bad
        assert fault
    else:
        assert at.seq == bad - 1
        assert f"event {bad}" in (fault or "")


def test_when_a_lane_is_verified_as_a_whole() -> None:
    """At first, then once a day, and after an hour where something was wrong."""
    at = now()
    never = Verdict(lane=LANE, seq=0, hash="", token=0)
    assert is_due(never, at)
    for fault, every in ((None, WHOLE_EVERY), ("x", WHOLE_AGAIN)):
        verified = msgspec.structs.replace(never, whole_at=at, whole_fault=fault)
        assert not is_due(verified, at + every - timedelta(seconds=1))
        assert is_due(verified, at + every)


@pytest.fixture
def verifier(yard: Yard) -> Iterator[Verifier]:
    """A verifier of the yard's lanes that is not running."""
    links = [connect(yard.settings.redis, "verify") for _ in range(2)]
    yield Verifier(yard.engine, links[0], links[1], yard.keys, threading.Event())
    for link in links:
        link.close()


def kept(yard: Yard) -> Verdict:
    with yard.engine.connect() as connection:
        return verdicts.kept(connection)[LANE]


def alter_archive(yard: Yard, seq: int) -> None:
    """Let one byte of the archived event be another, or the one it was."""
    query = text("UPDATE archive SET raw = set_byte(raw, 20, get_byte(raw, 20) # 1) WHERE seq = :seq")
    with yard.engine.begin() as connection:
        connection.execute(query, {"seq": seq})


def alter_redis(yard: Yard, seq: int) -> None:
    """Let the event in Redis have other bytes; everything else stays, its stated hash too."""
    events = yard.keys.lane(LANE).events
    entries = yard.link.call("XRANGE", events, "-", "+")
    adds = []
    for entry, (e, raw, h, stated) in entries:
        changed = altered(raw) if int(entry.split(b"-")[0]) == seq else raw
        adds.append(("XADD", events, entry, e, changed, h, stated))
    yard.link.batch([("MULTI",), ("DEL", events), *adds, ("EXEC",)])


def archived(yard: Yard, count: int) -> None:
    """Write so many events, and wait until the archive has them."""
    with yard.projections():
        scribe = yard.scribe(chain=Chain())
        for number in range(count):
            scribe.write("source.updated", "mic", name=str(number))

        def all_there() -> bool:
            with yard.engine.connect() as connection:
                return verdicts.archived(connection).get(LANE) is not None and (
                    verdicts.archived(connection)[LANE].seq == count
                )

        eventually(all_there, "all archived")


def test_what_is_new_is_verified_once_and_from_where_it_was_left(yard: Yard, verifier: Verifier) -> None:
    """A look verifies to the archive's end; what was verified is not read again, what comes is."""
    archived(yard, 7)
    verifier.look()
    assert (kept(yard).seq, kept(yard).fault) == (7, None)
    alter_archive(yard, 3)
    verifier.look()
    assert kept(yard).wrong is None, "it lies behind: the walk through everything finds it"


def forget(yard: Yard) -> None:
    """Begin with no verdict."""
    with yard.engine.begin() as connection:
        connection.execute(text("DELETE FROM verdicts"))


@pytest.mark.parametrize("where", ["archive", "redis"])
def test_an_altered_event_is_found_by_the_look_that_comes_to_it(
    yard: Yard, verifier: Verifier, where: str
) -> None:
    """It stops before the event and says which; once it is as it was, it goes on to the end."""
    archived(yard, 7)
    forget(yard)
    alter = alter_archive if where == "archive" else alter_redis
    whole = yard.link.call("DUMP", yard.keys.lane(LANE).events)
    alter(yard, 5)
    for _ in range(2):
        verifier.look()
        assert kept(yard).seq == 4
        assert "event 5" in (kept(yard).fault or "")
    if where == "archive":
        alter(yard, 5)
    else:
        yard.link.call("RESTORE", yard.keys.lane(LANE).events, 0, whole, "REPLACE")
    verifier.look()
    assert (kept(yard).seq, kept(yard).fault) == (7, None)


@pytest.mark.parametrize("where", ["archive", "redis"])
def test_an_event_altered_behind_is_found_by_the_walk(yard: Yard, verifier: Verifier, where: str) -> None:
    """What was verified before and is altered then is found from the first event on."""
    archived(yard, 7)
    verifier.look()
    forget_whole = text("UPDATE verdicts SET whole_at = NULL, whole_fault = NULL")
    with yard.engine.begin() as connection:
        connection.execute(forget_whole)
    verifier.walk()
    assert kept(yard).whole_at is not None
    assert kept(yard).wrong is None
    (alter_archive if where == "archive" else alter_redis)(yard, 2)
    verifier.walk()
    assert kept(yard).wrong is None, "it is not due"
    with yard.engine.begin() as connection:
        connection.execute(forget_whole)
    verifier.walk()
    assert "event 2" in (kept(yard).wrong or "")


def test_an_archive_that_lost_its_end_is_found(yard: Yard, verifier: Verifier) -> None:
    """Events that the archive says it has, and has not, are missing: by the look and by the walk."""
    archived(yard, 7)
    forget(yard)
    with yard.engine.begin() as connection:
        connection.execute(text("DELETE FROM archive WHERE seq > 5"))
    verifier.look()
    verifier.walk()
    assert kept(yard).seq == 5
    assert "event 6 of the archive: it is missing" in (kept(yard).fault or "")
    assert "missing" in (kept(yard).whole_fault or "")


@pytest.mark.parametrize("where", ["archive", "redis"])
def test_an_altered_event_is_told_once(bell: Bell, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """In a running station an altered byte is one notification and one alarm, both over when it is mended."""
    monkeypatch.setattr("projections.verifier.EVERY", 0.2)
    monkeypatch.setattr("projections.verifier.WHOLE_EVERY", timedelta(0))
    monkeypatch.setattr("projections.verifier.WHOLE_AGAIN", timedelta(0))
    with ringing(bell, rule("sound", on="verify", delay=0)) as station:
        scribe = writing(station)
        for number in range(5):
            scribe.write("source.updated", "mic", name=str(number))
        eventually(lambda: verified(station) and kept(station).whole_at, "verified")
        whole = station.link.call("DUMP", station.keys.lane(LANE).events)
        (alter_archive if where == "archive" else alter_redis)(station, 2)
        told(bell, f"the log of lane {LANE} is not sound")
        assert failed(station) == 1
        walked = kept(station).whole_at
        eventually(lambda: kept(station).whole_at != walked, "found again")
        if where == "archive":
            alter_archive(station, 2)
        else:
            station.link.call("RESTORE", station.keys.lane(LANE).events, 0, whole, "REPLACE")
        eventually(lambda: bell.episodes()[0]["closed_at"], "over")
        assert failed(station) == 0
        told(bell, f"the log of lane {LANE} is not sound")
    assert "event 2" in bell.http.taken[0]["message"]
    assert "tocsin audit verify" in bell.http.taken[0]["message"]


def verified(yard: Yard) -> bool:
    with yard.engine.connect() as connection:
        return LANE in verdicts.kept(connection) and kept(yard).seq == 5


def failed(yard: Yard) -> float:
    """`tocsin_verify_failed` of the lane, as a scrape would have it."""
    with yard.engine.connect() as connection:
        found = verdicts.kept(connection)
    at = now()
    stands = Standing(projection="sources", lane=LANE, seq=5, updated_at=at, checked_at=at, trouble=None)
    facts = Facts(
        redis=None,
        postgres=PostgresFacts(totals=[], standings=[stands], beats={}, verdicts=found),
        sources=None,
        breakers=[],
        replicas=0,
    )
    (family,) = [one for one in families(facts, at) if one.name == "tocsin_verify_failed"]
    (sample,) = family.samples
    return float(sample.value)
