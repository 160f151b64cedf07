"""Each server-side function, told branch by branch on a real server."""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError

from streams.durability import replication_id
from streams.messages import GENESIS, digest
from tests.fix_servers import eventually
from tests.fix_streams import Functions, Hall, chain

DAY = 86_400_000


def taken(
    functions: Functions, fence: str, mode: str = "new", consumer: str = "one"
) -> list[tuple[str, int]]:
    """The entries taken and how often each was delivered."""
    status, _, rows = functions.take(fence, mode, consumer=consumer)
    assert status == b"ok"
    return [(row[0].decode(), row[1]) for row in rows]


def server_time(hall: Hall) -> int:
    seconds, micro = hall.link.call("TIME")
    return int(seconds) * 1000 + int(micro) // 1000


# submit


def test_submit_assigns_gapless_sequences_per_source(hall: Hall, functions: Functions) -> None:
    """Each source counts its own commands from 1, without gaps; the entry carries the number."""
    answers = [functions.submit(f"id-{n}", source="ab"[n % 2]) for n in range(6)]
    assert [answer[1] for answer in answers] == [1, 1, 2, 2, 3, 3]
    entries = hall.link.call("XRANGE", hall.keys.commands, "-", "+")
    assert [fields[fields.index(b"q") + 1] for _, fields in entries] == [b"1", b"1", b"2", b"2", b"3", b"3"]
    assert [entry for entry, _ in entries] == [answer[2] for answer in answers]


def test_submit_of_the_same_bytes_adds_nothing(hall: Hall, functions: Functions) -> None:
    """The same id with the same bytes is answered by its mark, and the lane stays as it was."""
    status, sequence, entry = functions.submit("id-1", b"{}")
    before = hall.dump()
    known, mark = functions.submit("id-1", b"{}")
    assert (status, known) == (b"accepted", b"known")
    assert mark == f"{digest(b'{}')} {sequence} {entry.decode()} ".encode()
    assert hall.dump() == before


def test_submit_of_a_known_id_writes_so_that_a_wait_proves_something(
    hall: Hall, functions: Functions
) -> None:
    """Answers to a duplicate, a conflict and a failed if_sequence are written down too (DESIGN 1b)."""
    functions.submit("id-1", b"{}")

    def told(field: str) -> int:
        return int(hall.link.call("INFO", "persistence").decode().split(f"{field}:")[1].split("\r")[0])

    def written() -> int:
        # What goes to the file goes to replicas; Redis 7.0 counts an offset only where there are some.
        # While the disk is slow the server keeps it in memory for up to two seconds.
        eventually(lambda: told("aof_buffer_length") == 0, "all is in the file")
        return told("aof_current_size")

    for call in (
        lambda: functions.submit("id-1", b"{}"),
        lambda: functions.submit("id-1", b"{ }"),
        lambda: functions.submit("id-2", b"{}", expected=7),
        lambda: functions.submit("id-2", b"{}", source="never seen", expected=7),
    ):
        functions.submit("warm-up", b"{}")
        before = written()
        call()
        assert written() > before


def test_submit_of_other_bytes_is_a_conflict(hall: Hall, functions: Functions) -> None:
    """The same id with other bytes is refused and adds nothing."""
    functions.submit("id-1", b"{}")
    before = hall.dump()
    assert functions.submit("id-1", b"{ }") == [b"conflict"]
    assert hall.dump() == before


def test_submit_with_if_sequence_goes_by_the_last_number(hall: Hall, functions: Functions) -> None:
    """if_sequence must be the source's last sequence (0: none yet); else that is told and nothing added."""
    assert functions.submit("id-1", expected=0)[:2] == [b"accepted", 1]
    assert functions.submit("id-2", expected=0) == [b"sequence", b"1"]
    assert functions.submit("id-2", expected=2) == [b"sequence", b"1"]
    assert hall.waiting() == 1
    assert functions.submit("id-2", expected=1)[:2] == [b"accepted", 2]


