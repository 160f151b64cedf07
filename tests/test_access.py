"""A user per role: each can do its work and nothing else, on Valkey and on Redis 7.0."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import pytest

from control import parked
from control.desk import Desk, Wish
from control.station.ask import ask
from control.stationlane import StationLane
from ingest.service import Node
from projections.groups import list_groups
from projections.reads import Away, Reads
from projections.service import Service
from streams.access import ROLES, UNUSED, Role, acl_file, user_name
from streams.audit import head_of, verify
from streams.connection import Unreachable, connect
from streams.durability import Prover
from streams.group_messages import GroupCreate
from streams.library import MayNotLoad, load_library
from streams.names import STATION_LANE, StationKeys
from streams.replay import stored
from streams.server_check import WrongServer, check_server, describe
from streams.settings import KeysSection, PostgresSection, Settings, StationSection
from streams.signing import create_key, load_keyring
from streams.tail import Tail
from streams.vocabulary import FileSettings, ParkedDrop, ParkedRetry, SourceAdd, plain
from streams.worker import LaneWorker
from tests.fix_access import STATION, Guarded, Refused
from tests.fix_servers import eventually

LANE = "node.local"
CLIENTS: tuple[Role, ...] = ("ingest", "control", "submitter", "projections", "reader")


@dataclass
class Works:
    """A whole station, each process of which has its own user; they run in threads here."""

    guarded: Guarded
    settings: Settings
    folder: Path

    def as_role(self, role: Role) -> Settings:
        return msgspec.structs.replace(self.settings, redis=self.guarded.redis(role))

    @contextmanager
    def running(self) -> Iterator[Node]:
        node = Node(self.as_role("ingest"))
        service = Service(self.as_role("projections"))
        stopping = threading.Event()
        settings = self.as_role("control")
        prover = Prover(settings.redis)
        keyring = load_keyring(Path(settings.keys.directory))
        owner = LaneWorker(
            settings,
            STATION_LANE,
            "local",
            StationLane(settings, prover, keyring),
            keyring=lambda: keyring,
            prover=prover,
        )
        threads = [
            threading.Thread(target=node.run, name="node"),
            threading.Thread(target=service.run, name="projections"),
            threading.Thread(target=owner.run, args=(stopping,), name="control"),
        ]
        for thread in threads:
            thread.start()
        try:
            yield node
        finally:
            for event in (node.stopping, service.stopping, stopping):
                event.set()
            for thread in threads:
                thread.join(30)


@pytest.fixture
def works(guarded: Guarded, postgres: PostgresSection, tmp_path: Path) -> Works:
    """A station on the guarded server, with a database of its own."""
    create_key(tmp_path / "keys", "operator", "engineer")
    settings = Settings(
        station=StationSection(id=STATION, lanes=1),
        postgres=postgres,
        keys=KeysSection(directory=str(tmp_path / "keys")),
    )
    return Works(guarded, settings, tmp_path)


def test_a_whole_station_works_with_a_user_per_process(works: Works, record: Callable[..., Path]) -> None:
    """From the add of a source to its removal, parked commands included, nobody was refused anything."""
    keys = StationKeys(STATION)
    file = FileSettings(path=str(record(30)), loop=True)
    desk = Desk(works.as_role("submitter"), works.folder)
    reads = Reads(works.as_role("reader"))
    link = connect(works.as_role("reader").redis, "reader")
    with works.running():
        add = Wish(type="source.add", source="mast", params=plain(SourceAdd(settings=file)))
        assert desk.add(add, kind="file", timeout=30).outcome == "completed"
        start = desk.submit(Wish(type="source.start", source="mast"), desk.lane_of("mast"))
        assert start.outcome == "completed"

        def seen() -> bool:
            try:
                found = reads.sources()
            except Away:
                return False
            return found.source == "snapshot" and bool(found.data) and found.data[0].level is not None

        eventually(seen, "a snapshot with a level")
        assert reads.health().healthy
        for type, close in (("parked.retry", "retried"), ("parked.drop", "dropped")):
            future = desk.submit(Wish(type="source.future", source="mast"), LANE)
            assert (future.outcome, future.reason) == ("failed", "parked")
            copy = parked.find(link, keys.lane(LANE), LANE, future.id)
            assert copy is not None
            asked: ParkedRetry | ParkedDrop = ParkedDrop(lane=LANE, id=copy.id)
            if close == "retried":
                again = desk.sign(Wish(type="source.future", source="mast", cause=copy.id), LANE)
                request = again.raw.decode()
                asked = ParkedRetry(lane=LANE, id=copy.id, request=request, signature=again.signature)
            answer = desk.submit(Wish(type=type, source="", params=plain(asked)), STATION_LANE)
            assert (answer.outcome, answer.state) == ("completed", close)
            find = partial(parked.find, link, keys.lane(LANE), LANE, copy.id)
            eventually(lambda find=find: find() is None, "the copy is swept")  # type: ignore[misc]
        group = Wish(type="group.create", source="", params=plain(GroupCreate(group="g", members=("mast",))))
        assert desk.submit(group, STATION_LANE).outcome == "completed"
        eventually(
            lambda: [one.active for one in list_groups(reads).data] == ["mast"], "the group to be followed"
        )
        archived = Wish(type="source.stop", source="mast", durability="archive")
        assert desk.submit(archived, LANE, timeout=20).outcome == "completed"
        assert desk.submit(Wish(type="source.remove", source="mast"), LANE).outcome == "completed"
        eventually(lambda: "mast" not in desk.sources(), "the id is free again")
        assert Tail(link, keys.lane(LANE)).read()
        assert not verify(LANE, stored(link, keys.lane(LANE)), head_of(link, keys.lane(LANE))).fault
    desk.close()
    reads.close()
    link.close()
    # Owners ask how often the server writes to its disk, and do without an answer.
    assert set(works.guarded.refused()) <= {
        f"{STATION}-{role}: command config|get (toplevel)" for role in ("ingest", "control")
    }


WRITES = ("DEL", "SET", "HSET", "XADD", "XTRIM", "XDEL", "EXPIRE", "UNLINK", "ZADD", "LPUSH")
EVERYBODYS = (
    "FLUSHALL", "FLUSHDB", "KEYS *", "SCAN 0", "RANDOMKEY", "DBSIZE", "CONFIG GET maxmemory",
    "CONFIG SET maxmemory 1", "DEBUG SLEEP 0", "FUNCTION LIST", "FUNCTION LOAD x", "FUNCTION FLUSH",
    "FUNCTION DELETE tocsin", "SCRIPT FLUSH", "ACL LIST", "ACL SETUSER evil on nopass ~* +@all",
    "CLIENT LIST", "CLIENT KILL ID 1", "CLIENT PAUSE 1", "REPLICAOF NO ONE", "SHUTDOWN NOSAVE", "SAVE",
    "BGREWRITEAOF", "MONITOR", "MIGRATE h 1 k 0 1", "RESTORE k 0 v", "EVAL return 0", "SWAPDB 0 1",
    "PSYNC ? -1", "LATENCY LATEST", "SLOWLOG GET", "MODULE LIST", "FAILOVER", "PUBLISH c m", "SUBSCRIBE c",
    "SET elsewhere 1", "GET elsewhere", "SET tocsin:other:x 1", "HGETALL tocsin:other:{p0}:head",
    "FCALL tocsin_version 1 elsewhere", "FCALL_RO tocsin_tail 2 elsewhere elsewhere 0 0 1",
)  # fmt: skip
"""What nobody but the admin may do. LANE stands for the prefix of a lane's keys."""

