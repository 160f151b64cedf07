"""The station lane: what its handler decides, and the control process that owns it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from control.station.ports import free_port
from control.stationlane import StationLane, past_of
from streams.admission import Delivery, Task
from streams.durability import Prover
from streams.handler import Result
from streams.messages import now
from streams.submit import Signed
from streams.vocabulary import ParkedRetry, plain
from tests.fix_cli import Obedient, Terminal
from tests.fix_control import Bureau
from tests.fix_projections import Chain
from tests.fix_servers import eventually

LANE = "node.local"


def task(command: Signed) -> Task:
    """The command as its lane's handler is given it."""
    delivery = Delivery(
        entry="1-1", raw=command.raw, signature=command.signature, id=command.command.id, client="",
        sequence=1, deliveries=1, mark="", received_at=now(),
    )  # fmt: skip
    return Task(command=command.command, delivery=delivery, cancelled=threading.Event())


def parked(bureau: Bureau) -> Signed:
    """A command that the lane has parked."""
    command = bureau.command("source.paint", LANE, "kwfm", params={"colour": "red"})
    assert bureau.do(command).reason == "parked"
    return command


def retry(bureau: Bureau, of: Signed, **changes: Any) -> Signed:
    """A `parked.retry` of the command, `changes` made to the new one."""
    was = of.command
    again = bureau.command(
        **{"type": was.type, "lane": was.lane, "source": was.source, "params": was.params, "cause": was.id}
        | changes
    )
    asked = ParkedRetry(lane=was.lane, id=was.id, request=again.raw.decode(), signature=again.signature)
    return bureau.command("parked.retry", "station", params=plain(asked))


def drop(bureau: Bureau, id: str) -> Signed:
    return bureau.command("parked.drop", "station", params={"lane": LANE, "id": id})


def test_an_event_that_is_not_understood_keeps_nobody_from_the_lane() -> None:
    """What a newer version logged without what this one needs is passed over; the rest counts."""
    chain = Chain()
    odd = [
        chain.event("group.created", group="north"),
        chain.event("parked.dropped", "", "c-0", lane=LANE),
        chain.event(
            "group.created", group="south", name="", members=["a"], fallback_after=9.0, back_after=9.0
        ),
        chain.event("parked.dropped", "", "c-1", lane=LANE, id="gone"),
    ]
    past = past_of(odd)
    assert [group.id for group in past.groups] == ["south"]
    assert [closing.id for closing in past.closed] == ["gone"]
    assert past.at.seq == len(odd)


def executed(lane: StationLane, command: Signed) -> Result:
    """What the handler makes of it: at once, or in the thread of its source."""
    given = task(command)
    return lane.attempt(given) or lane.execute(given)


def test_a_retry_that_is_none_is_rejected(bureau: Bureau, obedient: Obedient) -> None:
    """Another type, source, parameters or cause, or no command at all: it is named, nothing is submitted."""
    lane = StationLane(bureau.settings, Prover(bureau.settings.redis), {bureau.key.id: bureau.key})
    was = parked(bureau)
    for changes in ({"type": "source.start"}, {"source": "other"}, {"params": {}}, {"cause": "another"}):
        result = executed(lane, retry(bureau, was, **changes))
        assert (result.outcome, result.field) == ("rejected", "params.request")
        assert next(iter(changes)) in (result.detail or "")
    for params in ({}, {"lane": LANE, "id": was.command.id, "request": "?", "signature": ""}):
        result = executed(lane, bureau.command("parked.retry", "station", params=params))
        assert (result.outcome, result.reason) == ("rejected", "invalid_params")
    assert executed(lane, drop(bureau, "nobody")).reason == "unknown_parked"
    assert set(bureau.results(LANE)) == {was.command.id}
    assert len(bureau.parked(LANE)) == 1


def test_a_retry_delivered_again_submits_nothing_twice(bureau: Bureau, obedient: Obedient) -> None:
    """After a crash between submitting and logging, the same new command stands, once."""
    was = parked(bureau)
    asked = retry(bureau, was)
    for _ in range(2):
        # A fresh handler each time: the first one's process died before its result was written.
        lane = StationLane(bureau.settings, Prover(bureau.settings.redis), {bureau.key.id: bureau.key})
        result = executed(lane, asked)
        assert (result.outcome, result.state) == ("completed", "retried")
        assert [draft.type for draft in result.drafts] == ["parked.retried"]
    again = executed(lane, asked)
    assert again == result
    eventually(lambda: len(bureau.results(LANE)) == 2, "the new command's result")
    assert len(bureau.parked(LANE)) == 2


