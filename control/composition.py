"""The composition root: the one module that knows all rooms, behind the `tocsin` command.

It imports nothing but click until a verb is called, so that `tocsin --help` answers at once.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from control.cli import options
from control.cli.lazy import LazyGroup, Verb

if TYPE_CHECKING:
    from control.backup import Database
    from projections.lookback import Lookback, Tail
    from streams.access import Role
    from streams.breaker import Breakers
    from streams.history import Archive, Catalogue
    from streams.settings import Settings
    from streams.signing import Keyring

DEMO = "tocsin.demo"
"""Where in click's `meta` the verb `up` finds what --demo does."""
ARCHIVE = "tocsin.archive"
"""Where in click's `meta` verbs find what makes the station's archive of its settings."""
DATABASE = "tocsin.database"
"""Where in click's `meta` the verbs `backup` and `restore` find what knows the tables."""

DEVICES = "tocsin.devices"
"""Where in click's `meta` the verb `source device list` finds what knows the sound cards."""

STATION = "tocsin.station"
"""Where verbs of other rooms find the settings of the station that is meant."""
PAST = "tocsin.past"
"""And what looks back into its past."""

VERBS = {
    "up": Verb("control.cli.station:up", "Start a local station, with everything it needs."),
    "down": Verb("control.cli.station:down", "Stop the local station."),
    "status": Verb("control.cli.status:status", "Show whether the station is well, and its sources."),
    "watch": Verb("control.cli.watch:watch", "Watch sources, levels and alerts, live."),
    "doctor": Verb("control.cli.doctor:doctor", "Check every part and say what to do about each trouble."),
    "dashboard": Verb("control.cli.dashboard:dashboard", "Print the dashboard's link, with the token."),
    "source": Verb("control.cli.source:source", "Add, start, stop and look at sources."),
    "command": Verb("control.cli.command:command", "Ask what became of commands."),
    "event": Verb("control.cli.event:event", "Read what happened."),
    "alert": Verb("control.cli.alert:alert", "Read the alerts that were heard; acknowledge."),
    "condition": Verb("control.cli.condition:condition", "List what is wrong now; acknowledge."),
    "midi": Verb("control.cli.midi:midi", "A MIDI control surface as the operator's desk."),
    "key": Verb("control.cli.key:key", "Make keys, and say who may do what with them."),
    "recording": Verb("control.cli.recording:recording", "Look at recordings; record a source throughout."),
    "group": Verb("control.cli.group:group", "Groups of sources that stand in for one another."),
    "parked": Verb("control.cli.parked:parked", "Look at commands set aside; retry or drop them."),
    "projection": Verb("projections.cli:projection", "The read models: how far they are; rebuild them."),
    "access": Verb("control.cli.access:access", "Who may do what in Redis: its users and their rules."),
    "decode": Verb("ingest.cli:decode", "Decode the alerts in recordings; needs no station."),
    "audit": Verb("control.cli.audit:audit", "Show that the log is whole, and how things were."),
    "apply": Verb(
        "control.cli.apply:apply", "Make the station as a file says: show what differs, then do it."
    ),
    "export": Verb("control.cli.apply:export", "Write the station's sources as such a file."),
    "backup": Verb("control.cli.backup:backup", "Write the whole station to a file."),
    "restore": Verb(
        "control.cli.backup:restore", "Give back what Redis lost, or a whole station from a backup."
    ),
    "completion": Verb("control.cli.completion:completion", "Have Tab complete verbs and sources."),
    "drill": Verb("control.cli.drill:drill", "Switch the primary on purpose, and see what it costs."),
    "init-deploy": Verb("control.cli.deploy:init_deploy", "Make the folder of a deployment on servers."),
    "run": Verb("control.composition:run", "Run one process of a station (what `up` does for you)."),
}
PROCESSES = {
    "ingest": Verb("control.composition:run_ingest", "Capture audio and execute commands."),
    "control": Verb("control.composition:run_control", "Execute what belongs to no source."),
    "projections": Verb("projections.cli:run_projections", "Fold events into the read models."),
    "web": Verb("control.composition:run_web", "Serve the dashboard and the HTTP API."),
    "guard": Verb("control.guard.cli:run_guard", "Start a Redis as it may be started, and guard it."),
}
EPILOG = (
    "Exit codes: 0 done, 1 fault of the tool, 2 wrong usage, 3 failed, 4 rejected, 5 superseded, "
    "6 expired, 7 no answer yet, 8 station unreachable."
)


