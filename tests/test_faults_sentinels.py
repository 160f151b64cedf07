"""Sentinels that lie, are stale or gone; and how soon readers are at the new primary."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from control.desk import Desk, Wish
from control.station import sentinel, valkey
from control.station.ask import NoAnswer, Refused, ask
from control.station.process import end
from streams.connection import REPLY_TIMEOUT, Link, Unreachable, connect
from streams.faults import FAULTS
from streams.lease import Lease, acquire, new_nonce
from streams.messages import digest
from streams.primary_watch import PrimaryWatch
from streams.sentinel import Address, NoPrimary, Opinion, chosen, primary_address
from streams.sentinel import ask as ask_sentinels
from streams.settings import RedisSection
from tests.fix_reader import Reader, check_whole
from tests.fix_servers import PASSWORD, Trio, eventually, on_free_port
from tests.fix_streams import Hall, Scripted, chain, insist, working

OLD, NEW, FOREIGN = (Address(f"10.0.0.{host}", 6379) for host in (1, 2, 9))
THREE = RedisSection(sentinels=("a:1", "b:2", "c:3"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only patience: how soon a listener sees that nobody follows any more, or tries again."""
    monkeypatch.setattr("streams.primary_watch.QUIET", 0.3)
    monkeypatch.setattr("streams.primary_watch.LONGEST", 0.5)
    monkeypatch.setattr("streams.primary_watch.INSIST", 0.5)


def opinion(address: Address, epoch: int, *flags: str, replicas: tuple[Address, ...] = ()) -> Opinion:
    return Opinion(address, epoch, frozenset({"master", *flags}), frozenset(replicas))


def test_a_minority_that_names_another_is_not_believed() -> None:
    """A content majority decides, whatever epoch the third one claims."""
    content = [opinion(OLD, 1, replicas=(NEW,)), opinion(OLD, 1, replicas=(NEW,))]
    for liar in (opinion(FOREIGN, 99), opinion(NEW, 99, replicas=(OLD,))):
        assert chosen([liar, *content], THREE) == OLD


def test_the_highest_epoch_wins_while_a_failover_is_going_on() -> None:
    """The Sentinel that leads the failover still names the old one: the others need not wait for it."""
    leader = opinion(OLD, 1, "o_down", "failover_in_progress", replicas=(NEW,))
    follower = opinion(NEW, 2, replicas=(OLD,))
    assert chosen([leader, follower], THREE) == NEW
    assert chosen([leader, follower, opinion(OLD, 1, "s_down", replicas=(NEW,))], THREE) == NEW


@pytest.mark.parametrize("leader_first", [True, False])
def test_the_leader_of_a_failover_names_the_old_one_in_the_new_epoch(leader_first: bool) -> None:
    """Its epoch is that of the others as soon as it has promoted; that it sees a fault tells them apart."""
    leader = opinion(OLD, 2, "o_down", "s_down", "failover_in_progress", replicas=(NEW,))
    said = [leader, opinion(NEW, 2, "disconnected", replicas=(OLD,))]
    assert chosen(said if leader_first else said[::-1], THREE) == NEW


def test_a_liar_is_not_believed_in_the_middle_of_a_failover_either() -> None:
    """The highest epoch counts only for a server that a majority knows as part of the set."""
    leader = opinion(OLD, 1, "o_down", "failover_in_progress", replicas=(NEW,))
    liar = opinion(FOREIGN, 99, replicas=(Address("10.0.0.8", 6379),))
    assert chosen([leader, opinion(NEW, 2, replicas=(OLD,)), liar], THREE) == NEW
    with pytest.raises(NoPrimary, match="contradict"):
        chosen([opinion(OLD, 1, "s_down"), liar], THREE)


def test_what_a_sentinel_may_not_tell_does_not_count_against_a_primary() -> None:
    """Where the replicas are not told, the epoch alone decides."""
    untold = Opinion(OLD, 1, frozenset({"master", "s_down"}), None)
    assert chosen([untold, opinion(NEW, 2, replicas=(OLD,))], THREE) == NEW


@contextmanager
def lone_sentinel(folder: Path, watching: int, epoch: int) -> Iterator[str]:
    """A real Sentinel that meets no other: it watches the server on port `watching`. Its address."""
    folder.mkdir()

    def start(port: int) -> tuple[valkey.Server, object, object]:
        server = valkey.Server("lone", folder, folder / "lone.log", port)
        sentinel.forget(server)
        launch = sentinel.launch(server, PASSWORD, watching)
        with (folder / "sentinel.conf").open("a") as file:
            file.write(f"sentinel config-epoch {sentinel.SERVICE} {epoch}\nsentinel current-epoch {epoch}\n")
        return server, launch, valkey.start(launch, port, PASSWORD)

    server, launch, process = on_free_port(start)
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        end(process, launch, hurry=True)  # type: ignore[arg-type]


