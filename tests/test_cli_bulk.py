"""One verb for many sources, and --dry-run, through real servers and the real owner of a lane."""

from __future__ import annotations

import pytest

from control.station.folder import Folder
from streams.connection import connect
from streams.handler import Result
from streams.names import StationKeys
from streams.settings import load
from tests.fix_cli import Obedient, Prompt

ADD = ("--file", "/media/demo.wav")


@pytest.fixture
def three(prompt: Prompt, obedient: Obedient) -> Obedient:
    """Three sources, added by whoever executes commands."""
    for id in ("west-1", "west-2", "east"):
        assert prompt("source", "add", id, *ADD).code == 0
    obedient.executed.clear()
    return obedient


def told(obedient: Obedient) -> set[tuple[str, str]]:
    return {(task.command.type, task.command.source) for task in obedient.executed}


def test_all_is_one_command_for_each_source(prompt: Prompt, three: Obedient) -> None:
    """`source start --all` submits a command per source and tells each outcome; the exit code is 0."""
    ran = prompt("source", "start", "--all", "--json")
    assert ran.code == 0, ran.err
    assert told(three) == {("source.start", id) for id in ("west-1", "west-2", "east")}
    assert sorted(one["source"] for one in ran.json["commands"]) == ["east", "west-1", "west-2"]
    assert {one["outcome"] for one in ran.json["commands"]} == {"completed"}
    assert len({one["id"] for one in ran.json["commands"]}) == 3


def test_patterns_and_several_ids(prompt: Prompt, three: Obedient) -> None:
    """Patterns mean the sources that match, each once; ids that are given are taken as they are."""
    ran = prompt("source", "stop", "west-*", "west-1")
    assert ran.code == 0, ran.err
    assert told(three) == {("source.stop", "west-1"), ("source.stop", "west-2")}
    assert "2 of 2 done" in ran.out


def test_the_worst_outcome_is_the_exit_code(prompt: Prompt, three: Obedient) -> None:
    """One unknown source among many is told beside the others, which are done; the exit code says so."""
    ran = prompt("source", "restart", "east", "ghost", "west-1", "--json")
    assert ran.code == ran.json["exit_code"] == 4
    assert told(three) == {("source.restart", "east"), ("source.restart", "west-1")}
    failed = next(one for one in ran.json["commands"] if one["source"] == "ghost")
    assert failed["error"]["reason"] == "unknown_source"

    three.answers["source.start"] = Result(outcome="failed", reason="source_failed", detail="no such file")
    ran = prompt("source", "start", "east", "ghost")
    assert ran.code == 3
    assert "no such file" in ran.err
    assert "ghost" in ran.err
    assert "0 of 2 done" in ran.out


def test_what_was_removed_meanwhile_is_no_failure(prompt: Prompt, three: Obedient) -> None:
    """A source that --all still found and that is gone by then is passed over; one that was named is told."""
    gone = Result(outcome="rejected", reason="unknown_source", detail="it was removed")
    three.answers["source.stop"] = gone
    ran = prompt("source", "stop", "--all", "--json")
    assert (ran.code, ran.json["commands"]) == (0, [])
    assert prompt("source", "stop", "east", "west-*").code == 4


def test_what_is_unclear_submits_nothing(prompt: Prompt, three: Obedient) -> None:
    """Naming none, contradicting oneself, one id for many, a pattern like none: told, and nothing is done."""
    for words, code, says in (
        ((), 2, "--all"),
        (("east", "--all"), 2, "--all means every source"),
        (("--all", "--id", "x"), 2, "--id names one command"),
        (("east", "north-*"), 4, "north-*"),
        (("--group", "west"), 8, "web process"),
    ):
        ran = prompt("source", "start", *words)
        assert (ran.code, three.executed) == (code, [])
        assert says in ran.err