@click.group(
    cls=LazyGroup, verbs=VERBS, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="tocsin", prog_name="tocsin")
@options.submitting
@click.pass_context
def tocsin(ctx: click.Context) -> None:
    """Control unattended audio ingest: say what should be, see what is, lose nothing."""
    ctx.meta[DEMO] = partial(_play_demo, ctx.meta)
    ctx.meta[ARCHIVE] = _archive
    ctx.meta[PAST] = _past
    ctx.meta[DATABASE] = _database
    ctx.meta[STATION] = _settings
    ctx.meta[DEVICES] = _devices
    # A room's own verb knows nothing of what was said before it.
    ctx.default_map = {"decode": {"as_json": options.wants_json()}}


def _settings() -> Settings:
    """The settings of the station that this command line means."""
    from control.cli import session

    return session.place().settings()


def _play_demo(meta: Mapping[str, Any], settings: Settings) -> None:
    """What `up --demo` does once the station is up: the recording is ingest's, the commands are control's."""
    from control.demo import play
    from control.place import find
    from ingest.weekly_test import write_weekly_test

    # By then the options behind the verb are known; and this runs in a thread without a click context.
    named = meta.get(options.KEPT, {}).get("station")
    play(settings, find(named, os.environ).folder(), write_weekly_test)


def _database() -> Database:
    """What backs up and restores the tables, which are the projections'."""
    from projections import backup

    return backup


def _devices() -> list[dict[str, Any]]:
    """The sound cards of this machine, which are ingest's to know."""
    from msgspec import to_builtins

    from control.cli.trouble import Trouble
    from ingest.decoding.card import NoCard, cards

    try:
        found: list[dict[str, Any]] = to_builtins(cards())
    except NoCard as error:
        raise Trouble("sound cards cannot be listed", why=str(error)) from None
    return found


def _archive(settings: Settings) -> Catalogue | None:
    """What the verbs that read the log's past ask for what is no longer in Redis."""
    if not settings.postgres.url:
        return None
    from projections.archive_reader import ArchiveReader

    return ArchiveReader(settings.postgres)


def _past(settings: Settings, tail: Tail) -> Lookback | None:
    """What the verbs that show how things were ask."""
    if not settings.postgres.url:
        return None
    from projections.lookback import Lookback

    return Lookback(settings.postgres, tail)