def test_a_real_sentinel_that_watches_another_server_misleads_nobody(
    shared_trio: Trio, valkey_server: RedisSection, tmp_path: Path
) -> None:
    """It answers, with a higher epoch, and names a server that calls itself primary: the other two decide."""
    foreign = int(valkey_server.url.split(":")[2].split("/")[0])
    primary = Address("127.0.0.1", shared_trio.port(shared_trio.primary()))
    with lone_sentinel(tmp_path / "liar", foreign, 99) as liar:
        redis = msgspec.structs.replace(shared_trio.redis, sentinels=(liar, *shared_trio.redis.sentinels[1:]))
        said = {(one.address.port, one.epoch) for one in ask_sentinels(redis)}
        assert (foreign, 99) in said
        for _ in range(5):
            assert primary_address(redis) == primary
        link = connect(redis, "misled")
        assert link.call("PING") == b"PONG"
        assert link.address == primary
        only = msgspec.structs.replace(redis, sentinels=(liar, redis.sentinels[1], "127.0.0.1:1"))
        with pytest.raises(Unreachable, match=r"contradict|Sentinels") as caught:
            connect(only, "misled").call("PING")
        assert caught.value.fault is FAULTS["NOPRIMARY"]
        link.close()


def test_a_real_sentinel_that_missed_a_failover_misleads_nobody(shared_trio: Trio) -> None:
    """Back, it names the dead primary until the others have told it: nobody believes it for a moment.

    It is killed meanwhile, not paused: one that is paused has all announcements waiting when it wakes.
    """
    trio, redis = shared_trio, shared_trio.redis
    old = trio.primary()
    gone = Address("127.0.0.1", trio.port(old))
    alone = msgspec.structs.replace(redis, sentinels=redis.sentinels[2:])
    trio.kill("sentinel-3")
    trio.kill(old)
    new = Address("127.0.0.1", trio.port(trio.wait_for_other_primary(old)))
    others = msgspec.structs.replace(redis, sentinels=redis.sentinels[:2])
    # The one that led the failover is the first to know: until the other does, each has its word.
    eventually(lambda: [one.address for one in ask_sentinels(others)] == [new, new], "both name the new one")
    said: list[Address] = []
    back = threading.Thread(target=trio.restart, args=["sentinel-3"])
    back.start()
    while new not in said:
        said += [one.address for one in ask_sentinels(alone)]
        assert primary_address(redis) == new
    back.join()
    # On a busy machine the others may tell it before it is asked for the first time.
    print(f"it named the dead one {said.count(gone)} times")
    trio.restart(old)
    trio.wait_until_whole()


def test_a_link_to_a_server_that_leads_no_more_is_dropped_though_it_answers(
    shared_trio: Trio, valkey_server: RedisSection
) -> None:
    """It says `master` and is not the one that the Sentinels name: also a reader that blocks there leaves."""
    port = int(valkey_server.url.split(":")[2].split("/")[0])
    watch = PrimaryWatch(shared_trio.redis)
    link = Link(shared_trio.redis, "astray", lambda: Address("127.0.0.1", port), watch)
    told: list[Unreachable] = []
    began = time.monotonic()
    while not told and time.monotonic() - began < 20:
        try:
            # What is learned while it connects is told by the connection, and later by the read.
            link.call("XREAD", "BLOCK", 8_000, "STREAMS", "none", "0", timeout=8)
        except Unreachable as error:
            told.append(error)
    assert told[0].fault is FAULTS["SWITCHED"]
    assert time.monotonic() - began < 5

    def late() -> Address:
        watch._learned += 1  # as if another round had just told of another primary
        return Address("127.0.0.1", port)

    link = Link(shared_trio.redis, "astray", late, watch)
    with pytest.raises(Unreachable) as caught:
        link.call("PING")
    assert caught.value.fault is FAULTS["SWITCHED"]
    assert not caught.value.sent


def test_a_connection_that_is_being_made_to_a_silent_server_is_given_up(shared_trio: Trio) -> None:
    """A former primary that hangs takes connections and says nothing: nobody waits there for long."""
    watch = PrimaryWatch(shared_trio.redis)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = Address("127.0.0.1", silent.getsockname()[1])
        link = Link(shared_trio.redis, "astray", lambda: where, watch)
        began = time.monotonic()
        with pytest.raises(Unreachable) as caught:
            link.call("PING")
    assert caught.value.fault is FAULTS["SWITCHED"]
    assert not caught.value.sent
    assert time.monotonic() - began < REPLY_TIMEOUT - 0.5


