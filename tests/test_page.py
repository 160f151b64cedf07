"""The control room in a real browser, served by the real web process of one populated station."""

from __future__ import annotations

import csv
import io
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from axe_playwright_python.sync_playwright import Axe

from tests.fix_browser import FAINT, Visit
from tests.fix_cli import executing
from tests.fix_projections import Yard
from tests.fix_room import FAR_LANE, Room
from tests.fix_servers import eventually
from tests.fix_web import Web

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Route

HOSTILE = "<img src=x onerror=\"document.title='owned'\"> & Sons"
PATHS = ("/", "/sources/keax", "/alerts", "/commands", "/tests", "/audit", "/system")
SHOWN = "main :is(.tile, tbody tr, .incident):visible"
NOTE_BANNER = """kind => {
  const banner = document.getElementById("banner");
  const note = () => { if (!banner.hidden && banner.dataset.is === kind) window.shownAt ??= Date.now(); };
  new MutationObserver(note).observe(banner, { attributes: true });
  note();
}"""
COLUMNS = "document.querySelectorAll('#then .tile').length"


def tile(page: Page, source: str) -> Locator:
    return page.locator(f"#tiles .tile[data-source='{source}']")


def banner(page: Page) -> Locator:
    return page.locator("#banner:not([hidden])")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


@contextmanager
def banner_within(page: Page, seconds: float, kind: str) -> Iterator[None]:
    """The banner of that kind comes within `seconds`, by the page's own clock: asking it may take longer."""
    page.evaluate(NOTE_BANNER, kind)
    began = time.time()
    yield
    shown = page.evaluate("window.shownAt") / 1000
    assert shown - began < seconds


def opened(visit: Visit, room: Room, path: str = "/", *, token: str | None = None) -> Page:
    """The page at `path`, once it is live."""
    visit.page.goto(f"{room.url}{path}" + (f"#token={token}" if token else ""))
    visit.page.locator("body[data-link='live']").wait_for()
    if path == "/":
        tile(visit.page, "tower").wait_for()
    return visit.page


def test_the_wall_shows_what_is_and_what_should_be(room: Room, visit: Visit) -> None:
    """Each source with its state, its wish, the reason, its last weekly test; text from data stays text."""
    page = opened(visit, room)
    assert tile(page, "keax").locator(".word").inner_text() == "running"
    assert "Weekly test 2 d ago" in tile(page, "keax").locator(".chips").inner_text()
    failed = tile(page, "tower")
    assert failed.locator(".word").inner_text() == "failed"
    assert failed.locator(".desired").inner_text() == "running"
    assert failed.locator(".reason").inner_text() == "no such file: /media/tower.wav"
    room.scribe.add("zz-hostile", name=HOSTILE)
    assert tile(page, "zz-hostile").locator(".name").inner_text() == HOSTILE
    room.scribe.write("source.removed", "zz-hostile")
    tile(page, "zz-hostile").wait_for(state="detached")
    assert page.title() == "Tocsin"
    assert visit.errors == []


def test_meters_move_and_silence_is_minus_infinity(room: Room, visit: Visit) -> None:
    """A level shows as numbers and as a bar with its peak held; digital silence is −∞, no level is none."""
    page = opened(visit, room)
    rms, peak = tile(page, "keax").locator(".rms"), tile(page, "keax").locator(".peak")
    room.talk.fixed["keax"] = (-30.0, -12.4)
    eventually(lambda: (rms.inner_text(), peak.inner_text()) == ("−30.0", "−12.4"), "the level")
    lit = """() => {
      const canvas = document.querySelector("[data-source=keax] canvas");
      const middle = canvas.height >> 1;
      const { data } = canvas.getContext("2d").getImageData(0, middle, canvas.width, 1);
      let bright = 0;
      for (let at = 0; at < data.length; at += 4) bright += data[at] + data[at + 1] + data[at + 2] > 230;
      return bright / canvas.width;
    }"""
    eventually(lambda: 0.4 < page.evaluate(lit) < 0.6, "half of the bar is lit")
    label = tile(page, "keax").locator(".meter")
    words = "Level: RMS −30.0 dBFS, peak −12.4 dBFS"
    eventually(lambda: label.get_attribute("aria-label") == words, "words for who cannot see it")
    room.talk.fixed["keax"] = (None, None)
    eventually(lambda: (rms.inner_text(), peak.inner_text()) == ("−∞", "−∞"), "silence")
    eventually(lambda: page.evaluate(lit) < 0.1, "the bar has fallen")
    del room.talk.fixed["keax"]
    assert tile(page, "tower").locator(".rms").inner_text() == "—"
    assert visit.errors == []


