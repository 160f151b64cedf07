"""Who asks the web process: a bearer token, or the session of somebody who logged in, each bound to a key.

What may be done is the key's to say, and the log's: a key that was revoked opens nothing from then on.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from litestar.connection import ASGIConnection

from control.ownkeys import OwnKey
from control.sessions import COOKIE, Session, Sessions
from control.tokens import read_token
from streams.messages import now
from streams.settings import InvalidSettings, Settings
from streams.signing import InvalidKey, Key, Keyring, Role, of_secret

CSRF = "x-tocsin-csrf"
"""The header that a page sends along with what it writes: other sites' pages do not know its value."""
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Unauthorised(Exception):
    """Raised where nobody is known by what was sent; `forged` where it came by another site's page."""

    def __init__(self, detail: str, *, forged: bool = False) -> None:
        super().__init__(detail)
        self.forged = forged


class KeysUnknown(Exception):
    """Raised where it is not known yet which keys are good."""


class Visitor(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks. `key` signs for them; None where the station's own does, which cannot be read here."""

    id: str
    role: Role
    key: Key | None
    session: Session | None = None

    def may(self, command_type: str) -> bool:
        """Whether the role allows it; limits to sources are the lane's to judge."""
        return self.key is None or self.key.permits(command_type)


class Door:
    """Knows visitors by what they send. `keyring` tells the keys that are good now, `read` whether it can."""

    def __init__(
        self, settings: Settings, keyring: Callable[[], Keyring], read: Callable[[], bool] = lambda: True
    ) -> None:
        self._settings = settings
        self._good = keyring
        self._read = read
        self._token = web_token(settings)
        self._own = OwnKey(settings)
        self.sessions = Sessions(self._token, secure=settings.web.https)

    def visitor(self, connection: ASGIConnection[Any, Any, Any, Any]) -> Visitor:
        """Who asks. Raises Unauthorised, KeysUnknown."""
        header = connection.headers.get("authorization", "")
        if header:
            scheme, _, token = header.partition(" ")
            if scheme.lower() != "bearer" or not token.strip():
                raise Unauthorised("a bearer token is needed")
            return self.by_token(token.strip())
        cookie = self.cookie_of(connection)
        if not cookie:
            raise Unauthorised("a bearer token is needed, or a session: POST /api/session")
        session = self.sessions.open(cookie)
        if session is None:
            raise Unauthorised("the session has ended: log in again")
        method = str(connection.scope.get("method", "GET"))
        if method not in SAFE:
            self._own_page(connection, cookie)
        return msgspec.structs.replace(self.by_token(session.token), session=session)

    def keyring(self) -> Keyring:
        """The keys that are good now, as far as is known."""
        return self._good()

    def cookie_of(self, connection: ASGIConnection[Any, Any, Any, Any]) -> str:
        """The value of the session's cookie; empty where there is none."""
        return connection.cookies.get(COOKIE, "")

    def own_origin(self, connection: ASGIConnection[Any, Any, Any, Any]) -> None:
        """Raise Unauthorised where a browser says that a page from elsewhere asks."""
        origin = connection.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != connection.headers.get("host"):
            raise Unauthorised(f"pages of {origin} may not write here", forged=True)

    def by_token(self, token: str) -> Visitor:
        """Whose token it is. Raises Unauthorised, KeysUnknown."""
        if self._token and hmac.compare_digest(token.encode(), self._token.encode()):
            return self._station()
        read = read_token(token)
        if read is None:
            none = "" if self._token else ", which has none of its own (settings: web.token_file)"
            raise Unauthorised(f"the token is none of this station's{none}")
        id, secret = read
        known = self._good().get(id)
        if known is None and not self._read():
            raise KeysUnknown("which keys are good cannot be read yet")
        if known is None or not (mine := _with_secret(known, secret)):
            raise Unauthorised("the token is none of this station's, or was revoked")
        return Visitor(id=id, role=known.role, key=mine)

    def _station(self) -> Visitor:
        """Whoever has the station's own token: what the key may do that signs on this machine."""
        try:
            key = self._own()
        except InvalidKey:
            return Visitor(id=self._settings.keys.sign_with, role="viewer", key=None)
        good = self._good().get(key.id)
        if good is None and self._read():
            raise Unauthorised(f"the key {key.id!r} that signs here was revoked, and with it this token")
        return Visitor(id=key.id, role=key.role, key=key)

    def _own_page(self, connection: ASGIConnection[Any, Any, Any, Any], cookie: str) -> None:
        """Raise Unauthorised where the browser was not told to write by a page of ours."""
        self.own_origin(connection)
        given = connection.headers.get(CSRF, "")
        if not hmac.compare_digest(given.encode(), self.sessions.csrf(cookie).encode()):
            raise Unauthorised(f"the header {CSRF} is wrong: GET /api/session tells it", forged=True)


def _with_secret(known: Key, secret: str) -> Key | None:
    """The key with this secret, where that is its own (or was, and still holds)."""
    try:
        made = of_secret(known.id, known.role, known.algorithm, secret)
    except InvalidKey:
        return None
    if known.algorithm == "hmac-sha256":
        good = hmac.compare_digest(secret.encode(), known.secret.encode())
    else:
        held = (half.public for half in known.earlier if now() < half.until)
        good = made.public in (known.public, *held)
    return msgspec.structs.replace(known, secret=secret, public=made.public) if good else None


def web_token(settings: Settings) -> str:
    """The station's own token, empty where none is set; raises InvalidSettings when it cannot be read."""
    if not settings.web.token_file:
        return ""
    try:
        return Path(settings.web.token_file).read_text("utf-8").strip()
    except OSError as error:
        detail = f"{settings.web.token_file!r} cannot be read: {error.strerror}"
        raise InvalidSettings("web.token_file", detail) from None
