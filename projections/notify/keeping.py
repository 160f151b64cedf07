"""Episodes and what goes out about them, in Postgres, inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from projections.notify.episodes import (
    TYPES,
    Acknowledgement,
    Closing,
    Episode,
    Opening,
    acknowledgement,
    closing,
    openings,
    todo,
)
from projections.rows import columns, structs
from projections.tables import ARCHIVE, archive, episodes, marks, notifications, positions
from streams.messages import decode_event
from streams.notices import NotifySection, Rule

Key = tuple[str, str]
"""Rule and subject."""
BATCH = 500
"""Events in one transaction, at most."""
LIVE = "live"
LOOKED = "looked"
LOOKED_EVERY = timedelta(seconds=5)
KEPT = timedelta(days=90)
"""For so long an episode that is over can be looked up."""
BEFORE_US = "began before the notifier did"
OVER = "over before it could be told"


def live_since(connection: Connection, at: datetime) -> datetime:
    """Since when this station tells anything: `at`, if it is the first time that somebody asks."""
    connection.execute(insert(marks).values(name=LIVE, seq=0, at=at).on_conflict_do_nothing())
    since: datetime = connection.execute(select(marks.c.at).where(marks.c.name == LIVE)).scalar_one()
    return since


def looked(connection: Connection, at: datetime) -> None:
    """Note that somebody has looked for episodes, unless that was just noted."""
    put = insert(marks).values(name=LOOKED, seq=0, at=at)
    connection.execute(
        put.on_conflict_do_update(
            index_elements=["name"], set_={"at": at}, where=marks.c.at <= at - LOOKED_EVERY
        )
    )


def unread(connection: Connection) -> list[str]:
    """The lanes of which the archive holds more than was read; the station's own lane last.

    Last, because what it says closes what others say was opened.
    """
    read = marks.c.name == positions.c.lane
    wanted = select(positions.c.lane).outerjoin(marks, read).where(positions.c.projection == ARCHIVE)
    lanes = connection.scalars(wanted.where(func.coalesce(marks.c.seq, 0) < positions.c.seq)).all()
    return sorted(lanes, key=lambda lane: (lane == "station", lane))


def folded(connection: Connection) -> dict[str, int]:
    """How far each lane is folded."""
    wanted = select(positions.c.lane, func.max(positions.c.seq).label("seq")).where(
        positions.c.projection != ARCHIVE
    )
    return {row.lane: row.seq for row in connection.execute(wanted.group_by(positions.c.lane))}


def read_up_to(connection: Connection, seqs: Mapping[str, int]) -> list[str]:
    """Those lanes of `seqs` of which at least so much was read."""
    read = {row.name: row.seq for row in connection.execute(select(marks.c.name, marks.c.seq))}
    return [lane for lane, seq in seqs.items() if read.get(lane, 0) >= seq]


def read_on(connection: Connection, rules: Mapping[str, Rule], lane: str, since: datetime) -> None:
    """Open, close and acknowledge what the lane's next events say, and remember that they were read."""
    connection.execute(insert(marks).values(name=lane, seq=0, at=since).on_conflict_do_nothing())
    mark = select(marks.c.seq).where(marks.c.name == lane).with_for_update()
    after = connection.execute(mark).scalar_one()
    head = select(positions.c.seq).where(positions.c.projection == ARCHIVE, positions.c.lane == lane)
    end = connection.execute(head).scalar_one()
    wanted = (archive.c.lane == lane, archive.c.seq > after, archive.c.seq <= end, archive.c.type.in_(TYPES))
    rows = connection.execute(
        select(archive.c.seq, archive.c.raw).where(*wanted).order_by(archive.c.seq).limit(BATCH)
    ).all()
    for row in rows:
        event = decode_event(bytes(row.raw))
        if ends := closing(lane, event):
            close(connection, ends)
        # Another's number: numbers begin anew with a new database, into which an old log may be read.
        if event.logged_at >= since and (seen := acknowledgement(lane, event)):
            acknowledge(connection, seen)
        for opening in openings(rules.values(), lane, event):
            muted = BEFORE_US if event.logged_at < since else None
            open_episode(connection, opening, rules[opening.rule], muted)
    reached = rows[-1].seq if len(rows) == BATCH else max(end, after)
    connection.execute(update(marks).where(marks.c.name == lane).values(seq=reached, at=func.now()))


def open_episode(connection: Connection, opening: Opening, rule: Rule, muted: str | None = None) -> None:
    """Begin an episode, unless it is known, its subject has an open one, or one has only just ended."""
    of_subject = (episodes.c.rule == rule.name, episodes.c.subject == opening.subject)
    if rule.on != "alert":
        again = select(episodes.c.id).where(
            *of_subject, episodes.c.closed_at >= opening.at - timedelta(seconds=rule.settle)
        )
        again = again.order_by(episodes.c.id.desc()).limit(1)
        reopened = (
            update(episodes)
            .where(episodes.c.id == again.scalar_subquery())
            .values(closed_at=None, muted=func.nullif(episodes.c.muted, OVER))
        )
        is_open = select(episodes.c.id).where(*of_subject, episodes.c.closed_at.is_(None)).with_for_update()
        if connection.execute(is_open).first() or connection.execute(reopened).rowcount:
            return
    connection.execute(
        insert(episodes)
        .values(
            rule=rule.name,
            kind=opening.kind,
            subject=opening.subject,
            source=opening.source,
            lane=opening.lane,
            seq=opening.seq,
            detail=opening.detail,
            opened_at=opening.at,
            expires_at=opening.expires_at,
            muted=muted,
            repeats=0,
        )
        .on_conflict_do_nothing()
    )


