"""The outcome of a command, told; its exit code is that of CONTRACT."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from control import outcomes
from control.cli import options, show
from control.cli.trouble import Trouble
from streams.messages import Answer

REASONS = {
    "unknown_source": "tocsin source list shows those there are",
    "exists": "tocsin source show {source} shows it; tocsin source update {source} changes it",
    "unauthorised": "the key that signs here (settings: keys.sign_with) may not do this",
    "not_yet_valid": "this machine's clock is ahead of the servers'; set it by NTP",
    "parked": "tocsin parked list shows it; once the cause is mended: tocsin parked retry {id}",
    "source_failed": "mend it, or: tocsin source update {source} --file PATH, tocsin source stop {source}",
    "key_exists": "tocsin key list shows those there are and were; choose another id",
    "unknown_key": "tocsin key list shows those there are; keys.sign_with names the one that signs here",
    "last_key": "tocsin key create ANOTHER --role engineer, then revoke this one",
    "shared_secret": "tocsin key create ANOTHER --role ROLE, then: tocsin key revoke this one",
    "unknown_episode": "tocsin event list --source {source} --type condition. shows the episodes",
    "not_running": "tocsin source start {source}",
    "unknown_parked": "tocsin parked list shows those there are",
}
"""What to do about a reason; {source} and {id} are the command's."""


def tell(type: str, source: str, answer: Answer) -> None:
    """Print what became of a command; raise Trouble unless it was completed."""
    command = plain(type, source, answer)
    if answer.outcome != "completed":
        raise NotCompleted(command)
    if options.wants_json():
        show.as_json({"command": command})
    else:
        click.echo(done(type, source, answer))


def plain(type: str, source: str, answer: Answer) -> dict[str, Any]:
    """A command and what became of it, for --json."""
    told = {name: value for name, value in msgspec.to_builtins(answer).items() if value is not None}
    return {"type": type, "source": source, **told}


def done(type: str, source: str, answer: Answer) -> str:
    """A line about a command that was completed."""
    told = f"{source or type}: {_done(type, answer)} (command {answer.id})"
    return f"{told}\n{answer.detail}" if answer.detail else told


class NotCompleted(Trouble):
    """Raised when a command was not completed; with --json it prints the command, not an error."""

    def __init__(self, command: dict[str, Any]) -> None:
        outcome, reason = command["outcome"], command.get("reason") or ""
        by = f" by {command['by']}" if command.get("by") else ""
        of = f"{command['source']}: " if command["source"] else ""
        super().__init__(
            f"{of}{command['type']} {outcome}{by}{': ' + reason if reason else ''}",
            why=command.get("detail") or "",
            next=what_next(reason, command["source"], command["id"])
            or f"tocsin command show {command['id']}",
            code=outcomes.EXIT_CODES[outcome],
        )
        self.command = command

    def as_json(self) -> dict[str, Any]:
        return {"command": self.command}


def what_next(reason: str, source: str, id: str) -> str:
    """What to do about `reason`; empty where there is nothing to say of it."""
    return REASONS.get(reason, "").format(source=source or "ID", id=id or "ID")


def _done(type: str, answer: Answer) -> str:
    verb = type.partition(".")[2]
    past = {"add": "added", "update": "updated", "remove": "removed"}.get(verb, "")
    parts = [part for part in (past, answer.state) if part]
    return ", ".join(parts) or "done"
