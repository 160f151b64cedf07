"""Writing over HTTP: who may, and what each outcome looks like there."""

from __future__ import annotations

import signal
import socket
import threading
import time
from contextlib import ExitStack

import httpx
import pytest

from control.outcomes import rejection_status
from streams.connection import connect
from streams.handler import Result
from streams.names import StationKeys
from streams.settings import load
from tests.fix_cli import Ran, Terminal, executing
from tests.fix_web import Web

START = "/api/audio/sources/demo/start"


@pytest.fixture
def demo(web: Web) -> Web:
    """A station whose source `demo` lives in the lane node.local."""
    link = connect(load(web.folder.settings).redis, "test")
    link.call("HSET", StationKeys("station").sources, "demo", "node.local")
    link.close()
    return web


def test_a_started_source_is_answered_with_its_outcome(demo: Web) -> None:
    """A start over HTTP is signed, executed and answered with 200 and what is so now."""
    with executing(demo.folder) as obedient:
        response = demo.post(START)
    assert response.status_code == 200
    command = response.json()["command"]
    assert (command["outcome"], command["state"]) == ("completed", "running")
    assert [task.command.id for task in obedient.executed] == [command["id"]]


def test_nobody_writes_without_the_token(demo: Web) -> None:
    """Without the token, or with another, the answer is 401 and no command is submitted."""
    for verb in ("start", "stop", "restart"):
        path = f"/api/audio/sources/demo/{verb}"
        for response in (demo.client.post(path), demo.post(path, token="wrong")):  # it is none
            assert response.status_code == 401, verb
            assert response.headers["WWW-Authenticate"] == "Bearer"
    link = connect(load(demo.folder.settings).redis, "test")
    assert link.call("EXISTS", StationKeys("station").lane("node.local").commands) == 0
    link.close()


STATUSES = [
    ("failed", "unreadable", 502),
    ("rejected", "malformed", 422),
    ("rejected", "unauthorised", 403),
    ("superseded", None, 409),
    ("expired", "expired", 410),
]


def test_each_outcome_has_its_status(demo: Web) -> None:
    """The status tells the outcome, and the body says it in words."""
    with executing(demo.folder) as obedient:
        for outcome, reason, status in STATUSES:
            obedient.answers["source.start"] = Result(outcome=outcome, reason=reason)  # type: ignore[arg-type]
            response = demo.post(START)
            assert response.status_code == status, outcome
            assert response.json()["command"]["outcome"] == outcome


def test_reasons_of_a_rejection_have_statuses_of_their_own() -> None:
    """Who is not known gets 401, who may not 403, a conflict 409, all else 422."""
    reasons = ("bad_signature", "unauthorised", "conflict", "sequence", "unknown_source", None)
    assert [rejection_status(reason) for reason in reasons] == [401, 403, 409, 409, 422, 422]


def test_no_answer_yet_is_202_with_a_place_to_ask(demo: Web) -> None:
    """Where nobody executes, the answer is 202 with an address, and the same id finds the outcome."""
    waiting = demo.post(START, {"timeout": 0.5})
    assert waiting.status_code == 202
    id = waiting.json()["command"]["id"]
    assert waiting.headers["Location"] == f"/api/commands/{id}"
    with executing(demo.folder) as obedient:
        again = demo.post(START, {"id": id})
    assert again.status_code == 200
    assert again.json()["command"]["id"] == id
    assert len(obedient.executed) == 1


def test_the_timeout_is_one_for_all_steps(demo: Web) -> None:
    """What finding the source's lane has taken is not waited for once more: 2 s are 2 s, not 3.5."""
    link = connect(load(demo.folder.settings).redis, "test")
    link.call("CLIENT", "PAUSE", 1500, "ALL")
    began = time.monotonic()
    response = demo.post(START, {"timeout": 2})
    took = time.monotonic() - began
    link.close()
    assert response.status_code == 202
    assert "within 2 s" in response.json()["command"]["detail"]
    assert 1.9 < took < 3.2


