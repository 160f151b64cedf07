"""Who may do what in Redis: one ACL user per role, with no more than that role's work needs.

The rules are text for an ACL file (Redis 7.0 or newer, any Valkey that is supported). A rule in
brackets is a selector: its commands hold for its keys alone. A server-side function runs under the
rights of whoever calls it, command by command, so a role that may call `tocsin_submit` still needs,
and has, only what that function does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Literal, get_args

from streams.names import STATION_LANE, StationKeys, station_id

Role = Literal["admin", "ingest", "control", "submitter", "projections", "reader", "replica", "sentinel"]
ROLES: tuple[Role, ...] = get_args(Role)
"""`replica` and `sentinel` are for the servers themselves: `masteruser` and `sentinel auth-user`."""

ANYONE = "-@all +@connection -client +client|setname +client|id +role +info +time +cluster|nodes"
"""WAIT, AUTH and PING are among @connection; of CLIENT only what concerns one's own connection."""
UNUSED = "off resetpass +@all ~* &*"
"""The default user of a server: nobody can log in as it, and it may do everything all the same.

By its rights a server checks the transactions in its own append-only file when it starts (Redis, and Valkey
before 9.1.2): with fewer it leaves out, silently, all that a function wrote.
https://github.com/valkey-io/valkey/issues/3983
"""
LISTENING = "-@all +@connection -client +client|setname +role +info"
"""What all may do at a Sentinel, beside asking for the primary."""
ASKING = (
    "+subscribe +psubscribe +unsubscribe +punsubscribe +sentinel|master +sentinel|masters"
    " +sentinel|get-master-addr-by-name +sentinel|replicas +sentinel|sentinels &*"
)

WORK: Mapping[Role, str] = {
    "admin": "everything: loads the server-side functions, sets the servers up, looks at any key",
    "ingest": "owns lanes: takes commands, appends events, answers; telemetry, heartbeat, claims",
    "control": "owns the lane `station`: as ingest there; retries, parked copies, groups",
    "submitter": "the command line and the web process: submits, reads its answers, claims source ids",
    "projections": "follows the logs, tells how far they are archived, writes snapshots",
    "reader": "reads the station's keys; writes nothing but that it looks at a spectrum",
    "replica": "what a replica needs of its primary",
    "sentinel": "what a Sentinel needs of the servers, and of other Sentinels",
}
"""What each role is for, in a line."""


def user_name(station: str, role: Role) -> str:
    """The name of a role's user: stations that share a server have users of their own."""
    return f"{station}-{role}"


def password_file(role: Role) -> str:
    """The name of the file with the role's password, in the folder that holds those of all."""
    return f"redis-{role}.password"


def acl_file(station: str, passwords: Mapping[Role, str]) -> str:
    """The ACL file of the station's servers: a user for each role with a password, and no default user.

    It holds hashes, not passwords. Raises InvalidName.
    """
    station_id(station)
    granted = {role: rules(station, role) for role in ROLES}
    return f"user default {UNUSED}\n{_lines(station, passwords, granted)}"


def sentinel_acl_file(station: str, passwords: Mapping[Role, str]) -> str:
    """The ACL file of the station's Sentinels: the same users, who may ask who leads. Raises InvalidName."""
    station_id(station)
    peers = f"{LISTENING} {ASKING} +publish +sentinel|is-master-down-by-addr"
    special = {"admin": "+@all ~* &*", "sentinel": peers, "replica": "-@all"}
    granted = {role: special.get(role, f"{LISTENING} {ASKING}") for role in ROLES}
    return f"user default off resetpass -@all\n{_lines(station, passwords, granted)}"


def rules(station: str, role: Role) -> str:
    """What the role's user may do at the servers, as ACL rules."""
    keys = _Keys(station)
    match role:
        case "admin":
            return "+@all ~* &*"
        case "replica":
            return "-@all +psync +replconf +ping"
        case "sentinel":
            return (
                "-@all &__sentinel__:hello +multi +exec +replicaof +slaveof +ping +publish +subscribe +info"
                " +role +script|kill +config|rewrite +client|setname +client|kill +failover"
                " +client|pause +client|unpause"
            )
        case "reader":
            # To say that a spectrum is looked at is all that it writes.
            return f"{ANYONE} {_READING} %R~{keys.all} (+zadd +expire ~{keys.looking})"
        case "submitter":
            return _selected(keys.submitting())
        case "projections":
            return _selected(keys.projecting())
        case "ingest":
            lanes = ("p*", "node.*")
            return _selected([*keys.owning(*lanes), *keys.capturing(*lanes), *keys.knowing()])
        case "control":
            station_lane = keys.owning(STATION_LANE)
            return _selected(
                [*station_lane, *keys.following(), *keys.submitting(), *keys.sweeping(), *keys.hearing()]
            )