def close(connection: Connection, ends: Closing) -> None:
    """End the open episodes that `ends` is about."""
    connection.execute(
        update(episodes)
        .where(
            episodes.c.kind.in_(ends.kinds),
            episodes.c.subject == ends.subject,
            episodes.c.lane == ends.lane,
            episodes.c.closed_at.is_(None),
        )
        .values(closed_at=func.greatest(ends.at, episodes.c.opened_at))
    )


def close_found(connection: Connection, rule: str, subject: str, at: datetime) -> None:
    """End the open episode of this rule about the subject, found by looking."""
    about = (episodes.c.rule == rule, episodes.c.subject == subject, episodes.c.closed_at.is_(None))
    connection.execute(
        update(episodes).where(*about).values(closed_at=func.greatest(at, episodes.c.opened_at))
    )


def open_subjects(connection: Connection, rules: Iterable[str]) -> set[tuple[str, str]]:
    """Rule and subject of each open episode of these rules."""
    wanted = select(episodes.c.rule, episodes.c.subject).where(
        episodes.c.rule.in_(list(rules)), episodes.c.closed_at.is_(None)
    )
    return {(row.rule, row.subject) for row in connection.execute(wanted)}


def put_out(
    connection: Connection,
    notify: NotifySection,
    lanes: Iterable[str],
    at: datetime,
    seen: Iterable[Key] = (),
) -> int:
    """Put into the outbox what is to be told now of the episodes of `lanes`; how many there were.

    The others' lanes have not been caught up with: what an event began there may be over. What was
    found by looking waits for no event: while it goes on it is told where it is among the `seen`.
    """
    rules = {rule.name: rule for rule in notify.rules}
    expire(connection, at)
    waiting = (
        select(*columns(episodes, Episode))
        .where(
            or_(episodes.c.closed_at.is_(None), episodes.c.notified_at.is_(None)),
            episodes.c.muted.is_(None),
            episodes.c.rule.in_(list(rules)),
            or_(episodes.c.seq.is_(None), episodes.c.lane.in_(list(lanes))),
        )
        .order_by(episodes.c.id)
        .with_for_update(skip_locked=True)
    )
    told, sure = 0, set(seen)
    for episode in structs(episodes, Episode, list(connection.execute(waiting))):
        rule = rules[episode.rule]
        this = episodes.c.id == episode.id
        looked_for = episode.seq is None and episode.closed_at is None
        if looked_for and (episode.rule, episode.subject) not in sure:
            continue
        match todo(rule, episode, at, notify.maintenance):
            case "tell":
                number = 0 if episode.notified_at is None else episode.repeats + 1
                _put(connection, episode.id, rule, number, at)
                connection.execute(update(episodes).where(this).values(notified_at=at, repeats=number))
                told += 1
            case "late":
                connection.execute(update(episodes).where(this).values(muted=OVER))
            case "wait":
                pass
    return told


def expire(connection: Connection, at: datetime) -> None:
    """End the open episodes whose time is over."""
    over = (episodes.c.closed_at.is_(None), episodes.c.expires_at <= at)
    connection.execute(update(episodes).where(*over).values(closed_at=episodes.c.expires_at))


def _put(connection: Connection, episode: int, rule: Rule, number: int, at: datetime) -> None:
    """One row for each target, but none for one that has not had the one before."""
    unsent = select(notifications.c.target).where(
        notifications.c.episode == episode, notifications.c.state.in_(("due", "sending"))
    )
    behind = set(connection.scalars(unsent)) if number else set()
    rows = [
        {
            "episode": episode,
            "target": target,
            "number": number,
            "state": "due",
            "attempts": 0,
            "created_at": at,
            "next_try": at,
        }
        for target in dict.fromkeys(rule.to)
        if target not in behind
    ]
    if rows:
        connection.execute(insert(notifications).on_conflict_do_nothing(), rows)


def acknowledge(connection: Connection, seen: Acknowledgement) -> bool:
    """Note that somebody sees to the episode: it is repeated no more. Whether this was the first time."""
    unseen = (
        episodes.c.id == seen.episode,
        episodes.c.rule == seen.rule,
        episodes.c.subject == seen.subject,
        episodes.c.acknowledged_at.is_(None),
    )
    noted = update(episodes).where(*unseen).values(acknowledged_at=seen.at, acknowledged_by=seen.by)
    return bool(connection.execute(noted).rowcount)


def forget(connection: Connection, at: datetime) -> None:
    """Delete what was over long ago."""
    old = select(episodes.c.id).where(episodes.c.closed_at < at - KEPT)
    connection.execute(delete(notifications).where(notifications.c.episode.in_(old)))
    connection.execute(delete(episodes).where(episodes.c.closed_at < at - KEPT))