def test_an_unknown_source_is_422(web: Web) -> None:
    """A source that nobody added is rejected with 422, naming the field."""
    response = web.post("/api/audio/sources/ghost/start")
    assert response.status_code == 422
    assert response.json()["error"]["reason"] == "unknown_source"
    assert response.json()["error"]["field"] == "source"


def test_a_malformed_body_is_422(demo: Web) -> None:
    """A body that is not understood is rejected and says what is wrong with it."""
    for body in ({"timeout": -1}, {"unknown": 1}, [], {"durability": "gold"}):
        response = demo.post(START, body)
        assert response.status_code == 422, body
        assert response.json()["error"]["detail"]


def test_a_large_body_is_refused(demo: Web) -> None:
    """A body over 4 KiB is refused unread with 413."""
    response = demo.post(START, {"id": "x" * 5000})
    assert response.status_code == 413


def test_an_unreachable_redis_is_503_with_retry_after(demo: Web) -> None:
    """When Redis is away the answer is 503 at once: when to come back, and that nothing was submitted."""
    link = connect(load(demo.folder.settings).redis, "test")
    link.call("CLIENT", "PAUSE", 8000, "ALL")
    began = time.monotonic()
    response = demo.post(START, {"timeout": 1})
    assert time.monotonic() - began < 8
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "5"
    assert "nothing was submitted" in response.json()["error"]["detail"]
    link.close()
    _until_unpaused(demo)


def _until_unpaused(web: Web) -> None:
    link = connect(load(web.folder.settings).redis, "test")
    deadline = time.monotonic() + 20
    while True:
        try:
            link.call("PING")
            break
        except Exception:
            assert time.monotonic() < deadline
    link.close()