@pytest.mark.parametrize(
    ("setting", "bad", "good", "code"),
    [("maxmemory", "1", "0", "OOM"), ("requirepass", "another", PASSWORD, "WRONGPASS")],
)
def test_what_only_a_person_can_mend_is_told_at_once(
    shared_trio: Trio, tmp_path: Path, setting: str, bad: str, good: str, code: str
) -> None:
    """A full primary, or another password, is no failover: nobody is kept waiting until the timeout."""
    hall, name = Hall(shared_trio.redis, tmp_path), shared_trio.primary()
    desk = Desk(hall.settings, tmp_path)
    shared_trio.ask(name, "CONFIG", "SET", setting, bad)
    try:
        began = time.monotonic()
        with pytest.raises(Unreachable) as caught:
            desk.submit(Wish(type="source.start", source="mic"), hall.lane, timeout=8)
        took = time.monotonic() - began
    finally:
        ask(
            shared_trio.port(name),
            PASSWORD if setting == "maxmemory" else bad,
            "CONFIG",
            "SET",
            setting,
            good,
        )
    assert caught.value.fault is FAULTS[code]
    assert took < 3
    with working(hall, Scripted()):
        assert (
            desk.submit(Wish(type="source.start", source="mic"), hall.lane, timeout=20).outcome == "completed"
        )
    desk.close()
    hall.close()


def listeners(trio: Trio, name: str) -> int:
    """How many listen to the named Sentinel."""
    try:
        lines = str(trio.ask(name, "CLIENT", "LIST")).splitlines()
    except (NoAnswer, Refused):
        return 0
    return sum(" sub=1 " in line for line in lines)


def is_silent(trio: Trio) -> bool:
    """Whether nobody listens; links that are out of use may wait for the collector, and threads end late."""
    gc.collect()
    return not any(listeners(trio, one) for one in Trio.SENTINELS)


def test_all_sentinels_are_listened_to_while_there_are_links(shared_trio: Trio) -> None:
    """One connection to each for the whole process; a Sentinel that was away is heard again."""
    eventually(lambda: is_silent(shared_trio), "silence before")
    links = [connect(shared_trio.redis, f"link-{number}") for number in range(3)]
    for link in links:
        link.call("PING")
    eventually(lambda: all(listeners(shared_trio, one) == 1 for one in Trio.SENTINELS), "one ear each")
    shared_trio.kill("sentinel-2")
    links[0].close()
    assert links[0].call("PING") == b"PONG"
    shared_trio.restart("sentinel-2")
    eventually(lambda: listeners(shared_trio, "sentinel-2") == 1, "the Sentinel heard again")
    for link in links:
        link.close()
    del link
    links.clear()
    eventually(lambda: is_silent(shared_trio), "silence after")


class Event(NamedTuple):
    """The next event of a lane: its place, and the command that appends it."""

    seq: int
    hash: str
    append: tuple[str | int, ...]


def next_event(hall: Hall, fence: str = "") -> tuple[Event, str]:
    """The lane's next event, to be appended by whoever takes the lease now; and that one's fence."""
    taken: list[Lease] = []
    nonce = new_nonce()

    def takes() -> bool:
        # A Sentinel may tell of the change after the one that was asked had answered.
        with suppress(Unreachable):
            lease = acquire(hall.link, hall.keys, "plain", fence, nonce)
            assert isinstance(lease, Lease)
            taken.append(lease)
        return bool(taken)

    eventually(takes, "the lease taken")
    (lease,) = taken
    keys, seq = hall.keys, lease.head_seq + 1
    (raw,) = chain(1, token=lease.token, first=seq, prev=lease.head_hash)
    append = (
        *("FCALL", "tocsin_append", 8, keys.lease, keys.head, keys.events, keys.commands, keys.ids),
        *(keys.id_expiry, keys.parked, keys.archived, lease.fence, lease.head_seq, lease.head_hash),
        *(lease.token, 1, 1, raw.decode(), digest(raw), 0),
    )
    return Event(seq, digest(raw), append), lease.fence


def clients(trio: Trio, port: int, flag: str = "") -> set[str]:
    """The names of the server's clients, of those with the flag alone where one is given."""
    try:
        lines = str(ask(port, trio.password, "CLIENT", "LIST")).splitlines()
    except (NoAnswer, Refused):
        return set()
    facts = [dict(word.partition("=")[::2] for word in line.split()) for line in lines]
    return {one["name"].removeprefix("tocsin-") for one in facts if flag in one["flags"]}