FORBIDDEN: dict[Role, tuple[str, ...]] = {
    "submitter": (
        # The log, the head, the lease: the owner's.
        "XADD LANE:events * e forged h 00", "HSET LANE:head seq 9", "SET LANE:lease mine", "DEL LANE:lease",
        "FCALL tocsin_append 8 LANE:lease LANE:head LANE:events LANE:commands LANE:ids LANE:ids:expiry "
        "LANE:parked LANE:archived f 0 0 1 0 0 0",
        "FCALL tocsin_acquire 3 LANE:lease LANE:head LANE:commands me n 1000 ",
        "FCALL tocsin_raise 2 LANE:head LANE:events 1 h 1 r",
        "FCALL tocsin_take 3 LANE:lease LANE:commands LANE:ids f c 1 new",
        # With keys it may name, in the places of others.
        "FCALL tocsin_acquire 3 LANE:ids LANE:sequence LANE:commands me n 1000 ",
        "FCALL tocsin_renew 1 LANE:commands f 1000", "FCALL tocsin_release 1 LANE:ids f",
        # What others wish, and what others are told; claims once made.
        "XRANGE LANE:commands - +", "XREAD STREAMS LANE:commands 0", "XDEL LANE:commands 1-1",
        "XTRIM LANE:commands MAXLEN 0", "DEL LANE:commands", "XGROUP DESTROY LANE:commands ingest",
        "XADD STATION:replies:me * a forged", "HSET STATION:sources s p0", "HDEL STATION:sources s",
        "DEL STATION:sources", "XRANGE LANE:events - +", "FCALL_RO tocsin_tail 2 LANE:head LANE:events 0 0 1",
        "XADD LANE:telemetry * l 1", "XRANGE LANE:parked - +", "HSET STATION:node:n time 1",
        "HSET STATION:snapshot:source:s at 1", "HSET LANE:archived seq 9",
    ),
    "projections": (
        "FCALL tocsin_submit 4 LANE:commands LANE:ids LANE:ids:expiry LANE:sequence i d s b g c ",
        # Of the head it may say nothing, and all it may say of the lane is how far it is archived.
        "HSET LANE:head wm_seq 9", "HSET LANE:head archived 9", "HDEL LANE:head seq",
        "FCALL tocsin_raise 2 LANE:head LANE:events 1 h 1 r",
        "FCALL tocsin_archived 2 LANE:head LANE:events 1 h",
        # Declaring the log and its mark in the places of others leads nowhere either.
        "FCALL tocsin_submit 4 LANE:events LANE:archived LANE:archived LANE:archived i d s b g c ",
        "FCALL tocsin_append 8 LANE:archived LANE:archived LANE:events LANE:events LANE:archived "
        "LANE:archived LANE:events LANE:archived f 0 0 1 0 0 0",
        "XADD LANE:commands * c forged", "XADD LANE:events * e forged h 00", "XTRIM LANE:events MAXLEN 0",
        "DEL LANE:events", "DEL LANE:head", "SET LANE:lease mine", "GET LANE:lease", "HSET LANE:ids i m",
        "HSET LANE:sequence s 1", "XADD LANE:telemetry * l 1", "HSET STATION:sources s p0",
        "HSET STATION:node:n time 1", "XADD STATION:replies:me * a forged", "XRANGE LANE:commands - +",
    ),
    "reader": (
        *(f"{write} {key} 1 2 3 4" for write in WRITES for key in ("LANE:events", "STATION:sources")),
        "FCALL tocsin_submit 4 LANE:commands LANE:ids LANE:ids:expiry LANE:sequence i d s b g c ",
        "FCALL tocsin_archived 2 LANE:archived LANE:events 1 h", "FCALL tocsin_renew 1 LANE:lease f 1",
        "FCALL tocsin_version 0", "XREADGROUP GROUP ingest me STREAMS LANE:commands >",
        "XACK LANE:commands ingest 1-1", "HSETNX STATION:sources s p0",
    ),
    "ingest": (
        "FCALL tocsin_submit 4 LANE:commands LANE:ids LANE:ids:expiry LANE:sequence i d s b g c ",
        "XADD LANE:commands * c forged", "HDEL LANE:ids i", "XTRIM LANE:commands MAXLEN 0", "DEL LANE:state",
        "XDEL LANE:events 1-1", "DEL LANE:events", "DEL LANE:commands", "DEL LANE:head",
        "DEL STATION:sources", "XDEL LANE:parked 1-1", "HSET STATION:snapshot:source:s at 1",
        "HSET LANE:archived seq 9",
        # The lane of the control process.
        "SET STATION:{station}:lease mine", "XADD STATION:{station}:events * e forged h 00",
        "FCALL tocsin_acquire 3 STATION:{station}:lease STATION:{station}:head STATION:{station}:commands "
        "m n 1000 ",
    ),
    "control": (
        # Ingest's lanes: of them it may only submit to, follow the log of, and clear parked copies.
        "XADD LANE:events * e forged h 00", "HSET LANE:head seq 9", "SET LANE:lease mine", "GET LANE:lease",
        "FCALL tocsin_acquire 3 LANE:lease LANE:head LANE:commands me n 1000 ", "XRANGE LANE:commands - +",
        "XTRIM LANE:parked MAXLEN 0", "XADD LANE:telemetry * l 1", "HSET STATION:node:n time 1",
        "HSET STATION:snapshot:source:s at 1", "DEL STATION:{station}:events",
    ),
    "replica": ("GET STATION:sources", "INFO", "ROLE", "SET LANE:lease x", "FCALL_RO tocsin_version 0"),
    "sentinel": ("GET STATION:sources", "SET LANE:lease x", "FCALL_RO tocsin_version 0", "HGETALL LANE:head"),
}  # fmt: skip