def test_what_was_closed_is_not_closed_again(bureau: Bureau, obedient: Obedient) -> None:
    """A second drop, and a retry of what was dropped, are rejected; also by the process that comes next."""
    was = parked(bureau)
    bureau.start()
    assert bureau.do(drop(bureau, was.command.id)).state == "dropped"
    for _ in range(2):
        for late in (drop(bureau, was.command.id), retry(bureau, was)):
            answer = bureau.do(late)
            assert (answer.outcome, answer.reason) == ("rejected", "unknown_parked")
            assert "dropped already" in (answer.detail or "")
        bureau.end()
        bureau.start()
    assert [event.type for event in bureau.events()].count("parked.dropped") == 1


def test_a_copy_whose_end_was_logged_goes_when_the_process_comes_back(
    bureau: Bureau, obedient: Obedient
) -> None:
    """A copy that outlived the process that logged its drop, or that a failover brought back, is let go."""
    was = parked(bureau)
    ((_, fields),) = bureau.link.call("XRANGE", bureau.keys.lane(LANE).parked, "-", "+")
    bureau.start()
    bureau.do(drop(bureau, was.command.id))
    eventually(lambda: bureau.parked(LANE) == [], "the copy is gone")
    bureau.end()
    bureau.link.call("XADD", bureau.keys.lane(LANE).parked, "*", *fields)
    bureau.start()
    eventually(lambda: bureau.parked(LANE) == [], "the copy is gone again")


def test_commands_of_sources_are_not_for_the_station_lane(bureau: Bureau) -> None:
    """They are rejected with their lane named, and so are those with a source."""
    bureau.start()
    answer = bureau.do(bureau.command("source.start", "station", "kwfm"))
    assert (answer.outcome, answer.reason, answer.field) == ("rejected", "wrong_lane", "lane")
    named = bureau.command("parked.drop", "station", "kwfm", params={"lane": LANE, "id": "x"})
    assert bureau.do(named).field == "source"


def test_the_control_process_releases_its_lane_in_time(bureau: Bureau, tocsin: Terminal) -> None:
    """On SIGTERM the lane is free within three seconds; the doctor sees who owns it, and that nobody does."""
    bureau.start()

    def control() -> str:
        (finding,) = [one for one in _findings(tocsin) if one["part"] == "control"]
        return str(finding["verdict"])

    assert control() == "ok"
    assert bureau.end() < 3
    assert bureau.link.call("EXISTS", bureau.keys.lane("station").lease) == 0
    assert bureau.events()[-1].type == "lane.released"
    assert control() == "trouble"


def _findings(tocsin: Terminal) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tocsin("doctor", "--json").json["doctor"]["findings"]
    return found


@pytest.mark.parametrize("room", ["control", "ingest"])
@pytest.mark.parametrize(
    ("setting", "wrong", "right"),
    [("maxmemory-policy", "allkeys-lru", "noeviction"), ("appendonly", "no", "yes")],
)
def test_a_server_that_breaks_promises_is_refused(
    bureau: Bureau, room: str, setting: str, wrong: str, right: str
) -> None:
    """A server that may evict or forget: the process ends, naming the setting and what to change."""
    bureau.link.call("CONFIG", "SET", setting, wrong)
    try:
        assert bureau.launch(room).wait(30) == 1
    finally:
        bureau.link.call("CONFIG", "SET", setting, right)
    assert f"{setting} is {wrong}, it must be {right}" in bureau.said
    assert f"CONFIG SET {setting} {right}" in bureau.said


def test_it_waits_for_its_server(bureau: Bureau) -> None:
    """A process that starts first says once that it waits, and can be ended meanwhile."""
    settings: Path = bureau.folder.settings
    url = bureau.settings.redis.url
    settings.write_text(settings.read_text().replace(url, f"redis://127.0.0.1:{free_port()}/0"))
    bureau.launch()
    eventually(lambda: "waiting for Redis" in bureau.said, "a word about Redis")
    assert bureau.end() < 3