class Plain:
    """A plain client that keeps appending an event to every server but one, to see when one takes it."""

    def __init__(self, trio: Trio, but: str, event: Event) -> None:
        self._ports = [trio.port(name) for name in trio.NAMES if name != but]
        self._append = event.append
        self.writable_at = 0.0
        self.port = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="plain")

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            for port in self._ports:
                try:
                    told = ask(port, PASSWORD, *self._append)
                except (NoAnswer, Refused):
                    continue
                assert told[0] == "ok"
                self.port, self.writable_at = port, time.monotonic()
                return

    def __enter__(self) -> Plain:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)


def take_away(trio: Trio, how: str) -> None:
    """The primary goes: it is killed, falls silent with its host, or is asked to make way."""
    old = trio.primary()
    if how == "killed":
        trio.kill(old)
    elif how == "silent with its host":
        # Its Sentinel is on the same host: nobody is told that either of them is gone.
        trio.pause("sentinel-1")
        trio.pause(old)
    else:
        trio.ask("sentinel-1", "SENTINEL", "FAILOVER", sentinel.SERVICE, "COORDINATED")


def give_back(trio: Trio, how: str, old: str) -> None:
    """What was taken away comes back, and follows."""
    if how == "killed":
        trio.restart(old)
    elif how == "silent with its host":
        trio.resume("sentinel-1")
        trio.resume(old)
    trio.wait_until_whole()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "silent with its host", "switched over"])
def test_blocked_readers_go_on_within_a_second(
    sentinel_trio: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Readers and an owner that block on a primary that dies, falls silent or is demoted go on at the next.

    A reader has the first event within a second of its being taken there; nobody loses or repeats a
    message. Best of three rounds: a machine may be busy.
    """
    if how == "switched over" and "valkey_version" not in str(
        sentinel_trio.ask("sentinel-1", "INFO", "server")
    ):
        pytest.skip("only Valkey 9 and newer have the coordinated form")
    monkeypatch.setattr("streams.worker.IDLE", 5.0)
    trio = sentinel_trio
    # At `memory`, so that what is measured is finding the way and not waiting for proofs.
    hall = Hall(trio.redis, tmp_path, durability="memory")
    followed = Hall(trio.redis, tmp_path / "followed", durability="memory")
    names = ["tail-0", "tail-1", "tail-2"]
    commands = [hall.command(source=f"s{number}") for number in range(5)]
    rounds: list[float] = []
    with ExitStack() as stack:
        stack.enter_context(working(hall, Scripted()))
        audit = stack.enter_context(Reader(hall))
        readers = [stack.enter_context(Reader(followed, block=20.0, name=name)) for name in names]
        for command in commands:
            insist(hall.submitter(), command)
        fence = ""
        while min(rounds, default=9.0) >= 1 and len(rounds) < 3:
            # Given readers and an owner that block on the primary,
            event, fence = next_event(followed, fence)
            old = trio.primary()
            trio.ask(old, "WAIT", 2, 1000)
            eventually(lambda: clients(trio, trio.port(old), "b") >= {"one-p0-take", *names}, "blocked")  # noqa: B023
            # if it goes, while somebody appends as soon as another one takes it,
            with Plain(trio, old, event) as plain:
                take_away(trio, how)
                # Two Sentinels may split their votes, and try again only after twice the failover's timeout.
                eventually(lambda: all(one.read[-1:] == [event[:2]] for one in readers), "the event read", 60)  # noqa: B023
            # I expect that each reader has it soon, and that the owner is there.
            late = {name: one.read_at - plain.writable_at for name, one in zip(names, readers, strict=True)}
            eventually(lambda: "one-p0-take" in clients(trio, plain.port), "the owner there")
            late["owner"] = time.monotonic() - plain.writable_at
            print(f"{how}: {', '.join(f'{name} {seconds:.2f} s' for name, seconds in late.items())}")
            rounds.append(max(late.values()))
            give_back(trio, how, old)
        assert min(rounds) < 1
        commands.append(hall.command(source="after"))
        assert insist(hall.submitter(), commands[-1]).outcome == "completed"
        hall.link.close()
        check_whole(hall, [one.command.id for one in commands], audit)
        for reader in readers:
            assert [seq for seq, _ in reader.read] == list(range(1, len(rounds) + 1))
            reader.stop.set()
        followed.link.close()
        event, _ = next_event(followed, fence)
        followed.link.call(*event.append)  # wakes the readers, to end
    hall.close()
    followed.close()