def test_a_change_is_seen_without_reloading(room: Room, visit: Visit) -> None:
    """A stop, a new source and a removal appear by themselves, at once."""
    page = opened(visit, room)
    room.scribe.add("late", running=True)
    with within(2.5):
        tile(page, "late").wait_for()
        room.scribe.write("source.stopped", "late", reason="asked", desired="stopped")
        page.locator("#tiles .tile[data-source='late'][data-state='stopped']").wait_for()
    room.scribe.write("source.removed", "late")
    tile(page, "late").wait_for(state="detached")


def test_many_sources_are_small_and_can_be_found(room: Room, visit: Visit) -> None:
    """The size of tiles follows from their number, or is chosen; a search and a state choose among them."""
    page = opened(visit, room)
    page.locator("#size").select_option("small")
    tile(page, "keax").and_(page.locator(".small")).wait_for()
    page.locator("#search").fill("kansas")
    tile(page, "tower").wait_for(state="detached")
    assert page.locator("#tiles .tile").count() == 1
    page.locator("#search").fill("")
    page.locator("#only").select_option("astray")
    tile(page, "keax").wait_for(state="detached")
    assert page.locator("#tiles .tile").count() == 1
    assert tile(page, "tower").locator(".name").inner_text() == "Tower 2 discriminator"


def test_the_command_log_shows_outcomes_as_they_come(room: Room, visit: Visit) -> None:
    """Results appear in the log by themselves, with what they say; it can be narrowed."""
    page = opened(visit, room, "/commands")
    room.settle("c-late", "tower", "failed", reason="unreadable", detail="still no such file")
    row = page.locator("[data-command='c-late']")
    row.wait_for()
    assert row.locator(".result").inner_text() == "failed"
    assert row.locator(".says").inner_text() == "unreadable: still no such file"
    page.locator("#of-outcome").select_option("superseded")
    row.wait_for(state="detached")
    assert page.locator("#commands tr").count() == 1


def test_a_page_whose_server_died_says_so(room: Room, visit: Visit) -> None:
    """Within five seconds a banner tells, and what was shown is shown as past; then all is well again."""
    page = opened(visit, room)
    room.web.process.send_signal(signal.SIGSTOP)
    try:
        with banner_within(page, 5, "lost"):
            banner(page).wait_for()
        assert page.locator(".tile.unknown").count() == page.locator(".tile").count()
        assert page.evaluate(FAINT) == []
        assert tile(page, "keax").locator(".word").inner_text() == "was running"
        assert tile(page, "keax").locator(".rms").inner_text() == "—"
    finally:
        room.web.process.send_signal(signal.SIGCONT)
    page.locator("#banner[hidden]").wait_for(state="attached")
    assert tile(page, "keax").locator(".word").inner_text() == "running"


