"""`tocsin run guard`: the guard beside one Redis, as a process."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from control.guard.rules import Address


class HostAndPort(click.ParamType["Address"]):
    """An address as HOST:PORT."""

    name = "HOST:PORT"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        host, colon, port = str(value).rpartition(":")
        if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
            self.fail(f"{value!r} is not like HOST:PORT", param, ctx)
        return host, int(port)


@click.command("guard")
@click.option(
    "--station", "folder", type=click.Path(file_okay=False, path_type=Path), help="Folder with station.toml."
)
@click.option(
    "--server", type=HostAndPort(), required=True, help="The server, by the address that the Sentinels name."
)
@click.option("--peer", "peers", type=HostAndPort(), multiple=True, help="Another server of the set; repeat.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run_guard(
    folder: Path | None, server: Address, peers: tuple[Address, ...], command: tuple[str, ...]
) -> None:
    """Guard one Redis, and start it by COMMAND (after --) as it may be started.

    \b
    tocsin run guard --server redis-1:6379 --peer redis-2:6379 --peer redis-3:6379 \\
        -- valkey-server /etc/valkey/valkey.conf

    It is started as a replica of the primary that a majority of the Sentinels names, or, with all
    of them off, led by the one whose logs are furthest; and never promoted before it is in sync.
    """
    from control.guard.beside import Guard
    from streams.settings import InvalidSettings, load

    settings = load(folder / "station.toml" if folder else None).as_role("admin")
    if not settings.redis.sentinels:
        raise InvalidSettings("redis.sentinels", "a guard asks the Sentinels who leads: name all of them")
    if command and len(peers) != settings.redis.replicas:
        raise InvalidSettings(
            "redis.replicas",
            f"is {settings.redis.replicas}, so name as many others by --peer, not {len(peers)}",
        )
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    Guard(settings.redis, server, peers, command, stopping).run()
