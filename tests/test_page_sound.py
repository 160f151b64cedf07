"""What can be heard and seen of sound in the control room, in a real browser, and who sees to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, update

from projections.tables import episodes
from streams.drafts import Draft
from streams.handler import Result
from streams.messages import now
from tests.fix_booth import HERTZ
from tests.fix_browser import Visit
from tests.fix_cli import executing
from tests.fix_room import FAR_LANE, Room
from tests.fix_servers import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

EAR = """() => {
  const made = AudioBufferSourceNode.prototype.start;
  window.heard = [];
  AudioBufferSourceNode.prototype.start = function (...given) {
    window.heard.push(...this.buffer.getChannelData(0));
    return made.apply(this, given);
  };
}"""
"""Keeps the samples that the page plays."""
PITCH = """() => {
  let crossings = 0;
  for (let n = 1; n < heard.length; n += 1) crossings += (heard[n] >= 0) !== (heard[n - 1] >= 0);
  return (crossings / 2) / (heard.length / 24000);
}"""


def opened(visit: Visit, room: Room, path: str, *, token: bool = True) -> Page:
    """The page at `path`, once it is live."""
    visit.page.goto(f"{room.url}{path}" + (f"#token={room.web.token}" if token else ""))
    visit.page.locator("body[data-link='live']").wait_for()
    return visit.page


def test_a_source_is_listened_to_in_the_browser(room: Room, visit: Visit) -> None:
    """A click plays what the node reads now; another ends it, there too; what cannot be heard is told."""
    page = opened(visit, room, "/sources/keax")
    page.evaluate(EAR)
    button = page.get_by_role("button", name="Listen in")
    button.click()
    page.locator(".listen .outcome[data-is='good']").wait_for()
    eventually(lambda: page.evaluate("heard.length") > 24_000 * 1.5, "it sounds")
    assert abs(page.evaluate(PITCH) - HERTZ) < 5
    stop = page.get_by_role("button", name="Stop listening")
    assert stop.get_attribute("aria-pressed") == "true"
    stop.click()
    assert button.get_attribute("aria-pressed") == "false"
    eventually(lambda: room.booth.on_air.listeners == 0, "the node is asked no more")

    # Of a source that runs and is not on air there, it is said that there is none.
    page.goto(f"{room.url}/sources/kec61")
    page.get_by_role("button", name="Listen in").click()
    page.locator(".listen .outcome[data-is='bad']").filter(has_text="no sound").wait_for()
    # What is stopped cannot be listened to.
    page.goto(f"{room.url}/sources/spare")
    eventually(page.get_by_role("button", name="Listen in").is_disabled, "nothing to listen to")
    assert visit.errors == []


def test_a_waterfall_comes_while_somebody_looks(room: Room, visit: Visit) -> None:
    """It is asked for by looking, and drawn line by line; nobody looks any more once the page is left."""
    page = opened(visit, room, "/sources/wtop")
    canvas = page.locator("canvas.waterfall")
    canvas.wait_for()

    def lit() -> int:
        found: int = page.evaluate(
            "() => { const one = document.querySelector('canvas.waterfall');"
            "const { data } = one.getContext('2d').getImageData(0, 0, one.width, one.height);"
            "let rows = 0; for (let y = 0; y < one.height; y += 1) rows += data[y * one.width * 4 + 3] > 0;"
            "return rows; }"
        )
        return found

    eventually(lambda: lit() > 4, "some lines")
    assert "Spectrum of wtop" in str(canvas.get_attribute("aria-label"))
    assert visit.errors == []


def test_loudness_is_drawn_beside_the_level(room: Room, visit: Visit) -> None:
    """A line of its own colour, a word in the legend and in what is read; neither where none was measured."""
    blue = (
        "() => { const one = document.querySelector('canvas.chart'); let found = 0;"
        "const { data } = one.getContext('2d').getImageData(0, 0, one.width, one.height);"
        "for (let at = 0; at < data.length; at += 4) found += data[at + 2] > data[at + 1] + 25;"
        "return found; }"
    )
    page = opened(visit, room, "/sources/remote")
    page.locator(".reading").filter(has_text="Nothing was measured").wait_for()
    assert page.locator(".legend .loud").is_hidden()
    before = page.evaluate(blue)  # edges of letters
    page.goto(f"{room.url}/sources/keax")
    page.locator(".legend .loud").wait_for()
    eventually(lambda: page.evaluate(blue) > before + 200, "a blue line")
    page.locator("canvas.chart").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.locator(".reading").filter(has_text="LUFS").wait_for()
    assert visit.errors == []


def test_the_evidence_of_an_alert_is_played(room: Room, visit: Visit) -> None:
    """Beside the alert and on its source's page: the file that the node has, fetched when it is asked for."""
    page = opened(visit, room, "/alerts")
    tornado = page.locator(".incident").filter(has_text="Tornado Warning").first
    tornado.get_by_role("button", name="Recording of keax, 22 s").click()
    plays(page, tornado.locator("audio"))
    page.goto(f"{room.url}/sources/lp1")
    row = page.get_by_role("table", name="Recordings of it").locator("tbody tr")
    row.get_by_role("button", name="Recording of lp1, 22 s").click()
    plays(page, row.locator("audio"))
    assert "an alert" in row.inner_text()
    assert visit.errors == []


