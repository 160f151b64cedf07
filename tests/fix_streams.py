"""A station's hall on a real server: settings, a key, links, the server-side functions, and owners."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import msgspec
import pytest

from streams.admission import Task
from streams.audit import Verdict, head_of, verify
from streams.connection import Link, Unreachable, connect
from streams.drafts import Draft, Post
from streams.durability import Prover
from streams.handler import Result
from streams.history import Archive
from streams.lease import Lease, acquire
from streams.library import load_library
from streams.messages import GENESIS, Answer, Durability, Logged, canonical, digest, new_command
from streams.names import LaneKeys, StationKeys
from streams.replay import replay, stored
from streams.settings import KeysSection, RedisSection, Settings, StationSection
from streams.signing import Key, create_key
from streams.submit import InDoubt, NoAnswer, Signed, Submitter, signed
from streams.worker import LaneWorker

LANE = "p0"
DONE = Result(outcome="completed", state="running")
DUMP = """
local found = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do
  found[#found + 1] = key
  found[#found + 1] = redis.call('DUMP', key)
end
return found
"""
ROLL_BACK = """
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do redis.call('DEL', key) end
for index = 4, #ARGV, 2 do redis.call('RESTORE', ARGV[index], 0, ARGV[index + 1]) end
redis.call('PEXPIRE', ARGV[2], ARGV[3])
local time = redis.call('TIME')
return time[1] * 1000 + math.floor(time[2] / 1000)
"""


class Hall:
    """One station with an id of its own on a server that others use too; its lane is p0, unless told."""

    def __init__(
        self, redis: RedisSection, folder: Path, durability: Durability | None = None, lane: str = LANE
    ) -> None:
        self.settings = Settings(
            station=StationSection(id=f"t-{uuid4().hex[:20]}", durability=durability),
            redis=redis,
            keys=KeysSection(directory=str(folder / "keys")),
        )
        self.key = create_key(folder / "keys", "operator", "engineer")
        self.keyring: dict[str, Key] = {self.key.id: self.key}
        self.station = StationKeys(self.settings.station.id)
        self.lane = lane
        self.keys: LaneKeys = self.station.lane(lane)
        self._links: list[Link] = []
        self.link = self.new_link()
        load_library(self.link)

    def new_link(self, name: str = "test", redis: RedisSection | None = None) -> Link:
        """Another link; it is closed at the end of the test."""
        link = connect(redis or self.settings.redis, name)
        self._links.append(link)
        return link

    def submitter(self, prover: Prover | None = None) -> Submitter:
        """A submitter with a link of its own."""
        return Submitter(self.settings, self.new_link("submit"), prover)

    def command(
        self, type: str = "source.start", source: str = "kwfm", *, key: Key | None = None, **changes: Any
    ) -> Signed:
        """A signed command for the lane, `changes` made to it before it is signed."""
        signer = key or self.key
        command = new_command(
            station=self.settings.station.id,
            lane=self.lane,
            source=source,
            type=type,
            params={},
            key=signer.id,
        )
        return signed(msgspec.structs.replace(command, **changes), signer)

    def events(self) -> list[Logged]:
        """The lane's log as it stands."""
        return list(replay(self.link, self.keys))

    def results(self) -> dict[str, list[str]]:
        """Command id → the outcomes that the log holds for it, in order."""
        found: dict[str, list[str]] = {}
        for logged in self.events():
            if logged.event.type.startswith("command.") and logged.event.command:
                found.setdefault(logged.event.command, []).append(logged.event.type.split(".")[1])
        return found

    def verdict(self) -> Verdict:
        """What an audit says of the lane's log."""
        head = head_of(self.link, self.keys)
        return verify(self.lane, stored(self.link, self.keys), head)

    def waiting(self) -> int:
        """How many commands stand in the lane's stream, taken or not."""
        return int(self.link.call("XLEN", self.keys.commands))

    def all_keys(self) -> set[str]:
        """Every key on the server, whoever made it."""
        keys = set()
        for link in self.link.primaries():
            cursor = b"0"
            while True:
                cursor, found = link.call("SCAN", cursor, "COUNT", 1000)
                keys |= {key.decode() for key in found}
                if cursor == b"0":
                    break
        return keys

    def own_keys(self) -> set[str]:
        """Every key of this station."""
        return {key for key in self.all_keys() if key.startswith(self._prefix)}

    @property
    def _prefix(self) -> str:
        return self.station.meta.removesuffix("meta")

    def dump(self, link: Link | None = None) -> dict[str, bytes]:
        """All keys of the station as they are at one moment, to be compared, or to roll it back to."""
        found = (link or self.link).call("EVAL", DUMP, 0, self._prefix)
        return {key.decode(): value for key, value in zip(found[::2], found[1::2], strict=True)}

    def roll_back(self, dump: dict[str, bytes], link: Link | None = None, leased: float = 0.0) -> int:
        """Make the server one that never got what came after `dump`, as a failover may; connections end.

        The lease that was replicated last holds for `leased` seconds more; its time has passed, unless told.
        Returns when, in milliseconds, by the server's clock.
        """
        back = [part for entry in dump.items() for part in entry]
        moment, killed = (link or self.link).batch(
            [
                ("EVAL", ROLL_BACK, 0, self._prefix, self.keys.lease, int(leased * 1000), *back),
                ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
            ]
        )
        assert isinstance(moment, int), moment
        assert not isinstance(killed, Exception), killed
        return moment

    def lose_delivery(self) -> None:
        """Let the command that stands in the lane be one that was never delivered, as after a failover.

        Its owner's lease is one whose time has passed; connections end.
        """
        commands = self.keys.commands
        ((entry, _),) = self.link.call("XRANGE", commands, "-", "+")
        replies = self.new_link("failover").batch(
            [
                ("MULTI",),
                ("XACK", commands, "ingest", entry),
                ("XGROUP", "SETID", commands, "ingest", "0"),
                ("DEL", self.keys.lease),
                ("EXEC",),
                ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
            ]
        )
        assert not any(isinstance(reply, Exception) for reply in replies), replies
        self.link.close()

    def close(self) -> None:
        """Remove what the station left and close its links."""
        # Begun afresh: after a failover the old connection leads nowhere.
        self.link.close()
        self.link.batch([("UNLINK", key) for key in self.own_keys()])
        for link in self._links:
            link.close()


class Functions:
    """The server-side functions of one lane, called as they are: what they answer is not interpreted."""

    def __init__(self, hall: Hall) -> None:
        self.link = hall.link
        self.keys = hall.keys

    def submit(
        self, id: str, raw: bytes = b"{}", source: str = "kwfm", expected: int | str = "", client: str = ""
    ) -> Any:
        keys = self.keys
        (reply,) = self.link.call(
            "FCALL", "tocsin_submit", 4, keys.commands, keys.ids, keys.id_expiry, keys.sequence,
            id, digest(raw), source, raw, "signature", client, expected,
        )  # fmt: skip
        return reply

    def acquire(self, owner: str = "one", before: str = "") -> Lease:
        lease = acquire(self.link, self.keys, owner, before)
        assert isinstance(lease, Lease)
        return lease

    def take(self, fence: str, mode: str = "new", count: int = 100, consumer: str = "one") -> Any:
        keys = self.keys
        return self.link.call(
            "FCALL", "tocsin_take", 3, keys.lease, keys.commands, keys.ids, fence, consumer, count, mode
        )

    def append(
        self,
        lease: Lease,
        events: Sequence[bytes],
        settlements: Sequence[tuple[str, str, str, int]] = (),
        *,
        seq: int = 0,
        hash: str = GENESIS,
        fence: str | None = None,
        at_once: bool = False,
    ) -> Any:
        """Append events (their bytes) and settle (entry, id, answer, forget at in ms)."""
        keys = self.keys
        request: list[Any] = [lease.fence if fence is None else fence, seq, hash, lease.token, int(at_once)]
        request += [len(events), *(part for raw in events for part in (raw, digest(raw)))]
        request += [len(settlements), *(part for settlement in settlements for part in settlement)]
        return self.link.call(
            "FCALL", "tocsin_append", 8, keys.lease, keys.head, keys.events, keys.commands, keys.ids,
            keys.id_expiry, keys.parked, keys.archived, *request,
        )  # fmt: skip

    def raise_watermark(self, seq: int, hash: str, token: int, replication_id: str) -> Any:
        keys = self.keys
        return self.link.call(
            "FCALL", "tocsin_raise", 2, keys.head, keys.events, seq, hash, token, replication_id
        )

    def tail(self, after: int = 0, hash: str = GENESIS, count: int = 100) -> Any:
        return self.link.call(
            "FCALL_RO", "tocsin_tail", 2, self.keys.head, self.keys.events, after, hash, count
        )


class Scripted:
    """A handler that plays what the test gives it, and remembers what was asked of it."""

    summary = None

    def __init__(self, play: Callable[[Task], Result] = lambda task: DONE) -> None:
        self.play = play
        self.executed: list[Task] = []
        self.restored: list[list[Logged]] = []
        self.begun = 0
        self.ended = 0
        self.post: Post | None = None
        self._lock = threading.Lock()

    def restore(self, events: Iterator[Logged], known: bytes = b"") -> None:
        self.restored.append(list(events))

    def attempt(self, task: Task) -> Result | None:
        return None

    def begin(self, post: Post) -> None:
        self.begun += 1
        self.post = post

    def execute(self, task: Task) -> Result:
        with self._lock:
            self.executed.append(task)
        return self.play(task)

    def end(self) -> None:
        self.ended += 1


class Remembering(Scripted):
    """A handler whose memory is what it added: it adds a source at once, unless that is there already."""

    def __init__(self, before: Callable[[Task], None] = lambda task: None) -> None:
        super().__init__()
        self.before = before
        self.known: set[str] = set()

    def restore(self, events: Iterator[Logged], known: bytes = b"") -> None:
        super().restore(events, known)
        self.known = {one.event.source for one in self.restored[-1] if one.event.type == "source.added"}

    def attempt(self, task: Task) -> Result | None:
        self.before(task)
        command = task.command
        added = Draft(type="source.added", data={}, source=command.source, command=command.id)
        drafts = () if command.source in self.known else (added,)
        self.known.add(command.source)
        return Result(outcome="completed", state="stopped", drafts=drafts)


class Wire:
    """A way to a Redis server on which the next command of a name can be lost, or only its reply.

    Both ends see their connection break, as when a host on the way dies; or they see nothing at all.
    """

    def __init__(self, redis: RedisSection) -> None:
        host, port = redis.url.removeprefix("redis://").split("/")[0].split(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.redis = msgspec.structs.replace(
            redis, url=f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        )
        self._lock = threading.Lock()
        self._lose: tuple[bytes, str] | None = None
        self.lost = threading.Event()
        self._is_cut = threading.Event()
        self._is_silent = threading.Event()
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="wire")]
        self._threads[0].start()

    def lose(self, name: str, what: Literal["request", "reply"]) -> None:
        """Lose the next request that contains `name`, or the reply to it; `lost` is set when that is done."""
        with self._lock:
            self.lost.clear()
            self._lose = (name.encode(), what)

    def cut(self) -> None:
        """Break all connections; new ones break at once, until it is mended."""
        self._is_cut.set()
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def silence(self) -> None:
        """Swallow whatever is sent, also on new connections, until it is mended: no packet arrives."""
        self._is_silent.set()

    def mend(self) -> None:
        """Let connections through again; those on which something was swallowed break."""
        if self._is_silent.is_set():
            self.cut()
        self._is_silent.clear()
        self._is_cut.clear()

    def close(self) -> None:
        """Break all connections and take no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for end in self._open:
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._is_cut.is_set():
                client.close()
                continue
            try:
                server = socket.create_connection(self._server)
            except OSError:
                client.close()  # the server is down: so it looks from outside, too
                continue
            deaf = threading.Event()
            self._open += [client, server]
            for thread in (
                threading.Thread(target=self._carry, args=(client, server, deaf, True), name="wire"),
                threading.Thread(target=self._carry, args=(server, client, deaf, False), name="wire"),
            ):
                self._threads.append(thread)
                thread.start()

    def _carry(self, source: socket.socket, target: socket.socket, deaf: threading.Event, up: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(1 << 20):
                if self._is_silent.is_set():
                    continue
                what = self._loss_in(chunk) if up else ""
                if what == "request" or (not up and deaf.is_set()):
                    self.lost.set()
                    break
                if what == "reply":
                    deaf.set()
                target.sendall(chunk)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _loss_in(self, chunk: bytes) -> str:
        with self._lock:
            if self._lose is None or self._lose[0] not in chunk:
                return ""
            what, self._lose = self._lose[1], None
            return what


@contextmanager
def working(
    hall: Hall,
    handler: Any,
    *,
    node: str = "one",
    prover: Prover | None = None,
    wait: bool = True,
    redis: RedisSection | None = None,
    archive: Archive | None = None,
) -> Iterator[LaneWorker]:
    """Own the hall's lane meanwhile, in a thread of this process, reaching the server by `redis`."""
    worker = LaneWorker(
        msgspec.structs.replace(hall.settings, redis=redis or hall.settings.redis),
        hall.lane,
        node,
        handler,
        keyring=lambda: hall.keyring,
        prover=prover or Prover(hall.settings.redis),
        archive=archive,
    )
    stop = threading.Event()
    thread = threading.Thread(target=worker.run, args=(stop,), name=f"owner-{node}")
    thread.start()
    try:
        if wait:
            assert worker.owned.wait(30), "the lane was not acquired"
        yield worker
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive(), "the owner did not end"


def insist(submitter: Submitter, command: Signed, patience: float = 40.0) -> Answer:
    """Submit until there is an answer, as a patient operator does: always the same bytes."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return submitter.submit(command, timeout=2)
        except (InDoubt, NoAnswer, Unreachable) as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"no answer to {command.command.id} in {patience:g} s") from error
            time.sleep(0.05)


def chain(count: int, *, token: int = 1, first: int = 1, prev: str = GENESIS, **data: Any) -> list[bytes]:
    """The bytes of `count` events that follow one another."""
    raws: list[bytes] = []
    for seq in range(first, first + count):
        raw = canonical(
            {
                "seq": seq, "prev": prev, "token": token, "at": "2026-01-01T00:00:00Z",
                "logged_at": "2026-01-01T00:00:00Z", "node": "one", "type": "source.running",
                "data": data, "schema": 1, "source": "kwfm",
            }
        )  # fmt: skip
        raws.append(raw)
        prev = digest(raw)
    return raws


@pytest.fixture
def hall(valkey_server: RedisSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hall]:
    """A station on this worker's Valkey; the test fails when it leaves a key without the station's prefix."""
    # Only patience: how often an owner looks whether it is to stop, and a submitter whether it has an answer.
    monkeypatch.setattr("streams.worker.IDLE", 0.2)
    monkeypatch.setattr("streams.submit.ASK_AGAIN", 0.2)
    made = Hall(valkey_server, tmp_path)
    before = made.all_keys()
    yield made
    foreign = made.all_keys() - before - made.own_keys()
    made.close()
    assert not foreign, f"keys without the station's prefix: {sorted(foreign)}"


@pytest.fixture
def wire(valkey_server: RedisSection) -> Iterator[Wire]:
    """A way to this worker's Valkey that can lose requests and replies."""
    made = Wire(valkey_server)
    yield made
    made.close()


@pytest.fixture
def functions(hall: Hall) -> Functions:
    """The server-side functions of the hall's lane."""
    return Functions(hall)
