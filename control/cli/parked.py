"""`tocsin parked …`: commands that were set aside because they could not be processed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import msgspec

from control import parked as kept
from control.cli import answers, options, session, show
from control.cli.trouble import Trouble
from control.deadline import within
from control.desk import Desk
from control.outcomes import EXIT_CODES
from control.parked import Copy
from streams.connection import connect
from streams.names import STATION_LANE, StationKeys
from streams.vocabulary import ParkedDrop, ParkedRetry, plain


@click.group()
def parked() -> None:
    """Look at commands that were set aside, and retry or drop them."""


@parked.command("list")
@click.option("--lane", help="Only this lane (else all).")
@options.reading
def list_parked(lane: str | None) -> None:
    """List what is parked, lane by lane, the oldest first."""
    with session.desk() as desk:
        found = list(_copies(desk, lane))
    if options.wants_json():
        show.as_json({"parked": [_plain(copy) for copy in found]})
        return
    show.table(
        ("COMMAND", "TYPE", "SOURCE", "WHY"),
        ((copy.id, copy.command.type, copy.command.source, copy.why) for copy in found),
        empty="Nothing is parked.",
        whole="COMMAND",
    )


@parked.command("show")
@click.argument("id")
@options.reading
def show_parked(id: str) -> None:
    """Show one parked command, with the bytes it came with."""
    with session.desk() as desk:
        copy = _copy(desk, id)
    if options.wants_json():
        show.as_json({"parked": _plain(copy)})
    else:
        show.facts(_plain(copy).items())


@parked.command("retry")
@click.argument("id")
@options.submitting
def retry_parked(id: str) -> None:
    """Submit it anew, signed by your own key; its outcome is told as of any command."""
    with session.desk() as desk, within(options.timeout()) as left:
        copy = _copy(desk, id)
        was = copy.command
        wish = session.wish(was.type, was.source, was.params, id=options.given().get("command_id"))
        again = desk.sign(msgspec.structs.replace(wish, cause=copy.id), copy.lane)
        asked = ParkedRetry(lane=copy.lane, id=copy.id, request=again.raw.decode(), signature=again.signature)
        taken = desk.submit(
            session.wish("parked.retry", "", plain(asked), follows=True), STATION_LANE, timeout=left()
        )
        if taken.outcome != "completed":
            answers.tell("parked.retry", was.source, taken)
        answers.tell(was.type, was.source, desk.send(again, timeout=left()))


@parked.command("drop")
@click.argument("id")
@options.submitting
def drop_parked(id: str) -> None:
    """Give it up; the log keeps that it was dropped, and by whom."""
    with session.desk() as desk:
        copy = _copy(desk, id)
        wish = session.wish(
            "parked.drop",
            "",
            plain(ParkedDrop(lane=copy.lane, id=copy.id)),
            id=options.given().get("command_id"),
        )
        answer = desk.submit(wish, STATION_LANE, timeout=options.timeout())
    answers.tell("parked.drop", copy.command.source, answer)


def _copies(desk: Desk, lane: str | None) -> Iterator[Copy]:
    link = connect(desk.settings.as_role("reader").redis, "parked")
    keys = StationKeys(desk.settings.station.id)
    try:
        for one in session.lanes(desk, lane):
            yield from kept.copies(link, keys.lane(one), one)
    finally:
        link.close()


def _copy(desk: Desk, id: str) -> Copy:
    for copy in _copies(desk, None):
        if copy.id == id:
            return copy
    raise Trouble(
        f"no command {id!r} is parked",
        next="tocsin parked list shows those that are",
        code=EXIT_CODES["rejected"],
        reason="unknown_parked",
    )


def _plain(copy: Copy) -> dict[str, Any]:
    was = copy.command
    return {
        "id": copy.id,
        "lane": copy.lane,
        "type": was.type,
        "source": was.source,
        "params": was.params,
        "key": was.key,
        "why": copy.why,
        "deliveries": copy.deliveries,
        "parked_at": copy.at.isoformat(timespec="milliseconds"),
        "request": copy.raw.decode(),
        "signature": copy.signature,
    }
