"""What each role may do at a Sentinel: ask and listen, and change nothing."""

from __future__ import annotations

import pytest

from control.station.ask import Refused
from streams.access import ROLES, Role
from tests.fix_access import UsersSentinel

NOBODYS = (
    "SENTINEL FAILOVER tocsin", "SENTINEL FAILOVER tocsin COORDINATED", "SENTINEL RESET *",
    "SENTINEL SET tocsin quorum 1", "SENTINEL REMOVE tocsin", "SENTINEL MONITOR evil 127.0.0.1 1 1",
    "SENTINEL FLUSHCONFIG", "SENTINEL CONFIG GET *", "SENTINEL CONFIG SET loglevel debug",
    "SENTINEL DEBUG INFO-PERIOD 1", "SENTINEL SIMULATE-FAILURE crash-after-election",
    "SENTINEL PENDING-SCRIPTS", "ACL LIST", "ACL SETUSER evil on nopass +@all", "CLIENT LIST",
    "CLIENT KILL ID 1", "SHUTDOWN NOSAVE",
)  # fmt: skip
"""What only the admin may do."""
PEERS = (
    "PUBLISH __sentinel__:hello 127.0.0.1,1,x,9,tocsin,127.0.0.1,1,9",
    "SENTINEL IS-MASTER-DOWN-BY-ADDR 127.0.0.1 1 9 x",
)
"""What only other Sentinels may say: it moves votes and addresses."""
CLIENTS: tuple[Role, ...] = ("ingest", "control", "submitter", "projections", "reader")


@pytest.mark.parametrize("role", [role for role in ROLES if role != "admin"])
def test_nobody_but_the_admin_changes_a_sentinel(users_sentinel: UsersSentinel, role: Role) -> None:
    """No failover, no other primary, no other settings, no vote by whoever is no Sentinel itself."""
    before = users_sentinel.ask("admin", "SENTINEL MASTER tocsin")
    for command in (*NOBODYS, *(() if role == "sentinel" else PEERS)):
        with pytest.raises(Refused, match="NOPERM"):
            users_sentinel.ask(role, command)
    after = users_sentinel.ask("admin", "SENTINEL MASTER tocsin")
    assert isinstance(before, list)
    assert isinstance(after, list)
    told = [dict(zip(one[::2], one[1::2], strict=True)) for one in (before, after)]
    for fact in ("name", "ip", "port", "quorum", "config-epoch", "flags"):
        assert told[0][fact] == told[1][fact]


@pytest.mark.parametrize("role", CLIENTS)
def test_every_client_may_ask_who_leads(users_sentinel: UsersSentinel, role: Role) -> None:
    """Whoever works at the servers finds the primary, and hears of another one."""
    address = users_sentinel.ask(role, "SENTINEL GET-MASTER-ADDR-BY-NAME tocsin")
    assert address == ["127.0.0.1", str(users_sentinel.server.port)]
    for question in ("SENTINEL MASTER tocsin", "SENTINEL REPLICAS tocsin", "SUBSCRIBE +switch-master"):
        assert users_sentinel.ask(role, question) is not None


def test_a_sentinel_takes_the_word_of_its_peers(users_sentinel: UsersSentinel) -> None:
    """What is refused to all others is theirs to say."""
    for command in PEERS[1:]:
        assert users_sentinel.ask("sentinel", command)