def test_stale_data_are_called_stale(web: Web, web_yard: Yard, visit: Visit) -> None:
    """Redis frozen: within five seconds the banner says that the data are stale, and the wall is greyed."""
    web_yard.scribe().add("mic", running=True)
    web_yard.beat()
    with web_yard.projections():
        visit.page.goto(web.url)
        assert "has no sources" not in visit.page.inner_text("#empty")
        tile(visit.page, "mic").wait_for()
        visit.page.locator("#banner[hidden]").wait_for(state="attached")
        with web_yard.frozen_redis(6):
            with banner_within(visit.page, 5, "stale"):
                visit.page.locator("#banner[data-is='stale']:not([hidden])").wait_for()
            assert "stale" in banner(visit.page).inner_text()
            assert visit.page.locator(".tile.unknown").count() == 1
        visit.page.locator("#banner[hidden]").wait_for(state="attached", timeout=45_000)


def test_a_failover_shows_as_what_it_is(room: Room, visit: Visit) -> None:
    """The primary dies: the page says that a failover goes on, then from where to where, and goes on."""
    page = opened(visit, room)
    before = room.trio.primary()
    room.trio.kill(before)
    try:
        page.locator("#banner[data-is='failover']:not([hidden])").wait_for()
        assert "Sentinels see to a failover" in banner(page).inner_text()
        assert page.locator(".tile.unknown").count() == page.locator(".tile").count()
        page.locator("#notice:not([hidden])").wait_for(timeout=60_000)
        after = room.trio.port(room.trio.wait_for_other_primary(before))
        told = page.locator("#notice").inner_text()
        assert f"from 127.0.0.1:{room.trio.port(before)} to 127.0.0.1:{after}" in told
        page.locator("body[data-link='live']").wait_for(timeout=60_000)
        eventually(lambda: tile(page, "keax").locator(".rms").inner_text() != "—", "levels again")
    finally:
        room.trio.restart(before)
        room.trio.wait_until_whole()
        eventually(room.writes, "links to the new primary")


def test_without_the_token_the_buttons_say_how_to_get_one(room: Room, visit: Visit) -> None:
    """Read only: the buttons are disabled and the page names the command that gives a link."""
    page = opened(visit, room)
    buttons = tile(page, "keax").get_by_role("button")
    assert buttons.count() == 3
    assert all(buttons.nth(index).is_disabled() for index in range(3))
    assert "tocsin dashboard" in page.inner_text("#rights")


def test_the_token_leaves_the_address_bar_and_lasts_as_long_as_the_tab(room: Room, visit: Visit) -> None:
    """It is kept for this tab alone, survives a reload, and is sent only as a header."""
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url))
    page = opened(visit, room, token=room.web.token)
    assert room.web.token not in page.url
    page.reload()
    tile(page, "keax").get_by_role("button", name="Stop").wait_for()
    assert tile(page, "keax").get_by_role("button", name="Stop").is_enabled()
    assert room.web.token not in page.evaluate("JSON.stringify(localStorage)")
    assert not [url for url in asked if room.web.token in url.partition("#")[0]]


def test_a_source_is_started_by_a_click(room: Room, visit: Visit) -> None:
    """The real command goes to the owner of its lane and comes back: what the tile says is its outcome."""
    page = opened(visit, room, token=room.web.token)
    with executing(room.web.folder, FAR_LANE) as handler:
        tile(page, "remote").get_by_role("button", name="Start remote", exact=True).click()
        outcome = tile(page, "remote").locator(".outcome[data-is='good']")
        outcome.wait_for(timeout=60_000)
    assert outcome.inner_text() == "start completed: now running"
    assert [task.command.type for task in handler.executed] == ["source.start"]


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


def test_a_button_shows_every_outcome(room: Room, visit: Visit) -> None:
    """What the write API answers is what the tile says, politely announced to screen readers."""
    page = opened(visit, room, token=room.web.token)
    outcome = tile(page, "keax").locator(".outcome")
    assert outcome.get_attribute("aria-live") == "polite"
    waiting, sent = list(ANSWERS), []

    def answer(route: Route) -> None:
        sent.append({"authorization", "x-tocsin-csrf"} & route.request.headers.keys())
        status, body, _, _ = waiting.pop(0)
        told(route, status, body)

    page.route("**/api/audio/sources/keax/start", answer)
    for _, _, kind, words in ANSWERS:
        tile(page, "keax").get_by_role("button", name="Start keax", exact=True).focus()
        page.keyboard.press("Enter")
        outcome.filter(has_text=words).wait_for()
        assert outcome.get_attribute("data-is") == kind
    assert all(sent), "each shows who asks"


