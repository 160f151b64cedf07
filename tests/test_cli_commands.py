"""Commands from the prompt to their outcome, through real servers and the real owner of a lane."""

from __future__ import annotations

import time

import pytest
from click.testing import CliRunner

from control.composition import tocsin as command_line
from control.station.folder import Folder
from streams.connection import connect
from streams.handler import Result
from streams.names import StationKeys
from streams.settings import load
from streams.submit import NoAnswer
from tests.fix_cli import Obedient, Terminal, executing

ADD = ("source", "add", "demo", "--file", "/media/demo.wav")


def test_a_source_is_added_and_started_in_one_go(tocsin: Terminal, obedient: Obedient) -> None:
    """`source add --start` submits both commands, signed and in order, and says what is so afterwards."""
    ran = tocsin(*ADD, "--loop", "--name", "The demo", "--start")
    assert ran.code == 0, ran.err
    assert "running" in ran.out
    add, start = (task.command for task in obedient.executed)
    assert (add.type, start.type) == ("source.add", "source.start")
    assert add.params == {
        "settings": {"kind": "file", "path": "/media/demo.wav", "loop": True, "pace": "realtime"},
        "name": "The demo",
    }
    assert add.lane == start.lane == "node.local"


def test_json_prints_one_object_under_the_noun(tocsin: Terminal, obedient: Obedient) -> None:
    """With --json, before the verb or after it, one object stands on standard output."""
    after = tocsin(*ADD, "--json").json["command"]
    before = tocsin("--json", "source", "start", "demo").json["command"]
    assert after["outcome"] == before["outcome"] == "completed"
    assert (after["type"], before["type"]) == ("source.add", "source.start")
    assert before["state"] == "running"


def test_a_relative_path_becomes_absolute(tocsin: Terminal, obedient: Obedient) -> None:
    """The path of a recording is sent as absolute, because the node has another working directory."""
    assert tocsin("source", "add", "demo", "--file", "recording.wav").code == 0
    path = obedient.executed[0].command.params["settings"]["path"]
    assert path.startswith("/")
    assert path.endswith("/recording.wav")


@pytest.mark.parametrize(
    ("outcome", "code"), [("failed", 3), ("rejected", 4), ("superseded", 5), ("expired", 6)]
)
def test_each_outcome_has_its_exit_code(
    tocsin: Terminal, obedient: Obedient, outcome: str, code: int
) -> None:
    """The exit code tells the outcome; reason and detail stand in the message and in the JSON."""
    assert tocsin(*ADD).code == 0
    obedient.answers["source.start"] = Result(outcome=outcome, reason="because", detail="so it is")  # type: ignore[arg-type]
    ran = tocsin("source", "start", "demo", "--json")
    assert ran.code == code
    assert ran.json["command"]["outcome"] == outcome
    assert ran.json["command"]["reason"] == "because"
    assert "so it is" in ran.err


def test_an_unknown_source_is_rejected_without_being_submitted(tocsin: Terminal, obedient: Obedient) -> None:
    """A source that nobody added has no lane: exit code 4, and no command is sent."""
    ran = tocsin("source", "start", "ghost", "--json")
    assert ran.code == 4
    assert ran.json["error"]["reason"] == "unknown_source"
    assert obedient.executed == []


def test_the_timeout_is_one_for_all_steps(station_folder: Folder) -> None:
    """A start that follows an add, or a source that had to be found, does not get it once more."""
    link = connect(load(station_folder.settings).redis, "test")

    def takes(*verb: str) -> float:
        began = time.monotonic()
        ran = CliRunner().invoke(
            command_line, [*verb, "--station", str(station_folder.path), "--timeout", "2"]
        )
        assert isinstance(ran.exception, NoAnswer), ran.output
        assert "within 2 s" in str(ran.exception)
        return time.monotonic() - began

    with executing(station_folder) as obedient:
        obedient.delays = {"source.add": 1.5, "source.start": 2.5}
        assert 1.9 < takes(*ADD, "--start") < 3.2
    link.call("CLIENT", "PAUSE", 1500, "ALL")
    assert 1.9 < takes("source", "stop", "demo") < 3.2
    link.close()