class Processes(LazyGroup):
    """The processes of a station: each starts with its log set up from the station's settings."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        if command is not None and command.callback is not None:
            command.callback = _logging(cmd_name, command, command.callback)
        return command


def _logging(process: str, command: click.Command, callback: Callable[..., Any]) -> Callable[..., Any]:
    folder = next((param.name for param in command.params if "--station" in param.opts), None)

    def run(**given: Any) -> Any:
        from streams.logs import configure
        from streams.settings import load
        from streams.traces import exporting

        found = given.get(folder) if folder else None
        settings = load(Path(found) / "station.toml" if found else None)
        configure(settings.log, process=process, station=settings.station.id, node=settings.ingest.node)
        with exporting(settings, process):
            return callback(**given)

    return run


in_folder = click.option(
    "--station", "folder", type=click.Path(file_okay=False, path_type=Path), help="Folder with station.toml."
)


@click.group(cls=Processes, verbs=PROCESSES)
def run() -> None:
    """Run one process of a station, in the foreground, until SIGTERM."""


@click.command("ingest")
@in_folder
def run_ingest(folder: Path | None) -> None:
    """Capture audio and execute commands, until told to stop."""
    # Before numpy is there: its products are small, and threads that wait for one another only cost.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from ingest.heap import share_heaps
    from ingest.service import serve

    share_heaps()
    _serve_with_archive(serve, folder, "ingest")


@click.command("control")
@in_folder
def run_control(folder: Path | None) -> None:
    """Execute the commands of the station lane, until told to stop."""
    from control.service import serve

    _serve_with_archive(serve, folder, "control")


def _serve_with_archive(
    serve: Callable[[Settings, Archive | None, Breakers], None], folder: Path | None, role: Role
) -> None:
    """Serve an owner of lanes, which asks the archive at a take-over where there is one."""
    from projections.archive_reader import ArchiveReader
    from streams.breaker import Breakers
    from streams.breaker_notes import noted
    from streams.settings import load

    settings = load(folder / "station.toml" if folder else None).as_role(role)
    breakers = Breakers(settings.breaker)
    archive = ArchiveReader(settings.postgres, breakers.postgres) if settings.postgres.url else None
    if archive is not None:
        archive.lookout().start(threading.Event())
    with noted(breakers, folder, role):
        serve(settings, archive, breakers)


@click.command("web")
@in_folder
@click.option("--worker", type=int, hidden=True, help="One of several, started by the first.")
def run_web(folder: Path | None, worker: int | None) -> None:
    """Serve the dashboard and the HTTP API, until told to stop."""
    from control.serve import free_port
    from control.workers import end_with_parent, keep_workers
    from streams.settings import load

    settings = load(folder / "station.toml" if folder else None)
    host, port = settings.web.host, settings.web.port
    if worker is None:
        port = free_port(host, port)
    if settings.web.workers > 1:
        at = ("--station", str(folder)) if folder else ()
        command = (sys.executable, "-m", "control.composition", "run", "web", *at)
        keep_workers(command, settings.web.workers, port=port)
        return
    if worker is not None:
        end_with_parent()
    _serve_web(settings, folder, port, "web" if worker is None else f"web-{worker}")


def _serve_web(settings: Settings, folder: Path | None, port: int, name: str) -> None:
    from litestar import Litestar

    from control import http
    from control.door import Door
    from control.openapi import openapi
    from control.serve import serve
    from projections.http import ReadSide
    from streams.breaker import Breakers
    from streams.breaker_notes import noted
    from streams.keywatch import KeyWatch

    breakers = Breakers(settings.breaker)
    submitting, archive, stopping = settings.as_role("submitter"), _archive(settings), threading.Event()
    watch = KeyWatch(submitting, "web", _files(settings), archive)
    door = Door(submitting, watch.keyring, watch.was_read)
    writes = http.routes(submitting, folder or Path.cwd(), door, breakers.redis)
    guard = http.reading_guard(door)
    reads = ReadSide(settings.as_role("reader"), breakers, notes=folder, guard=guard, beside=writes)
    app = Litestar(reads.routes, openapi_config=openapi(), exception_handlers=http.HANDLERS)
    reads.start()
    threading.Thread(target=watch.run, args=(stopping,), name="keys", daemon=True).start()
    try:
        with noted(breakers, folder, name):
            serve(app, host=settings.web.host, port=port, before_stop=reads.stop)
    finally:
        stopping.set()
        reads.close()


def _files(settings: Settings) -> Keyring:
    """The keys in files here; none where one of them cannot be used, for reading goes on all the same."""
    import structlog

    from streams.signing import InvalidKey, load_keyring

    try:
        return load_keyring(Path(settings.keys.directory)) if settings.keys.directory else {}
    except InvalidKey as error:
        structlog.get_logger("control.web").warning("no key of a file is good here", detail=str(error))
        return {}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; people see no traceback (TOCSIN_DEBUG=1 shows it)."""
    try:
        code = tocsin.main(arguments, prog_name="tocsin", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        code = 130
    except BrokenPipeError:
        # The reader has seen enough; what Python would still flush goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        code = _tell(error, as_json="--json" in (sys.argv if arguments is None else arguments))
    sys.exit(code if isinstance(code, int) else 0)


def _tell(error: Exception, *, as_json: bool) -> int:
    from control.cli.trouble import Trouble, explain
    from projections.cli import Cannot

    if isinstance(error, Cannot):
        error = Trouble(str(error), why=error.why, next=error.next, code=error.code)
    if os.environ.get("TOCSIN_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    if isinstance(error, click.ClickException) and not isinstance(error, Trouble):
        error.show()
        return error.exit_code
    trouble = error if isinstance(error, Trouble) else explain(error)
    trouble.tell(as_json=as_json)
    return trouble.exit_code


if __name__ == "__main__":
    main()
