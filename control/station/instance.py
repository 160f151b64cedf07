"""The one running station of a folder: its lock, what it tells others, and what a crash left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec
import psutil

from control.station.folder import Folder, write_whole

CLEANING = 8.0
"""Seconds that the warden of a killed station may take to end what that one left."""
ALIKE = 2.0
"""Two readings of one process's start time differ by less than this, in seconds: clocks are set."""


class RunningChild(msgspec.Struct, frozen=True, omit_defaults=True):
    """A child in `run/station.json`; `started` is its start time (Unix, seconds)."""

    pid: int
    port: int | None = None
    started: float = 0.0


class Running(msgspec.Struct, frozen=True):
    """`run/station.json`: the supervisor, the web address and the children."""

    pid: int
    started: float
    web: str
    children: dict[str, RunningChild] = {}


class AlreadyRunning(Exception):
    """Raised when a station runs in the folder already."""


@contextmanager
def only_one(folder: Folder) -> Iterator[int]:
    """Hold the folder's lock (its descriptor is yielded); raises AlreadyRunning.

    Where the former supervisor was killed, its warden may hold it for a few seconds more.
    """
    handle = os.open(folder.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + CLEANING
        while not _locked(handle):
            running = read(folder)
            if (running and is_alive(running.pid, running.started)) or time.monotonic() > deadline:
                whose = f" (pid {running.pid}, {running.web})" if running else ""
                raise AlreadyRunning(f"a station runs in {folder.path} already{whose}")
            time.sleep(0.1)
        yield handle
    finally:
        os.close(handle)


def is_held(folder: Folder) -> bool:
    """Whether a station, or the warden of a killed one, holds the folder's lock."""
    try:
        handle = os.open(folder.lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _locked(handle)
    finally:
        os.close(handle)


def read(folder: Folder) -> Running | None:
    """What `run/station.json` says; None where there is none or it is no such file."""
    try:
        return msgspec.json.decode(folder.state.read_bytes(), type=Running)
    except (OSError, msgspec.MsgspecError):
        return None


def tell(folder: Folder, web: str, children: Mapping[str, tuple[int, int | None]]) -> None:
    """Write `run/station.json` for this process; `children` maps name → (pid, port)."""
    me = os.getpid()
    running = Running(
        pid=me,
        started=started_at(me),
        web=web,
        children={
            name: RunningChild(pid=pid, port=port, started=started_at(pid))
            for name, (pid, port) in children.items()
        },
    )
    text = msgspec.json.format(msgspec.json.encode(running), indent=1).decode()
    write_whole(folder.state, text + "\n")


def forget(folder: Folder) -> None:
    """Remove `run/station.json`."""
    folder.state.unlink(missing_ok=True)


def started_at(pid: int) -> float:
    """When the process was started (Unix, seconds); 0 where there is none."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def is_alive(pid: int, started: float) -> bool:
    """Whether this very process runs: its number alone may have gone to another one."""
    try:
        process = psutil.Process(pid)
        return (
            process.status() != psutil.STATUS_ZOMBIE and abs(float(process.create_time()) - started) < ALIKE
        )
    except psutil.Error:
        return False


def end_leftovers(folder: Folder) -> list[str]:
    """Kill children of a former station that survived its end; their names. Hold the lock meanwhile."""
    running = read(folder)
    found = {
        name: child
        for name, child in (running.children if running else {}).items()
        if child.started and is_alive(child.pid, child.started)
    }
    for child in found.values():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while any(is_alive(c.pid, c.started) for c in found.values()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return sorted(found)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