def test_submit_forgets_marks_that_are_due_and_no_others(hall: Hall, functions: Functions) -> None:
    """A settled id goes when its time has come; one that is not due, or not finished, stays."""
    lease = functions.acquire()
    for id in ("due", "not due", "unfinished"):
        functions.submit(id)
    entries = dict(zip(("due", "not due", "unfinished"), taken(functions, lease.fence), strict=True))
    settlements = [
        (entries["due"][0], "due", "{}", server_time(hall) - 1),
        (entries["not due"][0], "not due", "{}", server_time(hall) + 60_000),
    ]
    assert functions.append(lease, chain(2), settlements) == [b"ok"]
    functions.submit("another")
    assert set(hall.link.call("HKEYS", hall.keys.ids)) == {b"not due", b"unfinished", b"another"}
    assert hall.link.call("ZRANGE", hall.keys.id_expiry, 0, -1) == [b"not due"]


def test_submit_keeps_the_number_of_ids_bounded(hall: Hall, functions: Functions) -> None:
    """Each submit forgets up to four due ids, so that marks never pile up beyond what is still valid."""
    lease = functions.acquire()
    for n in range(40):
        functions.submit(f"id-{n}")
    due = server_time(hall) - 1
    settlements = [
        (entry, f"id-{n}", "{}", due) for n, (entry, _) in enumerate(taken(functions, lease.fence))
    ]
    assert functions.append(lease, chain(1), settlements) == [b"ok"]
    for n in range(10):
        functions.submit(f"new-{n}")
    assert hall.link.call("HLEN", hall.keys.ids) == 10
    assert hall.link.call("ZCARD", hall.keys.id_expiry) == 0


# take


def test_take_without_the_lease_is_fenced(hall: Hall, functions: Functions) -> None:
    """Who does not hold the lease gets no commands, and none counts as delivered."""
    functions.submit("id-1")
    lease = functions.acquire()
    for mode in ("new", "0-0"):
        assert functions.take("one 1 other-nonce", mode) == [b"fenced"]
    assert taken(functions, lease.fence)[0][1] == 1


def test_take_delivers_new_commands_once(functions: Functions) -> None:
    """New commands come once, in order, with their mark and their fields."""
    lease = functions.acquire()
    for n in range(3):
        functions.submit(f"id-{n}", client="me")
    _, _, rows = functions.take(lease.fence)
    assert [row[3][1] for row in rows] == [b"id-0", b"id-1", b"id-2"]
    assert all(row[1] == 1 for row in rows)
    assert all(row[2].startswith(digest(b"{}").encode() + b" ") for row in rows)
    assert rows[0][3] == [b"i", b"id-0", b"c", b"{}", b"s", b"signature", b"q", b"1", b"r", b"me"]
    assert taken(functions, lease.fence) == []


def test_take_counts_a_pending_command_as_delivered_by_another_process(functions: Functions) -> None:
    """What another process took counts once more; what one takes again itself does not (its answer was lost).

    Pending ones are paged by entry; new ones are not among them.
    """
    lease = functions.acquire()
    for n in range(5):
        functions.submit(f"id-{n}")
    entries = [entry for entry, _ in taken(functions, lease.fence)]
    functions.submit("new")
    for _ in range(3):
        assert taken(functions, lease.fence, "0-0") == [(entry, 1) for entry in entries]
    assert taken(functions, lease.fence, entries[2], "two") == [(entry, 2) for entry in entries[3:]]
    assert taken(functions, lease.fence, entries[2], "two") == [(entry, 2) for entry in entries[3:]]
    assert taken(functions, lease.fence, "0-0", "three") == [
        *((entry, 2) for entry in entries[:3]),
        *((entry, 3) for entry in entries[3:]),
    ]


def test_take_tells_what_came_past_submit_by_its_empty_mark(hall: Hall, functions: Functions) -> None:
    """An entry that nobody submitted, or whose id was forgotten, has no mark."""
    lease = functions.acquire()
    functions.submit("forgotten")
    hall.link.call("HDEL", hall.keys.ids, "forgotten")
    hall.link.call("XADD", hall.keys.commands, "*", "i", "raw", "c", "{}")
    hall.link.call("XADD", hall.keys.commands, "*", "odd", "fields")
    _, _, rows = functions.take(lease.fence)
    assert [row[2] for row in rows] == [b"", b"", b""]


