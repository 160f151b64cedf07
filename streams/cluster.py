"""Which primary of a Redis Cluster serves a slot: asked of every node, believed from a majority.

Each node tells by CLUSTER NODES how it sees the whole. For each slot the claim with the highest
config epoch wins, as among the nodes themselves, and a majority of the primaries must have answered:
a primary that is cut off claims its slots until it notices.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from redis.crc import key_slot
from redis.exceptions import RedisError

from streams.connection import open_connection
from streams.sentinel import ASK_TIMEOUT, Address, NoPrimary
from streams.settings import RedisSection
from streams.tls import encrypted

SLOTS = 16384
"""Slots of every cluster."""
NOBODY = -1
ROUNDS = 3
"""How often nodes are asked: the seeds, then whom they name, then whom those name."""

_known: dict[tuple[str, ...], frozenset[Address]] = {}
"""The nodes last seen, by the seeds: those that were configured may be gone long since."""


class NoMajority(NoPrimary):
    """Raised when no majority of the primaries answers."""

    fault = "NOMAJORITY"


class Electing(NoPrimary):
    """Raised while a primary has failed and none of its replicas is elected yet, or no node owns the slot."""

    fault = "ELECTING"


class Claim(NamedTuple):
    """What a node sees of one primary: its config epoch, where it is, and one range of its slots."""

    epoch: int
    address: Address
    first: int
    last: int


class View(msgspec.Struct, frozen=True):
    """How the node `id` sees the cluster; `failing` are those it cannot reach, or that have failed."""

    id: str
    node: Address
    claims: frozenset[Claim]
    failing: frozenset[Address]
    nodes: frozenset[Address]

    def content_with(self, address: Address) -> bool:
        """Whether it sees a primary in `address`, and no trouble with it."""
        return address not in self.failing and any(claim.address == address for claim in self.claims)


class Layout:
    """Which primary owns which slots, by the claims of all views; `silent`: why other nodes told nothing."""

    def __init__(self, views: Sequence[View], silent: Mapping[Address, str] | None = None) -> None:
        self.silent = silent or {}
        claims = sorted({claim for view in views for claim in view.claims})
        self._addresses = list(dict.fromkeys(claim.address for claim in claims))
        number = {address: index for index, address in enumerate(self._addresses)}
        owners = [NOBODY] * SLOTS
        for claim in claims:
            count = claim.last + 1 - claim.first
            owners[claim.first : claim.last + 1] = [number[claim.address]] * count
        self._owners = owners
        owning = set(owners) - {NOBODY}
        self.primaries = tuple(sorted(self._addresses[index] for index in owning))
        self.views = list({view.id: view for view in views if view.node in self.primaries}.values())
        """The views of the primaries: only they vote, and each once, by however many names it was asked."""
        self.nodes = frozenset[Address]().union(*(view.nodes for view in views))
        doubted = Counter(address for view in self.views for address in view.failing)
        self.failed = frozenset(address for address, count in doubted.items() if count >= self.majority)

    @property
    def majority(self) -> int:
        """How many primaries make a majority."""
        return len(self.primaries) // 2 + 1

    @property
    def settled(self) -> bool:
        """Whether a majority of the primaries has said how it sees the cluster."""
        return bool(self.primaries) and len(self.views) >= self.majority

    @property
    def uncovered(self) -> int:
        """How many slots nobody owns."""
        return self._owners.count(NOBODY)

    def owner(self, slot: int) -> Address:
        """The primary of the slot; raises Electing where it has failed, or there is none."""
        index = self._owners[slot]
        if index == NOBODY:
            raise Electing(f"no node of the cluster owns slot {slot}")
        owner = self._addresses[index]
        if owner in self.failed:
            raise Electing(f"{owner}, the primary of slot {slot}, has failed; no replica is elected yet")
        return owner


def slot_of(key: str | bytes) -> int:
    """The slot of a key: of what stands between its first braces, where it has any."""
    return int(key_slot(key.encode() if isinstance(key, str) else key))


def primary_of(redis: RedisSection, slot: int) -> Address:
    """The primary that serves the slot; raises NoMajority, Electing."""
    return layout(redis).owner(slot)


def layout(redis: RedisSection) -> Layout:
    """The cluster as a majority of its primaries sees it; raises NoMajority where none answers."""
    found = look(redis, lambda found: found.settled)
    if not found.settled:
        why = "; ".join(f"{node}: {error}" for node, error in sorted(found.silent.items()))
        raise NoMajority(
            f"{len(found.views)} of {len(found.primaries) or 'all'} primaries of the cluster answered; "
            f"a majority is needed ({why or ', '.join(redis.cluster)})"
        )
    return found


def look(redis: RedisSection, enough: Callable[[Layout], bool] = lambda found: False) -> Layout:
    """The cluster as those nodes see it that answer now, be they a majority or not.

    Once what was answered is `enough` the others are not waited for: one of them may be silent.
    """
    seeds = {_address(seed) for seed in redis.cluster}
    asked, unasked = set[Address](), seeds | _known.get(redis.cluster, frozenset())
    views: list[View] = []
    silent: dict[Address, str] = {}
    found = Layout(views)
    for _ in range(ROUNDS):
        earlier = list(views)
        told = ask(unasked, redis, lambda later: enough(Layout([*earlier, *later])))  # noqa: B023  # asked now
        for node, view in told.items():
            if isinstance(view, View):
                views.append(view)
            else:
                silent[node] = view
        found = Layout(views, silent)
        asked |= unasked
        unasked = set(found.primaries) - asked
        if enough(found) or not unasked:
            break
    if found.settled:
        _known[redis.cluster] = found.nodes
    return found


def confirmed(redis: RedisSection, address: Address) -> bool:
    """Whether a majority of the primaries, also of those that are silent, is content with `address`."""

    def content(found: Layout) -> bool:
        some = [view for view in found.views if view.content_with(address)]
        return address in found.primaries and len(some) >= found.majority

    return content(look(redis, content))


def ask(
    nodes: Iterable[Address], redis: RedisSection, enough: Callable[[list[View]], bool] = lambda views: False
) -> dict[Address, View | str]:
    """What the nodes answer within ASK_TIMEOUT, asked at the same time: a view, or why there is none.

    Once the views are `enough`, the other nodes are left out.
    """
    told: dict[Address, View | str] = {}
    asked = set(nodes)
    changed = threading.Condition()

    def one(node: Address) -> None:
        view = _view(node, redis)
        with changed:
            told[node] = view
            changed.notify()

    # No pool: its threads could not be had any more while a process ends, and would be waited for.
    for node in asked:
        threading.Thread(target=one, args=(node,), daemon=True).start()
    with changed:
        changed.wait_for(
            lambda: (
                len(told) == len(asked) or enough([view for view in told.values() if isinstance(view, View)])
            )
        )
        return dict(told)


def _view(node: Address, redis: RedisSection) -> View | str:
    connection = open_connection(node, redis)
    connection.socket_connect_timeout = connection.socket_timeout = ASK_TIMEOUT
    try:
        connection.connect()
        connection.send_command("CLUSTER", "NODES")
        return parse(connection.read_response().decode(), node, by_name=encrypted(redis))
    except (RedisError, OSError, ValueError, AttributeError) as error:
        return str(error) or type(error).__name__
    finally:
        connection.disconnect()


def parse(text: str, asked: Address, *, by_name: bool = False) -> View:
    """What a node answered to CLUSTER NODES; it may not know its own address and says none then.

    `by_name` prefers the names that nodes announce to their addresses: certificates hold for names.
    """
    me, node, claims, failing, nodes = "", asked, set(), set(), set()
    for line in text.splitlines():
        id, where, marks, _, _, _, epoch, _, *ranges = line.split(" ")
        flags = set(marks.split(","))
        if flags & {"noaddr", "handshake"}:
            continue
        at, name, *_ = [*where.split(","), ""]
        host, _, port = at.split("@")[0].rpartition(":")
        address = Address((by_name and name) or host or asked.host, int(port))
        nodes.add(address)
        if "myself" in flags:
            me, node = id, address
        if flags & {"fail", "fail?"}:
            failing.add(address)
        if "master" not in flags:
            continue
        for some in ranges:
            if not some.startswith("["):  # a slot on its way: it is its owner's until it has arrived
                first, _, last = some.partition("-")
                claims.add(Claim(int(epoch), address, int(first), int(last or first)))
    return View(me, node, frozenset(claims), frozenset(failing), frozenset(nodes))


def _address(seed: str) -> Address:
    host, _, port = seed.rpartition(":")
    return Address(host, int(port))