def words(command: str) -> list[str]:
    """The command's words; where it ends with a blank, the last one is empty."""
    lane = f"tocsin:{STATION}:{{node.one}}"
    return command.replace("LANE", lane).replace("STATION:", f"tocsin:{STATION}:").split(" ")


NOT_PERMITTED = "NOPERM|ACL failure in script|The user executing the script can't"


def answer(guarded: Guarded, role: Role, command: str) -> str:
    """What the server says to the role's command."""
    try:
        return f"it was done: {guarded.ask(role, *words(command))}"
    except Refused as error:
        return str(error)


ALLOWED_TO_SERVERS = {
    "sentinel": (
        *("PUBLISH c", "SUBSCRIBE c", "REPLICAOF NO ONE"),
        *("FAILOVER", "CLIENT KILL ID 1", "CLIENT PAUSE 1"),
    ),
    "replica": ("PSYNC ? -1",),
}


@pytest.mark.parametrize("role", [role for role in ROLES if role != "admin"])
def test_nobody_may_do_more_than_its_work(guarded: Guarded, role: Role) -> None:
    """Every forbidden thing is refused for want of permission, and leaves the server as it was."""
    spared = ALLOWED_TO_SERVERS.get(role, ())
    for command in (*EVERYBODYS, *FORBIDDEN[role]):
        if command not in spared:
            assert re.search(NOT_PERMITTED, answer(guarded, role, command)), command
    assert guarded.ask("admin", "DBSIZE") == 0
    assert guarded.ask("admin", "FCALL_RO", "tocsin_version", 0)