def test_no_answer_yet_is_followed_until_there_is_one(room: Room, visit: Visit) -> None:
    """An honest "no answer yet" first, then the result as it is projected."""
    page = opened(visit, room, token=room.web.token)
    location = {"Location": "/api/commands/c-slow"}
    page.route("**/keax/stop", lambda route: told(route, 202, {"command": {"id": "c-slow"}}, location))
    tile(page, "keax").get_by_role("button", name="Stop").click()
    outcome = tile(page, "keax").locator(".outcome")
    page.locator(".outcome[data-is='open']").wait_for()
    assert "no answer yet" in outcome.inner_text()
    room.settle("c-slow", "keax", "failed", reason="stuck")
    page.locator(".outcome[data-is='bad']").wait_for()
    assert outcome.inner_text() == "stop failed: stuck"


def test_a_wrong_token_is_refused_and_a_right_one_signs_in(room: Room, visit: Visit) -> None:
    """The page says why it was not taken and stays read only; the form takes a right one until signed out."""
    page = opened(visit, room, token="not-this-stations")
    page.locator("#rights").filter(has_text="refused").wait_for()
    stop = tile(page, "keax").get_by_role("button", name="Stop")
    assert stop.is_disabled()
    page.locator("#who").click()
    page.locator("#token").fill("nor-this-one")
    page.keyboard.press("Enter")
    page.locator("dialog .outcome[data-is='bad']").filter(has_text="Refused").wait_for()
    page.locator("#token").fill(room.web.token)
    page.keyboard.press("Enter")
    page.locator("dialog").wait_for(state="hidden")
    assert stop.is_enabled()
    page.locator("#who").filter(has_text="Sign out").click()
    eventually(stop.is_disabled, "signed out")


def test_a_test_is_injected_from_the_page(room: Room, visit: Visit) -> None:
    """The command goes to the source's owner with the path; the page says what became of it."""
    page = opened(visit, room, "/sources/remote", token=room.web.token)
    page.locator(".inject summary").click()
    page.locator("#inject-path").fill("/media/weekly.wav")
    with executing(room.web.folder, FAR_LANE) as handler:
        page.keyboard.press("Enter")
        page.locator(".inject .outcome[data-is='good']").wait_for(timeout=60_000)
    (task,) = handler.executed
    assert (task.command.type, task.command.params) == ("source.inject", {"path": "/media/weekly.wav"})


def test_an_alert_appears_with_a_sound(room: Room, visit: Visit) -> None:
    """It stands on the wall within seconds, is read out and heard, and is counted beside its page."""
    page = opened(visit, room)
    page.locator("#sound").click()
    page.locator(".inforce [data-gravity='warning']").wait_for()
    room.alert("lp1", "FFW", "Flash Flood Warning", places=["Wyandotte County, KS"], locations=["020209"])
    with within(5):
        card = page.locator(".inforce li").filter(has_text="Flash Flood Warning")
        card.wait_for()
    said = page.locator("#said p").filter(has_text="a Flash Flood Warning for Wyandotte County, KS")
    said.wait_for(state="attached")
    played = "async () => (await import('/page/chime.js')).played"
    eventually(lambda: page.evaluate(played), "a sound")
    assert page.evaluate(played)[0]["name"] == "Flash Flood Warning"
    assert card.get_attribute("data-gravity") == "warning"
    assert page.locator("#nav .count:visible").inner_text() == str(page.locator(".inforce li").count())
    assert visit.errors == []


