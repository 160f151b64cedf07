"""What went wrong, told to a person: what, why, and what to do next; with the exit code of CONTRACT."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

from control import outcomes


class Trouble(click.ClickException):
    """Raised by a verb that cannot do what was asked; ends the command with `exit_code`."""

    def __init__(
        self, what: str, *, why: str = "", next: str = "", code: int = outcomes.FAULT, **facts: Any
    ) -> None:
        super().__init__(what)
        self.why = why
        self.next = next
        self.exit_code = code  # type: ignore[misc]  # click declares it for the class
        self.facts = facts

    def as_json(self) -> dict[str, Any]:
        """The error as one object, for --json."""
        told = {
            "what": self.message,
            "why": self.why,
            "next": self.next,
            "exit_code": self.exit_code,
            **self.facts,
        }
        return {"error": {name: value for name, value in told.items() if value not in ("", None)}}

    def tell(self, *, as_json: bool) -> None:
        """Write it to standard error, and as JSON to standard output where that was asked for."""
        if as_json:
            click.echo(json.dumps(self.as_json(), ensure_ascii=False))
        click.echo(f"{_red('tocsin:')} {self.message}", err=True)
        if self.why:
            click.echo(f"  why:  {self.why}", err=True)
        if self.next:
            click.echo(f"  next: {self.next}", err=True)


def _red(text: str) -> str:
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    return click.style(text, fg="red", bold=True) if coloured else text


def explain(error: Exception) -> Trouble:
    """What a person should be told of `error`; what is not foreseen is a fault of the tool itself."""
    # Only here, once something went wrong: --help must not cost these imports.
    from redis.exceptions import RedisError

    from control.place import FolderNeeded, NoStation
    from control.readapi import Away, NotFound
    from streams.breaker import BreakerOpen
    from streams.connection import Unreachable
    from streams.history import ArchiveAway, EventsMissing
    from streams.names import InvalidName
    from streams.server_check import WrongServer
    from streams.settings import InvalidSettings
    from streams.signing import InvalidKey
    from streams.submit import Full, InDoubt, NoAnswer, Refused

    match error:
        case NoAnswer():
            return Trouble(
                "no answer yet",
                why=str(error),
                next=f"ask again: tocsin command show {error.id}",
                code=outcomes.NO_ANSWER_YET,
                id=error.id,
            )
        case InDoubt():
            return Trouble(
                "nobody knows whether the command was accepted",
                why=str(error),
                next=f"once the station is back, repeat this command with --id {error.id}",
                code=outcomes.UNREACHABLE,
                id=error.id,
            )
        case Full():
            return Trouble(
                "the station takes no new commands now; nothing was submitted",
                why=str(error),
                next="tocsin doctor says what holds the archive up (mostly Postgres); else raise maxmemory",
                code=outcomes.UNREACHABLE,
                reason=error.reason,
            )
        case Refused():
            return Trouble(
                f"rejected: {error.reason}",
                why=str(error),
                next="tocsin source list shows those there are" if error.reason == "unknown_source" else "",
                code=outcomes.EXIT_CODES["rejected"],
                outcome="rejected",
                reason=error.reason,
                field=error.field,
            )
        case BreakerOpen():
            return Trouble(
                "the station cannot be reached; nothing was submitted",
                why=error.detail,
                next="submit it again then; tocsin doctor says what is down",
                code=outcomes.UNREACHABLE,
                retry_in=round(error.retry_in, 1),
            )
        case Unreachable():
            sent = "whether it had any effect is not known" if error.sent else "nothing was submitted"
            fault = error.fault if error.fault and error.fault.remedy in ("wait", "person") else None
            next = "tocsin doctor says what is down; tocsin up starts your own station"
            return Trouble(
                f"the station {'takes no commands now' if fault else 'cannot be reached'}; {sent}",
                why=error.detail,
                next=fault.next if fault else next,
                code=outcomes.UNREACHABLE,
            )
        case Away():
            return Trouble(
                "the station's web process cannot be reached",
                why=str(error),
                next="tocsin doctor says what is down; tocsin up starts your own station",
                code=outcomes.UNREACHABLE,
            )
        case NotFound():
            return Trouble(
                str(error),
                next="what was just submitted can take a second to show; try again" if error.fresh else "",
                code=outcomes.EXIT_CODES["rejected"],
                reason=error.reason,
            )
        case NoStation():
            return Trouble(
                str(error),
                next="start one with: tocsin up   (or name another: --station DIR)",
                code=outcomes.UNREACHABLE,
            )
        case FolderNeeded():
            return Trouble(str(error), next="give the folder: --station DIR", code=outcomes.WRONG_USAGE)
        case InvalidName():
            return Trouble(str(error), code=outcomes.WRONG_USAGE, field=error.field)
        case InvalidSettings():
            return Trouble(
                "the settings cannot be used",
                why=str(error),
                next="docs/configuration.md lists every key",
                code=outcomes.WRONG_USAGE,
                field=error.field,
            )
        case InvalidKey():
            return Trouble("no command can be signed here", why=str(error), code=outcomes.WRONG_USAGE)
        case WrongServer():
            return Trouble(
                "the Redis server would break promises, and is not used",
                why=str(error),
                next="change that and start again; tocsin doctor checks it",
            )
        case ArchiveAway() | EventsMissing():
            return Trouble(
                "the past of the log cannot be read",
                why=str(error),
                next="tocsin doctor says what is down; the archive is the Postgres of postgres.url",
                code=outcomes.UNREACHABLE,
            )
        case RedisError():
            return Trouble("Redis refused", why=str(error), next="tocsin doctor", code=outcomes.UNREACHABLE)
        case _:
            return Trouble(
                f"a fault of the tool itself: {type(error).__name__}: {error}",
                next="TOCSIN_DEBUG=1 shows where; please report it",
            )