def test_waiting_commands_never_keep_readers_waiting(demo: Web) -> None:
    """While more commands wait than may, one more is told to come back, and reads answer at once."""
    statuses: list[int] = []

    def wait() -> None:
        with httpx.Client(base_url=demo.url, timeout=30, trust_env=False) as client:
            headers = {"Authorization": f"Bearer {demo.token}"}
            statuses.append(client.post(START, json={"timeout": 3}, headers=headers).status_code)

    threads = [threading.Thread(target=wait) for _ in range(24)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    began = time.monotonic()
    assert demo.client.get("/api/audio/sources").status_code == 200
    assert time.monotonic() - began < 1
    for thread in threads:
        thread.join()
    assert statuses.count(202) == 16
    assert statuses.count(503) == 8


def test_the_web_process_stops_at_once_though_a_page_listens(web: Web) -> None:
    """SIGTERM ends the process within two seconds while a live feed is open, and frees its port."""
    with web.client.stream("GET", "/api/audio/live") as feed:
        lines = feed.iter_lines()
        next(lines)
        began = time.monotonic()
        web.process.send_signal(signal.SIGTERM)
        assert web.process.wait(10) == 0
        assert time.monotonic() - began < 2


def test_hundreds_of_pages_are_open_at_once(web: Web) -> None:
    """Each has its feed from one web process, which answers others meanwhile."""
    host, port = web.url.removeprefix("http://").split(":")
    with ExitStack() as pages:
        for _ in range(300):
            page = pages.enter_context(socket.create_connection((host, int(port)), timeout=20))
            page.sendall(f"GET /api/audio/live HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert page.recv(12) == b"HTTP/1.1 200"
        assert web.client.get("/healthz").status_code == 200


def test_the_cli_commands_by_address_too(demo: Web) -> None:
    """With --station URL and TOCSIN_TOKEN, sources are started through HTTP with the same exit codes."""
    terminal = Terminal(demo.folder.path)
    with executing(demo.folder):
        done = terminal("source", "start", "demo", "--station", demo.url, "--json", TOCSIN_TOKEN=demo.token)
    assert done.code == 0, done.err
    assert done.json["command"]["state"] == "running"
    assert terminal("source", "start", "demo", "--station", demo.url).code == 4
    waiting = terminal(
        "source", "stop", "demo", "--station", demo.url, "--timeout", "0.5", TOCSIN_TOKEN=demo.token
    )
    assert waiting.code == 7
    assert terminal("group", "remove", "demo", "--station", demo.url).code == 2


def test_sources_are_kept_by_address_too(demo: Web) -> None:
    """What `tocsin source` does is signed by the web process then, for the token; nothing is signed here."""
    terminal = Terminal(demo.folder.path)

    def ask(*words: str) -> Ran:
        return terminal(*words, "--station", demo.url, "--json", TOCSIN_TOKEN=demo.token)

    with executing(demo.folder) as obedient:
        added = ask("source", "add", "mic", "--file", "/a.wav", "--name", "Mic", "--start", "--id", "wish-1")
        assert added.code == 0, added.err
        assert (added.json["command"]["type"], added.json["command"]["state"]) == ("source.start", "running")
        assert ask("source", "update", "mic", "--name", "Desk", "--if-sequence", "2").code == 0
        assert ask("source", "acknowledge", "mic", "episode-1").code == 0
        assert ask("source", "inject", "mic", "/test.wav").code == 0
        assert ask("source", "remove", "mic", "--if-sequence", "1").code == 4
        assert ask("source", "remove", "mic", "--dry-run").code == 2
        assert ask("source", "remove", "mic").code == 0
    settings = {"kind": "file", "path": "/a.wav", "pace": "realtime", "loop": False}
    done = [(task.command.type, task.command.params) for task in obedient.executed]
    assert done == [
        ("source.add", {"settings": settings, "name": "Mic"}),
        ("source.start", {}),
        ("source.update", {"name": "Desk"}),
        ("condition.acknowledge", {"episode": "episode-1"}),
        ("source.inject", {"path": "/test.wav"}),
        ("source.remove", {}),
    ]
    assert obedient.executed[0].command.id == "wish-1"


def test_the_dashboard_link_carries_the_token_behind_the_hash(web: Web) -> None:
    """`tocsin dashboard` prints the only place where the token is shown, in a part that no server is sent."""
    ran = Terminal(web.folder.path)("dashboard")
    assert ran.out.strip() == f"{web.url}/#token={web.token}"


def test_reads_and_the_doctor_over_the_same_station(demo: Web) -> None:
    """`source list`, `status` and `command list` read over HTTP; `doctor` says what to do."""
    terminal = Terminal(demo.folder.path)
    assert terminal("source", "list", "--json").json["sources"] == []
    assert terminal("command", "list", "--json").json["commands"] == []
    assert terminal("status", "--json").json["status"]["health"]["healthy"] is False
    shown = terminal("command", "show", "no-such-id", "--json")
    assert (shown.code, shown.json["error"]["reason"]) == (4, "unknown_command")
    examined = terminal("doctor", "--json")
    assert examined.code == 1
    findings = {one["part"]: one for one in examined.json["doctor"]["findings"]}
    away = {"node local", "control"}
    assert {findings[part]["verdict"] for part in away} == {"trouble"}
    assert all(findings[part]["next"] for part in away)
    others = {part: one["verdict"] for part, one in findings.items() if part not in away}
    assert set(others) >= {"folder", "key", "redis", "functions", "lanes", "postgres", "web"}
    assert set(others.values()) == {"ok"}, findings


def test_the_doctor_sees_commands_that_nobody_executes(demo: Web) -> None:
    """Commands waiting in a lane without an owner are found, with the lane's name and their number."""
    demo.post(START, {"timeout": 0.2})
    examined = Terminal(demo.folder.path)("doctor", "--json")
    findings = {one["part"]: one for one in examined.json["doctor"]["findings"]}
    assert findings["lane node.local"]["verdict"] == "trouble"
    assert findings["lane node.local"]["told"].startswith("1 commands wait")
