"""A command submitted through a station's web process, where only its address is known."""

from __future__ import annotations

import os
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


def command_by_http(type: str, source: str) -> Answer:
    """Ask the web process to submit it; the token comes from TOCSIN_TOKEN.

    Raises Trouble, NoAnswer, Away, FolderNeeded.
    """
    if type not in BY_HTTP:
        raise FolderNeeded(f"{type} needs the station's folder, and --station is an address")
    verb = type.partition(".")[2]
    body: dict[str, Any] = {"timeout": options.timeout()}
    given = options.given()
    names = {"command_id": "id", "durability": "durability", "expires": "expires"}
    body |= {field: given[name] for name, field in names.items() if name in given}
    with session.readapi() as api:
        response = api.post(f"/api/audio/sources/{source}/{verb}", body, timeout=options.timeout())
    return _answer(response)


def _answer(response: httpx.Response) -> Answer:
    try:
        told = response.json()
        if response.status_code == httpx.codes.ACCEPTED:
            raise NoAnswer(told["command"]["id"], options.timeout())
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
