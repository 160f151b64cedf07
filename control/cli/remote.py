"""A command submitted through a station's web process, where only its address is known."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import httpx
import msgspec

from control import outcomes
from control.cli import options, session
from control.cli.trouble import Trouble
from control.place import FolderNeeded
from streams.messages import Answer
from streams.submit import NoAnswer

BY_HTTP = frozenset({"source.start", "source.stop", "source.restart"})


def by_http() -> Callable[[str, str], Answer]:
    """What asks the web process to submit a type of command for a source; from any thread.

    The token comes from TOCSIN_TOKEN. Raises FolderNeeded; what is returned raises Trouble, NoAnswer, Away,
    FolderNeeded.
    """
    if options.dry_run():
        raise FolderNeeded("--dry-run signs here and needs the station's folder, and --station is an address")
    timeout, given = options.timeout(), options.given()
    names = {
        "command_id": "id",
        "durability": "durability",
        "expires": "expires",
        "if_sequence": "if_sequence",
    }
    body: dict[str, Any] = {"timeout": timeout}
    body |= {field: given[name] for name, field in names.items() if name in given}
    api = session.readapi()

    def submit(type: str, source: str) -> Answer:
        if type not in BY_HTTP:
            raise FolderNeeded(f"{type} needs the station's folder, and --station is an address")
        verb = type.partition(".")[2]
        response = api.post(f"/api/audio/sources/{source}/{verb}", body, timeout=timeout)
        return _answer(response, timeout)

    return submit


def _answer(response: httpx.Response, timeout: float) -> Answer:
    try:
        told = response.json()
        if response.status_code == httpx.codes.ACCEPTED:
            raise NoAnswer(told["command"]["id"], timeout)
        if "command" in told:
            return msgspec.convert(told["command"], Answer)
        error: dict[str, Any] = told["error"]
    except (ValueError, KeyError, TypeError):
        raise Trouble(
            f"the station answered {response.status_code}", why=response.text[:200], code=outcomes.UNREACHABLE
        ) from None
    away = response.status_code == httpx.codes.SERVICE_UNAVAILABLE
    code = outcomes.UNREACHABLE if away else outcomes.EXIT_CODES["rejected"]
    hint = (
        ""
        if os.environ.get("TOCSIN_TOKEN") or response.status_code != 401
        else "put the token into TOCSIN_TOKEN"
    )
    raise Trouble(error["reason"], why=error["detail"], next=hint, code=code, id=error.get("id"))
