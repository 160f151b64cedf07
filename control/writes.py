"""What a write over HTTP asks for, and what is answered; what each outcome looks like there."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

import msgspec
from litestar import Response

from streams.messages import Durability, Outcome, canonical

RETRY_AFTER = 5
"""Seconds after which a client may ask again; sooner where a breaker lets somebody try before."""
CommandId = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_QUOTED = re.compile(r'"([^"]*)"')


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be said of any write. Spans are in seconds."""

    timeout: Annotated[float, msgspec.Meta(gt=0, le=30)] = 10.0
    expires: Annotated[float, msgspec.Meta(gt=0, le=86400)] = 60.0
    durability: Durability | None = None
    if_sequence: Annotated[int, msgspec.Meta(ge=0)] | None = None


class Asked(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of start, stop, restart and remove; all of it may be left out. `id` is the command's."""

    id: CommandId | None = None


class Adding(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of an add: the source's `id`, and its `settings` with their `kind`.

    `node` names the machine that a file, a device or a pipe is wired to, where that is not this one.
    """

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    settings: dict[str, Any]
    name: Annotated[str, msgspec.Meta(max_length=200)] = ""
    node: Annotated[str, msgspec.Meta(max_length=32)] | None = None


class Changing(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a change: what is left out stays; `settings` are replaced as a whole."""

    settings: dict[str, Any] | None = None
    name: Annotated[str, msgspec.Meta(max_length=200)] | None = None


class Injecting(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of an injected test: a recording's absolute `path` on the node that has the source."""

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]


class Seeing(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of an acknowledgement: the `episode` of a source's condition."""

    episode: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class SeeingTo(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of an acknowledgement: the `rule` and `subject` of a notification's episode, as read."""

    rule: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    subject: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class SignedElsewhere(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A command that was signed elsewhere: its canonical bytes as text, and the signature in hex."""

    request: Annotated[str, msgspec.Meta(min_length=2)]
    signature: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    timeout: Annotated[float, msgspec.Meta(gt=0, le=30)] = 10.0


class CommandTold(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A command and what became of it; `outcome` is null while there is no answer yet."""

    id: str
    type: str
    source: str
    outcome: Outcome | None
    lane: str | None = None
    sequence: int | None = None
    seq: int | None = None
    state: str | None = None
    reason: str | None = None
    field: str | None = None
    by: str | None = None
    detail: str | None = None


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a write whose command was accepted."""

    command: CommandTold


class Fault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a write was refused; `id` is that of the command where nobody knows what became of it."""

    reason: str
    detail: str
    field: str | None = None
    id: str | None = None


class NotDone(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a write that was refused."""

    error: Fault


class Conflicting(Exception):
    """Raised where a body and its Idempotency-Key name two commands, or the key is none."""


def command_id(header: str | None, body: str | None = None) -> str | None:
    """The command's id: that of the Idempotency-Key header (bare or quoted), else the body's.

    Raises Conflicting.
    """
    if header is None:
        return body
    found = _QUOTED.fullmatch(header.strip())
    id = found[1] if found else header.strip()
    if not (1 <= len(id) <= 64 and id.isascii() and id.isprintable()):
        raise Conflicting("an Idempotency-Key has 1 to 64 printable characters of ASCII")
    if body is not None and body != id:
        raise Conflicting(f"the body names command {body!r}, the header Idempotency-Key {id!r}")
    return id


def refused(reason: str, detail: str, *, status: int, field: str | None = None) -> Response[bytes]:
    """The answer where nothing was submitted and asking again does not help."""
    return respond(status, {"error": {"reason": reason, "detail": detail, "field": field}})


def away(
    detail: str,
    id: str | None = None,
    *,
    retry_in: float = RETRY_AFTER,
    reason: str = "unreachable",
    status: int = 503,
) -> Response[bytes]:
    """The answer where asking again later may help."""
    error = {"reason": reason, "detail": detail, "id": id}
    seconds = max(1, math.ceil(min(retry_in, RETRY_AFTER)))
    return respond(status, {"error": error}, {"Retry-After": str(seconds)})


def respond(status: int, told: dict[str, Any], headers: dict[str, str] | None = None) -> Response[bytes]:
    """An answer in JSON, kept by no cache."""
    return Response(
        canonical(told),
        status_code=status,
        media_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )
