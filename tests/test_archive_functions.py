"""The server-side function by which a lane is told how far it is archived."""

from __future__ import annotations

from typing import Any

from streams.messages import GENESIS, digest
from tests.fix_streams import Functions, Hall, chain


def tell(hall: Hall, seq: int, hash: str) -> Any:
    return hall.link.call("FCALL", "tocsin_archived", 2, hall.keys.archived, hall.keys.events, seq, hash)


def known(hall: Hall) -> bytes | None:
    found: bytes | None = hall.link.call("HGET", hall.keys.archived, "seq")
    return found


def test_archived_goes_forward_only(hall: Hall, functions: Functions) -> None:
    """Given three events, the last of which is archived: hearing of an earlier one again changes nothing."""
    raws = chain(3)
    functions.append(functions.acquire(), raws)
    assert known(hall) is None
    assert tell(hall, 2, digest(raws[1])) == b"ok"
    assert known(hall) == b"2"
    assert tell(hall, 3, digest(raws[2])) == b"ok"
    assert tell(hall, 1, digest(raws[0])) == b"ok"
    assert known(hall) == b"3"


def test_archived_of_what_does_not_stand_is_not_believed(hall: Hall, functions: Functions) -> None:
    """An event beyond the head, and another event of the same number, are refused; nothing is written."""
    raws = chain(2)
    functions.append(functions.acquire(), raws)
    before = hall.dump()
    assert tell(hall, 3, digest(b"another")) == b"differs"
    assert tell(hall, 2, digest(b"another")) == b"differs"
    assert hall.dump() == before


def test_append_tells_how_far_the_lane_is_archived(hall: Hall, functions: Functions) -> None:
    """An owner learns it with its next append, so that it need not ask."""
    lease, raws = functions.acquire(), chain(3)
    assert functions.append(lease, raws[:2], seq=0, hash=GENESIS) == [b"ok"]
    tell(hall, 2, digest(raws[1]))
    assert functions.append(lease, raws[2:], seq=2, hash=digest(raws[1])) == [b"ok", b"2"]


def test_what_an_earlier_version_kept_in_the_head_holds_until_the_archive_is_heard_of(
    hall: Hall, functions: Functions
) -> None:
    """Given a station that was upgraded: its owner learns of the old mark, and then of the new one."""
    lease, raws = functions.acquire(), chain(4)
    functions.append(lease, raws[:2], seq=0, hash=GENESIS)
    hall.link.call("HSET", hall.keys.head, "archived", 1)
    assert functions.append(lease, raws[2:3], seq=2, hash=digest(raws[1])) == [b"ok", b"1"]
    tell(hall, 2, digest(raws[1]))
    assert functions.append(lease, raws[3:], seq=3, hash=digest(raws[2])) == [b"ok", b"2"]