def test_alerts_are_told_in_plain_words_and_filtered(room: Room, visit: Visit) -> None:
    """One incident whoever heard it, as a sentence; by county, by event, and only what is in force."""
    page = opened(visit, room, "/alerts")
    tornado = page.locator(".incident").filter(has_text="Tornado Warning")
    tornado.first.wait_for()
    assert tornado.count() == 1
    words = tornado.locator(".sentence").inner_text()
    assert words.startswith(
        "National Weather Service (KEAX/NWS): a Tornado Warning for Leavenworth County, KS and"
    )
    assert "In force for" in tornado.locator(".standing").inner_text()
    tornado.locator("summary").click()
    assert tornado.locator(".hearings a").all_inner_texts() == ["keax", "lp1"]
    page.locator("#county").fill("29095")
    page.locator(".incident").filter(has_text="Weekly").first.wait_for(state="detached")
    assert page.locator(".incident h2").all_inner_texts() == ["Severe Thunderstorm Watch"]
    page.locator("#county").fill("")
    page.locator("#event").fill("RMT")
    eventually(
        lambda: page.locator(".incident h2").all_inner_texts() == ["Required Monthly Test"], "the event"
    )
    page.locator("#event").fill("")
    page.locator("#active").check()
    eventually(lambda: page.locator(".incident.past").count() == 0, "in force only")
    assert tornado.is_visible()


def test_a_source_has_a_page_with_its_past(room: Room, visit: Visit) -> None:
    """Its level over time, conditions, states, commands and alerts, for the span that is chosen."""
    page = opened(visit, room, "/sources/studio")
    chart = page.locator("canvas.chart")
    eventually(lambda: "Level over time, 3" in str(chart.get_attribute("aria-label")), "the levels of 6 h")
    assert page.locator(".panels").get_by_text("silence").count() == 1
    page.get_by_role("button", name="30 d").click()
    eventually(
        lambda: "Level over time, 7" in str(chart.get_attribute("aria-label")), "the levels of 30 days"
    )
    chart.focus()
    page.keyboard.press("ArrowLeft")
    assert "dBFS" in page.locator(".reading").inner_text()
    page.get_by_role("link", name="All sources").click()
    tile(page, "studio").get_by_role("link").click()
    page.locator("h1").filter(has_text="Studio B return").wait_for()
    assert page.title() == "studio · Tocsin"
    assert visit.errors == []


