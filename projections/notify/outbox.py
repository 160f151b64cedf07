"""The outbox of notifications: taking one to send it, and noting what became of it.

One is taken before it is sent, in a transaction that lasts through a change of server. So a process
that ends in between leaves a notification of which nobody knows whether it went out; it is marked
`perhaps`, people are told, and it is sent again only to a target that tells a repetition by its id.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import ColumnElement, Connection, Update, case, func, select, update

from projections.tables import episodes, notifications

STATES = ("due", "sending", "sent", "perhaps", "given up")
GIVE_UP = timedelta(hours=24)
"""After which a notification that could not be delivered is given up."""


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """One that was taken to be sent, with its episode."""

    episode: int
    number: int
    target: str
    attempts: int
    created_at: datetime
    claimed_at: datetime
    rule: str
    kind: str
    subject: str
    lane: str | None
    seq: int | None
    detail: str
    opened_at: datetime
    closed_at: datetime | None
    expires_at: datetime | None = None

    @property
    def id(self) -> str:
        """The same at every attempt; what is sent carries it."""
        return f"{self.episode}-{self.number}"


def claim(connection: Connection, target: str, at: datetime) -> Notification | None:
    """Take the notification for `target` that is due first; None where none is."""
    due = (
        select(notifications.c.episode, notifications.c.number)
        .where(
            notifications.c.target == target,
            notifications.c.state == "due",
            notifications.c.next_try <= at,
        )
        .order_by(notifications.c.next_try, notifications.c.episode)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    found = connection.execute(due).first()
    if found is None:
        return None
    row = connection.execute(
        update(notifications)
        .where(*_this(found.episode, target, found.number))
        .values(state="sending", claimed_at=at, attempts=notifications.c.attempts + 1)
        .returning(notifications.c.attempts, notifications.c.created_at)
    ).one()
    episode = connection.execute(select(episodes).where(episodes.c.id == found.episode)).one()
    return Notification(
        episode=found.episode,
        number=found.number,
        target=target,
        attempts=row.attempts,
        created_at=row.created_at,
        claimed_at=at,
        rule=episode.rule,
        kind=episode.kind,
        subject=episode.subject,
        lane=episode.lane,
        seq=episode.seq,
        detail=episode.detail,
        opened_at=episode.opened_at,
        closed_at=episode.closed_at,
        expires_at=episode.expires_at,
    )


def sent(connection: Connection, taken: Notification, at: datetime) -> None:
    """Note that the target took it."""
    connection.execute(_of(taken).values(state="sent", sent_at=at, detail=None))


def failed(connection: Connection, taken: Notification, detail: str, next_try: datetime) -> bool:
    """Note that the target did not take it, and when it is tried again; False where it is given up."""
    over = next_try - taken.created_at > GIVE_UP
    connection.execute(
        _of(taken).values(state="given up" if over else "due", next_try=next_try, detail=detail)
    )
    return not over


def hurry(connection: Connection, target: str, at: datetime) -> None:
    """Let all that waits for a target be due: it takes something again."""
    waiting = (notifications.c.target == target, notifications.c.state == "due")
    connection.execute(update(notifications).where(*waiting).values(next_try=at))


def release(connection: Connection, taken: Notification) -> None:
    """Give back what was taken and certainly not sent."""
    connection.execute(_of(taken).values(state="due", attempts=taken.attempts - 1, detail=None))


def doubt(connection: Connection, target: str, before: datetime, *, dedups: bool) -> int:
    """Settle what was taken before `before` and never noted; how many became `perhaps`.

    That the target refused an earlier attempt says nothing of the last one.
    """
    left = (
        notifications.c.target == target,
        notifications.c.state == "sending",
        notifications.c.claimed_at < before,
    )
    if dedups:
        connection.execute(update(notifications).where(*left).values(state="due"))
        return 0
    why = "the process that was sending it ended; whether it went out is not known"
    return connection.execute(update(notifications).where(*left).values(state="perhaps", detail=why)).rowcount


class Backlog(msgspec.Struct, frozen=True):
    """A target's notifications that are not through: how many, since when, and why."""

    target: str
    waiting: int
    since: datetime | None
    perhaps: int
    given_up: int
    detail: str | None


def backlogs(connection: Connection, targets: Iterable[str]) -> list[Backlog]:
    """What each of these targets has not had, by target; those with nothing of the kind are left out."""
    state = notifications.c.state
    waits = state.in_(("due", "sending"))
    rows = connection.execute(
        select(
            notifications.c.target,
            func.count().filter(waits),
            func.min(notifications.c.created_at).filter(waits),
            func.count().filter(state == "perhaps"),
            func.count().filter(state == "given up"),
            func.max(case((waits, notifications.c.detail))),
        )
        .where(state != "sent", notifications.c.target.in_(list(targets)))
        .group_by(notifications.c.target)
        .order_by(notifications.c.target)
    ).all()
    return [Backlog(*row) for row in rows]


def counts(connection: Connection) -> dict[tuple[str, str], int]:
    """How many notifications there are, by target and state."""
    by = (notifications.c.target, notifications.c.state)
    rows = connection.execute(select(*by, func.count().label("count")).group_by(*by))
    return {(row.target, row.state): row[2] for row in rows}


def _of(taken: Notification) -> Update:
    # What took longer than it may was put in doubt meanwhile; what became of it is known now.
    return update(notifications).where(
        *_this(taken.episode, taken.target, taken.number),
        notifications.c.attempts == taken.attempts,
        notifications.c.state.in_(("sending", "perhaps")),
    )


def _this(episode: int, target: str, number: int) -> tuple[ColumnElement[bool], ...]:
    return (
        notifications.c.episode == episode,
        notifications.c.target == target,
        notifications.c.number == number,
    )