def test_no_answer_yet_and_asking_again_by_the_same_id(station_folder: Folder, tocsin: Terminal) -> None:
    """Without an owner a command gets exit code 7 and an id; the same id again brings its one outcome."""
    waiting = tocsin(*ADD, "--timeout", "0.5", "--json")
    assert waiting.code == 7
    id = waiting.json["error"]["id"]
    assert f"tocsin command show {id}" in waiting.err

    with executing(station_folder) as obedient:
        again = tocsin(*ADD, "--id", id, "--json")
        once_more = tocsin(*ADD, "--id", id, "--json")

    assert again.code == 0
    assert again.json == once_more.json
    assert again.json["command"]["id"] == id
    assert [task.command.id for task in obedient.executed] == [id]


def test_an_id_belongs_to_one_command(tocsin: Terminal, obedient: Obedient) -> None:
    """The same id for another wish is rejected as a conflict, and has no effect."""
    assert tocsin(*ADD, "--id", "mine").code == 0
    ran = tocsin("source", "start", "demo", "--id", "mine", "--json")
    assert ran.code == 4
    assert ran.json["error"]["reason"] == "conflict"
    assert len(obedient.executed) == 1


def test_a_source_id_is_claimed_for_one_lane(station_folder: Folder, tocsin: Terminal) -> None:
    """An id that lives in another lane cannot be added again here: exit code 4, nothing submitted."""
    settings = load(station_folder.settings)
    link = connect(settings.redis, "test")
    link.call("HSET", StationKeys("station").sources, "demo", "node.elsewhere")
    ran = tocsin(*ADD, "--json")
    assert ran.code == 4
    assert ran.json["error"]["reason"] == "exists"
    assert link.call("EXISTS", StationKeys("station").lane("node.local").commands) == 0
    link.close()


def test_durability_that_cannot_be_had_is_refused(tocsin: Terminal, obedient: Obedient) -> None:
    """A durability that this station does not offer is refused with its reason, not weakened silently."""
    ran = tocsin(*ADD, "--durability", "archive", "--json")
    assert ran.code == 4
    assert ran.json["error"]["reason"] == "durability"
    assert obedient.executed == []


def test_a_command_expires_when_nobody_is_there(station_folder: Folder, tocsin: Terminal) -> None:
    """A command whose validity ended before it was tried gets the outcome expired, and is never executed."""
    waiting = tocsin(*ADD, "--timeout", "0.3", "--expires", "0.2", "--json")
    assert waiting.code == 7
    with executing(station_folder) as obedient:
        ran = tocsin(*ADD, "--id", waiting.json["error"]["id"], "--json")
    assert ran.code == 6
    assert ran.json["command"]["outcome"] == "expired"
    assert obedient.executed == []


def test_events_are_listed_and_the_log_verifies(tocsin: Terminal, obedient: Obedient) -> None:
    """`event list` tells what happened, `audit verify` finds it sound, `audit replay` prints its bytes."""
    assert tocsin(*ADD).code == 0
    listed = tocsin("event", "list", "--json").json["events"]
    assert [event["type"] for event in listed] == ["lane.acquired", "command.completed"]
    only = tocsin("event", "list", "--type", "command.", "--source", "demo", "--json").json["events"]
    assert [event["source"] for event in only] == ["demo"]

    verdict = tocsin("audit", "verify", "--json")
    assert verdict.code == 0
    assert verdict.json["audit"]["sound"] is True

    lines = tocsin("audit", "replay", "--lane", "node.local").out.splitlines()
    assert [line.split("\t")[1] for line in lines] == [event["hash"] for event in listed]


def test_an_altered_event_is_named(station_folder: Folder, tocsin: Terminal, obedient: Obedient) -> None:
    """`audit verify` names the first bad event and ends with exit code 3."""
    assert tocsin(*ADD).code == 0
    link = connect(load(station_folder.settings).redis, "test")
    keys = StationKeys("station").lane("node.local")
    (entry, fields), *_ = link.call("XREVRANGE", keys.events, "+", "-", "COUNT", 1)
    link.call("XDEL", keys.events, entry)
    altered = fields[1].replace(b'"completed"', b'"failed"').replace(b"demo", b"dem0")
    link.call("DEL", "copy")
    link.call("RENAME", keys.events, "copy")
    for kept, values in link.call("XRANGE", "copy", "-", "+"):
        link.call("XADD", keys.events, kept, *values)
    link.call("XADD", keys.events, entry, "e", altered, "h", fields[3])
    link.close()
    ran = tocsin("audit", "verify", "--lane", "node.local")
    assert ran.code == 3
    assert "BAD at seq 2" in ran.out
