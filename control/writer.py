"""Turns what is asked over HTTP into commands, and outcomes into responses, within limits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
from litestar import Response

from control import outcomes
from control.desk import Desk, Wish
from control.door import Visitor
from control.writes import (
    Adding,
    Asked,
    Changing,
    Conflicting,
    Injecting,
    Options,
    Seeing,
    SeeingTo,
    SignedElsewhere,
    away,
    command_id,
    refused,
    respond,
)
from streams.admission import UNREADABLE
from streams.authority import forbidden
from streams.breaker import BreakerOpen
from streams.connection import Unreachable
from streams.messages import Answer, decode_command, now
from streams.names import STATION_LANE, InvalidName
from streams.signing import InvalidKey, Keyring, signed_by
from streams.submit import Full, InDoubt, NoAnswer, Refused, Signed

AT_ONCE = 16
"""Writes in progress; more are told to come back: a slow station must not take all threads from readers."""
BURST = 60
"""Writes in a row of one key."""
PER_SECOND = 20.0
"""Writes of one key in the long run."""
MOST_KEYS = 10_000

Body = TypeVar("Body")


class Pace:
    """How fast each key may write."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._left: dict[str, tuple[float, float]] = {}

    def wait(self, key: str) -> float:
        """Seconds until this key may write; 0 where it may, and then it is counted."""
        with self._lock:
            at = self._clock()
            if len(self._left) > MOST_KEYS:
                self._left.clear()
            left, since = self._left.get(key, (float(BURST), at))
            left = min(float(BURST), left + (at - since) * PER_SECOND)
            wait = 0.0 if left >= 1 else (1 - left) / PER_SECOND
            self._left[key] = (left if wait else left - 1, at)
            return wait


