"""Sessions of people at a page: a cookie that only this station can open.

The cookie holds the token that was shown at the login, sealed (Fernet: AES and HMAC) with a key made of the
station's own token, which all its web processes have. So nothing is kept here, a session outlives a
restart, and it ends with the key that its token is bound to, or after LASTS.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from datetime import UTC, datetime, timedelta

import msgspec
from cryptography.fernet import Fernet, InvalidToken
from litestar.datastructures import Cookie

COOKIE = "tocsin-session"
LASTS = timedelta(hours=12)


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """What a session's cookie holds."""

    token: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"Session(expires_at={self.expires_at})"


class Sessions:
    """Seals and opens sessions; without a token of the station's they end with this process."""

    def __init__(self, token: str, *, secure: bool = False) -> None:
        secret = token.encode() or secrets.token_bytes(32)
        self._key = hmac.digest(secret, b"tocsin sessions", "sha256")
        self._box = Fernet(base64.urlsafe_b64encode(self._key))
        self._secure = secure

    def seal(self, token: str) -> tuple[Session, str]:
        """A new session, and the value of its cookie."""
        session = Session(token=token, expires_at=datetime.now(UTC).replace(microsecond=0) + LASTS)
        return session, self._box.encrypt(msgspec.json.encode(session)).decode()

    def open(self, cookie: str) -> Session | None:
        """The session in a cookie; None where it was not sealed here, or has ended."""
        try:
            raw = self._box.decrypt(cookie, ttl=int(LASTS.total_seconds()))
            return msgspec.json.decode(raw, type=Session)
        except (InvalidToken, msgspec.MsgspecError, ValueError):
            return None

    def csrf(self, cookie: str) -> str:
        """What a page sends along to show that it is ours; it follows from the cookie."""
        return hmac.digest(self._key, b"csrf " + cookie.encode(), "sha256").hex()

    def cookie(self, value: str) -> Cookie:
        """The cookie that holds it: for no script, and sent along with no request of another site's."""
        lasts = int(LASTS.total_seconds()) if value else 0
        return Cookie(
            key=COOKIE, value=value, path="/", max_age=lasts, httponly=True, samesite="strict",
            secure=self._secure,
        )  # fmt: skip