def plays(page: Page, audio: Any) -> None:
    audio.wait_for()
    eventually(lambda: audio.evaluate("one => one.duration") == 22.0, "it is whole")
    eventually(lambda: audio.evaluate("one => one.currentTime") > 0.2, "it plays")


def test_groups_are_seen_on_the_wall(room: Room, visit: Visit) -> None:
    """Which source counts for its group, and which is in reserve; a switch is seen as it happens."""
    page = opened(visit, room, "/", token=False)
    first, second = (page.locator(f"#tiles .tile[data-source='{one}'] .chips") for one in ("lp1", "wtop"))
    first.get_by_text("Counts for Local primary").wait_for()
    second.get_by_text("In reserve for Local primary").wait_for()
    room.office.write("group.switched", group="lp", to="wtop", was="lp1", reason="lp1 is silent for 20 s")
    second.get_by_text("Counts for Local primary").wait_for()
    first.get_by_text("In reserve for Local primary").wait_for()
    room.office.write("group.switched", group="lp", to="lp1", was="wtop", reason="lp1 has been heard again")
    first.get_by_text("Counts for Local primary").wait_for()


def test_a_condition_is_acknowledged_on_its_sources_page(room: Room, visit: Visit) -> None:
    """The real command goes to the source's owner; who saw it stands there then, and no button."""
    room.far.write("condition.opened", "remote", episode="e-9", kind="hiss", detail="noise for 20 s")
    page = opened(visit, room, "/sources/remote")
    row = page.get_by_role("table", name="Conditions").locator("tr").filter(has_text="hiss")
    button = row.get_by_role("button", name="Acknowledge hiss")
    button.wait_for()
    seen = Draft(type="condition.acknowledged", source="remote", data={"episode": "e-9", "by": "operator"})
    with executing(room.web.folder, FAR_LANE) as handler:
        handler.answers["condition.acknowledge"] = Result(
            outcome="completed", state="acknowledged", drafts=(seen,)
        )
        button.click()
        row.get_by_role("cell", name="operator", exact=True).wait_for()
    assert [task.command.params for task in handler.executed] == [{"episode": "e-9"}]
    assert button.count() == 0
    assert visit.errors == []


def test_what_people_were_told_of_is_acknowledged_on_the_wall(room: Room, visit: Visit) -> None:
    """The line has a button for whoever may; what it asks for and what is answered is what is shown."""
    with room.yard.engine.begin() as connection:
        found = insert(episodes).values(
            rule="calm", kind="silence", subject="studio", source="studio", detail="−∞ dBFS for 30 s",
            opened_at=now(), repeats=0,
        )  # fmt: skip
        number = connection.execute(found.returning(episodes.c.id)).scalar_one()
    page = opened(visit, room, "/", token=False)
    line = page.locator(f".episodes li[data-episode='{number}']")
    line.get_by_text("silence: studio").wait_for()
    assert line.get_by_role("button").count() == 0
    page.goto("about:blank")
    page = opened(visit, room, "/")
    sent: list[Any] = []

    def answer(route: Route) -> None:
        sent.append((route.request.url.rpartition("/api")[2], route.request.post_data_json))
        route.fulfill(json={"command": {"outcome": "completed", "state": "acknowledged"}})

    page.route("**/acknowledge", answer)
    line.get_by_role("button", name="Acknowledge silence of studio").click()
    line.locator(".outcome[data-is='good']").filter(has_text="now acknowledged").wait_for()
    assert sent == [(f"/audio/episodes/{number}/acknowledge", {"rule": "calm", "subject": "studio"})]
    with room.yard.engine.begin() as connection:
        connection.execute(update(episodes).values(acknowledged_by="operator", acknowledged_at=now()))
    line.get_by_text("Seen to by operator").wait_for()
    assert not line.get_by_role("button").is_visible()
    with room.yard.engine.begin() as connection:
        connection.execute(delete(episodes))
    assert visit.errors == []
