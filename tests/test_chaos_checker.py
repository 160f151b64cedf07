"""The checker of `make chaos` finds what it is there to find: histories wrong in one way each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.checker import RULES, check
from tests.chaos.history import Fact, History, Told
from tests.chaos.report import percentile, write_report

LANE = "p0"


def fact(seq: int, type: str, command: str | None, /, **data: Any) -> Fact:
    """An event of the source `a`, chained."""
    return Fact(seq, f"h{seq}", f"h{seq - 1}", type, "a", command, data)


def sound() -> History:
    """Two starts, of which the second overtook the first, a stop, and an alert: all as it must be."""
    log = [
        fact(1, "lane.acquired", None),
        fact(2, "source.starting", "one"),
        fact(3, "command.superseded", "one", sequence=1, by="two", type="source.start"),
        fact(4, "source.starting", "two"),
        fact(5, "command.completed", "two", sequence=2, type="source.start"),
        fact(6, "alert.received", None, hearing="n/1/1", header="ZCZC", spool="n/1/1"),
        fact(7, "command.completed", "three", sequence=3, type="source.stop"),
    ]
    rows = {"one": (LANE, 3, "superseded"), "two": (LANE, 5, "completed"), "three": (LANE, 7, "completed")}
    return History(
        told=[
            Told("op", id, "a", LANE, "source.start", outcome, seq, seq // 2, 0.0, 1.0)
            for id, (_, seq, outcome) in rows.items()
        ],
        log={LANE: log},
        archive={LANE: list(log)},
        rows=dict(rows),
        rebuilt=dict(rows),
        hearings={"a ZCZC": 1},
        spooled=[f"{LANE} n/1/1"],
        waiting={LANE: 0},
    )


def test_a_sound_history_is_sound() -> None:
    """Nothing is found where nothing is wrong."""
    assert check(sound()) == []


def lost(history: History) -> None:
    """What was confirmed is not in the log."""
    for facts in (history.log[LANE], history.archive[LANE]):
        del facts[-1]
    history.rows.pop("three")
    history.rebuilt.pop("three")


def twice(history: History) -> None:
    """A command has two results."""
    for facts in (history.log[LANE], history.archive[LANE]):
        facts.append(fact(8, "command.completed", "three", sequence=3, type="source.stop"))


def contradicted(history: History) -> None:
    """The log says another outcome than was told."""
    for facts in (history.log[LANE], history.archive[LANE]):
        facts[-1] = fact(7, "command.failed", "three", sequence=3, type="source.stop")
    history.rows["three"] = history.rebuilt["three"] = (LANE, 7, "failed")


def moved(history: History) -> None:
    """It was told to stand elsewhere."""
    history.told[-1] = replace(history.told[-1], seq=5)


def told_otherwise(history: History) -> None:
    """Somebody who asked again was told something else."""
    history.told.append(replace(history.told[-1], outcome="failed"))


def executed_again(history: History) -> None:
    """A start began twice."""
    for facts in (history.log[LANE], history.archive[LANE]):
        facts.append(fact(8, "source.starting", "two"))


def without_effect(history: History) -> None:
    """A new name was confirmed, and the log holds that of another command."""
    request = '{"params": {"name": "new"}}'
    for facts in (history.log[LANE], history.archive[LANE]):
        facts.append(fact(8, "source.updated", "four", name="new"))
        facts.append(fact(9, "command.completed", "four", sequence=4, type="source.update", request=request))
        facts.append(fact(10, "command.completed", "five", sequence=5, type="source.update", request=request))


def disordered(history: History) -> None:
    """An older command was done after a newer one."""
    for facts in (history.log[LANE], history.archive[LANE]):
        facts.append(fact(8, "command.completed", "four", sequence=1, type="source.stop"))
    history.rows["four"] = history.rebuilt["four"] = (LANE, 8, "completed")


def overtaken_by_older(history: History) -> None:
    """The first start is said to have overtaken the stop."""
    for facts in (history.log[LANE], history.archive[LANE]):
        facts[-1] = fact(7, "command.superseded", "three", sequence=3, by="two", type="source.stop")
    history.told.pop()
    history.rows["three"] = history.rebuilt["three"] = (LANE, 7, "superseded")


def gap(history: History) -> None:
    """An event is missing in the middle."""
    for facts in (history.log[LANE], history.archive[LANE]):
        del facts[1]


def broken_chain(history: History) -> None:
    """An event carries another hash than that of the one before."""
    for facts in (history.log[LANE], history.archive[LANE]):
        facts[5] = replace(facts[5], prev="other")


def not_verified(history: History) -> None:
    """`audit verify` found something."""
    history.verified.append("p0:3 its hash is wrong")


def unarchived(history: History) -> None:
    """The end of the log never reached the archive."""
    del history.archive[LANE][-1]


def archived_otherwise(history: History) -> None:
    """The archive has another event at that seq."""
    history.archive[LANE][2] = replace(history.archive[LANE][2], hash="other")


def archive_ahead(history: History) -> None:
    """The archive has what the log lost."""
    history.archive[LANE].append(fact(8, "source.stopped", None))


def row_missing(history: History) -> None:
    """The read model skipped a result."""
    history.rows.pop("two")


def row_invented(history: History) -> None:
    """The read model has a result that no log has."""
    history.rows["ghost"] = (LANE, 9, "completed")


def rebuilt_otherwise(history: History) -> None:
    """A rebuild makes other rows."""
    history.tables.append("sources")


def alert_lost(history: History) -> None:
    """An alert in the log is in no row."""
    history.hearings.clear()


def alert_twice(history: History) -> None:
    """An alert is there twice."""
    history.hearings["a ZCZC"] = 2


def spool_lost(history: History) -> None:
    """What lay in a spool never reached the log."""
    history.spooled.append(f"{LANE} n/1/2")


def spool_twice(history: History) -> None:
    """It was put there by two nodes."""
    for facts in (history.log[LANE], history.archive[LANE]):
        facts.append(fact(8, "alert.received", None, hearing="n/1/1", header="ZCZC", spool="n/1/1"))


def waits(history: History) -> None:
    """A command waits for ever."""
    history.waiting[LANE] = 1


def stands_still(history: History) -> None:
    """Something did not come back by itself."""
    history.troubles.append("postgres-2 does not run")


WRONG: dict[Callable[[History], None], str] = {
    lost: "exactly one result",
    twice: "exactly one result",
    contradicted: "as it was told",
    moved: "as it was told",
    told_otherwise: "as it was told",
    executed_again: "executed once",
    without_effect: "with its effect",
    disordered: "in order per source",
    overtaken_by_older: "superseded by a newer one",
    gap: "the log is whole",
    broken_chain: "the log is whole",
    not_verified: "the log is whole",
    unarchived: "archived",
    archived_otherwise: "archived",
    archive_ahead: "archived",
    row_missing: "projections equal replay",
    row_invented: "projections equal replay",
    rebuilt_otherwise: "projections equal replay",
    alert_lost: "alerts once",
    alert_twice: "alerts once",
    spool_lost: "spooled facts once",
    spool_twice: "spooled facts once",
    waits: "nobody needed",
    stands_still: "nobody needed",
}


@pytest.mark.parametrize("spoil", WRONG, ids=lambda spoil: spoil.__name__)
def test_a_history_that_is_wrong_is_found_out(spoil: Callable[[History], None]) -> None:
    """Each way to be wrong breaks the rule that is there for it."""
    history = sound()
    spoil(history)
    assert WRONG[spoil] in {violation.rule for violation in check(history)}


def test_every_rule_has_a_history_that_breaks_it() -> None:
    """No rule is there that nothing was tried against."""
    assert set(WRONG.values()) == set(RULES)


def test_the_report_names_what_is_wrong_and_when_it_was_well_again(tmp_path: Path) -> None:
    """The page has the verdict, each fault, and the times that a kill cost."""
    history = sound()
    twice(history)
    fault = {
        "what": "fault", "number": 1, "fault": "kill the primary", "detail": "redis-1", "began": 3.0,
        "ended": 3.1, "whole": 9.0, "primary": ["redis-1", "redis-2"], "unwritable_seconds": 2.5,
        "unconfirmed_seconds": 3.5, "writable_again_seconds": 2.5, "confirmed_again_seconds": 3.25,
    }  # fmt: skip
    begin = {"what": "begin", "seed": 7, "commit": "abc", "monotonic": 0.0}
    records = [begin, fault, {"what": "end", "complete": True, "seconds": 12.0}]
    write_report(tmp_path / "report.html", records, check(history), history.told)
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "1 violations" in text
    assert "three has 2 results" in text
    assert "kill the primary" in text
    assert "3.25 s" in text
    assert text.count("<svg") == 2


@pytest.mark.parametrize(("part", "wanted"), [(0.5, 5), (0.99, 10), (1.0, 10), (0.1, 1)])
def test_a_percentile_is_one_of_the_values(part: float, wanted: int) -> None:
    """The nearest rank, so that p99 of ten is the longest of them, and no value is invented."""
    assert percentile(range(10, 0, -1), part) == wanted
