"""On the path of a Python whose clock libfaketime moves: sleeping, and nothing else, goes another way there.

Python sleeps until a moment of the monotonic clock, from which libfaketime 0.9.10 takes the offset of the
wall clock: the system then refuses it. The clocks themselves are libfaketime's.
"""

import select
import time


def sleep(seconds):
    """Wait for so many seconds."""
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    select.select((), (), (), seconds)


time.sleep = sleep
