"""`tocsin init-deploy`: what a deployment needs before its first start."""

from __future__ import annotations

from pathlib import Path

import click

from control.cli import options
from control.cli.trouble import Trouble
from control.outcomes import WRONG_USAGE


@click.command("init-deploy")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--id", "station", default="station", show_default=True, help="The station's id.")
@click.option(
    "--host", "hosts", multiple=True, metavar="NAME", help="A name or address of the published port; repeat."
)
@click.option(
    "--server", "servers", multiple=True, metavar="NAME", help="A machine that runs servers itself; repeat."
)
@options.reading
def init_deploy(folder: Path, station: str, hosts: tuple[str, ...], servers: tuple[str, ...]) -> None:
    """Make the folder of a deployment: authority, certificates, secrets, users, the first keys.

    Files are readable by their owner alone. What is there already is kept, so it may be run again.
    """
    from control.deployment.folder import init_deploy as make
    from streams.names import InvalidName

    try:
        made = make(folder, station=station, hosts=hosts or ("localhost",), servers=servers)
    except InvalidName as error:
        raise Trouble(str(error), next="choose another --id", code=WRONG_USAGE) from None
    except (OSError, ValueError) as error:
        raise Trouble(
            f"{folder} was not made whole", why=str(error), next="run it again: what is there is kept"
        ) from None
    if options.wants_json():
        from control.cli import show

        told = {"folder": str(folder), "settings": str(made.settings), "files": made.files}
        show.as_json({"deployment": {**told, "authority": str(made.authority)}})
        return
    click.echo(f"{made.files} files are new in {folder}")
    click.echo(
        f"next: docker compose --env-file {made.settings} -f docker-compose.sentinel.yml up -d --build"
    )
    click.echo(f"have browsers trust {made.authority}, and keep ca.key beside it off this machine")
