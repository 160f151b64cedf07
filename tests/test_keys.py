"""Keys by themselves: what a log says of them, what may be signed with them, and what becomes of commands."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from control import keys
from control.keys import Change
from control.tokens import read_token, token_of
from streams import keybook, memberships
from streams.admission import Delivery, Refusal, Task, admit
from streams.authority import forbidden
from streams.handler import Result
from streams.key_messages import KeyCreate, KeyParams, KeyRevoke, KeyRotate
from streams.keybook import Keybook
from streams.messages import Command, Event, digest, new_command, now
from streams.names import STATION_LANE
from streams.signing import Key, Role, halves, new_key, of_secret, sign
from streams.submit import signed
from streams.vocabulary import STATION_COMMANDS, plain

CHIEF = new_key("chief", "engineer")
FIRST = msgspec.structs.replace(new_key("first", "engineer", "ed25519"), sources=("west-*",))
FILES = {CHIEF.id: CHIEF, FIRST.id: FIRST}


def command(key: str, type: str = "source.start", source: str = "west-1", **more: Any) -> Command:
    lane = STATION_LANE if type in STATION_COMMANDS else "node.local"
    given = {"params": {}, **more}
    return new_command(
        station="station",
        lane=lane,
        source="" if lane == STATION_LANE else source,
        type=type,
        key=key,
        **given,
    )


def task(made: Command) -> Task:
    delivery = Delivery(
        entry="1-1", raw=b"", signature="", id=made.id, client="", sequence=1, deliveries=1, mark="",
        received_at=now(),
    )  # fmt: skip
    return Task(command=made, delivery=delivery, cancelled=threading.Event())


def told(change: Change | Result) -> tuple[str, str | None]:
    if isinstance(change, Result):
        return change.outcome, change.reason
    return change.state, None


class Registry:
    """A station's keys, changed by commands as its lane changes them, and by the log alone beside it."""

    def __init__(self) -> None:
        self.book: Keybook = {}
        self.logged: Keybook = {}

    def do(self, asked: KeyParams, by: str = "chief") -> tuple[str, str | None]:
        change = keys.decide(self.book, FILES, task(command(by)), asked)
        if isinstance(change, Change):
            for draft in change.drafts:
                event = Event(
                    seq=1, prev="", token=1, at=now(), logged_at=now(), node="n", type=draft.type,
                    data=msgspec.json.decode(msgspec.json.encode(draft.data)), schema=1,
                )  # fmt: skip
                self.logged = keybook.fold(self.logged, event)
            self.book = change.book
            assert keybook.usable(self.book, FILES) == keybook.usable(self.logged, FILES)
        return told(change)

    def create(self, id: str, role: Role = "operator", **limits: Any) -> Key:
        made = new_key(id, role, "ed25519")
        assert self.do(KeyCreate(id=id, public=made.public, role=role, **limits)) == ("created", None)
        return made

    def verdict(self, made: Command, key: Key, *, later: float = 0.0) -> str | None:
        """Why a lane would refuse it so many seconds from now; None where it would not."""
        one = signed(made, key)
        delivery = Delivery(
            entry="1-1", raw=one.raw, signature=one.signature, id=made.id, client="", sequence=1,
            deliveries=1,
            mark=f"{digest(one.raw)} 1 1-1 ", received_at=now(),
        )  # fmt: skip
        verdict = admit(
            delivery, keyring=keybook.usable(self.book, FILES), station="station", lane=made.lane,
            time=now() + timedelta(seconds=later),
        )  # fmt: skip
        return verdict.reason if isinstance(verdict, Refusal) else None


@pytest.fixture
def registry() -> Iterator[Registry]:
    return Registry()


def test_a_key_signs_from_its_creation_to_its_revocation(registry: Registry) -> None:
    """Before it is created nobody knows it, then it may what its role may, and afterwards nothing."""
    alice = new_key("alice", "operator", "ed25519")
    assert registry.verdict(command("alice"), alice) == "unknown_key"
    registry.do(KeyCreate(id="alice", public=alice.public, role="operator"))
    assert registry.verdict(command("alice"), alice) is None
    assert registry.verdict(command("alice", "source.remove"), alice) == "unauthorised"
    assert registry.do(KeyRevoke(id="alice", reason="left")) == ("revoked", None)
    assert registry.verdict(command("alice"), alice) == "unknown_key"


