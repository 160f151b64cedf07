"""What --dry-run prints: commands that would be signed, and what is known to speak against them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import msgspec

from control.cli import options, show
from control.outcomes import EXIT_CODES
from control.rehearsal import Rehearsed


def tell(commands: Sequence[Rehearsed], *, several: bool = False) -> None:
    """Print them; with --json the one under its noun, `several` under the plural."""
    if options.wants_json():
        told = [_plain(one) for one in commands]
        show.as_json({"commands": told} if several or len(told) != 1 else {"command": told[0]})
        return
    for one in commands:
        command = one.command
        click.echo(
            f"{command.source or command.type}: {command.type} would be signed by {command.key!r}"
            f" for lane {command.lane}; nothing was submitted"
        )
        click.echo(f"  {show.line(msgspec.to_builtins(command))}")
        for objection in one.objections:
            weight = "refused" if objection.final else "note"
            click.echo(f"  {weight}: {objection.reason}: {objection.detail}")
        if not one.objections:
            click.echo("  nothing is known to speak against it")


def exit_code(commands: Sequence[Rehearsed]) -> int:
    """That of a rejection where one would be refused, else 0."""
    return EXIT_CODES["rejected"] if any(one.would_be_refused for one in commands) else 0


def _plain(one: Rehearsed) -> dict[str, Any]:
    command = msgspec.to_builtins(one.command)
    objections = [{"final": True, **msgspec.to_builtins(told)} for told in one.objections]
    return {**command, "outcome": None, "dry_run": True, "objections": objections}
