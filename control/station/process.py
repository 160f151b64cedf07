"""Server processes: how one is started, watched and stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Process = subprocess.Popen[bytes]

LAST_WORDS = 16384
"""How much of a log, in bytes, is read to say why its process ended."""


class StartFailed(Exception):
    """Raised when a server ended, or did not answer in time, while it was starting."""

    def __init__(self, name: str, reason: str, log: Path) -> None:
        super().__init__(f"{name} did not start: {reason} (log: {log})")
        self.name = name
        self.reason = reason
        self.log = log


NICE = 10
"""The nice value of a process that yields."""


class PortTaken(StartFailed):
    """Raised when a server ended because another process listens on its port."""


@dataclass(frozen=True)
class Launch:
    """How a process is started and asked to end.

    `user` is the uid (and gid) it changes to, None for ours. `stop_signal` asks it to end in
    order, `hurry_signal` at once; `grace` is how long, in seconds, it may take over either.
    """

    name: str
    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str] | None = None
    user: int | None = None
    stop_signal: int = signal.SIGTERM
    hurry_signal: int = signal.SIGKILL
    grace: float = 5.0
    pass_fds: tuple[int, ...] = field(default=())
    yields: bool = False
    """Whether it leaves the processor to the others where there is not enough for all."""


def spawn(launch: Launch) -> Process:
    """Start `launch` in a session of its own, without input, its output appended to its log."""
    launch.log.parent.mkdir(parents=True, exist_ok=True)
    with launch.log.open("ab") as log:
        process = subprocess.Popen(
            launch.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=None if launch.env is None else dict(launch.env),
            user=launch.user,
            group=launch.user,
            extra_groups=None if launch.user is None else [],
            umask=0o077,
            start_new_session=True,
            pass_fds=launch.pass_fds,
        )
    if launch.yields:
        _let_yield(process)
    return process


def _let_yield(process: Process) -> None:
    """Lower its priority: the kernel weighs sessions first (sched(7), autogroup), then what is in them."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
        Path(f"/proc/{process.pid}/autogroup").write_text(str(NICE))


def signal_group(process: Process, sign: int) -> None:
    """Send `sign` to everything in the session that `process` leads; gone ones are no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, sign)


def end(process: Process, launch: Launch, *, hurry: bool = False) -> None:
    """Ask `process` to end, wait for its grace, then kill it and what is left of its group."""
    if process.poll() is None:
        process.send_signal(launch.hurry_signal if hurry else launch.stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(launch.grace)
    signal_group(process, signal.SIGKILL)
    process.wait()


def wait_until(
    launch: Launch, process: Process, ready: Callable[[], bool], *, since: int, timeout: float = 30.0
) -> None:
    """Return once `ready()`; `since` is the length in bytes of the log before the start.

    Raises PortTaken or StartFailed when the process ends first or `timeout` (seconds) passes; the
    process is killed then.
    """
    deadline = time.monotonic() + timeout
    while not ready():
        if process.poll() is not None:
            raise failure(launch, since)
        if time.monotonic() > deadline:
            end(process, launch, hurry=True)
            raise StartFailed(launch.name, f"no answer within {timeout:.0f} s", launch.log)
        time.sleep(0.02)


def log_size(launch: Launch) -> int:
    """The length in bytes of the launch's log now, 0 where there is none."""
    try:
        return launch.log.stat().st_size
    except FileNotFoundError:
        return 0


def failure(launch: Launch, since: int) -> StartFailed:
    """Why a process ended, by its log from `since` (bytes) on: PortTaken or StartFailed."""
    with launch.log.open("rb") as log:
        log.seek(max(since, log_size(launch) - LAST_WORDS))
        said = log.read().decode("utf-8", "replace").strip()
    if "address already in use" in said.lower():
        return PortTaken(launch.name, "its port was taken meanwhile", launch.log)
    last = said.splitlines()[-1] if said else "it said nothing"
    return StartFailed(launch.name, last, launch.log)
