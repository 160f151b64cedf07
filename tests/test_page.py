"""The dashboard in a real browser, served by the real web process."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.fix_browser import Visit
from tests.fix_projections import Scribe, Yard
from tests.fix_servers import eventually
from tests.fix_web import Web

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Route

HOSTILE = "<img src=x onerror=\"document.title='owned'\"> & Sons"


@pytest.fixture
def scribe(web_yard: Yard) -> Iterator[Scribe]:
    """A station that is followed, with three sources: running, failed, and one with a hostile name."""
    scribe = web_yard.scribe()
    scribe.add("mic", running=True, name="Microphone")
    scribe.add("tower", name="Tower 2")
    scribe.write("source.starting", "tower", desired="running")
    scribe.write("source.failed", "tower", reason="no such file: /media/tower.wav")
    scribe.add("zz-hostile", name=HOSTILE)
    web_yard.beat()
    with web_yard.projections():
        yield scribe


def tile(page: Page, source: str) -> Locator:
    return page.locator(f".tile[data-source='{source}']")


def banner(page: Page) -> Locator:
    return page.locator("#banner:not([hidden])")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def opened(visit: Visit, web: Web, *, token: str | None = None) -> Page:
    visit.page.goto(web.url + (f"/#token={token}" if token else "/"))
    tile(visit.page, "zz-hostile").wait_for()
    visit.page.locator("body[data-link='live']").wait_for()
    return visit.page


def test_the_wall_shows_what_is_and_what_should_be(scribe: Scribe, visit: Visit, web: Web) -> None:
    """Each source with its state, its wish and the reason; text from data stays text."""
    page = opened(visit, web)
    assert tile(page, "mic").locator(".word").inner_text() == "running"
    failed = tile(page, "tower")
    assert failed.locator(".word").inner_text() == "failed"
    assert failed.locator(".desired").inner_text() == "running"
    assert failed.locator(".reason").inner_text() == "no such file: /media/tower.wav"
    assert tile(page, "zz-hostile").locator(".name").inner_text() == HOSTILE
    assert page.locator("#tiles img").count() == 0
    assert page.title() == "Tocsin"
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    assert visit.errors == []


def test_meters_move_and_silence_is_minus_infinity(scribe: Scribe, visit: Visit, web: Web) -> None:
    """A level shows as numbers and as a bar; digital silence is −∞; a source without levels has none."""
    page = opened(visit, web)
    rms, peak = tile(page, "mic").locator(".rms"), tile(page, "mic").locator(".peak")

    def shows(level: float | None, peak_level: float | None, words: tuple[str, str]) -> bool:
        scribe.measure("mic", level, peak_level)
        return (rms.inner_text(), peak.inner_text()) == words

    eventually(lambda: shows(-30.0, -12.4, ("−30.0", "−12.4")), "the level")
    mask = tile(page, "mic").locator(".mask")
    eventually(
        lambda: shows(-30.0, -12.4, ("−30.0", "−12.4")) and "0.5" in str(mask.get_attribute("style")), "a bar"
    )
    label = tile(page, "mic").locator(".meter").get_attribute("aria-label")
    assert label == "Level: RMS −30.0 dBFS, peak −12.4 dBFS"
    eventually(lambda: shows(None, None, ("−∞", "−∞")), "silence")
    assert tile(page, "tower").locator(".rms").inner_text() == "—"
    assert visit.errors == []


def test_a_change_is_seen_without_reloading(scribe: Scribe, visit: Visit, web: Web) -> None:
    """A stop, a new source and a removal appear by themselves, at once."""
    page = opened(visit, web)
    scribe.write("source.stopped", "mic", reason="asked", desired="stopped")
    scribe.add("late", running=True)
    scribe.write("source.removed", "tower")
    with within(2.5):
        page.locator(".tile[data-source='mic'][data-state='stopped']").wait_for()
        tile(page, "late").wait_for()
        tile(page, "tower").wait_for(state="detached")


def test_the_latest_commands_have_their_outcomes(scribe: Scribe, visit: Visit, web: Web) -> None:
    """Results appear in the list as they come, with what they say."""
    page = opened(visit, web)
    scribe.settle("c-1", "tower", "failed", reason="unreadable", detail="no such file")
    row = page.locator("#commands tr")
    row.wait_for()
    assert row.locator(".result").inner_text() == "failed"
    assert row.locator(".says").inner_text() == "unreadable: no such file"


def test_a_page_whose_server_died_says_so(scribe: Scribe, visit: Visit, web: Web) -> None:
    """Within five seconds a banner tells, and what was shown is shown as past; then all is well again."""
    page = opened(visit, web)
    web.process.send_signal(signal.SIGSTOP)
    try:
        with within(5):
            banner(page).wait_for()
        assert page.locator(".tile.unknown").count() == 3
        assert page.evaluate(FAINT) == []
        assert tile(page, "mic").locator(".word").inner_text() == "was running"
        assert tile(page, "mic").locator(".rms").inner_text() == "—"
    finally:
        web.process.send_signal(signal.SIGCONT)
    page.locator("#banner[hidden]").wait_for(state="attached")
    assert tile(page, "mic").locator(".word").inner_text() == "running"


def test_stale_data_are_called_stale(scribe: Scribe, visit: Visit, web: Web, web_yard: Yard) -> None:
    """Redis frozen: within five seconds the banner says that the data are stale, and the wall is greyed."""
    page = opened(visit, web)
    with web_yard.frozen_redis(6):
        with within(5):
            page.locator("#banner[data-is='stale']:not([hidden])").wait_for()
        assert "stale" in banner(page).inner_text()
        assert page.locator(".tile.unknown").count() == 3
    page.locator("#banner[hidden]").wait_for(state="attached", timeout=15_000)


def test_with_nothing_to_read_it_does_not_say_that_there_are_no_sources(visit: Visit, web: Web) -> None:
    """A page that opens while nothing was ever projected waits, and never claims an empty station."""
    visit.page.goto(web.url)
    visit.page.locator("body:not([data-link='waiting'])").wait_for()
    assert "has no sources" not in visit.page.inner_text("#empty")


def test_without_the_token_the_buttons_say_how_to_get_one(scribe: Scribe, visit: Visit, web: Web) -> None:
    """Read only: the buttons are disabled and the page names the command that gives a link."""
    page = opened(visit, web)
    buttons = tile(page, "mic").get_by_role("button")
    assert buttons.count() == 3
    assert all(buttons.nth(index).is_disabled() for index in range(3))
    assert "tocsin dashboard" in page.inner_text("#rights")


def test_the_token_leaves_the_address_bar_and_lasts_as_long_as_the_tab(
    scribe: Scribe, visit: Visit, web: Web
) -> None:
    """It is kept for this tab alone, survives a reload, and is sent only as a header."""
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url))
    page = opened(visit, web, token="the-token")
    assert "the-token" not in page.url
    page.reload()
    tile(page, "mic").get_by_role("button", name="Stop").wait_for()
    assert tile(page, "mic").get_by_role("button", name="Stop").is_enabled()
    assert page.evaluate("localStorage.length") == 0
    assert not [url for url in asked if "the-token" in url.partition("#")[0]]


def told(route: Route, status: int, body: dict[str, object], headers: dict[str, str] | None = None) -> None:
    text = msgspec.json.encode(body).decode()
    route.fulfill(status=status, body=text, headers={"Content-Type": "application/json", **(headers or {})})


ANSWERS: list[tuple[int, dict[str, object], str, str]] = [
    (200, {"command": {"outcome": "completed", "state": "running"}}, "good", "start completed: now running"),
    (502, {"command": {"outcome": "failed", "reason": "unreadable"}}, "bad", "start failed: unreadable"),
    (409, {"command": {"outcome": "superseded", "by": "c-2"}}, "open", "start superseded by a newer command"),
    (410, {"command": {"outcome": "expired"}}, "bad", "start expired"),
    (503, {"error": {"detail": "nothing was submitted"}}, "bad", "start: nothing was submitted"),
]


def test_a_button_shows_the_real_outcome(scribe: Scribe, visit: Visit, web: Web) -> None:
    """What the write API answers is what the tile says, politely announced to screen readers."""
    page = opened(visit, web, token="the-token")
    outcome = tile(page, "mic").locator(".outcome")
    assert outcome.get_attribute("aria-live") == "polite"
    waiting, sent = list(ANSWERS), []

    def answer(route: Route) -> None:
        sent.append(route.request.headers.get("authorization"))
        status, body, _, _ = waiting.pop(0)
        told(route, status, body)

    page.route("**/api/audio/sources/mic/start", answer)
    for _, _, kind, words in ANSWERS:
        tile(page, "mic").get_by_role("button", name="Start mic", exact=True).focus()
        page.keyboard.press("Enter")
        outcome.filter(has_text=words).wait_for()
        assert outcome.get_attribute("data-is") == kind
    assert sent == ["Bearer the-token"] * len(ANSWERS)


def test_no_answer_yet_is_followed_until_there_is_one(scribe: Scribe, visit: Visit, web: Web) -> None:
    """An honest "no answer yet" first, then the result as it is projected."""
    page = opened(visit, web, token="the-token")
    location = {"Location": "/api/commands/c-late"}
    page.route("**/mic/stop", lambda route: told(route, 202, {"command": {"id": "c-late"}}, location))
    tile(page, "mic").get_by_role("button", name="Stop").click()
    outcome = tile(page, "mic").locator(".outcome")
    page.locator(".outcome[data-is='open']").wait_for()
    assert "no answer yet" in outcome.inner_text()
    scribe.settle("c-late", "mic", "failed", reason="stuck")
    page.locator(".outcome[data-is='bad']").wait_for()
    assert outcome.inner_text() == "stop failed: stuck"


def test_a_wrong_token_is_given_up(scribe: Scribe, visit: Visit, web: Web) -> None:
    """The real write API refuses it: the page says so and goes back to reading only."""
    page = opened(visit, web, token="not-this-stations")
    tile(page, "mic").get_by_role("button", name="Stop").click()
    page.locator(".outcome[data-is='bad']").wait_for()
    assert "refused" in tile(page, "mic").locator(".outcome").inner_text()
    assert tile(page, "mic").get_by_role("button", name="Stop").is_disabled()
    assert "tocsin dashboard" in page.inner_text("#rights")


def test_it_fits_and_can_be_read(scribe: Scribe, visit: Visit, web: Web) -> None:
    """Nothing sticks out at any width, and text has the contrast of WCAG AA in both themes."""
    scribe.settle("c-1", "tower", "failed", reason="unreadable", detail="x" * 200)
    page = opened(visit, web)
    page.locator("#commands tr").wait_for()
    for theme in ("dark", "light"):
        page.emulate_media(color_scheme="dark" if theme == "dark" else "light", reduced_motion="reduce")
        for width in (360, 1280, 2560):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(FAINT) == [], (theme, width)
    mask = page.locator(".mask").first
    assert mask.evaluate("element => getComputedStyle(element).transitionDuration") == "0s"


FAINT = """() => {
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (!/, 0\\)$|transparent/.test(color)) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.offsetParent || element.closest("button:disabled, .unheard .scale")) continue;
    const pair = [light(getComputedStyle(element).color), light(ground(element))].sort((a, b) => b - a);
    const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (contrast < 4.5) faint.push(`${element.className || element.tagName}: ${contrast.toFixed(2)}`);
  }
  return faint;
}"""


def test_everything_is_reached_by_keyboard(scribe: Scribe, visit: Visit, web: Web) -> None:
    """Tab goes from the skip link through every button of every source, and the focus can be seen."""
    page = opened(visit, web, token="the-token")
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.getAttribute('aria-label')"))
        if reached[-1]:
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    verbs = ("Start", "Stop", "Restart")
    wanted = [f"{verb} {source}" for source in ("mic", "tower", "zz-hostile") for verb in verbs]
    assert [label for label in reached if label] == wanted
