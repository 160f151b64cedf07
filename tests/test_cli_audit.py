"""`tocsin audit …` as an auditor uses it: a station with an archive, its log, and what is kept of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import psycopg
import pytest

from control.station.folder import Folder
from streams.connection import Link, connect
from streams.library import load_library
from streams.names import StationKeys
from streams.settings import PostgresSection, RedisSection, load
from streams.signing import create_key
from tests.fix_cli import Obedient, Terminal, executing, made_folder
from tests.fix_projections import Yard
from tests.fix_servers import eventually

LANE = "node.local"
ADD = ("source", "add", "demo", "--file", "/media/demo.wav")


class Audited:
    """A station whose node.local has an owner and an archive, and whoever sits at its terminal."""

    def __init__(self, folder: Folder, link: Link, yard: Yard) -> None:
        self.folder = folder
        self.tocsin = Terminal(folder.path)
        self.keys = StationKeys("station").lane(LANE)
        self.link = link
        self._yard = yard

    @contextmanager
    def at_work(self) -> Iterator[Obedient]:
        """An owner of the lane and the projections, meanwhile."""
        with self._yard.projections(), executing(self.folder) as handler:
            yield handler

    def wait_until_archived(self) -> None:
        """Wait until the archive holds all of the lane, and the lane was told."""

        def whole() -> bool:
            seq = self.link.call("HGET", self.keys.head, "seq")
            archived = self.link.call("HGET", self.keys.archived, "seq")
            return bool(seq) and seq == archived

        eventually(whole, "the whole lane archived")

    def events(self) -> list[dict[str, object]]:
        """All events of the lane, in order."""
        ran = self.tocsin("audit", "replay", "--lane", LANE, "--json")
        return [json.loads(line)["event"] for line in ran.out.splitlines()]

    def sql(self, query: str) -> None:
        """Do something to the database behind everybody's back."""
        postgres = self._yard.settings.postgres
        with psycopg.connect(postgres.url, password=postgres.password, autocommit=True) as wire:
            wire.execute(query.encode())

    def rewrite_redis(self, seq: int, old: bytes, new: bytes) -> None:
        """Change one event in Redis, and leave its hash."""
        entries = self.link.call("XRANGE", self.keys.events, "-", "+")
        self.link.call("DEL", self.keys.events)
        for entry, values in entries:
            if entry.split(b"-")[0] == str(seq).encode():
                assert old in values[1]
                values[1] = values[1].replace(old, new)
            self.link.call("XADD", self.keys.events, entry, *values)


@pytest.fixture
def audited(valkey: RedisSection, migrated_postgres: PostgresSection, tmp_path: Path) -> Iterator[Audited]:
    """A station with an archive; nobody executes commands yet."""
    folder = made_folder(tmp_path / "station", valkey, migrated_postgres.url)
    settings = load(folder.settings)
    yard = Yard(settings)
    yard.prepare()
    link = connect(settings.redis, "test")
    load_library(link)
    yield Audited(folder, link, yard)
    link.close()
    yard.close()


def test_the_whole_log_verifies_with_its_signatures(audited: Audited) -> None:
    """Sound, with each command's signature checked, by HMAC here and not checkable without its secret."""
    with audited.at_work():
        assert audited.tocsin(*ADD).code == 0
        assert audited.tocsin("source", "start", "demo").code == 0
        audited.wait_until_archived()
        verdict = audited.tocsin("audit", "verify", "--json").json["audit"]
        assert verdict["sound"] is True
        (lane,) = [one for one in verdict["lanes"] if one["events"]]
        assert lane["signatures"] == {"checked": 2, "elsewhere": {}}
        (audited.folder.keys / "operator.json").unlink()
        create_key(audited.folder.keys, "other", "engineer")
        said = audited.tocsin("audit", "verify", "--lane", LANE)
        assert said.code == 0
        assert "0 checked, 2 not checkable here" in said.out
        assert "2 by 'operator'" in said.out


