"""The write side of the HTTP API: sources, commands signed elsewhere, and logging in."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, HeaderParameter

from control.desk import Desk
from control.door import Door, KeysUnknown, Unauthorised, Visitor
from control.openapi import documented, with_body
from control.writer import Writer
from control.writes import (
    Adding,
    Asked,
    Changing,
    Done,
    Injecting,
    NotDone,
    Seeing,
    SeeingTo,
    SignedElsewhere,
    away,
    refused,
    respond,
)
from streams.breaker import Breaker
from streams.messages import MAX_COMMAND_BYTES
from streams.settings import Settings
from streams.signing import Role

MAX_BODY = 4096
"""Bytes."""
MAX_SETTINGS = 16 * 1024
"""Bytes of a body with the settings of a source."""
ANSWERS = {
    202: (Done, "No answer yet: `Location` says where to ask."),
    401: (NotDone, "No token or session, or none of this station's."),
    403: (Done | NotDone, "The key may not do this, or it came by another site's page."),
    409: (Done | NotDone, "Superseded; or the id or the sequence conflicts."),
    410: (Done, "It expired before it was tried."),
    413: (Any, "The body is too large."),
    422: (Done | NotDone, "Rejected; `field` says what is to blame."),
    429: (NotDone, "This key writes too fast: `Retry-After`."),
    500: (NotDone, "This process cannot sign."),
    502: (Done, "It was tried and failed."),
    503: (NotDone, "The station cannot be reached: `Retry-After`."),
}
"""What any write may answer beside 200."""
OPEN = {"open": True}
"""Of what reading's guard lets pass: it has one of its own, or needs none."""
SECURED: list[dict[str, list[str]]] = [{"bearer": []}, {"session": [], "csrf": []}]
IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        description="The command's id, up to 64 characters: the same one again gives the same answer.",
    ),
]