def test_nobody_comes_in_without_a_password(guarded: Guarded) -> None:
    """The default user is off, and a wrong password opens nothing."""
    for login in ("", "anything", (user_name(STATION, "reader"), "guess"), ("reader", "guess")):
        with pytest.raises(Refused, match=r"NOAUTH|WRONGPASS"):
            ask(guarded.port, login, "PING")


@pytest.mark.parametrize("role", CLIENTS)
def test_another_station_on_the_server_is_out_of_reach(guarded: Guarded, role: Role) -> None:
    """The users of one station see nothing of another one's, whose id begins alike."""
    guarded.ask("admin", "HSET", f"tocsin:{STATION}-2:sources", "s", "p0")
    guarded.ask("admin", "HSET", f"tocsin:{STATION}-2:{{p0}}:head", "seq", "1")
    for key in ("sources", "{p0}:head"):
        with pytest.raises(Refused):
            guarded.ask(role, "HGET", f"tocsin:{STATION}-2:{key}", "s")


def test_only_the_admin_loads_the_functions(guarded: Guarded) -> None:
    """Who may not load them says which are missing and who may; once they are there all go on."""
    guarded.ask("admin", "FUNCTION", "FLUSH")
    link = connect(guarded.redis("ingest"), "test")
    with pytest.raises(MayNotLoad, match="not loaded, and only the user `admin`"):
        load_library(link)
    mighty = connect(guarded.redis("admin"), "test")
    load_library(mighty)
    load_library(link)
    link.close()
    mighty.close()


