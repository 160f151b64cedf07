"""One span of time for all steps of what somebody asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streams.submit import NoAnswer

LEAST = 0.1
"""Seconds that the last step gets, whatever those before it took."""


@contextmanager
def within(seconds: float) -> Iterator[Callable[[], float]]:
    """Steps that together take `seconds`; what is yielded tells how many are left, for the next one.

    A NoAnswer of any of them speaks of the whole span.
    """
    until = time.monotonic() + seconds
    try:
        yield lambda: max(until - time.monotonic(), LEAST)
    except NoAnswer as error:
        raise NoAnswer(error.id, seconds) from None
