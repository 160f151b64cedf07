"""A watcher that outlives a killed supervisor and ends what it left running.

It is run as a program of its own (this file, without the site's packages) and reads lines from
its standard input: `+PID SIGNAL` (watch the process group PID; SIGNAL asks its leader to end) and
`-PID` (it is gone). When the input ends, whatever is still watched is asked to end, and killed
after GRACE. It holds the station's lock meanwhile, so that no second station starts on data that
is still in use. Unlike PR_SET_PDEATHSIG this takes whole process groups, works on every POSIX
system, and does not depend on which thread started a child.
"""

import os
import signal
import sys
import time

GRACE = 3.0


def follow() -> dict[int, int]:
    """Read until the supervisor is gone; return what was still running: process group → signal."""
    watched: dict[int, int] = {}
    for line in sys.stdin:
        words = line.split()
        if line.startswith("+"):
            watched[int(words[0][1:])] = int(words[1])
        else:
            watched.pop(int(words[0][1:]), None)
    return watched


def send(pid: int, sign: int, *, group: bool) -> bool:
    """Send a signal to a process or its group; whether there was any."""
    try:
        (os.killpg if group else os.kill)(pid, sign)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def main() -> None:
    """Watch, then end what is left."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    left = follow()
    for pid, sign in left.items():
        send(pid, sign, group=False)
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline and any(send(pid, 0, group=True) for pid in left):
        time.sleep(0.05)
    for pid in left:
        send(pid, signal.SIGKILL, group=True)


if __name__ == "__main__":
    main()