def test_take_tells_the_servers_time(hall: Hall, functions: Functions) -> None:
    """The time that commands are judged by is the server's, in milliseconds."""
    lease = functions.acquire()
    before = server_time(hall)
    _, time, _ = functions.take(lease.fence)
    assert before <= time <= server_time(hall)


# append


def test_append_writes_events_under_their_own_ids(hall: Hall, functions: Functions) -> None:
    """Entries are named seq-token, never by the clock, and the head moves to the last one."""
    lease = functions.acquire()
    raws = chain(3)
    assert functions.append(lease, raws) == [b"ok"]
    entries = hall.link.call("XRANGE", hall.keys.events, "-", "+")
    assert [entry for entry, _ in entries] == [b"1-1", b"2-1", b"3-1"]
    assert [fields[1] for _, fields in entries] == raws
    assert [fields[3].decode() for _, fields in entries] == [digest(raw) for raw in raws]
    head = hall.link.call("HMGET", hall.keys.head, "seq", "hash", "token")
    assert head == [b"3", digest(raws[-1]).encode(), b"1"]
    later = functions.acquire("two", before=lease.fence)
    assert functions.append(later, chain(1, first=4), seq=3, hash=digest(raws[-1])) == [b"ok"]
    assert hall.link.call("XREVRANGE", hall.keys.events, "+", "-", "COUNT", 1)[0][0] == b"4-2"


def test_append_settles_in_the_same_step(hall: Hall, functions: Functions) -> None:
    """The result, the acknowledgement, the removal of the entry and the answer in the mark are one step."""
    lease = functions.acquire()
    _, _, entry = functions.submit("id-1")
    taken(functions, lease.fence)
    forget_at = server_time(hall) + DAY
    assert functions.append(lease, chain(1), [(entry.decode(), "id-1", "answer text", forget_at)]) == [b"ok"]
    assert hall.waiting() == 0
    assert hall.link.call("XPENDING", hall.keys.commands, "ingest")[0] == 0
    assert functions.submit("id-1")[1].split(b" ", 3)[3] == b"answer text"
    assert hall.link.call("ZSCORE", hall.keys.id_expiry, "id-1") == str(forget_at).encode()


def test_append_settles_a_replayed_entry_without_touching_the_mark(hall: Hall, functions: Functions) -> None:
    """An entry put past submit is acknowledged and removed; the mark of the id it pretends to be stays."""
    lease = functions.acquire()
    functions.submit("id-1")
    entry = hall.link.call("XADD", hall.keys.commands, "*", "i", "id-1", "c", "{}").decode()
    taken(functions, lease.fence)
    mark = hall.link.call("HGET", hall.keys.ids, "id-1")
    assert functions.append(lease, chain(1), [(entry, "", "{}", 0)]) == [b"ok"]
    assert hall.link.call("HGET", hall.keys.ids, "id-1") == mark
    assert hall.waiting() == 1


def test_append_moves_the_watermark_along_only_when_told(hall: Hall, functions: Functions) -> None:
    """At durability memory an append is its own proof; otherwise the watermark stays where it was."""
    lease = functions.acquire()
    raws = chain(2)
    functions.append(lease, raws[:1])
    assert hall.link.call("HGET", hall.keys.head, "wm_seq") is None
    functions.append(lease, raws[1:], seq=1, hash=digest(raws[0]), at_once=True)
    mark = hall.link.call("HMGET", hall.keys.head, "wm_seq", "wm_hash", "wm_token", "wm_replid")
    assert mark == [b"2", digest(raws[1]).encode(), b"1", replication_id(hall.link).encode()]


