"""The projections' verbs for the `tocsin` command."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("projections")
@click.option(
    "--station", "folder", type=click.Path(file_okay=False, path_type=Path), help="Folder with station.toml."
)
def run_projections(folder: Path | None) -> None:
    """Fold events into the read models, until told to stop."""
    # Imported here: SQLAlchemy takes half a second, which --help must not cost.
    from projections.service import serve
    from streams.settings import load

    serve(load(folder / "station.toml" if folder else None))