def test_a_refusal_names_the_user_and_what_it_wanted(guarded: Guarded) -> None:
    """Who has the wrong user reads as whom it came, what was refused, and what to do."""
    link = connect(guarded.redis("reader"), "test")
    with pytest.raises(Exception, match=r"guarded-reader.*HSET.*tocsin:guarded:sources") as error:
        link.call("HSET", "tocsin:guarded:sources", "secret-field", "secret-value")
    assert "secret" not in str(error.value)
    assert "redis.username" in str(error.value)
    link.close()


def test_a_wrong_password_says_so_and_never_the_password(guarded: Guarded) -> None:
    """The message names the server and the user; what was tried stays unsaid."""
    redis = msgspec.structs.replace(guarded.redis("reader"), password="a-wrong-guess")
    link = connect(redis, "test")
    with pytest.raises(Unreachable) as error:
        link.call("PING")
    assert "a-wrong-guess" not in f"{error.value!r} {error.value.detail} {redis!r}"
    assert str(guarded.port) in error.value.detail


def test_the_acl_file_holds_no_password() -> None:
    """Only hashes: who reads the file cannot log in by it."""
    text = acl_file(STATION, {role: f"the-password-of-{role}" for role in ROLES})
    assert "the-password-of" not in text
    assert text.startswith("user default off ")
    assert re.findall(r"^user (\S+) on #[0-9a-f]{64} ", text, re.MULTILINE) == [
        user_name(STATION, role) for role in ROLES
    ]


def test_what_functions_wrote_is_there_after_a_restart(guarded: Guarded) -> None:
    """A server reads its file by the default user's rights: nobody logs in as it, and it has all of them."""
    two = "redis.call('SET', KEYS[1], 1) redis.call('SET', KEYS[2], 2)"
    keys = ("tocsin:guarded:one", "tocsin:guarded:two")
    guarded.ask("admin", "EVAL", two, 2, *keys)
    guarded.ask("admin", "DEBUG", "LOADAOF")
    assert guarded.ask("admin", "MGET", *keys) == ["1", "2"]
    for login in (("", ""), ("default", ""), ("default", "x")):
        with pytest.raises(Refused):
            ask(guarded.port, login, "GET", keys[0], timeout=2)


def test_a_server_that_would_leave_out_what_functions_wrote_is_refused(guarded: Guarded) -> None:
    """As the admin, and told what to change; a Valkey that reads all of its file may have it as it likes."""
    link = connect(guarded.redis("admin"), "test")
    link.call("ACL", "SETUSER", "default", "off", "-@all", "resetkeys")
    try:
        version = describe(link)
        assert version.forgets is (version.product == "redis")
        if version.forgets:
            with pytest.raises(WrongServer, match=r"ACL SETUSER default off resetpass \+@all ~\* &\*"):
                check_server(link)
    finally:
        link.call("ACL", "SETUSER", "default", *UNUSED.split())
    assert not check_server(link).forgets
    link.close()