def test_a_part_of_a_lane_is_verified(audited: Audited) -> None:
    """--from and --to take a range; a change outside of it does not matter, one inside is named."""
    with audited.at_work():
        assert audited.tocsin(*ADD).code == 0
        for _ in range(3):
            assert audited.tocsin("source", "start", "demo").code == 0
    audited.rewrite_redis(2, b"completed", b"c0mpleted")
    part = audited.tocsin("audit", "verify", "--lane", LANE, "--from", "3", "--to", "4", "--json")
    assert part.code == 0
    assert part.json["audit"]["lanes"][0]["events"] == 2
    assert part.json["audit"]["lanes"][0]["seq"] == 4
    assert "BAD at seq 2" in audited.tocsin("audit", "verify", "--lane", LANE, "--to", "3").out
    assert audited.tocsin("audit", "verify", "--from", "3").code == 2
    assert audited.tocsin("audit", "verify", "--lane", LANE, "--from", "3", "--to", "2").code == 2


def test_an_archive_that_was_altered_is_named(audited: Audited) -> None:
    """The copy in the archive counts too, while the log in Redis is still as it was."""
    with audited.at_work():
        assert audited.tocsin(*ADD).code == 0
        audited.wait_until_archived()
    audited.sql("UPDATE archive SET raw = raw || ' '::bytea WHERE seq = 2")
    ran = audited.tocsin("audit", "verify", "--lane", LANE)
    assert ran.code == 3
    assert "BAD at seq 2: the archive holds another event" in ran.out.replace("\n", " ")


def test_what_redis_no_longer_has_is_verified_from_the_archive(audited: Audited) -> None:
    """A trimmed front is read from the archive, and a fault there is named."""
    with audited.at_work():
        assert audited.tocsin(*ADD).code == 0
        assert audited.tocsin("source", "start", "demo").code == 0
        audited.wait_until_archived()
    audited.link.call("XTRIM", audited.keys.events, "MINID", "3-0")
    assert audited.tocsin("audit", "verify", "--lane", LANE).code == 0
    assert len(audited.events()) > 2
    audited.sql("UPDATE archive SET raw = raw || ' '::bytea WHERE seq = 2")
    ran = audited.tocsin("audit", "verify", "--lane", LANE)
    assert ran.code == 3
    assert "BAD at seq 2: its bytes do not match its hash" in ran.out.replace("\n", " ")


def test_replay_prints_what_is_asked_for(audited: Audited) -> None:
    """By source, command, type, time, key and cause; together they narrow."""
    with audited.at_work():
        ids = [audited.tocsin(*ADD, "--json").json["command"]["id"]]
        ids += [audited.tocsin("source", "start", "demo", "--json").json["command"]["id"]]
    events = audited.events()

    def replayed(*filters: str) -> list[object]:
        ran = audited.tocsin("audit", "replay", "--lane", LANE, "--json", *filters)
        assert ran.code == 0
        return [json.loads(line)["event"]["seq"] for line in ran.out.splitlines()]

    results = [one["seq"] for one in events if str(one["type"]).startswith("command.")]
    assert replayed("--source", "demo") == results
    assert replayed("--command", ids[1]) == [results[1]]
    assert replayed("--type", "lane.") == [one["seq"] for one in events if "lane." in str(one["type"])]
    assert replayed("--type", "command.completed", "--key", "operator") == results
    assert replayed("--key", "somebody") == replayed("--cause", ids[0]) == []
    second = str(events[1]["logged_at"])
    assert replayed("--since", second) == [one["seq"] for one in events if str(one["logged_at"]) >= second]
    assert replayed("--until", second) == [one["seq"] for one in events if str(one["logged_at"]) <= second]
    assert replayed("--after", "1", "--upto", "2") == [2]


