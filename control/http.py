"""The write side of the HTTP API: start, stop and restart, with a token and CONTRACT's statuses."""

from __future__ import annotations

import hmac
import threading
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, Router, post
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath

from control import outcomes
from control.desk import Desk, Wish
from streams.connection import Unreachable
from streams.messages import Durability, canonical
from streams.names import InvalidName, source_id
from streams.settings import InvalidSettings, Settings
from streams.signing import InvalidKey
from streams.submit import InDoubt, NoAnswer, Refused

MAX_BODY = 4096
"""Bytes."""
AT_ONCE = 16
"""Writes in progress; more are told to come back: a slow station must not take all threads from readers."""
RETRY_AFTER = 5
"""Seconds."""


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a write; all of it may be left out. Spans are in seconds."""

    timeout: Annotated[float, msgspec.Meta(gt=0, le=30)] = 10.0
    expires: Annotated[float, msgspec.Meta(gt=0, le=86400)] = 60.0
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] | None = None
    durability: Durability | None = None
    if_sequence: int | None = None


def routes(settings: Settings, directory: Path) -> list[Router]:
    """The write routes; `directory` is the station's folder.

    Raises InvalidSettings when the token file cannot be read.
    """
    token = web_token(settings)
    writer = Writer(Desk(settings, directory))

    def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        refusal = unauthorised(connection.headers.get("authorization", ""), token)
        if refusal is not None:
            raise Unauthorised(refusal)

    def told(verb: Literal["start", "stop", "restart"]) -> Any:
        @post(f"/{{id:str}}/{verb}", name=f"source.{verb}", sync_to_thread=True)
        def handler(id: FromPath[str], body: bytes) -> Response[bytes]:
            return writer.write(f"source.{verb}", id, body)

        return handler

    return [
        Router(
            "/api/audio/sources",
            route_handlers=[told("start"), told("stop"), told("restart")],
            guards=[guard],
            request_max_body_size=MAX_BODY,
            exception_handlers={Unauthorised: _not_authorised},
        )
    ]


def web_token(settings: Settings) -> str:
    """The token for writing, empty where none is set; raises InvalidSettings when its file cannot be read."""
    if not settings.web.token_file:
        return ""
    try:
        return Path(settings.web.token_file).read_text("utf-8").strip()
    except OSError as error:
        detail = f"{settings.web.token_file!r} cannot be read: {error.strerror}"
        raise InvalidSettings("web.token_file", detail) from None


class Unauthorised(Exception):
    """Raised when a write comes without the right token."""


def unauthorised(header: str, token: str) -> str | None:
    """Why a request with this Authorization header may not write; None when it may."""
    if not token:
        return "this station has no token (settings: web.token_file), so nobody may write over HTTP"
    scheme, _, given = header.partition(" ")
    if scheme.lower() != "bearer" or not given:
        return "a bearer token is needed"
    if not hmac.compare_digest(given.strip().encode(), token.encode()):
        return "the token is not this station's"
    return None


class Writer:
    """Turns requests into commands and outcomes into responses."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._places = threading.BoundedSemaphore(AT_ONCE)

    def write(self, type: str, source: str, body: bytes) -> Response[bytes]:
        """Submit the command and answer with its outcome; never raises for what is foreseen."""
        try:
            asked = msgspec.json.decode(body or b"{}", type=Asked)
        except msgspec.MsgspecError as error:
            return _refused("malformed", str(error), status=422)
        if not self._places.acquire(blocking=False):
            return _away("too many commands are waiting for their outcomes; nothing was submitted")
        try:
            return self._submit(type, source, asked)
        finally:
            self._places.release()

    def _submit(self, type: str, source: str, asked: Asked) -> Response[bytes]:
        wish = Wish(
            type=type,
            source=source,
            validity=timedelta(seconds=asked.expires),
            id=asked.id,
            durability=asked.durability,
            if_sequence=asked.if_sequence,
        )
        try:
            lane = self._desk.lane_of(source_id(source), timeout=asked.timeout)
            answer = self._desk.submit(wish, lane, timeout=asked.timeout)
        except InvalidName as error:
            return _refused("invalid_name", str(error), field=error.field, status=422)
        except Refused as error:
            status = outcomes.rejection_status(error.reason)
            return _refused(error.reason, str(error), field=error.field, status=status)
        except NoAnswer as error:
            told = {"id": error.id, "type": type, "source": source, "outcome": None, "detail": str(error)}
            return _respond(202, {"command": told}, {"Location": f"/api/commands/{error.id}"})
        except InDoubt as error:
            return _away(str(error), id=error.id)
        except Unreachable as error:
            return _away(f"{error.detail}; nothing was submitted")
        except InvalidKey as error:
            return _refused("unknown_key", str(error), status=500)
        told = {"type": type, "source": source, **msgspec.to_builtins(answer)}
        return _respond(outcomes.status(answer), {"command": told})


def _refused(reason: str, detail: str, *, status: int, field: str | None = None) -> Response[bytes]:
    return _respond(status, {"error": {"reason": reason, "detail": detail, "field": field}})


def _away(detail: str, id: str | None = None) -> Response[bytes]:
    error = {"reason": "unreachable", "detail": detail, "id": id}
    return _respond(503, {"error": error}, {"Retry-After": str(RETRY_AFTER)})


def _respond(status: int, told: dict[str, Any], headers: dict[str, str] | None = None) -> Response[bytes]:
    return Response(canonical(told), status_code=status, media_type="application/json", headers=headers or {})


def _not_authorised(_: Request[Any, Any, Any], error: Unauthorised) -> Response[bytes]:
    told = {"error": {"reason": "unauthorised", "detail": str(error), "field": "authorization"}}
    return _respond(401, told, {"WWW-Authenticate": "Bearer"})
