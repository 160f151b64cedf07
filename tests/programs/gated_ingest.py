"""The ingest process, with recordings that open only once a file beside them, `NAME.open`, is there."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import ingest.inputs
from ingest.file_source import FileSource
from ingest.service import serve
from streams.logs import configure
from streams.settings import load
from streams.vocabulary import FileSettings


class Gated(FileSource):
    """A recording that takes its time to open where its name begins with "gated"."""

    def __init__(self, settings: FileSettings, *, length: Callable[[], float]) -> None:
        path = Path(settings.path)
        while path.name.startswith("gated") and not path.with_suffix(".open").exists():
            time.sleep(0.02)
        super().__init__(settings, length=length)


if __name__ == "__main__":
    ingest.inputs.FileSource = Gated  # type: ignore[misc]
    settings = load(Path(sys.argv[1]) / "station.toml")
    configure(settings.log)
    serve(settings)