def test_a_rotated_key_verifies_by_both_halves_for_a_while(registry: Registry) -> None:
    """What the old half signed is accepted for as long as was said, and only the new one after it."""
    old = registry.create("alice")
    new = new_key("alice", "operator", "ed25519")
    assert registry.do(KeyRotate(id="alice", public=new.public, grace=30.0)) == ("rotated", None)
    made = command("alice", validity=timedelta(hours=1))
    assert registry.verdict(made, new) is None
    assert registry.verdict(made, old, later=25) is None
    assert registry.verdict(made, old, later=31) == "bad_signature"
    assert registry.verdict(made, new, later=31) is None


def test_a_command_about_keys_twice_is_one(registry: Registry) -> None:
    """Whatever is delivered again is completed again, and nothing more is logged of it."""
    alice, turned = registry.create("alice"), new_key("alice", "operator", "ed25519")
    asked: list[KeyParams] = [
        KeyCreate(id="alice", public=alice.public, role="operator"),
        KeyRotate(id="alice", public=turned.public),
        KeyRevoke(id="alice"),
    ]
    for one in asked:
        first = registry.do(one)
        again = keys.decide(registry.book, FILES, task(command("chief")), one)
        assert isinstance(again, Change)
        assert (again.state, again.drafts) == (first[0], ())


def test_ids_and_halves_are_used_once(registry: Registry) -> None:
    """Neither the id of a key that is or was, nor of a file, nor another key's public half is taken."""
    alice = registry.create("alice")
    other = new_key("bob", "operator", "ed25519")
    for id, public in (("alice", other.public), ("chief", other.public), ("bob", alice.public)):
        asked = KeyCreate(id=id, public=public, role="operator")
        assert registry.do(asked) == ("rejected", "key_exists")
    registry.do(KeyRevoke(id="alice"))
    assert registry.do(KeyCreate(id="alice", public=other.public, role="operator")) == (
        "rejected",
        "key_exists",
    )
    assert registry.do(KeyRotate(id="alice", public=other.public)) == ("rejected", "revoked")


def test_nobody_locks_everybody_out(registry: Registry) -> None:
    """The last key that may manage keys is not revoked; a limited engineer does not count as another."""
    assert registry.do(KeyRevoke(id="chief")) == ("rejected", "last_key")
    registry.create("west", "engineer", sources=("west-*",))
    assert registry.do(KeyRevoke(id="chief")) == ("rejected", "last_key")
    registry.create("deputy", "engineer")
    assert registry.do(KeyRevoke(id="chief")) == ("revoked", None)
    assert keybook.usable(registry.book, FILES).keys() == {"first", "west", "deputy"}


def test_a_key_in_a_file_is_rotated_into_the_log(registry: Registry) -> None:
    """With its role and its limits; its file verifies for the grace, and then only what the log says."""
    new = new_key("first", "engineer", "ed25519")
    assert registry.do(KeyRotate(id="first", public=FIRST.public)) == ("rejected", "invalid_params")
    assert registry.do(KeyRotate(id="first", public=new.public, grace=30.0)) == ("rotated", None)
    made = command("first", "source.remove", validity=timedelta(hours=1))
    assert registry.verdict(made, new) is None
    assert registry.verdict(made, FIRST, later=25) is None
    assert registry.verdict(made, FIRST, later=31) == "bad_signature"
    again = new_key("first", "engineer", "ed25519")
    assert registry.do(KeyRotate(id="first", public=again.public, grace=0.0)) == ("rotated", None)
    known = keybook.usable(registry.book, FILES)["first"]
    assert (known.role, known.sources) == (FIRST.role, FIRST.sources)
    assert halves(known) == (again.public, new.public, FIRST.public)


