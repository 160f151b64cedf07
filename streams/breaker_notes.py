"""What the breakers of a station's processes say, noted in the station's folder.

A command line lives too short to count failures. It reads these notes instead: it fails at once where a
process of its station has found Redis to be away, and the doctor names breakers though nothing else answers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import structlog

from streams.breaker import BreakerOpen, Breakers, Dependency, Standing

RENEW = 0.5
"""Seconds between two looks at the breakers; while one is open, it is noted at each."""
STALE = 6.0
"""Seconds after which a note is of no more worth: its process has gone."""

Standings = dict[Dependency, Standing]

log = structlog.get_logger(__name__)


@contextmanager
def noted(breakers: Breakers, directory: Path | None, process: str) -> Iterator[None]:
    """Keep a note of `process` while one of its breakers is open; it is gone when the block ends."""
    if directory is None:
        yield
        return
    path = _folder(directory) / f"{process}.json"
    ended = threading.Event()
    keeper = threading.Thread(target=_keep, args=(breakers, path, ended), name="breaker-notes", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join(1.0)
        with suppress(OSError):
            path.unlink(missing_ok=True)


def told(directory: Path) -> dict[str, Standings]:
    """Process → the standings of its breakers, of those that have an open one."""
    found: dict[str, Standings] = {}
    for path in sorted(_folder(directory).glob("*.json")):
        try:
            age = time.time() - path.stat().st_mtime
            standings = msgspec.json.decode(path.read_bytes(), type=Standings)
        except (OSError, msgspec.MsgspecError):
            continue  # gone, or not ours
        if age <= STALE:
            found[path.stem] = {name: _aged(standing, age) for name, standing in standings.items()}
    return found


def heed(directory: Path) -> None:
    """Raise BreakerOpen where a process of this station has found Redis to be away, a moment ago."""
    for process, standings in told(directory).items():
        redis = standings.get("redis")
        if redis is not None and redis.state == "open":
            raise BreakerOpen("redis", redis, by=f" of the {process} process")


def _keep(breakers: Breakers, path: Path, ended: threading.Event) -> None:
    while not ended.is_set():
        standings = breakers.standings()
        try:
            if any(standing.state != "closed" for standing in standings.values()):
                _write(path, standings)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:  # a folder that cannot be written: nobody is told, and nothing else is lost
            log.debug("breakers cannot be noted", detail=str(error))
        ended.wait(RENEW)


def _write(path: Path, standings: Standings) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(".part")
    fresh.write_bytes(msgspec.json.encode(standings))
    fresh.replace(path)


def _aged(standing: Standing, age: float) -> Standing:
    if standing.retry_in is None:
        return standing
    left = max(0.0, standing.retry_in - age)
    return msgspec.structs.replace(standing, retry_in=left, state="open" if left else "half_open")


def _folder(directory: Path) -> Path:
    return directory / "run" / "breakers"
