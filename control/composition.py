"""The composition root: the one module that knows all rooms, behind the `tocsin` command.

It imports nothing but click until a verb is called, so that `tocsin --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from control.cli import options
from control.cli.lazy import LazyGroup, Verb

if TYPE_CHECKING:
    from streams.healing import Archive
    from streams.settings import Settings

if TYPE_CHECKING:
    from streams.settings import Settings

DEMO = "tocsin.demo"
"""Where in click's `meta` the verb `up` finds what --demo does."""

VERBS = {
    "up": Verb("control.cli.station:up", "Start a local station, with everything it needs."),
    "down": Verb("control.cli.station:down", "Stop the local station."),
    "status": Verb("control.cli.status:status", "Show whether the station is well, and its sources."),
    "doctor": Verb("control.cli.doctor:doctor", "Check every part and say what to do about each trouble."),
    "dashboard": Verb("control.cli.dashboard:dashboard", "Print the dashboard's link, with the token."),
    "source": Verb("control.cli.source:source", "Add, start, stop and look at sources."),
    "command": Verb("control.cli.command:command", "Ask what became of commands."),
    "event": Verb("control.cli.event:event", "Read what happened."),
    "parked": Verb("control.cli.parked:parked", "Look at commands set aside; retry or drop them."),
    "audit": Verb("control.cli.audit:audit", "Verify and replay the log."),
    "run": Verb("control.composition:run", "Run one process of a station (what `up` does for you)."),
}
PROCESSES = {
    "ingest": Verb("control.composition:run_ingest", "Capture audio and execute commands."),
    "control": Verb("control.composition:run_control", "Execute what belongs to no source."),
    "projections": Verb("projections.cli:run_projections", "Fold events into the read models."),
    "web": Verb("control.composition:run_web", "Serve the dashboard and the HTTP API."),
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


def _play_demo(meta: Mapping[str, Any], settings: Settings) -> None:
    """What `up --demo` does once the station is up: the recording is ingest's, the commands are control's."""
    from control.demo import play
    from control.place import find
    from ingest.weekly_test import write_weekly_test

    # By then the options behind the verb are known; and this runs in a thread without a click context.
    named = meta.get(options.KEPT, {}).get("station")
    play(settings, find(named, os.environ).folder(), write_weekly_test)


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

        found = given.get(folder) if folder else None
        settings = load(Path(found) / "station.toml" if found else None)
        configure(settings.log, process=process, station=settings.station.id, node=settings.ingest.node)
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
    from ingest.service import serve

    _serve_with_archive(serve, folder)


@click.command("control")
@in_folder
def run_control(folder: Path | None) -> None:
    """Execute the commands of the station lane, until told to stop."""
    from control.service import serve

    _serve_with_archive(serve, folder)


def _serve_with_archive(serve: Callable[[Settings, Archive | None], None], folder: Path | None) -> None:
    """Serve an owner of lanes, which asks the archive at a take-over where there is one."""
    from projections.archive_reader import ArchiveReader
    from streams.settings import load

    settings = load(folder / "station.toml" if folder else None)
    serve(settings, ArchiveReader(settings.postgres) if settings.postgres.url else None)


@click.command("web")
@in_folder
def run_web(folder: Path | None) -> None:
    """Serve the dashboard and the HTTP API, until told to stop."""
    from litestar import Litestar

    from control import http
    from control.serve import serve
    from projections.http import ReadSide
    from streams.settings import InvalidSettings, load

    settings = load(folder / "station.toml" if folder else None)
    if settings.web.workers != 1:
        raise InvalidSettings("web.workers", "only 1 is served today")
    reads = ReadSide(settings)
    app = Litestar([*reads.routes, *http.routes(settings, folder or Path.cwd())], openapi_config=None)
    reads.start()
    try:
        serve(app, host=settings.web.host, port=settings.web.port, before_stop=reads.stop)
    finally:
        reads.close()


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