def test_a_checkpoint_tells_a_history_that_was_rewritten(audited: Audited, tmp_path: Path) -> None:
    """Whoever holds Redis and Postgres rewrites the log with right hashes: the kept checkpoint tells."""
    kept = tmp_path / "kept.txt"
    with audited.at_work():
        assert audited.tocsin(*ADD).code == 0
        audited.wait_until_archived()
        made = audited.tocsin("audit", "checkpoint", "--out", str(kept))
        assert made.code == 0
        assert made.out == kept.read_text()
        assert "Made the key 'auditor'" in made.err
        secret = json.loads((audited.folder.keys / "auditor.json").read_text())["secret"]
        assert secret not in made.out + made.err
        assert (audited.folder.keys / "auditor.json").stat().st_mode & 0o777 == 0o600
        assert audited.tocsin("source", "start", "demo").code == 0
        good = audited.tocsin("audit", "verify", "--since-checkpoint", str(kept))
        assert good.code == 0
        assert "is part of it" in good.out
        again = audited.tocsin("audit", "checkpoint", "--json").json["checkpoint"]
        assert again["public"] in kept.read_text()
    _begin_anew(audited)
    with audited.at_work():
        for _ in range(3):
            audited.tocsin("source", "stop", "demo")
        audited.wait_until_archived()
        assert audited.tocsin("audit", "verify").code == 0
        bad = audited.tocsin("audit", "verify", "--since-checkpoint", str(kept), "--json")
        assert bad.code == 3
        (fault,) = [one["fault"] for one in bad.json["audit"]["lanes"] if one["fault"]]
        assert fault["lane"] == LANE
        assert "history was rewritten" in fault["problem"]


def _begin_anew(audited: Audited) -> None:
    """Forge: the log and the archive of the lane begin again, as if nothing had ever been."""
    audited.sql("DELETE FROM archive")
    audited.sql("UPDATE positions SET seq = 0, hash = repeat('0', 64)")
    audited.sql("TRUNCATE sources, commands, totals, fold_snapshots")
    for key in (audited.keys.events, audited.keys.head):
        audited.link.call("DEL", key)


def test_a_lane_that_vanished_is_missed(audited: Audited, tmp_path: Path) -> None:
    """A signed lane that nobody knows any more is a fault; a checkpoint that was altered is refused."""
    kept = tmp_path / "kept.txt"
    with audited.at_work():
        assert audited.tocsin(*ADD).code == 0
        audited.wait_until_archived()
        assert audited.tocsin("audit", "checkpoint", "--out", str(kept)).code == 0
    _begin_anew(audited)
    bad = audited.tocsin("audit", "verify", "--since-checkpoint", str(kept))
    assert bad.code == 3
    assert "missing" in bad.out
    kept.write_text(kept.read_text().replace("station station", "station stati0n"))
    assert audited.tocsin("audit", "verify", "--since-checkpoint", str(kept)).code == 2


def test_an_export_is_written_whole_and_checked(audited: Audited, tmp_path: Path) -> None:
    """All durable events with a signed manifest, in one step; a changed byte is named by its line."""
    file = tmp_path / "log.jsonl"
    with audited.at_work():
        assert audited.tocsin(*ADD).code == 0
        audited.wait_until_archived()
        ran = audited.tocsin("audit", "export", str(file), "--json")
        assert ran.code == 0
        assert ran.json["export"]["events"] == len(file.read_text().splitlines()) - 1
        assert audited.tocsin("audit", "verify", "--export", str(file)).code == 0
        lines = file.read_text().splitlines()
        assert json.loads(lines[0])["event"]["type"] == "lane.acquired"
        file.write_text(file.read_text().replace('"demo"', '"dem0"', 1))
        bad = audited.tocsin("audit", "verify", "--export", str(file))
        assert bad.code == 3
        assert "BAD: line 2: lane node.local: its bytes do not match its hash" in bad.out
        kept = file.read_bytes()
        audited.rewrite_redis(2, b"completed", b"c0mpleted")
        refused = audited.tocsin("audit", "export", str(file))
        assert refused.code == 3
        assert "nothing was exported" in refused.err
        assert file.read_bytes() == kept
        assert [one.name for one in tmp_path.iterdir() if one.suffix == ".new"] == []


