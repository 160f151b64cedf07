"""`tocsin run ingest`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("ingest")
@click.option(
    "--station", "folder", type=click.Path(file_okay=False, path_type=Path), help="Folder with station.toml."
)
def run_ingest(folder: Path | None) -> None:
    """Capture audio and execute commands, until told to stop."""
    from ingest.service import serve
    from streams.settings import load

    serve(load(folder / "station.toml" if folder else None))
