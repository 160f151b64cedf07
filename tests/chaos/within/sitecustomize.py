"""On the path of every node of a run, and of a soak: what only its own process can do to itself.

It stops itself (SIGSTOP) at the step of `streams.steps` that the file /srv/station/stop-at names, once. And
where libfaketime moves its clock, sleeping, and nothing else, goes another way: Python sleeps until a moment
of the monotonic clock, from which libfaketime 0.9.10 takes the offset of the wall clock, and the system
then refuses it. The clocks themselves are libfaketime's.
"""

import os
import select
import signal
import time
from pathlib import Path

from streams import steps

STOP_AT = Path("/srv/station/stop-at")


def sleep(seconds):
    """Wait for so many seconds."""
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    select.select((), (), (), seconds)


def stop_at(name):
    """Stop here, if this is the step that was named."""
    try:
        if STOP_AT.read_text().strip() != name:
            return
        # Whoever takes the file away is the one that stops.
        STOP_AT.unlink()
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGSTOP)


if "faketime" in os.environ.get("LD_PRELOAD", ""):
    time.sleep = sleep
if STOP_AT.parent.is_dir():
    steps.watch = stop_at
