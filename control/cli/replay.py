"""`tocsin audit replay`: events as they stand in the log, all of them or those that are asked for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import click
import msgspec

from control.cli import log, options, show
from control.cli.moment import Moment
from streams.messages import Event, decode_event


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which events are asked for; what is empty or None does not matter. Times are those of logging."""

    source: str = ""
    command: str = ""
    type: str = ""
    key: str = ""
    cause: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def takes(self, event: Event) -> bool:
        """Whether the event is asked for. Key and cause are those of the command that it is the result of."""
        typed = not self.type or event.type == self.type
        typed = typed or (self.type.endswith(".") and event.type.startswith(self.type))
        if not typed or (self.source and event.source != self.source):
            return False
        if self.command and event.command != self.command:
            return False
        if self.since is not None and event.logged_at < self.since:
            return False
        if self.until is not None and event.logged_at > self.until:
            return False
        if not (self.key or self.cause):
            return True
        signed = request_of(event)
        return signed.key == (self.key or signed.key) and signed.cause == (self.cause or signed.cause)


class Request(msgspec.Struct, frozen=True):
    """What of a result's signed command is asked for here."""

    key: str = ""
    cause: str | None = None


def request_of(event: Event) -> Request:
    """What the command under a result says; nothing where the event is no result, or it cannot be read."""
    raw = event.data.get("request")
    if not (event.type.startswith("command.") and isinstance(raw, str)):
        return Request()
    try:
        return msgspec.json.decode(raw, type=Request)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return Request()


def _option(name: str, help: str, **more: Any) -> Callable[[Any], Any]:
    return click.option(f"--{name}", default="", help=help, **more)


@click.command("replay")
@click.option("--lane", help="Only this lane (else all, one after the other).")
@click.option("--after", type=click.IntRange(0), default=0, help="Begin behind this seq.")
@click.option("--upto", type=click.IntRange(1), help="End with this seq.")
@_option("source", "Only events of this source.")
@_option("command", "Only events that this command caused, its result among them.")
@_option("type", "Only this type, or what begins with it (`source.`).")
@click.option("--since", type=Moment(), help="Only what was logged at this time or later (UTC).")
@click.option("--until", type=Moment(), help="Only what was logged at this time or before.")
@_option("key", "Only results of commands that this key signed.")
@_option("cause", "Only results of commands that stand in the place of this one.")
@options.reading
def replay_log(lane: str | None, after: int, upto: int | None, **filters: Any) -> None:
    """Print events, oldest first: lane, hash and the very bytes that were hashed, tab-separated.

    With --json each line is one object instead.
    """
    wanted = Wanted(**filters)
    all_of_them = wanted == Wanted()
    with log.opened() as found:
        for one in found.lanes(lane):
            begin = after if wanted.since is None else max(after, found.before(one, wanted.since))
            for raw, hash in found.entries(one, begin, upto):
                if not (all_of_them or wanted.takes(decode_event(raw))):
                    continue
                if options.wants_json():
                    event = msgspec.to_builtins(decode_event(raw))
                    show.as_json({"event": {"lane": one, "hash": hash.decode(), **event}})
                else:
                    click.echo(f"{one}\t{hash.decode()}\t".encode() + raw)