def test_append_with_another_fence_writes_nothing(hall: Hall, functions: Functions) -> None:
    """A former owner, a guessed nonce and a lane without a lease are all fenced."""
    lease = functions.acquire()
    functions.submit("id-1")
    ((entry, _),) = taken(functions, lease.fence)
    later = functions.acquire("two", before=lease.fence)
    before = hall.dump()
    settlement = (entry, "id-1", "{}", 0)
    assert functions.append(lease, chain(1), [settlement]) == [b"fenced"]
    assert functions.append(later, chain(1), [settlement], fence=later.fence[:-1]) == [b"fenced"]
    assert functions.append(later, chain(1), [settlement], fence="") == [b"fenced"]
    assert hall.dump() == before
    hall.link.call("DEL", hall.keys.lease)
    assert functions.append(later, chain(1), [settlement]) == [b"fenced"]
    assert functions.append(later, chain(1), [settlement], fence="") == [b"fenced"]


def test_append_at_another_head_writes_nothing(hall: Hall, functions: Functions) -> None:
    """Where the head is not the expected seq and hash, it is told and nothing is written."""
    lease = functions.acquire()
    raws = chain(2)
    assert functions.append(lease, raws[:1], seq=1) == [b"head", b"0", GENESIS.encode()]
    assert functions.append(lease, raws[:1]) == [b"ok"]
    before = hall.dump()
    head = [b"head", b"1", digest(raws[0]).encode()]
    assert functions.append(lease, raws[1:], seq=0) == head
    assert functions.append(lease, raws[1:], seq=1) == head
    assert functions.append(lease, raws[1:], seq=2, hash=digest(raws[0])) == head
    assert hall.dump() == before


@pytest.mark.parametrize(
    "case", ["settled", "other entry", "answered", "no mark", "not taken", "no such entry", "twice"]
)
def test_append_of_a_settlement_that_is_not_open_writes_nothing(
    case: str, hall: Hall, functions: Functions
) -> None:
    """One settlement that is not open leaves everything as it was, whatever stands before it."""
    lease = functions.acquire()
    entries = [functions.submit(f"id-{n}")[2].decode() for n in range(3)]
    taken(functions, lease.fence)
    not_taken = functions.submit("late")[2].decode()
    raws = chain(2)
    functions.append(lease, raws[:1], [(entries[2], "id-2", "{}", server_time(hall) + DAY)])
    bad = {
        "settled": (entries[2], "id-2", "{}", 0),
        "other entry": (entries[1], "id-0", "{}", 0),
        "answered": (entries[1], "id-1", "{}", 0),
        "no mark": (entries[1], "id-9", "{}", 0),
        "not taken": (not_taken, "late", "{}", 0),
        "no such entry": ("1-1", "id-1", "{}", 0),
        "twice": (entries[0], "", "{}", 0),
    }[case]
    if case == "answered":
        mark = hall.link.call("HGET", hall.keys.ids, "id-1") + b"{}"
        hall.link.call("HSET", hall.keys.ids, "id-1", mark)
    before = hall.dump()
    good = (entries[0], "id-0", "{}", 0)
    answer = functions.append(lease, raws[1:], [good, bad], seq=1, hash=digest(raws[0]))
    assert answer == [b"settled", 2]
    assert hall.dump() == before
    assert functions.append(lease, raws[1:], [good], seq=1, hash=digest(raws[0])) == [b"ok"]


def test_append_to_a_lane_without_its_group_writes_nothing(hall: Hall, functions: Functions) -> None:
    """A group that vanished is an error before the first write; acquiring makes it again from the start."""
    lease = functions.acquire()
    _, _, entry = functions.submit("id-1")
    taken(functions, lease.fence)
    hall.link.call("XGROUP", "DESTROY", hall.keys.commands, "ingest")
    before = hall.dump()
    with pytest.raises(ResponseError, match="NOGROUP"):
        functions.append(lease, chain(1), [(entry.decode(), "id-1", "{}", 0)])
    assert hall.dump() == before
    again = functions.acquire("one", before=lease.fence)
    assert taken(functions, again.fence) == [(entry.decode(), 1)]


# watermark


def test_raise_marks_an_event_that_stands(hall: Hall, functions: Functions) -> None:
    """The watermark goes to an event whose seq, token and hash stand in the log, and never back."""
    lease = functions.acquire()
    raws = chain(3)
    functions.append(lease, raws)
    replid = replication_id(hall.link)
    assert functions.raise_watermark(2, digest(raws[1]), 1, replid) == b"ok"
    assert functions.raise_watermark(1, digest(raws[0]), 1, replid) == b"ok"
    mark = hall.link.call("HMGET", hall.keys.head, "wm_seq", "wm_hash", "wm_replid")
    assert mark == [b"2", digest(raws[1]).encode(), replid.encode()]