def test_a_shared_secret_is_not_rotated_by_command(registry: Registry) -> None:
    """The log cannot hold another secret for it, and says what to do instead."""
    public = new_key("chief", "engineer", "ed25519").public
    assert registry.do(KeyRotate(id="chief", public=public)) == ("rejected", "shared_secret")
    assert registry.do(KeyRevoke(id="nobody")) == ("rejected", "unknown_key")


@pytest.mark.parametrize(
    ("type", "source", "may"),
    [
        ("source.start", "west-1", True),
        ("source.start", "north", True),
        ("source.start", "east-1", False),
        ("source.start", "tower", True),
        ("source.add", "west-9", True),
        ("parked.drop", "", False),
        ("key.revoke", "", False),
    ],
)
def test_limits_hold_for_sources_and_groups(type: str, source: str, may: bool) -> None:
    """A limited key may what its role may for its own sources, and nothing that concerns the station."""
    west = Key(
        id="west", algorithm="ed25519", role="engineer", sources=("west-*", "north"), groups=("coast",)
    )  # fmt: skip
    made = Event(
        seq=1, prev="", token=1, at=now(), logged_at=now(), node="n", type="group.created", schema=1,
        data={"group": "coast", "members": ["tower", "pier"], "name": "Coast"},
    )  # fmt: skip
    groups = memberships.by_source(memberships.fold({}, made))
    assert (forbidden(west, command("west", type, source), lambda one: groups.get(one, ())) is None) is may
    gone = msgspec.structs.replace(made, type="group.removed")
    assert memberships.fold(memberships.fold({}, made), gone) == {}


def test_a_limited_key_acknowledges_what_is_its_own() -> None:
    """An acknowledgement is for the episode's subject: within the limits it passes, beyond it does not."""
    west = Key(id="west", algorithm="ed25519", role="operator", sources=("west-*",))
    for subject, may in (("west-1", True), ("east-1", False)):
        asked = command(
            "west", "condition.acknowledge", params={"episode": 1, "rule": "silence", "subject": subject}
        )
        assert (forbidden(west, asked) is None) is may


def test_whoever_has_a_key_may_replace_it_and_no_other() -> None:
    """Any role rotates its own key, within any limits; another's only an engineer."""
    viewer = Key(id="viewer", algorithm="ed25519", role="viewer", sources=("a",))
    assert forbidden(viewer, command("viewer", "key.rotate", params={"id": "viewer"})) is None
    assert forbidden(viewer, command("viewer", "key.rotate", params={"id": "chief"})) is not None
    assert forbidden(CHIEF, command("chief", "key.rotate", params={"id": "viewer"})) is None


def test_events_that_are_not_understood_change_nothing() -> None:
    """A foreign or broken event about keys is passed over, and no key comes of it."""
    for type, data in (
        ("key.created", {"id": "x"}), ("key.rotated", {"id": "x", "until": "soon"}), ("key.revoked", {}),
        ("key.lent", {"id": "x"}),
    ):  # fmt: skip
        event = Event(
            seq=1, prev="", token=1, at=now(), logged_at=now(), node="n", type=type, data=data, schema=1
        )  # fmt: skip
        assert keybook.fold({}, event) == {}


def test_a_token_is_its_key_in_one_line() -> None:
    """From the token comes a key that signs as the one it was made of; what is no token is none."""
    for algorithm in ("ed25519", "hmac-sha256"):
        made = new_key("night_desk.2", "operator", algorithm)  # type: ignore[arg-type]
        read = read_token(token_of(made))
        assert read is not None
        again = of_secret(read[0], "operator", algorithm, read[1])  # type: ignore[arg-type]
        assert sign(b"x", again) == sign(b"x", made)
    for wrong in ("", "tocsin_", "tocsin_a_b", "x" * 60, token_of(made) + "=", "tocsin_A_" + "a" * 43):
        assert read_token(wrong) is None


def test_what_is_shown_of_a_key_is_no_secret() -> None:
    """Neither the text of a key, nor what is logged of its creation, holds its secret."""
    made = new_key("alice", "operator", "ed25519")
    assert made.secret not in f"{made!r} {made} {made.__rich_repr__()}"
    asked = plain(KeyCreate(id="alice", public=made.public, role="operator"))
    assert made.secret not in str(asked)
