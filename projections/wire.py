"""One connection to Postgres: whose host is the right one, and on which no wait is for ever."""

from __future__ import annotations

import time
from typing import Any, Literal, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from streams.settings import InvalidSettings, PostgresSection

CONNECT_TIMEOUT = 2
"""Seconds to wait for a connection to each host (libpq takes no less)."""
ANSWER_WITHIN = 10.0
"""Seconds after which Postgres gives a statement up."""
GRACE = 0.5
"""Seconds after that when we give up a server that has not even done so."""

Session = Literal["read-write", "standby"]
"""Which of the URL's hosts is wanted, in libpq's words (target_session_attrs)."""
Value = TypeVar("Value")


class NoAnswer(psycopg.OperationalError):
    """Raised when a server holds the connection and does not answer; the connection is closed then."""


class Wire(psycopg.Connection[Any]):
    """A connection on which no wait is for ever.

    A server that is stopped, or whose machine hangs, keeps its connections: its kernel acknowledges
    what we send, so neither keepalives nor TCP's own timeout ever end the wait.
    """

    answer_within: float = ANSWER_WITHIN + GRACE
    """Seconds."""

    def wait(self, gen: PQGen[Value], interval: float = 0.1, timeout: float | None = None) -> Value:
        """Wait for the server, as psycopg does it for every statement. Raises NoAnswer.

        It is asked to give up before we do. Nothing else ends a commit that waits for a standby: that
        wait knows no statement timeout.
        """
        within = self.answer_within if timeout is None else timeout
        began = time.monotonic()
        try:
            return super().wait(gen, interval, within)
        except psycopg.OperationalError:
            if timeout is not None or time.monotonic() - began < within:
                raise
        where = f"{self.info.host}:{self.info.port}"
        try:
            self.cancel_safe(timeout=GRACE)
            return super().wait(gen, interval, GRACE)
        except psycopg.errors.QueryCanceled:
            raise
        except psycopg.OperationalError as error:
            self.close()
            raise NoAnswer(f"the server at {where} did not answer within {within:g} s") from error


def connect_to(
    postgres: PostgresSection,
    *,
    name: str,
    session: Session = "read-write",
    answer_within: float = ANSWER_WITHIN,
    autocommit: bool = False,
) -> Wire:
    """A connection to the first of the URL's hosts that is what `session` says.

    It commits without waiting for standbys, since most of what is written here can be folded again
    and must not stand still with them; `lasting` is for the rest. Raises psycopg.OperationalError.
    """
    require_url(postgres)
    options = {
        "statement_timeout": int(answer_within * 1000),
        "timezone": "UTC",
        "synchronous_commit": "local",
        # A commit that did not reach the standbys is told by a warning alone.
        "client_min_messages": "warning",
    }
    target = make_conninfo(
        "",
        **_in_order(postgres.url, session),
        target_session_attrs=session,
        password=postgres.password or None,
        connect_timeout=CONNECT_TIMEOUT,
        application_name=f"tocsin-{name}",
        options=" ".join(f"-c {key}={value}" for key, value in options.items()),
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
        tcp_user_timeout=10_000,
    )
    wire = Wire.connect(target, autocommit=autocommit)
    wire.answer_within = answer_within + GRACE
    _served[postgres.url, session] = (wire.info.host, str(wire.info.port))
    return wire


def require_url(postgres: PostgresSection) -> None:
    """Raise InvalidSettings where none is set: libpq would take whatever database it finds by itself."""
    if not postgres.url:
        raise InvalidSettings(
            "postgres.url", "is empty: name the database, as postgresql://user@host/database"
        )


_served: dict[tuple[str, Session], tuple[str, str]] = {}
"""The host and port that served last, by URL: asked first, lest a frozen one cost 2 s each time."""


def _in_order(url: str, session: Session) -> dict[str, Any]:
    """The URL's parameters, its hosts in the order in which they are to be asked."""
    parameters = conninfo_to_dict(url)
    hosts = str(parameters.get("host") or "").split(",")
    ports = str(parameters.get("port") or "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if len(hosts) < 2 or len(ports) != len(hosts) or "hostaddr" in parameters:
        return parameters
    last = _served.get((url, session))
    pairs = sorted(zip(hosts, ports, strict=True), key=lambda pair: pair != last)
    return {
        **parameters,
        "host": ",".join(host for host, _ in pairs),
        "port": ",".join(port for _, port in pairs),
    }
