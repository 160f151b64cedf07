"""Following the primary: all Sentinels are listened to, so that a change is known as soon as it is announced.

An announcement (`+switch-master`) is believed by nobody: it only makes this process ask all Sentinels
again, by the rule of `streams.sentinel`. What they name then is told to every link of the process, and
a link to any other server is dropped at once, also under a reader that blocks on it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet

from redis.exceptions import RedisError

from streams.backoff import Backoff, Waits, switched
from streams.sentinel import Address, NoPrimary, open_sentinel, primary_address
from streams.settings import RedisSection

CHANNEL = "+switch-master"
AFTER = 0.3
"""Seconds after the first link that listening begins: a process that is over by then need not listen."""
QUIET = 3.0
"""Seconds without a word from a Sentinel after which it is asked whether it is still there."""
LONGEST = 5.0
"""Seconds between attempts to listen to a Sentinel that is away, at most (full jitter, doubling)."""
INSIST = 15.0
"""Seconds for which the Sentinels are asked again after an announcement, until a majority answers."""


class Follower(Protocol):
    """Whoever holds a connection to what may no longer be the primary."""

    def leave(self, primary: Address) -> None: ...


class PrimaryWatch:
    """What one process knows of a service's primary, for all its links.

    A thread for each Sentinel listens while there are links; that it is away for a while does no harm.
    """

    def __init__(self, redis: RedisSection) -> None:
        self._redis = redis
        self._followers: WeakSet[Follower] = WeakSet()
        self._listening: set[str] = set()
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._learning = threading.Lock()
        self._asked_at = float("-inf")
        self._answer: Address | str = "nobody was asked"
        self._primary: Address | None = None
        self._learned = 0

    def follow(self, follower: Follower) -> int:
        """Tell `follower` of each change from now on. Returns how much is known, for `moved`."""
        with self._lock:
            self._followers.add(follower)
            missing = set(self._redis.sentinels) - self._listening
            self._listening |= missing
            learned = self._learned
        for sentinel in missing:
            name = f"listen-{sentinel}"
            threading.Thread(target=self._listen, args=(sentinel,), name=name, daemon=True).start()
        return learned

    def moved(self, since: int, address: Address) -> bool:
        """Whether another primary than `address` was learned of since `follow` returned `since`."""
        with self._lock:
            return self._learned != since and self._primary != address

    def locate(self) -> Address:
        """The primary, by an answer that was asked for after this call; raises NoPrimary.

        Threads that want to know at the same time share one round of questions.
        """
        wanted = time.monotonic()
        with self._asking:
            if self._asked_at <= wanted:
                self._asked_at = time.monotonic()
                try:
                    self._answer = primary_address(self._redis)
                except NoPrimary as error:
                    # Only its words: its trace would hold on to whoever asked.
                    self._answer = str(error)
            if isinstance(self._answer, str):
                raise NoPrimary(self._answer)
            return self._answer

    def _listen(self, sentinel: str) -> None:
        """The body of a thread: hear what one Sentinel announces, while anybody follows."""
        backoff = Backoff(waits=Waits(longest=LONGEST))
        time.sleep(AFTER)
        try:
            while self._wanted(sentinel):
                with contextlib.suppress(RedisError, OSError):
                    self._hear(sentinel, backoff.reset)
                    return
                backoff.wait()
        except RuntimeError:
            # While the process ends no thread can be started any more, and nobody needs to know.
            if threading.main_thread().is_alive():
                raise

    def _hear(self, sentinel: str, progress: Callable[[], None]) -> None:
        """Return when nobody follows any more; raises RedisError, OSError when the Sentinel is not heard."""
        connection = open_sentinel(sentinel, self._redis)
        try:
            connection.connect()
            connection.send_command("SUBSCRIBE", CHANNEL)
            connection.read_response()
            # What was announced before this moment is not announced again.
            self._learn()
            while self._wanted(sentinel):
                if connection.can_read(timeout=QUIET):
                    if connection.read_response()[0] == b"message":
                        self._learn()
                else:
                    connection.send_command("PING")
                    connection.read_response()
                    progress()
        finally:
            connection.disconnect()

    def _wanted(self, sentinel: str) -> bool:
        with self._lock:
            if not self._followers:
                self._listening.discard(sentinel)
            return sentinel in self._listening

    def _learn(self) -> None:
        """Ask all Sentinels, until a majority answers, and have the links leave any other server."""
        backoff, until = Backoff(), time.monotonic() + INSIST
        with self._learning:
            while True:
                try:
                    primary = self.locate()
                    break
                except NoPrimary:
                    if time.monotonic() > until:
                        return
                backoff.wait()
            with self._lock:
                before, self._primary = self._primary, primary
                if primary != before:
                    self._learned += 1
                followers = list(self._followers)
        for follower in followers:
            follower.leave(primary)
        if before not in (None, primary):
            switched()


_watches: dict[RedisSection, PrimaryWatch] = {}
_watches_lock = threading.Lock()


def watch_of(redis: RedisSection) -> PrimaryWatch:
    """The watch of this process over the service that `redis` describes."""
    with _watches_lock:
        return _watches.setdefault(redis, PrimaryWatch(redis))
