"""A whole station with its demo source, one for all tests that only need one to be there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fix_cli import Prompt
from tests.fix_servers import eventually
from tests.fix_whole import Whole


@pytest.fixture(scope="session")
def demo_station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """A station started by `tocsin up --demo`; its modules stand together in conftest, and tidy up.

    Whoever writes such tests may keep one up, and name its folder in TOCSIN_TEST_STATION.
    """
    if kept := os.environ.get("TOCSIN_TEST_STATION"):
        yield Whole(Path(kept))
        return
    station = Whole(tmp_path_factory.mktemp("demo") / "station")
    try:
        station.start("--demo")
        # Whoever was quicker than PostgreSQL goes without it for a moment.
        prompt = Prompt(station.folder.path)
        eventually(lambda: prompt("command", "list").code == 0, "the read side has its database")
        yield station
    finally:
        station.stop()


@pytest.fixture
def demo_prompt(demo_station: Whole) -> Prompt:
    """The `tocsin` command for that station, within this process."""
    return Prompt(demo_station.folder.path)