class Login(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a login."""

    token: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class SessionTold(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks. `csrf` is to be sent as X-Tocsin-CSRF with every write of a session; null for a token."""

    key: str
    role: Role
    expires_at: datetime | None
    csrf: str | None


def routes(settings: Settings, directory: Path, door: Door, breaker: Breaker | None = None) -> list[Any]:
    """The write routes; `directory` is the station's folder, `breaker` this process's around Redis.

    They go into the read side's own router: Litestar takes a path from one router only.
    """
    desk = Desk(settings, directory, breaker or Breaker("redis", settings.breaker))
    writer = Writer(desk, door.keyring)

    def described(
        kind: type[msgspec.Struct], *, required: bool = False, most: int = MAX_BODY
    ) -> dict[str, Any]:
        return {
            "sync_to_thread": True,
            "guards": [guard(door)],
            "opt": OPEN,
            "exception_handlers": HANDLERS,
            "request_max_body_size": most,
            "status_code": 200,
            "operation_class": with_body(kind, required=required),
            "responses": documented(ANSWERS),
            "security": SECURED,
        }

    def told(verb: Literal["start", "stop", "restart"]) -> Any:
        @post(
            f"/api/audio/sources/{{id:str}}/{verb}",
            name=f"source.{verb}",
            operation_id=f"{verb}_source",
            summary=f"{verb.capitalize()} a source.",
            **described(Asked),
        )
        def handler(
            id: FromPath[str], body: bytes, request: Request[Any, Any, Any], command: IdempotencyKey = None
        ) -> Response[Done]:
            return writer.command(visitor_of(request), f"source.{verb}", id, body, command)

        return handler

    @post(
        "/api/audio/sources",
        operation_id="add_source",
        summary="Make a source known.",
        **described(Adding, required=True, most=MAX_SETTINGS),
    )
    def add_source(
        body: bytes, request: Request[Any, Any, Any], command: IdempotencyKey = None
    ) -> Response[Done]:
        return writer.add(visitor_of(request), body, command)

    @patch(
        "/api/audio/sources/{id:str}",
        operation_id="change_source",
        summary="Change a source's name or settings.",
        **described(Changing, required=True, most=MAX_SETTINGS),
    )
    def change_source(
        id: FromPath[str], body: bytes, request: Request[Any, Any, Any], command: IdempotencyKey = None
    ) -> Response[Done]:
        return writer.change(visitor_of(request), id, body, command)

    @delete(
        "/api/audio/sources/{id:str}",
        operation_id="remove_source",
        summary="Stop a source and forget it.",
        **described(Asked),
    )
    def remove_source(
        id: FromPath[str], body: bytes, request: Request[Any, Any, Any], command: IdempotencyKey = None
    ) -> Response[Done]:
        return writer.command(visitor_of(request), "source.remove", id, body, command)

    @post(
        "/api/audio/sources/{id:str}/inject",
        operation_id="inject_test",
        summary="Play a recording through a source, as a test.",
        **described(Injecting, required=True),
    )
    def inject_test(
        id: FromPath[str], body: bytes, request: Request[Any, Any, Any], command: IdempotencyKey = None
    ) -> Response[Done]:
        return writer.inject(visitor_of(request), id, body, command)

    @post(
        "/api/audio/sources/{id:str}/acknowledge",
        operation_id="acknowledge_condition",
        summary="Say that a source's condition was seen.",
        **described(Seeing, required=True),
    )
    def acknowledge_condition(
        id: FromPath[str], body: bytes, request: Request[Any, Any, Any], command: IdempotencyKey = None
    ) -> Response[Done]:
        return writer.acknowledge(visitor_of(request), id, body, command)

    numbered = described(SeeingTo, required=True)
    numbered["responses"] = documented({**ANSWERS, 404: (Any, "That is no number of an episode.")})

    @post(
        "/api/audio/episodes/{episode:int}/acknowledge",
        operation_id="acknowledge_episode",
        summary="Say that you see to what a notification told of.",
        **numbered,
    )
    def acknowledge_episode(
        episode: FromPath[int], body: bytes, request: Request[Any, Any, Any], command: IdempotencyKey = None
    ) -> Response[Done]:
        return writer.see_to(visitor_of(request), episode, body, command)

    forwarding = described(SignedElsewhere, required=True, most=3 * MAX_COMMAND_BYTES)
    forwarding |= {"guards": [], "security": [{}]}

    @post(
        "/api/commands",
        operation_id="forward_command",
        summary="Submit a command that was signed elsewhere.",
        **forwarding,
    )
    def forward_command(body: bytes, command: IdempotencyKey = None) -> Response[Done]:
        """Its signature says who asks: no token is needed."""
        return writer.forward(body, command)

    sources = [told("start"), told("stop"), told("restart"), add_source, change_source, remove_source]
    seen = [inject_test, acknowledge_condition, acknowledge_episode]
    return [*sources, *seen, forward_command, *_sessions(door)]


def _sessions(door: Door) -> list[Any]:
    """Logging in and out, and who one is."""
    faults = {
        401: (NotDone, "No token or session, or none of this station's."),
        403: (NotDone, "It came by another site's page."),
        413: (Any, "The body is too large."),
        422: (NotDone, "The body is not understood."),
        503: (NotDone, "Which keys are good is not known yet: `Retry-After`."),
    }
    alike: dict[str, Any] = {
        "request_max_body_size": MAX_BODY,
        "exception_handlers": HANDLERS,
        "sync_to_thread": False,
        "opt": OPEN,
    }

    @post(
        "/api/session",
        operation_id="log_in",
        summary="Log in with a token.",
        status_code=200,
        **alike,
        operation_class=with_body(Login, required=True),
        responses=documented(faults),
        security=[{}],
    )
    def log_in(body: bytes, request: Request[Any, Any, Any]) -> Response[SessionTold]:
        door.own_origin(request)
        try:
            asked = msgspec.json.decode(body, type=Login)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return refused("malformed", str(error), status=422)  # type: ignore[return-value]
        visitor = door.by_token(asked.token)
        session, value = door.sessions.seal(asked.token)
        told = SessionTold(
            key=visitor.id, role=visitor.role, expires_at=session.expires_at, csrf=door.sessions.csrf(value)
        )
        return Response(told, cookies=[door.sessions.cookie(value)], headers={"Cache-Control": "no-store"})

    @get(
        "/api/session",
        operation_id="show_session",
        summary="Who asks.",
        **alike,
        responses=documented(faults),
        security=SECURED,
    )
    def who(request: Request[Any, Any, Any]) -> Response[SessionTold]:
        visitor = door.visitor(request)
        cookie = door.cookie_of(request) if visitor.session else None
        told = SessionTold(
            key=visitor.id,
            role=visitor.role,
            expires_at=visitor.session.expires_at if visitor.session else None,
            csrf=door.sessions.csrf(cookie) if cookie else None,
        )
        return Response(told, headers={"Cache-Control": "no-store"})

    @delete(
        "/api/session", operation_id="log_out", summary="Log out.", status_code=200, **alike, security=[{}]
    )
    def log_out() -> Response[dict[str, bool]]:
        return Response({"ended": True}, cookies=[door.sessions.cookie("")])

    return [log_in, who, log_out]


def guard(door: Door) -> Any:
    """What lets nobody pass who is not known; whoever is, is `visitor_of` the request from then on."""

    def known(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        connection.scope["state"]["visitor"] = door.visitor(connection)

    return known


def reading_guard(door: Door) -> Any:
    """The same for reads, which tell it in their own way."""

    def known(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        if handler.opt.get("open"):
            return
        try:
            door.visitor(connection)
        except Unauthorised as error:
            raise NotAuthorizedException(str(error)) from None

    return known


def visitor_of(request: Request[Any, Any, Any]) -> Visitor:
    """Who asks, as the guard found."""
    found: Visitor = request.scope["state"]["visitor"]
    return found


def _not_authorised(_: Request[Any, Any, Any], error: Unauthorised) -> Response[bytes]:
    if error.forged:
        return refused("forged", str(error), status=403, field="x-tocsin-csrf")
    told = {"error": {"reason": "unauthorised", "detail": str(error), "field": "authorization"}}
    return respond(401, told, {"WWW-Authenticate": "Bearer"})


def _not_known_yet(_: Request[Any, Any, Any], error: KeysUnknown) -> Response[bytes]:
    return away(str(error), retry_in=1)


HANDLERS: dict[Any, Any] = {Unauthorised: _not_authorised, KeysUnknown: _not_known_yet}
"""For Litestar: how each error is told."""
