"""The lease of a lane, branch by branch: one owner, the next, and what a former one can no longer do."""

from __future__ import annotations

from streams.lease import Held, acquire, release, renew
from streams.messages import GENESIS, digest
from tests.fix_streams import Functions, Hall, chain


def test_acquire_gives_a_lane_to_one_owner(hall: Hall, functions: Functions) -> None:
    """While one holds the lease, another is told by whom and for how long."""
    lease = functions.acquire("one")
    held = acquire(hall.link, hall.keys, "two")
    assert isinstance(held, Held)
    assert held.fence == lease.fence
    assert 11 < held.seconds <= 12


def test_acquire_after_expiry_gives_a_higher_token(hall: Hall, functions: Functions) -> None:
    """A lease that ran out goes to whoever asks next, with the next token."""
    lease = functions.acquire("one")
    hall.link.call("PEXPIRE", hall.keys.lease, 1)
    while hall.link.call("EXISTS", hall.keys.lease):
        pass
    later = functions.acquire("two")
    assert (lease.token, later.token) == (1, 2)
    assert functions.take(lease.fence) == [b"fenced"]


def test_acquire_with_a_fence_of_ones_own_goes_on(hall: Hall, functions: Functions) -> None:
    """The holder may acquire anew before its lease runs out; a fence that no longer stands is no ticket."""
    first = functions.acquire("one")
    second = functions.acquire("one", before=first.fence)
    assert second.token == first.token + 1
    assert isinstance(acquire(hall.link, hall.keys, "one", before=first.fence), Held)


def test_acquire_forgets_processes_that_left_nothing(hall: Hall, functions: Functions) -> None:
    """Consumers do not pile up with every restart; one with pending commands is never deleted."""
    lease = functions.acquire()
    functions.submit("id-1")
    for consumer in ("one", "two", "three"):
        functions.take(lease.fence, consumer=consumer)
    functions.acquire(before=lease.fence)
    consumers = hall.link.call("XINFO", "CONSUMERS", hall.keys.commands, "ingest")
    assert [consumer[1] for consumer in consumers] == [b"one"]
    assert hall.link.call("XPENDING", hall.keys.commands, "ingest")[0] == 1


def test_acquire_tells_where_the_log_stands(functions: Functions) -> None:
    """With the lease comes the head that the next append must name."""
    lease = functions.acquire()
    assert (lease.head_seq, lease.head_hash) == (0, GENESIS)
    raws = chain(2)
    functions.append(lease, raws)
    again = functions.acquire(before=lease.fence)
    assert (again.head_seq, again.head_hash) == (2, digest(raws[-1]))


def test_no_two_fences_are_equal(hall: Hall, functions: Functions) -> None:
    """Where a failover took an acquisition away, its token is given again; the nonce tells them apart."""
    first = functions.acquire("one")
    hall.link.call("DEL", hall.keys.head, hall.keys.lease)
    second = functions.acquire("one")
    assert second.token == first.token
    assert second.fence != first.fence
    assert functions.take(first.fence) == [b"fenced"]


def test_renew_prolongs_a_lease_that_is_held(hall: Hall, functions: Functions) -> None:
    """A renewal gives the full length again, and moves the owner's own deadline."""
    lease = functions.acquire()
    hall.link.call("PEXPIRE", hall.keys.lease, 1000)
    renewed = renew(hall.link, hall.keys, lease)
    assert hall.link.call("PTTL", hall.keys.lease) > 11_000
    assert renewed.until >= lease.until


def test_renew_after_a_loss_does_nothing(hall: Hall, functions: Functions) -> None:
    """A lease that is another's, or nobody's, is not brought back by a renewal."""
    lease = functions.acquire("one")
    functions.acquire("two", before=lease.fence)
    hall.link.call("PEXPIRE", hall.keys.lease, 5000)
    assert hall.link.call("FCALL", "tocsin_renew", 1, hall.keys.lease, lease.fence, 12_000) == 0
    assert hall.link.call("PTTL", hall.keys.lease) <= 5000
    hall.link.call("DEL", hall.keys.lease)
    assert hall.link.call("FCALL", "tocsin_renew", 1, hall.keys.lease, lease.fence, 12_000) == 0
    assert not hall.link.call("EXISTS", hall.keys.lease)


def test_release_by_the_holder_frees_and_by_others_does_nothing(hall: Hall, functions: Functions) -> None:
    """Only the holder can give the lane up."""
    lease = functions.acquire("one")
    later = functions.acquire("two", before=lease.fence)
    release(hall.link, hall.keys, lease)
    assert hall.link.call("GET", hall.keys.lease) == later.fence.encode()
    release(hall.link, hall.keys, later)
    assert hall.link.call("GET", hall.keys.lease) is None