class Writer:
    """Turns requests into commands and outcomes into responses; never raises for what is foreseen."""

    def __init__(self, desk: Desk, keyring: Callable[[], Keyring]) -> None:
        self._desk = desk
        self._keyring = keyring
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._pace = Pace()

    def command(
        self, visitor: Visitor, type: str, source: str, body: bytes, header: str | None
    ) -> Response[Any]:
        """Start, stop, restart or remove a source."""
        asked = _read(body, Asked)
        if isinstance(asked, Response):
            return asked
        try:
            wish = self._wish(visitor, type, source, {}, asked, command_id(header, asked.id))
        except Conflicting as error:
            return refused("conflict", str(error), status=422, field="Idempotency-Key")
        return self._paced(visitor, wish, lambda: self._desk.address(wish, timeout=asked.timeout))

    def add(self, visitor: Visitor, body: bytes, header: str | None) -> Response[Any]:
        """Make a source known."""
        asked = _read(body, Adding)
        if isinstance(asked, Response):
            return asked
        kind = asked.settings.get("kind")
        if kind not in ("stream", "file", "device", "pipe"):
            return refused("malformed", f"{kind!r} is no kind of source", status=422, field="settings.kind")
        params = {"settings": asked.settings, "name": asked.name}
        try:
            wish = self._wish(visitor, "source.add", asked.id, params, asked, command_id(header))
        except Conflicting as error:
            return refused("malformed", str(error), status=422, field="Idempotency-Key")
        add = self._desk.add
        return self._paced(
            visitor, wish, lambda: add(wish, kind=str(kind), node=asked.node, timeout=asked.timeout)
        )

    def change(self, visitor: Visitor, source: str, body: bytes, header: str | None) -> Response[Any]:
        """Change a source's name or settings."""
        asked = _read(body, Changing)
        if isinstance(asked, Response):
            return asked
        given = {"settings": asked.settings, "name": asked.name}
        params = {name: value for name, value in given.items() if value is not None}
        if not params:
            return refused("malformed", "nothing to change: give settings or name", status=422)
        return self._of_source(visitor, "source.update", source, params, asked, header)

    def inject(self, visitor: Visitor, source: str, body: bytes, header: str | None) -> Response[Any]:
        """Play a recording through a source, as a test."""
        asked = _read(body, Injecting)
        if isinstance(asked, Response):
            return asked
        return self._of_source(visitor, "source.inject", source, {"path": asked.path}, asked, header)

    def acknowledge(self, visitor: Visitor, source: str, body: bytes, header: str | None) -> Response[Any]:
        """Say that the episode of a source's condition was seen."""
        asked = _read(body, Seeing)
        if isinstance(asked, Response):
            return asked
        params = {"episode": asked.episode}
        return self._of_source(visitor, "condition.acknowledge", source, params, asked, header)

    def see_to(self, visitor: Visitor, episode: int, body: bytes, header: str | None) -> Response[Any]:
        """Say that somebody sees to the episode of a notification."""
        asked = _read(body, SeeingTo)
        if isinstance(asked, Response):
            return asked
        params = {"episode": episode, "rule": asked.rule, "subject": asked.subject}
        try:
            wish = self._wish(visitor, "condition.acknowledge", "", params, asked, command_id(header))
        except Conflicting as error:
            return refused("malformed", str(error), status=422, field="Idempotency-Key")
        submit = self._desk.submit
        return self._paced(visitor, wish, lambda: submit(wish, STATION_LANE, timeout=asked.timeout))

    def _of_source(
        self,
        visitor: Visitor,
        type: str,
        source: str,
        params: dict[str, Any],
        asked: Options,
        header: str | None,
    ) -> Response[Any]:
        try:
            wish = self._wish(visitor, type, source, params, asked, command_id(header))
        except Conflicting as error:
            return refused("malformed", str(error), status=422, field="Idempotency-Key")
        return self._paced(visitor, wish, lambda: self._desk.address(wish, timeout=asked.timeout))

    def forward(self, body: bytes, header: str | None) -> Response[Any]:
        """Submit a command that was signed elsewhere: its signature says who asks."""
        asked = _read(body, SignedElsewhere)
        if isinstance(asked, Response):
            return asked
        raw = asked.request.encode()
        try:
            command = decode_command(raw)
            command_id(header, command.id)
        except UNREADABLE as error:
            return refused("malformed", str(error), status=422, field="request")
        except Conflicting as error:
            return refused("conflict", str(error), status=422, field="Idempotency-Key")
        key = self._keyring().get(command.key)
        if key is None:
            return refused("unknown_key", f"no key {command.key!r} is known", status=401, field="key")
        if not signed_by(raw, asked.signature, key, now()):
            return refused("bad_signature", "the bytes are not those that were signed", status=401)
        # What groups a source is in is known to its lane alone.
        if not key.groups and (why := forbidden(key, command)):
            return refused("unauthorised", why, status=403, field="key")
        one = Signed(command, raw, asked.signature)
        told = {"type": command.type, "source": command.source}
        return self._limited(key.id, told, lambda: self._desk.forward(one, timeout=asked.timeout))

    def _wish(
        self,
        visitor: Visitor,
        type: str,
        source: str,
        params: dict[str, Any],
        asked: Options,
        id: str | None,
    ) -> Wish:
        return Wish(
            type=type,
            source=source,
            params=params,
            validity=timedelta(seconds=asked.expires),
            id=id,
            durability=asked.durability,
            if_sequence=asked.if_sequence,
            key=visitor.key,
        )

    def _paced(self, visitor: Visitor, wish: Wish, submit: Callable[[], Answer]) -> Response[Any]:
        if not visitor.may(wish.type):
            told = f"a key of role {visitor.role!r} may not sign {wish.type!r}"
            return refused("unauthorised", told, status=403, field="key")
        return self._limited(visitor.id, {"type": wish.type, "source": wish.source}, submit)

    def _limited(self, key: str, told: dict[str, Any], submit: Callable[[], Answer]) -> Response[Any]:
        if wait := self._pace.wait(key):
            detail = f"the key {key!r} writes more than {PER_SECOND:g} times a second; nothing was submitted"
            return away(detail, retry_in=wait, reason="too_fast", status=429)
        if not self._places.acquire(blocking=False):
            return away("too many commands are waiting for their outcomes; nothing was submitted")
        try:
            return _answered(told, submit)
        finally:
            self._places.release()


def _read(body: bytes, kind: type[Body]) -> Body | Response[Any]:
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        message, _, where = str(error).partition(" - at `$.")
        return refused("malformed", message, status=422, field=where.rstrip("`") or None)


def _answered(told: dict[str, Any], submit: Callable[[], Answer]) -> Response[Any]:
    try:
        answer = submit()
    except InvalidName as error:
        return refused("invalid_name", str(error), field=error.field, status=422)
    except Full as error:
        return away(f"{error}; nothing was submitted", reason=error.reason)
    except Refused as error:
        status = outcomes.rejection_status(error.reason)
        return refused(error.reason, str(error), field=error.field, status=status)
    except NoAnswer as error:
        waiting = {"id": error.id, **told, "outcome": None, "detail": str(error)}
        return respond(202, {"command": waiting}, {"Location": f"/api/commands/{error.id}"})
    except InDoubt as error:
        return away(str(error), id=error.id)
    except BreakerOpen as error:
        return away(f"{error.detail}; nothing was submitted", retry_in=error.retry_in)
    except Unreachable as error:
        return away(f"{error.detail}; nothing was submitted")
    except InvalidKey as error:
        return refused("unknown_key", str(error), status=500)
    return respond(outcomes.status(answer), {"command": {**told, **msgspec.to_builtins(answer)}})