_READING = (
    "+fcall_ro +get +exists +type +ttl +pttl +hget +hmget +hgetall +hvals +hkeys +hlen"
    " +xrange +xrevrange +xread +xlen +xinfo|stream +xinfo|groups +xinfo|consumers +xpending"
    " +zcard +zscore +zrange"
)

Grant = tuple[str, str]
"""Commands, separated by blanks, and the keys they are for as key patterns."""


class _Keys:
    """A station's keys as patterns; a lane is one, or a pattern of several."""

    def __init__(self, station: str) -> None:
        self._keys = StationKeys(station)
        self.all = self._keys.meta.removesuffix("meta") + "*"
        self.looking = self._keys.looking

    def submitting(self) -> list[Grant]:
        lane = self._keys.lane("*")
        put = f"~{lane.commands} ~{lane.ids} ~{lane.id_expiry} ~{lane.sequence}"
        return [
            ("fcall fcall_ro", put),
            ("xadd", f"%W~{lane.commands}"),
            ("hget hmget hset hdel", f"~{lane.ids} ~{lane.sequence}"),
            ("zrangebyscore zrem", f"~{lane.id_expiry}"),
            ("hget", f"%R~{lane.archived}"),
            ("xread", f"%R~{self._keys.replies('*')}"),
            ("hget hgetall hsetnx", f"~{self._keys.sources}"),
            *self.knowing(),
        ]

    def knowing(self) -> list[Grant]:
        lane = self._keys.lane(STATION_LANE)
        # Who may sign: whoever verifies follows it there.
        return [("fcall_ro hget hmget xrange xread", f"%R~{lane.head} %R~{lane.events} %R~{lane.state}")]

    def owning(self, *lanes: str) -> list[Grant]:
        found = [self._keys.lane(lane) for lane in lanes]

        def each(name: str, rights: str = "~") -> str:
            return " ".join(f"{rights}{getattr(keys, name)}" for keys in found)

        names = (
            "lease", "head", "events", "state", "commands", "ids", "id_expiry", "sequence", "parked",
            "archived",
        )  # fmt: skip
        replies = f"~{self._keys.replies('*')}"
        return [
            ("fcall fcall_ro", " ".join([*map(each, names), replies])),
            ("get set del pttl pexpire", each("lease")),
            ("hget hmget hset hdel hincrby", each("head")),
            ("xadd xrange xrevrange xread xtrim", each("events")),
            ("hmget hset", each("state")),
            (
                "xrange xread xreadgroup xack xdel xclaim xpending xgroup|create xgroup|delconsumer"
                " xinfo|stream xinfo|consumers",
                each("commands"),
            ),
            ("hget hmget hset", f"{each('ids')} {each('sequence')}"),
            ("zadd", each("id_expiry")),
            ("hget hmget", each("archived", "%R~")),
            ("xadd", each("parked", "%W~")),
            ("xadd expire", replies.replace("~", "%W~")),
        ]

    def capturing(self, *lanes: str) -> list[Grant]:
        telemetry = " ".join(f"%W~{self._keys.lane(lane).telemetry}" for lane in lanes)
        return [
            ("xadd", telemetry),
            ("hset expire", f"%W~{self._keys.node('*')}"),
            ("hget hsetnx hdel", f"~{self._keys.sources}"),
            ("zrange", f"%R~{self._keys.looking}"),
        ]

    def following(self) -> list[Grant]:
        lane = self._keys.lane("*")
        return [("fcall_ro hget hmget xrange xread", f"%R~{lane.head} %R~{lane.events}")]

    def sweeping(self) -> list[Grant]:
        return [("xrange xdel", f"~{self._keys.lane('*').parked}")]

    def hearing(self) -> list[Grant]:
        return [
            ("xrange xrevrange", f"%R~{self._keys.lane('*').telemetry}"),
            ("hget", f"%R~{self._keys.sources}"),
        ]

    def projecting(self) -> list[Grant]:
        lane = self._keys.lane("*")
        return [
            *self.following(),
            # To declare the log to a function is to ask for both rights; within it nothing may write there.
            ("fcall", f"~{lane.archived} ~{lane.events}"),
            ("hget hset", f"~{lane.archived}"),
            ("xread xrevrange", f"%R~{lane.telemetry}"),
            ("hvals hgetall", f"%R~{self._keys.sources}"),
            ("hget hgetall", f"%R~{self._keys.node('*')}"),
            ("hget hset del pexpire", f"~{self._keys.source_snapshot('*')} ~{self._keys.source_index}"),
        ]


def _selected(grants: Iterable[Grant]) -> str:
    selectors = (f"({' '.join(f'+{name}' for name in names.split())} {keys})" for names, keys in grants)
    return " ".join([ANYONE, *selectors])


def _lines(station: str, passwords: Mapping[Role, str], granted: Mapping[Role, str]) -> str:
    users = [
        f"user {user_name(station, role)} on #{sha256(passwords[role].encode()).hexdigest()} {granted[role]}"
        for role in ROLES
        if role in passwords
    ]
    return "\n".join([*users, ""])