def test_only_if_nobody_was_faster(prompt: Prompt, three: Obedient) -> None:
    """--if-sequence with the last command's number passes once; with an older one it is rejected."""
    assert prompt("source", "start", "east", "--if-sequence", "1").code == 0
    ran = prompt("source", "stop", "east", "--if-sequence", "1", "--json")
    assert ran.code == 4
    assert ran.json["error"]["reason"] == "sequence"
    assert told(three) == {("source.start", "east")}
    assert prompt("source", "add", "new", *ADD, "--start", "--if-sequence", "0").code == 0


def test_a_dry_run_submits_nothing(station_folder: Folder, prompt: Prompt, three: Obedient) -> None:
    """--dry-run shows the command as it would be signed, without its signature, and changes nothing."""
    link = connect(load(station_folder.settings).redis, "test")
    keys = StationKeys("station").lane("node.local")
    before = link.call("XINFO", "STREAM", keys.commands), link.call("HGETALL", keys.sequence)
    ran = prompt("source", "stop", "east", "--dry-run", "--expires-in", "5m", "--id", "mine", "--json")
    shown = ran.json["command"]
    assert (ran.code, shown["dry_run"], shown["outcome"], shown["objections"]) == (0, True, None, [])
    assert (shown["type"], shown["source"], shown["id"], shown["key"]) == (
        "source.stop", "east", "mine", "operator",
    )  # fmt: skip
    assert "signature" not in shown
    assert (link.call("XINFO", "STREAM", keys.commands), link.call("HGETALL", keys.sequence)) == before
    link.close()
    assert not list(station_folder.path.glob("outbox/*"))
    assert three.executed == []


def test_a_dry_run_of_an_add_claims_nothing(
    station_folder: Folder, prompt: Prompt, obedient: Obedient
) -> None:
    """`source add --start --dry-run` shows both commands, and the id is still free."""
    ran = prompt("source", "add", "hall", *ADD, "--start", "--dry-run", "--json")
    assert [one["type"] for one in ran.json["commands"]] == ["source.add", "source.start"]
    link = connect(load(station_folder.settings).redis, "test")
    assert link.call("HGETALL", StationKeys("station").sources) == []
    link.close()
    assert "nothing was submitted" in prompt("source", "add", "hall", *ADD, "--dry-run").out


def test_a_dry_run_says_what_speaks_against_it(prompt: Prompt, three: Obedient) -> None:
    """An id that is taken, a sequence that has passed, a durability not offered: told, with exit code 4."""
    exists = prompt("source", "add", "east", *ADD, "--dry-run", "--json")
    passed = prompt("source", "stop", "east", "--if-sequence", "7", "--dry-run")
    archive = prompt("source", "stop", "--all", "--durability", "archive", "--dry-run", "--json")
    assert exists.code == passed.code == archive.code == 4
    assert [one["reason"] for one in exists.json["command"]["objections"]] == ["exists"]
    assert "refused: sequence: " in passed.out
    assert {one["objections"][0]["reason"] for one in archive.json["commands"]} == {"durability"}
    assert len(archive.json["commands"]) == 3
    assert three.executed == []


def test_a_dry_run_knows_the_rights_of_the_key_and_who_executes(
    station_folder: Folder, prompt: Prompt
) -> None:
    """What the signing key's role may not do would be refused; a lane without an owner is a note."""
    from streams.signing import create_key

    create_key(station_folder.keys, "watcher", "viewer")
    link = connect(load(station_folder.settings).redis, "test")
    link.call("HSET", StationKeys("station").sources, "east", "node.local")
    link.close()
    ran = prompt("source", "stop", "east", "--dry-run", "--json", TOCSIN_KEYS_SIGN_WITH="watcher")
    assert ran.code == 4
    assert [one["reason"] for one in ran.json["command"]["objections"]] == ["unauthorised", "no_owner"]
    fine = prompt("source", "stop", "east", "--dry-run")
    assert fine.code == 0
    assert "note: no_owner" in fine.out
    made = prompt("key", "create", "night", "--role", "operator", "--dry-run", "--json").json["command"]
    assert (made["type"], made["params"]["id"]) == ("key.create", "night")
    assert not list(station_folder.keys.rglob("night*")), "no secret is kept of a key that was not made"
