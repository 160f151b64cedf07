"""A lookout: keeps asking a server whether it is there, so that its breaker opens and closes in time.

Where a process has no loop of its own that asks, the lookout is that loop. It finds an outage before
anybody waits for it, makes the half-open breaker's tries, so that nobody has to wait for those either,
and closes the breaker as soon as a failover is over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from streams.backoff import JITTER
from streams.breaker import Breaker, is_unreachable
from streams.connection import connect
from streams.settings import RedisSection

EVERY = 2.0
"""Seconds between two looks; a failover is over before five of them have failed."""
SOONER = (0.25, 1.0)
"""Seconds between two looks while the breaker is open: drawn from this range."""

log = structlog.get_logger(__name__)


class Lookout:
    """Looks after one server: `probe` asks it, and raises what `is_failure` knows when it is away."""

    def __init__(
        self,
        breaker: Breaker,
        probe: Callable[[], object],
        is_failure: Callable[[BaseException], bool],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._breaker = breaker
        self._probe = probe
        self._is_failure = is_failure
        self._close = close

    def start(self, stopping: threading.Event) -> None:
        """Look, in a thread of its own, until `stopping` is set."""
        name = f"lookout-{self._breaker.dependency}"
        # A daemon, so that a server that hangs does not keep the process.
        threading.Thread(target=self._run, args=(stopping,), name=name, daemon=True).start()

    def _run(self, stopping: threading.Event) -> None:
        while not stopping.wait(self._pause()):
            self.look()
        self._close()

    def _pause(self) -> float:
        return EVERY if self._breaker.standing().state == "closed" else JITTER.uniform(*SOONER)

    def look(self) -> None:
        """Ask once and tell the breaker."""
        try:
            self._probe()
        except Exception as error:  # a lookout does not leave for one bad look
            if self._is_failure(error):
                self._breaker.failed(str(error))
            else:
                log.debug("a look said nothing", dependency=self._breaker.dependency, detail=str(error))
        else:
            self._breaker.succeeded()


def redis_lookout(breaker: Breaker, redis: RedisSection, name: str) -> Lookout:
    """A lookout for the Redis primary, with a connection of its own."""
    link = connect(redis, f"{name}-lookout")
    return Lookout(breaker, lambda: link.call("PING"), is_unreachable, link.close)
