"""Whose turn it is to compute, and how often each source gets one.

The interpreter runs one thread at a time, but numpy lets it go in every larger step and must have it again
afterwards. With a hundred sources each of those steps waits behind many others, and nearly all time goes
into handing it on: then the meters, with many steps in a row, take seconds for what is due in a tenth.
So only one thread at a time is in the midst of such work. Who holds the turn must wait for nothing.

And each time that a source is looked after wakes its threads, and a stream's decoding process: that costs as
much as a quarter of a second of its audio. The more sources there are, the more audio is taken at a time.
"""

from __future__ import annotations

import threading


class FairLock:
    """A lock that whoever has just had it cannot take again before another that waits for it."""

    def __init__(self) -> None:
        self._held = threading.Lock()
        self._next = threading.Lock()

    def __enter__(self) -> None:
        # Who is next waits for the one holder; all others wait for who is next.
        with self._next:
            self._held.acquire()

    def __exit__(self, *_: object) -> None:
        self._held.release()


TURN = FairLock()

SOONEST, LATEST = 0.05, 0.5
EACH = 0.0025


def gathering(sources: int) -> float:
    """Seconds for which audio may gather before it is read or measured, where there are so many sources."""
    return min(max(sources * EACH, SOONEST), LATEST)
