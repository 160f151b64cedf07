"""`tocsin audit …`: show that the log is whole, and read it from end to end."""

from __future__ import annotations

import click
import msgspec

from control import outcomes
from control.cli import options, session, show
from streams.audit import Verdict, head_of, verify
from streams.connection import connect
from streams.messages import decode_event
from streams.names import StationKeys
from streams.replay import stored


@click.group()
def audit() -> None:
    """Verify and replay the log."""


@audit.command("verify")
@click.option("--lane", help="Only this lane (else all).")
@options.reading
def verify_log(lane: str | None) -> int:
    """Check every event's bytes, hash and place; name the first bad one (exit code 3)."""
    with session.desk() as desk:
        link = connect(desk.settings.redis, "audit")
        keys = StationKeys(desk.settings.station.id)
        verdicts = []
        for one in session.lanes(desk, lane):
            head = head_of(link, keys.lane(one))
            verdicts.append(verify(one, stored(link, keys.lane(one)), head))
        link.close()
    bad = [verdict for verdict in verdicts if verdict.fault]
    if options.wants_json():
        told = {"sound": not bad, "lanes": msgspec.to_builtins(verdicts)}
        show.as_json({"audit": told})
    else:
        show.table(("LANE", "EVENTS", "LAST HASH", "VERDICT"), (_row(verdict) for verdict in verdicts))
    return outcomes.EXIT_CODES["failed"] if bad else 0


@audit.command("replay")
@click.option("--lane", help="Only this lane (else all, one after the other).")
@click.option("--after", type=click.IntRange(0), default=0, help="Begin behind this seq.")
@click.option("--upto", type=click.IntRange(1), help="End with this seq.")
@options.reading
def replay_log(lane: str | None, after: int, upto: int | None) -> None:
    """Print every event, oldest first: lane, hash and the very bytes that were hashed, tab-separated.

    With --json each line is one object instead.
    """
    with session.desk() as desk:
        link = connect(desk.settings.redis, "audit")
        keys = StationKeys(desk.settings.station.id)
        for one in session.lanes(desk, lane):
            for raw, hash in stored(link, keys.lane(one), after=after, upto=upto):
                if options.wants_json():
                    event = msgspec.to_builtins(decode_event(raw))
                    show.as_json({"event": {"lane": one, "hash": hash.decode(), **event}})
                else:
                    click.echo(f"{one}\t{hash.decode()}\t".encode() + raw)
        link.close()


def _row(verdict: Verdict) -> tuple[object, ...]:
    told = f"BAD at seq {verdict.fault.seq}: {verdict.fault.problem}" if verdict.fault else "sound"
    return verdict.lane, verdict.events, verdict.hash[:12] if verdict.events else "", told
