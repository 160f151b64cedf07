"""A command submitted through a station's web process, where only its address is known."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import msgspec

from control import outcomes
from control.cli import options, session
from control.cli.trouble import Trouble
from control.desk import Wish
from control.place import FolderNeeded
from streams.messages import Answer
from streams.submit import NoAnswer

SOURCES = "/api/audio/sources"
WAYS: Mapping[str, tuple[str, str]] = {
    "source.add": ("POST", SOURCES),
    "source.update": ("PATCH", f"{SOURCES}/{{source}}"),
    "source.remove": ("DELETE", f"{SOURCES}/{{source}}"),
    "source.start": ("POST", f"{SOURCES}/{{source}}/start"),
    "source.stop": ("POST", f"{SOURCES}/{{source}}/stop"),
    "source.restart": ("POST", f"{SOURCES}/{{source}}/restart"),
    "source.inject": ("POST", f"{SOURCES}/{{source}}/inject"),
    "condition.acknowledge": ("POST", f"{SOURCES}/{{source}}/acknowledge"),
}
"""The types of command that the web process signs itself, and how it is asked to."""


def by_http() -> Callable[..., Answer]:
    """What asks the web process to submit a wish for a source, from any thread.

    It may be told a `timeout`, and what the body is to say beside the wish; TOCSIN_TOKEN has the token.
    Raises FolderNeeded; what is returned raises Trouble, NoAnswer, Away, FolderNeeded.
    """
    if options.dry_run():
        raise FolderNeeded("--dry-run signs here and needs the station's folder, and --station is an address")
    patience = options.timeout()
    api = session.readapi()

    def submit(wish: Wish, *, timeout: float = patience, **more: Any) -> Answer:
        if wish.type not in WAYS:
            raise FolderNeeded(f"{wish.type} needs the station's folder, and --station is an address")
        method, path = WAYS[wish.type]
        said = {"durability": wish.durability, "if_sequence": wish.if_sequence, **more}
        body = {name: value for name, value in said.items() if value is not None}
        body |= {"timeout": timeout, "expires": wish.validity.total_seconds(), **wish.params}
        headers = {"Idempotency-Key": f'"{wish.id}"'} if wish.id else {}
        response = api.write(method, path.format(source=wish.source), body, headers, timeout=timeout)
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
