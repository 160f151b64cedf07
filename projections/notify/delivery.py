"""Handing one message to one address, by way of apprise.

Apprise knows a hundred services and takes a second to import, so that is done when the first is sent.
Its own log names addresses; it is heard here and repeated without them.
"""

from __future__ import annotations

import logging
import threading
import warnings
from typing import Any

from projections.notify.address import redacted

HEADER = "X-Tocsin-Notification"
"""With a notification's id, in mails and HTTP requests."""

_loading = threading.Lock()


class Undelivered(Exception):
    """Raised when the target did not say that it took the message; says why, without its address."""


class _Heard(logging.Handler):
    """What apprise says in this thread while it sends."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.lines.append(record.getMessage())


def load() -> Any:
    """The module `apprise`, all its services loaded, its log kept from everybody else's."""
    with _loading:
        import apprise

        log = logging.getLogger("apprise")
        if log.propagate:
            log.propagate = False
            log.addHandler(logging.NullHandler())
            with warnings.catch_warnings():
                # Its services import what later Pythons no longer have, and say so.
                warnings.simplefilter("ignore")
                apprise.Apprise.instantiate("json://localhost")
        return apprise


def deliver(address: str, title: str, body: str, id: str) -> None:
    """Send it; returns once the target has taken it. Raises Undelivered."""
    apprise = load()
    heard, log = _Heard(), logging.getLogger("apprise")
    log.addHandler(heard)
    try:
        service = apprise.Apprise.instantiate(address)
        if service is None:
            raise Undelivered("apprise cannot read the address: look at its kind's documentation")
        if isinstance(getattr(service, "headers", None), dict):
            service.headers[HEADER] = id
        # One that stands for "all": a service that was used before makes the next message wait.
        one = apprise.Apprise()
        one.add(service)
        taken = one.notify(body=body, title=title, body_format=apprise.NotifyFormat.TEXT)
    except Undelivered:
        raise
    except Exception as error:  # whatever a service raises: it did not take the message
        raise Undelivered(redacted(f"{type(error).__name__}: {error}", address)) from None
    finally:
        log.removeHandler(heard)
    if not taken:
        raise Undelivered(redacted(" ".join(heard.lines) or "it was not taken", address))