def test_a_life_is_told(audited: Audited, tmp_path: Path) -> None:
    """Who signed, when it came, which node and token, each step's time; as table, lines and picture."""
    picture = tmp_path / "life.svg"
    with audited.at_work():
        id = audited.tocsin(*ADD, "--json").json["command"]["id"]
        ran = audited.tocsin("audit", "trace", id, "--svg", str(picture))
        lines = audited.tocsin("audit", "trace", id, "--json").out.splitlines()
    assert ran.code == 0
    assert re.search(r"signed by\s+operator", ran.out)
    assert re.search(r"node\s+local, token 1", ran.out)
    command = json.loads(lines[0])["command"]
    assert (command["type"], command["outcome"], command["key"]) == ("source.add", "completed", "operator")
    steps = [json.loads(line)["step"] for line in lines[1:]]
    assert [step["what"] for step in steps] == ["signed", "received", "command.completed", "logged"]
    assert all(step["seconds"] is not None for step in steps[1:])
    assert "source.add demo completed" in ElementTree.parse(picture).getroot().attrib["aria-label"]
    unknown = audited.tocsin("audit", "trace", "01990000-0000-7000-8000-000000000000")
    assert unknown.code == 4


def test_a_command_without_a_result_is_traced(audited: Audited) -> None:
    """What waits is told as it stands in its lane: who signed it, since when it waits, taken by whom."""
    assert audited.tocsin(*ADD, "--timeout", "1").code == 7
    ran = audited.tocsin("source", "start", "demo", "--timeout", "1", "--json")
    id = ran.json["error"]["id"]
    told = audited.tocsin("audit", "trace", id)
    assert told.code == 0
    assert "none yet" in told.out
    assert "taken by nobody yet" in told.out


def test_things_are_shown_as_they_were(audited: Audited) -> None:
    """At an event and at a time: the sources there were and the commands so far; and what changed between."""
    with audited.at_work():
        assert audited.tocsin(*ADD).code == 0
        assert audited.tocsin("source", "start", "demo").code == 0
        audited.wait_until_archived()
        events = audited.events()
        first = next(one["seq"] for one in events if one["type"] == "command.completed")
        then = audited.tocsin("audit", "state", "--at", f"{LANE}:{first}", "--json").json["state"]
        assert then["lanes"][LANE]["seq"] == first
        assert [one["type"] for one in then["commands"]] == ["source.add"]
        by_time = audited.tocsin("audit", "state", "--at", str(events[-1]["logged_at"]), "--json").json[
            "state"
        ]
        assert [one["type"] for one in by_time["commands"]] == ["source.start", "source.add"]
        assert by_time["totals"] == [
            {"type": "source.add", "outcome": "completed", "count": 1},
            {"type": "source.start", "outcome": "completed", "count": 1},
        ]
        differs = audited.tocsin("audit", "diff", f"{LANE}:{first}", f"{LANE}:{len(events)}", "--json")
        assert [one["type"] for one in differs.json["diff"]["commands"]] == ["source.start"]
        assert audited.tocsin("audit", "state").code == 0
        assert audited.tocsin("audit", "diff", "2026-01-01T00:00:00Z", f"{LANE}:{first}").code == 0
        assert audited.tocsin("audit", "state", "--at", f"{LANE}:99").code == 4
        assert audited.tocsin("audit", "state", "--at", "yesterday").code == 2


def test_a_station_without_an_archive_signs_nothing(tocsin: Terminal) -> None:
    """Checkpoint and state say that they need one."""
    for verb in (("checkpoint",), ("state",)):
        ran = tocsin("audit", *verb)
        assert ran.code == 4
        assert "postgres.url" in ran.err
