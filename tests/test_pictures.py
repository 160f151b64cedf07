"""Pictures of every page, drawn from the pages as they are: `make pictures`.

The docs show each page once. With TOCSIN_PICTURES=FOLDER each is drawn there in both themes and at
three widths, for whoever judges how they look.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fix_browser import Visit
from tests.fix_room import Room

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SCREENS = ("wall", "source", "alerts", "commands", "tests", "audit", "system")
PATHS = {"wall": "/", "source": "/sources/keax"}
SETTLED = 1500
"""Milliseconds after which meters, charts and tables show what there is."""
SEEN = 12_000
"""The same for a waterfall."""
DOCS = Path(__file__).parent.parent / "docs" / "images"


def draw(room: Room, browser: Browser, screen: str, path: Path, theme: str, size: tuple[int, int]) -> None:
    """A picture of the page: what a screen of that size shows, in the docs; else all of it."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if theme == "dark" else "light"
    )
    visit = Visit(context.new_page())
    page = visit.page
    page.goto(f"{room.url}{PATHS.get(screen, f'/{screen}')}#token={room.web.token}")
    page.locator("body[data-link='live']").wait_for()
    page.locator("main :is(.tile, tbody tr, .incident):visible").first.wait_for()
    if screen == "audit":
        page.get_by_role("button", name="−24 h").click()
    page.wait_for_timeout(SEEN if screen == "source" else SETTLED)
    page.screenshot(path=path, full_page=path.parent != DOCS)
    context.close()
    assert visit.errors == []


@pytest.mark.pictures
@pytest.mark.parametrize("screen", SCREENS)
def test_every_page_is_drawn(room: Room, browser: Browser, screen: str) -> None:
    """Each page comes up with all that it has, without an error, and is drawn."""
    folder = os.environ.get("TOCSIN_PICTURES")
    if folder is None:
        draw(room, browser, screen, DOCS / f"page-{screen}.png", "dark", (1280, 860))
        return
    for theme in ("dark", "light"):
        for size in ((360, 800), (1280, 800), (3840, 2160)):
            draw(room, browser, screen, Path(folder) / f"{screen}-{theme}-{size[0]}.png", theme, size)
