"""The client library: what it makes of answers, by itself and against a real station of its own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest

from control import client as library
from control import conversation
from control.calls import Broken, Course, Found, Pause, Reply, Request, Steps
from control.client import AsyncClient, Client, InDoubt, NoAnswer, Refused, Unreachable
from control.conversation import Terms
from control.testing import Throwaway
from control.tokens import token_of
from streams.signing import load_key
from tests.fix_cli import Terminal
from tests.fix_servers import eventually

ROOT = Path(__file__).parent.parent
TERMS = Terms(token="t")
DONE = {"command": {"id": "c-1", "lane": "p0", "outcome": "completed", "sequence": 1, "seq": 9, "type": "x"}}


def reply(status: int, body: object, **headers: str) -> Reply:
    return Reply(status=status, headers=headers, content=msgspec.json.encode(body))


def talk(steps: Steps[Any], *came: Reply | Broken, clock: Callable[[float], None] = lambda _: None) -> Any:
    """Play a conversation: what comes for each request in turn, the last for ever; requests and result."""
    course, asked, left = Course(steps), [], list(came)
    while not course.done:
        if isinstance(course.step, Request):
            asked.append(course.step)
            course.go_on(left.pop(0) if len(left) > 1 else left[0])
        else:
            if isinstance(course.step, Pause):
                clock(course.step.seconds)
            course.go_on(None)
    return asked, course.result


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time that passes only in pauses, and a little with each."""
    now = [0.0]
    # Its own alone: meters of other tests run on in this process, and would wait for hours.
    monkeypatch.setattr(conversation, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def passes(seconds: float) -> None:
        now[0] += seconds + 0.01

    return passes


def test_a_command_that_could_not_be_sent_is_sent_again_as_the_same(clock: Callable[[float], None]) -> None:
    """After broken connections, a full server and haste it is the same id and body, and one outcome."""
    busy = reply(503, {"error": {"reason": "full", "detail": "full"}}, **{"retry-after": "2"})
    asked, answer = talk(
        conversation.start(TERMS, "mic", durability="disk"),
        Broken("refused", sent=False), busy, reply(200, DONE), clock=clock,
    )  # fmt: skip
    assert answer.outcome == "completed"
    assert len({one.headers["Idempotency-Key"] for one in asked}) == 1
    assert {one.path for one in asked} == {"/api/audio/sources/mic/start"}
    bodies = [msgspec.json.decode(one.body) for one in asked]
    assert all(body["durability"] == "disk" for body in bodies)
    assert bodies[-1]["timeout"] < bodies[0]["timeout"]


@pytest.mark.parametrize(
    ("came", "error"),
    [
        (Broken("cut", sent=True), InDoubt),
        (Broken("refused", sent=False), Unreachable),
        (reply(503, {"error": {"reason": "unreachable", "detail": "away", "id": "c-1"}}), InDoubt),
        (reply(503, {"error": {"reason": "unreachable", "detail": "away", "id": None}}), Unreachable),
        (reply(202, {"command": {"id": "c-1", "outcome": None}}), NoAnswer),
        (reply(401, {"error": {"reason": "unauthorised", "detail": "no"}}), Refused),
        (reply(500, b"oops".hex()), Refused),
    ],
)
def test_what_is_no_outcome_is_raised(came: Reply | Broken, error: type[Exception], clock: Any) -> None:
    """Each says what is known: not submitted, perhaps, accepted without an answer yet, or refused."""
    with pytest.raises(error):
        talk(conversation.stop(TERMS, "mic", timeout=3.0), came, clock=clock)


@pytest.mark.parametrize(
    ("status", "outcome"), [(409, "superseded"), (410, "expired"), (502, "failed"), (422, "rejected")]
)
def test_every_outcome_is_an_answer(status: int, outcome: str) -> None:
    """Whatever became of it is returned, whatever its status."""
    told = {"command": {**DONE["command"], "outcome": outcome, "reason": "r"}}
    _, answer = talk(conversation.restart(TERMS, "mic"), reply(status, told))
    assert (answer.outcome, answer.reason) == (outcome, "r")


def test_following_goes_on_after_the_last_event_and_over_an_outage() -> None:
    """Pages are joined by their `next`; a station that is away is asked again."""
    event = {"lane": "p0", "hash": "h", "at": "2026-01-01T00:00:00Z", "node": "n", "type": "x", "data": {}}
    pages = [
        reply(200, {"data": {"events": [{**event, "seq": 1}, {**event, "seq": 2}], "next": 2, "more": True}}),
        Broken("cut", sent=True),
        reply(200, {"data": {"events": [{**event, "seq": 3}], "next": 3, "more": False}}),
    ]
    course, found, after = Course(conversation.follow(TERMS, "p0")), [], []
    while len(found) < 3:
        match course.step:
            case Found(value):
                found.append(value.seq)
                course.go_on(None)
            case Request(params=params):
                after.append(params["after"])
                course.go_on(pages.pop(0))
            case _:
                course.go_on(None)
    assert (found, after) == ([1, 2, 3], [0, 2, 2])


def test_both_clients_have_the_same_methods() -> None:
    """Each thing that can be said is a method of both, with its description."""
    said = {name for name in dir(Client) if not name.startswith("_")}
    assert said == {name for name in dir(AsyncClient) if not name.startswith("_")}
    assert said == {
        "submit", "start", "stop", "restart", "add", "update", "remove", "wait", "sources", "source",
        "follow", "close",
    }  # fmt: skip
    assert all(getattr(Client, name).__doc__ for name in said)
    assert set(library.__all__) >= {"Client", "AsyncClient", "Answer", "Refused"}


def examples() -> list[str]:
    """The programs in docs/extend.md."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/extend.md").read_text("utf-8"), re.M | re.S)


def test_the_client_does_what_the_documents_show(
    tocsin_station: Throwaway,
    record: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The five lines start a real source; the others list, sign and follow; on a throw-away station."""
    recording = record(1.0)
    monkeypatch.setenv("TOCSIN_STATION", str(tocsin_station.folder))
    monkeypatch.delenv("TOCSIN_TOKEN", raising=False)
    with tocsin_station.client() as station:
        settings = {"kind": "file", "path": str(recording), "loop": True}
        added = station.add("lobby", settings, name="Lobby")
        assert (added.outcome, station.add("lobby", settings, name="Lobby").outcome) == ("completed",) * 2
        five_lines, listing, signing, *_ = examples()
        assert len(five_lines.strip().splitlines()) == 5
        exec(compile(five_lines, "extend.md", "exec"), {})
        assert capsys.readouterr().out == "completed running\n"
        assert station.wait(added.id, timeout=60).outcome == "completed"
        first = next(station.follow(added.lane, added.seq - 1))
        assert (first.type, first.command) == ("command.completed", added.id)
        with pytest.raises(Refused) as refused:
            station.source("ghost")
        assert refused.value.reason == "unknown_source"
    exec_async(listing)
    assert "lobby" in capsys.readouterr().out
    made = Terminal(tocsin_station.folder)("key", "create", "alice", "--role", "operator")
    assert made.code == 0, made.err
    key = load_key(tocsin_station.folder / "keys" / "own", "alice")
    who = {"headers": {"Authorization": f"Bearer {token_of(key)}"}, "trust_env": False}
    session = f"{tocsin_station.url}/api/session"
    eventually(lambda: httpx.get(session, **who).status_code == 200, "the web process knows the key", 30)  # type: ignore[arg-type]
    monkeypatch.chdir(tocsin_station.folder)
    exec(compile(signing, "extend.md", "exec"), {"url": tocsin_station.url})
    exec_async(
        "from control.client import AsyncClient, NoAnswer\n"
        f"async with AsyncClient({tocsin_station.url!r}, {tocsin_station.token!r}) as station:\n"
        "    answer = await station.stop('lobby')\n"
        "    assert answer.state == 'stopped', answer\n"
        "    async for event in station.follow(answer.lane, answer.seq - 1):\n"
        "        break\n"
        "    assert event.command == answer.id\n"
    )


def exec_async(text: str) -> None:
    """Run a program that awaits."""
    names: dict[str, Any] = {}
    body = "\n".join(f"    {line}" for line in text.splitlines())
    exec(compile(f"async def program():\n{body}\n", "extend.md", "exec"), names)
    asyncio.run(names["program"]())
