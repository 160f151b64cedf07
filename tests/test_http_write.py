"""Writing over HTTP with keys of one's own: tokens, sessions, commands signed elsewhere, and limits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from control.ownkeys import own_key
from control.tokens import token_of
from control.writer import BURST, Pace
from control.writes import Conflicting, command_id
from streams.connection import connect
from streams.messages import new_command
from streams.names import StationKeys
from streams.settings import load
from streams.signing import Key
from streams.submit import Signed, signed
from tests.fix_cli import Obedient, Terminal, executing
from tests.fix_control import Bureau
from tests.fix_servers import eventually
from tests.fix_web import Web, running_web

SOURCES = "/api/audio/sources"
START = f"{SOURCES}/demo/start"
CSRF = "X-Tocsin-CSRF"


class Town:
    """A station with its web and control processes, an owner of node.local, and who comes by HTTP."""

    def __init__(self, web: Web, bureau: Bureau, obedient: Obedient) -> None:
        self.web, self.bureau, self.obedient = web, bureau, obedient
        self.tocsin = Terminal(web.folder.path)
        self.client = web.client

    def token(self, id: str, role: str, *limits: str) -> str:
        """A token of a new key, once the web process knows it."""
        made = self.tocsin("key", "create", id, "--role", role, *limits, "--token")
        assert made.code == 0, made.err
        token = made.out.splitlines()[-1]
        eventually(lambda: self.who(token).status_code == 200, "the key is known")
        return token

    def who(self, token: str) -> httpx.Response:
        return self.client.get("/api/session", headers=bearer(token))

    def signers(self) -> list[str]:
        """The keys of the commands executed so far."""
        return [task.command.key for task in self.obedient.executed]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def town(web: Web) -> Iterator[Town]:
    link = connect(load(web.folder.settings).redis, "test")
    link.call("HSET", StationKeys("station").sources, "demo", "node.local")
    link.close()
    bureau = Bureau(web.folder)
    bureau.start()
    try:
        with executing(web.folder, keys=True) as obedient:
            yield Town(web, bureau, obedient)
    finally:
        bureau.close()


def test_sources_are_added_changed_and_removed(town: Town) -> None:
    """Each write is the command of its name, answered with its outcome; the same Idempotency-Key is one."""
    client, settings = town.client, {"kind": "file", "path": "/a.wav"}
    token = bearer(town.token("eve", "engineer"))
    added = client.post(SOURCES, headers=token, json={"id": "mic", "settings": settings, "name": "Mic"})
    assert (added.status_code, added.json()["command"]["type"]) == (200, "source.add")
    assert client.patch(f"{SOURCES}/mic", headers=token, json={"name": "Desk"}).status_code == 200
    assert client.delete(f"{SOURCES}/mic", headers=token).status_code == 200
    done = [(task.command.type, task.command.source, task.command.params) for task in town.obedient.executed]
    assert done == [
        ("source.add", "mic", {"settings": settings, "name": "Mic"}),
        ("source.update", "mic", {"name": "Desk"}),
        ("source.remove", "mic", {}),
    ]
    assert town.signers() == ["eve"] * 3
    for wrong in ({"id": "x", "settings": {"kind": "radio"}}, {"id": "x"}, {"id": "!", "settings": settings}):
        assert client.post(SOURCES, headers=token, json=wrong).status_code == 422
    assert client.patch(f"{SOURCES}/mic", headers=token, json={}).status_code == 422
    big = {"id": "mic", "settings": {"kind": "file", "path": "x" * 20_000}}
    assert client.post(SOURCES, headers=token, json=big).status_code == 413
    headers = {**token, "Idempotency-Key": '"wish-1"'}
    first, again = (client.post(START, headers=headers).json()["command"] for _ in range(2))
    assert first == again
    assert (first["id"], len(town.obedient.executed)) == ("wish-1", 4)
    other = client.post(f"{SOURCES}/demo/stop", headers=headers)
    assert (other.status_code, other.json()["error"]["reason"]) == (409, "conflict")
    both = client.post(START, headers=headers, json={"id": "wish-2"})
    assert (both.status_code, both.json()["error"]["field"]) == (422, "Idempotency-Key")
    hasty = [client.post(f"{SOURCES}/ghost/stop", headers=token) for _ in range(BURST)]
    slowed = [one for one in hasty if one.status_code == 429]
    assert {one.status_code for one in hasty} <= {422, 429}
    assert all(one.headers["Retry-After"] == "1" for one in slowed)


def test_a_token_may_what_its_key_may_until_it_is_revoked(town: Town) -> None:
    """The log names the key; what its role or limits forbid is 403; revoked, it opens nothing within 1 s."""
    token = town.token("west", "operator", "--source", "demo")
    assert town.client.post(START, headers=bearer(token)).status_code == 200
    assert town.signers() == ["west"]
    assert town.client.delete(f"{SOURCES}/demo", headers=bearer(token)).status_code == 403
    elsewhere = town.token("east", "operator", "--source", "east-*")
    assert town.client.post(START, headers=bearer(elsewhere)).status_code == 403
    viewer = town.token("viewer", "viewer")
    assert town.client.post(START, headers=bearer(viewer)).status_code == 403
    assert town.who(viewer).json() == {"key": "viewer", "role": "viewer", "expires_at": None, "csrf": None}
    assert town.tocsin("key", "revoke", "west").code == 0
    time.sleep(1)
    assert town.client.post(START, headers=bearer(token)).status_code == 401
    assert town.client.post(START, headers=bearer(token[:-4] + "AAAA")).status_code == 401
    assert len(town.obedient.executed) == 1
    # The station's own token is bound to the key that signs here.
    assert town.tocsin("key", "create", "deputy", "--role", "engineer").code == 0
    assert town.tocsin("key", "revoke", "operator", TOCSIN_KEYS_SIGN_WITH="deputy").code == 0
    eventually(lambda: town.who(town.web.token).status_code == 401, "the token is refused", 2)


def test_a_session_writes_only_from_our_own_page(town: Town) -> None:
    """The cookie alone does not write: the header is needed that only our page can read; and it can end."""
    token = town.token("desk", "operator")
    page = httpx.Client(base_url=town.web.url, trust_env=False, timeout=20)
    assert page.post("/api/session", json={"token": "wrong"}).status_code == 401
    elsewhere = page.post("/api/session", json={"token": token}, headers={"Origin": "https://evil.example"})
    assert (elsewhere.status_code, "set-cookie" in elsewhere.headers) == (403, False)
    login = page.post("/api/session", json={"token": token})
    assert (login.status_code, login.json()["key"]) == (200, "desk")
    set_cookie = login.headers["set-cookie"].lower()
    assert all(part in set_cookie for part in ("httponly", "samesite=strict", "path=/"))
    assert token not in login.headers["set-cookie"] + login.text
    csrf = page.get("/api/session").json()["csrf"]
    assert csrf == login.json()["csrf"]
    for forged in ({}, {CSRF: "guess"}, {CSRF: csrf, "Origin": "https://evil.example"}):
        refused = page.post(START, headers=forged)
        assert (refused.status_code, refused.json()["error"]["reason"]) == (403, "forged")
    assert page.post(START, headers={CSRF: csrf, "Origin": town.web.url}).status_code == 200
    assert town.signers() == ["desk"]
    other = httpx.Client(base_url=town.web.url, trust_env=False, timeout=20)
    assert other.post("/api/session", json={"token": town.web.token}).json()["role"] == "engineer"
    assert other.post(START, headers={CSRF: csrf}).status_code == 403, "another session's value"
    assert page.delete("/api/session").status_code == 200
    assert page.get("/api/session").status_code == 401
    town.tocsin("key", "revoke", "desk")
    page.cookies.set("tocsin-session", login.cookies["tocsin-session"])
    eventually(lambda: page.get("/api/session").status_code == 401, "a kept cookie opens nothing", 2)
    page.cookies.set("tocsin-session", "made-up")
    assert page.get("/api/session").status_code == 401
    page.close()
    other.close()


def wished(key: Key, **more: object) -> Signed:
    made = new_command(
        station="station", lane="node.local", source="demo", type="source.start", params={}, key=key.id
    )
    return signed(msgspec.structs.replace(made, **more), key)  # type: ignore[arg-type]


def test_a_command_signed_elsewhere_needs_no_token(town: Town) -> None:
    """Its signature says who asks: as good as submitted here; altered, by others or amiss it is refused."""
    assert town.tocsin("key", "create", "laptop", "--role", "operator").code == 0
    laptop = own_key(load(town.web.folder.settings), "laptop")
    eventually(lambda: town.who(token_of(laptop)).status_code == 200, "the key is known")

    def forward(one: Signed, **headers: str) -> httpx.Response:
        body = {"request": one.raw.decode(), "signature": one.signature}
        return town.client.post("/api/commands", json=body, headers=headers)

    one = wished(laptop)
    done = forward(one)
    assert (done.status_code, done.json()["command"]["id"]) == (200, one.command.id)
    assert town.signers() == ["laptop"]
    assert forward(one).json() == done.json()
    assert len(town.obedient.executed) == 1
    altered = Signed(one.command, one.raw.replace(b"source.start", b"source.stop!"), one.signature)
    assert forward(altered).status_code == 401
    assert forward(Signed(one.command, b"{}", "00")).status_code == 422
    stranger = msgspec.structs.replace(laptop, id="stranger")
    for wrong, status in (
        (wished(stranger), 401),
        (wished(laptop, type="source.remove"), 403),
        (wished(laptop, station="other"), 422),
        (wished(laptop, lane="nowhere"), 422),
        (wished(laptop, lane="p0"), 422),
        (wished(laptop, source="ghost"), 422),
    ):
        assert forward(wrong).status_code == status, wrong
    assert forward(wished(laptop), **{"Idempotency-Key": "another"}).status_code == 422
    link = connect(load(town.web.folder.settings).redis, "test")
    assert link.call("EXISTS", StationKeys("station").lane("nowhere").commands) == 0
    link.close()


def test_a_pace_is_each_keys_own() -> None:
    """So many at once, then one after the other, without a word about the others."""
    now = 0.0
    pace = Pace(lambda: now)
    assert [pace.wait("a") for _ in range(BURST)] == [0.0] * BURST
    assert pace.wait("a") == pytest.approx(0.05)
    assert pace.wait("b") == 0.0
    now += 0.05
    assert [pace.wait("a") > 0 for _ in range(2)] == [False, True]


@pytest.mark.parametrize(
    ("header", "body", "id"),
    [(None, None, None), (None, "a", "a"), ("a", None, "a"), ('"a"', "a", "a"), (" a ", None, "a")],
)
def test_the_id_of_a_command_is_taken_from_header_or_body(
    header: str | None, body: str | None, id: str | None
) -> None:
    """Bare or quoted, as the draft has it; where both name one it is the same."""
    assert command_id(header, body) == id


@pytest.mark.parametrize(
    ("header", "body"), [("a", "b"), ("", None), ('""', None), ("x" * 65, None), ("é", None)]
)
def test_an_idempotency_key_that_is_none_is_refused(header: str, body: str | None) -> None:
    """Two names for one command, none at all, or one that is too long."""
    with pytest.raises(Conflicting):
        command_id(header, body)


def test_from_elsewhere_reading_needs_a_token_or_a_session(web: Web, tmp_path: Path) -> None:
    """Bound to more than this machine, a viewer's token reads, and so does their session; nobody else."""
    web.process.terminate()
    web.process.wait(10)
    text = web.folder.settings.read_text("utf-8").replace('host = "127.0.0.1"', 'host = "0.0.0.0"')
    web.folder.settings.write_text(text, "utf-8")
    bureau = Bureau(web.folder)
    bureau.start()
    try:
        made = Terminal(web.folder.path)("key", "create", "viewer", "--role", "viewer", "--token")
        token = made.out.splitlines()[-1]
        with running_web(web.folder) as open_web:
            client = open_web.client
            assert client.get("/api/audio/sources").status_code == 401
            assert client.get("/metrics", headers=bearer("tocsin_viewer_" + "A" * 43)).status_code == 401
            eventually(lambda: client.get(SOURCES, headers=bearer(token)).status_code == 200, "it reads")
            assert client.get("/healthz").status_code == 200
            assert client.get(SOURCES, headers=bearer(open_web.token)).status_code == 200
            assert client.post("/api/session", json={"token": token}).status_code == 200
            assert client.get(SOURCES).status_code == 200
            client.delete("/api/session")
            assert client.get(SOURCES).status_code == 401
    finally:
        bureau.close()