def test_the_station_log_shows_missed_weeks_and_is_exported(room: Room, visit: Visit, tmp_path: Path) -> None:
    """Each source by weeks, the one it missed marked; the export holds every reception."""
    page = opened(visit, room, "/tests", token=room.web.token)
    wtop = page.locator(".weeks table tbody tr").filter(has_text="WTOP")
    wtop.wait_for()
    assert wtop.locator("[data-is='bad']").count() == 1
    with page.expect_download() as download:
        page.locator("#export").click()
    download.value.save_as(tmp_path / "log.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "log.csv").read_text("utf-8"))))
    assert len(rows) == 24
    assert {row["event"] for row in rows} == {"RWT", "RMT"}
    assert rows[0]["received_at"].endswith("Z")


def test_the_slider_shows_the_wall_as_it_was(room: Room, visit: Visit) -> None:
    """Moved back it shows the sources of then, and what is different now; the log is verified beside it."""
    page = opened(visit, room, "/audit")
    page.locator(".verdict[data-is='good']").wait_for(timeout=60_000)
    slider = page.get_by_role("slider", name="Moment to look at")
    eventually(lambda: page.evaluate(COLUMNS) >= 8, "the sources of now")
    page.get_by_role("button", name="−24 h").click()
    then = page.locator("#then .tile[data-source='tower']")
    eventually(lambda: then.get_attribute("data-state") == "stopped", "the state of then")
    page.locator("#difference").get_by_text("state: stopped → failed").wait_for()
    page.locator("#difference li[data-sign='+']").filter(has_text="remote").wait_for()
    slider.focus()
    page.keyboard.press("Home")
    eventually(lambda: page.evaluate(COLUMNS) < 8, "how it began")
    assert visit.errors == []


def test_the_system_page_names_owners_sentinels_and_clocks(room: Room, visit: Visit) -> None:
    """Lanes with their owner, every Sentinel with its opinion, a node's clock against Redis'."""
    page = opened(visit, room, "/system")
    lane = page.locator("tr").filter(has_text="node.local").first
    lane.locator(".verb").get_by_text("local", exact=True).wait_for()
    for name in room.trio.SENTINELS:
        assert page.get_by_text(f"127.0.0.1:{room.trio.port(name)}", exact=True).is_visible()
    node = page.locator("tr").filter(has_text="41.3 GB of 64.0 GB")
    assert node.get_by_text("right").is_visible()
    assert page.locator(".cards").get_by_text("healthy", exact=True).is_visible()


def test_every_page_fits_and_can_be_read_by_all(room: Room, visit: Visit) -> None:
    """Nothing sticks out at any width, text has the contrast of WCAG AA in both themes; axe finds nothing."""
    options: Any = {"rules": {"color-contrast": {"enabled": False}}}  # which it does for one theme alone
    page = visit.page
    for path in PATHS:
        opened(visit, room, path, token=room.web.token)
        page.locator(SHOWN).first.wait_for()
        for width in (360, 1280, 2560):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
        for theme in ("dark", "light"):
            page.emulate_media(color_scheme="dark" if theme == "dark" else "light", reduced_motion="reduce")
            assert page.evaluate(FAINT) == [], (path, theme)
        broken = Axe().run(page, options=options).response["violations"]
        assert [(one["id"], [node["html"][:160] for node in one["nodes"][:3]]) for one in broken] == [], path
    assert visit.errors == []


def test_everything_is_reached_by_keyboard(room: Room, visit: Visit) -> None:
    """Tab goes from the skip link through every page and button, and the focus can be seen; links move it."""
    page = opened(visit, room, token=room.web.token)
    reached: list[str] = []
    page.keyboard.press("Tab")
    while page.evaluate("document.activeElement !== document.body"):
        label = page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent.trim()")
        reached.append(label)
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", label
        page.keyboard.press("Tab")
    assert reached[0] == "Skip to the content"
    wanted = ["Audit", "System", "Find a source", "Start keax", "Stop keax", "Restart keax", "Start wtop"]
    places = [reached.index(label) for label in wanted]
    assert places == sorted(places)
    page.get_by_role("link", name="System").focus()
    page.keyboard.press("Enter")
    page.locator("h1").filter(has_text="System").wait_for()
    assert page.evaluate("document.activeElement.id") == "main"


def test_times_are_shown_in_the_zone_and_colours_that_were_chosen(room: Room, visit: Visit) -> None:
    """UTC or as here, dark or light: chosen by a button each, and kept."""
    page = opened(visit, room, "/commands")
    finished = page.locator("#commands time").first
    assert page.locator("#zone").inner_text() == "UTC"
    page.locator("#clock").click()
    assert page.locator("#zone").inner_text() == "here"
    title = page.locator("#commands time").first.get_attribute("title") or ""
    assert finished.inner_text() in title.partition("UTC,")[2]
    page.locator("#theme").click()
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert page.locator("#zone").inner_text() == "here"


def test_no_page_is_heavy(room: Room, visit: Visit) -> None:
    """All that a page loads of its own, scripts and styles together, is below 300 KB."""
    page = opened(visit, room)
    names = page.evaluate("performance.getEntriesByType('resource').map((one) => new URL(one.name).pathname)")
    parts = {name for name in names if name.startswith("/page/")}
    assert "/page/wall.js" in parts
    weight = sum(len(room.web.client.get(name).content) for name in ("/", *parts))
    assert weight < 300_000