def test_raise_to_what_does_not_stand_is_refused(hall: Hall, functions: Functions) -> None:
    """Another hash, another token, a seq beyond the head: nothing is raised."""
    lease = functions.acquire()
    raws = chain(2)
    functions.append(lease, raws)
    replid = replication_id(hall.link)
    before = hall.dump()
    assert functions.raise_watermark(2, digest(raws[0]), 1, replid) == b"differs"
    assert functions.raise_watermark(2, digest(raws[1]), 2, replid) == b"differs"
    assert functions.raise_watermark(3, digest(raws[1]), 1, replid) == b"differs"
    assert hall.dump() == before


def test_raise_on_another_primary_is_refused(hall: Hall, functions: Functions) -> None:
    """A proof made on one primary raises nothing on another, told apart by the replication id."""
    lease = functions.acquire()
    raws = chain(1)
    functions.append(lease, raws)
    before = hall.dump()
    assert functions.raise_watermark(1, digest(raws[0]), 1, "0" * 40) == b"moved"
    assert hall.dump() == before


def test_raise_replaces_a_watermark_of_another_primary(hall: Hall, functions: Functions) -> None:
    """A watermark carried over from another primary counts for nothing, however high it is."""
    lease = functions.acquire()
    raws = chain(2)
    functions.append(lease, raws)
    hall.link.call("HSET", hall.keys.head, "wm_seq", 2, "wm_hash", digest(raws[1]), "wm_replid", "0" * 40)
    replid = replication_id(hall.link)
    assert functions.raise_watermark(1, digest(raws[0]), 1, replid) == b"ok"
    assert hall.link.call("HMGET", hall.keys.head, "wm_seq", "wm_replid") == [b"1", replid.encode()]


# tail


def test_tail_ends_at_the_watermark(hall: Hall, functions: Functions) -> None:
    """Events beyond the watermark are not shown, though the head is told; a count limits the rest."""
    lease = functions.acquire()
    raws = chain(4)
    functions.append(lease, raws)
    assert functions.tail() == [b"ok", b"4", []]
    functions.raise_watermark(3, digest(raws[2]), 1, replication_id(hall.link))
    stands = [[raw, digest(raw).encode()] for raw in raws]
    assert functions.tail() == [b"ok", b"4", stands[:3]]
    assert functions.tail(count=2) == [b"ok", b"4", stands[:2]]
    assert functions.tail(1, digest(raws[0])) == [b"ok", b"4", stands[1:3]]
    assert functions.tail(3, digest(raws[2])) == [b"ok", b"4", []]
    assert functions.tail(4, digest(raws[3])) == [b"ok", b"4", []]


def test_tail_shows_nothing_by_a_watermark_of_another_primary(hall: Hall, functions: Functions) -> None:
    """After a failover nothing is shown until the new primary has proven it."""
    lease = functions.acquire()
    functions.append(lease, chain(2), at_once=True)
    assert len(functions.tail()[2]) == 2
    hall.link.call("HSET", hall.keys.head, "wm_replid", "0" * 40)
    assert functions.tail() == [b"ok", b"2", []]


def test_tail_of_an_unknown_position_is_ahead(functions: Functions) -> None:
    """A position beyond the head, or with another hash at its seq, is told with the head."""
    assert functions.tail(1, "ab") == [b"ahead", b"0", b""]
    lease = functions.acquire()
    raws = chain(2)
    functions.append(lease, raws, at_once=True)
    head = [b"ahead", b"2", digest(raws[1]).encode()]
    assert functions.tail(3, "ab") == head
    assert functions.tail(1, digest(raws[1])) == head
    assert functions.tail(2, digest(raws[0])) == head


def test_tail_of_an_empty_lane_is_empty(functions: Functions) -> None:
    """A lane that nobody ever used has no events and no error."""
    assert functions.tail() == [b"ok", b"0", []]
