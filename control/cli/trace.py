"""`tocsin audit trace`: one command from its signature to what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from control import outcomes
from control.cli import log, options, show
from control.cli.log import Log
from control.cli.progress import counted
from control.cli.trouble import Trouble
from control.station.folder import write_whole
from control.timeline import span, timeline
from control.trace import EARLIER, Life, Related, Told, Waiting, issued_by, life
from streams.admission import UNREADABLE
from streams.messages import canonical, decode_event

LONGEST_CHAIN = 20
"""Commands that stand in the place of one another: no more are followed."""


@click.command("trace")
@click.argument("id", metavar="COMMAND")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Also draw its time line into FILE.")  # fmt: skip
@options.reading
def trace_command(id: str, svg: Path | None) -> None:
    """Tell a command's whole life: who signed it and when, when it was received, which node carried it out
    under which token, what it did and overtook, and how long each step took.

    With --json each line is one object: the command, then its steps.
    """
    with log.opened() as found:
        told = _life(found, id)
        if told is None:
            raise Trouble(
                f"the log knows no command {id!r}",
                why="it has no result, and waits in no lane",
                next="tocsin command list shows the latest ones",
                code=outcomes.EXIT_CODES["rejected"],
                reason="unknown_command",
            )
        told = msgspec.structs.replace(told, related=(*_causes(found, told), *_without_causes(told)))
    if svg is not None:
        write_whole(svg, timeline(told))
    if options.wants_json():
        plain = msgspec.to_builtins(told)
        steps = plain.pop("steps")
        show.as_json({"command": plain})
        for step in steps:
            show.as_json({"step": step})
        return
    _print(told)


def _life(found: Log, id: str) -> Life | None:
    return life(id, list(_mentions(found, id)), _waiting(found, id))


def _mentions(found: Log, id: str) -> Iterator[Told]:
    """The events that hold the id somewhere, of all lanes, as far back as the id can reach."""
    begun = issued_by(id)
    needle = canonical(id)[1:-1]
    for lane in found.lanes():
        after = found.before(lane, begun - EARLIER) if begun else 0
        entries = counted(f"reading {lane}", found.entries(lane, after), max(found.head(lane).seq - after, 0))
        for raw, _ in entries:
            if needle not in raw:
                continue
            try:
                yield Told(lane, decode_event(raw))
            except UNREADABLE:
                click.echo(f"Note: an event of lane {lane} cannot be read: tocsin audit verify", err=True)


def _waiting(found: Log, id: str) -> Waiting | None:
    """The command as it stands in a lane's stream, without a result."""
    for lane in found.lanes():
        pending = found.pending(lane, id)
        if pending is not None:
            seconds = int(pending.entry.split("-")[0]) / 1000
            return Waiting(
                lane=lane,
                raw=pending.raw,
                sequence=pending.sequence,
                received_at=datetime.fromtimestamp(seconds, UTC),
                deliveries=pending.deliveries,
            )
    return None


def _causes(found: Log, told: Life) -> Iterator[Related]:
    """The commands in whose place it stands, the nearest first."""
    seen = {told.id}
    while len(seen) < LONGEST_CHAIN:
        cause = next((one.id for one in told.related if one.how == "in place of"), None)
        if cause is None or cause in seen:
            return
        seen.add(cause)
        earlier = _life(found, cause)
        if earlier is None:
            yield Related(how="in place of", id=cause)
            return
        yield Related(how="in place of", id=cause, type=earlier.type, outcome=earlier.outcome)
        told = earlier


def _without_causes(told: Life) -> Iterator[Related]:
    return (one for one in told.related if one.how != "in place of")


def _print(told: Life) -> None:
    show.facts(
        (
            ("command", told.id),
            ("what", " ".join(filter(None, (told.type, told.source)))),
            ("outcome", told.outcome or "none yet"),
            ("why", ", ".join(filter(None, (told.reason, told.detail)))),
            ("signed by", told.key),
            ("lane", told.lane),
            ("node", f"{told.node}, token {told.token}" if told.node else ""),
            ("delivered", f"{told.deliveries} times" if (told.deliveries or 1) > 1 else ""),
            ("took", f"{span(told.seconds)} from receipt to the log" if told.seconds is not None else ""),
            *((one.how, " ".join(filter(None, (one.id, one.type, one.outcome)))) for one in told.related),
        )
    )
    click.echo()
    show.table(
        ("TIME (UTC)", "AFTER", "WHERE", "STEP", "DETAIL"),
        (
            (
                f"{step.at.astimezone(UTC):%H:%M:%S.%f}"[:-3],
                span(step.seconds),
                f"{step.lane}/{step.seq}" if step.seq is not None else f"({step.clock})",
                step.what,
                step.detail,
            )
            for step in told.steps
        ),
    )
