"""Bearer tokens: a key in one line of text, for whoever cannot sign.

`tocsin_ID_SECRET`: whoever shows it has the key's secret, and the web process signs with it on the spot
and keeps nothing. So the log names the key that each command came with, its role and limits hold, and to
revoke the key is to revoke the token.
"""

from __future__ import annotations

import base64
import re

from streams.signing import Key

PREFIX = "tocsin_"
_TOKEN = re.compile(r"tocsin_(?P<id>[a-z0-9][a-z0-9._-]{0,63})_(?P<secret>[A-Za-z0-9_-]{43})")


def token_of(key: Key) -> str:
    """The token of a key that has its secret."""
    secret = base64.urlsafe_b64encode(base64.b64decode(key.secret)).decode().rstrip("=")
    return f"{PREFIX}{key.id}_{secret}"


def read_token(token: str) -> tuple[str, str] | None:
    """The id and the secret (base64) in a token; None where it is none."""
    found = _TOKEN.fullmatch(token)
    if found is None:
        return None
    try:
        secret = base64.urlsafe_b64decode(found["secret"] + "=")
    except ValueError:
        return None
    return found["id"], base64.b64encode(secret).decode()
