"""`tocsin key …` against real processes: who may what, where secrets go, how soon a revocation is known."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from control.ownkeys import keep_in_file, own_key, own_path, waiting_path
from control.station.folder import Folder
from streams.messages import new_command
from streams.settings import load
from streams.signing import Key, load_key
from streams.submit import Signed, signed
from tests.fix_cli import Ran, Terminal
from tests.fix_control import ROOT, Bureau
from tests.fix_servers import eventually

LANE = "node.local"


@pytest.fixture
def chief(bureau: Bureau) -> Bureau:
    """A station whose control process runs, and its first key, an engineer's."""
    bureau.start()
    return bureau


@contextmanager
def ingesting(folder: Folder) -> Iterator[Bureau]:
    """The station's ingest process, owning its node's lane."""
    node = Bureau(Folder(folder.path))
    node._output = folder.path / "ingest.log"
    node.launch("ingest")
    try:
        node.await_lane(LANE)
        yield node
    finally:
        node.close()


def secret_of(folder: Folder, id: str) -> str:
    return load_key(folder.keys / "own", id).secret


def by(key: Key, bureau: Bureau, type: str = "source.start") -> Signed:
    """A command signed with that key, of a source that there is not: whoever takes it says so."""
    made = new_command(
        station=bureau.settings.station.id, lane=LANE, source="ghost", type=type, params={}, key=key.id
    )
    return signed(made, key)


def test_a_key_is_made_used_rotated_and_revoked(chief: Bureau, tocsin: Terminal, tmp_path: Path) -> None:
    """The whole life of an operator's key on the command line; what it may not do is rejected."""
    made = tocsin("key", "create", "alice", "--role", "operator", "--source", "west-*", "--json")
    assert made.code == 0, made.err
    path = own_path(chief.settings, "alice")
    assert (made.json["key"]["kept_in"], path.stat().st_mode & 0o777) == (str(path), 0o600)
    secret = secret_of(chief.folder, "alice")
    listed = {one["id"]: one for one in tocsin("key", "list", "--json").json["keys"]}
    assert (listed["alice"]["state"], listed["alice"]["created_by"]) == ("good", "operator")
    assert (listed["operator"]["kept_in"], listed["alice"]["sources"]) == ("file", ["west-*"])
    refused = tocsin("key", "revoke", "operator", "--json", TOCSIN_KEYS_SIGN_WITH="alice")
    assert (refused.code, refused.json["command"]["reason"]) == (4, "unauthorised")
    turned = tocsin("key", "rotate", "alice", "--grace", "0", TOCSIN_KEYS_SIGN_WITH="alice")
    assert turned.code == 0, turned.err
    again = own_key(chief.settings, "alice")
    assert (again.secret != secret, again.role) == (True, "operator")
    assert tocsin("key", "revoke", "alice", "--reason", "left").code == 0
    gone = tocsin("key", "rotate", "alice", TOCSIN_KEYS_SIGN_WITH="alice")
    assert gone.code == 4
    assert tocsin("key", "show", "alice", "--json").json["key"]["reason"] == "left"
    everything = json.dumps([msgspec.to_builtins(event) for event in chief.events()])
    assert secret not in everything + chief.said
    assert again.secret not in everything + chief.said
    assert not list(path.parent.glob("rotating/*"))
    # What both halves signed can be checked by anybody, also in an export.
    told = tocsin("audit", "verify", "--lane", "station", "--json").json["audit"]
    assert (told["sound"], told["lanes"][0]["signatures"]["elsewhere"]) == (True, {})
    path = tmp_path / "station.export"
    assert tocsin("audit", "export", str(path)).code == 0
    anybody = subprocess.run([sys.executable, "docs/verify.py", str(path)], cwd=ROOT, capture_output=True)
    assert anybody.returncode == 0, anybody.stdout


def test_the_first_key_is_rotated_by_command(chief: Bureau, tocsin: Terminal) -> None:
    """Its file is replaced once the station knows the new secret; who runs already goes on with it."""
    path = chief.folder.keys / "operator.json"
    before = load_key(path.parent, "operator")
    turned = tocsin("key", "rotate", "operator", "--grace", "0", "--json")
    assert turned.code == 0, turned.err
    after = load_key(path.parent, "operator")
    assert (turned.json["key"]["kept_in"], path.stat().st_mode & 0o777) == (str(path), 0o600)
    assert (after.public, after.secret != before.secret) == (turned.json["key"]["public"], True)
    asked = {"params": {"id": "nobody"}}
    old = chief.command("key.revoke", "station", **asked).command
    assert chief.do(signed(old, before)).reason == "bad_signature"
    assert tocsin("key", "create", "alice", "--role", "operator").code == 0
    listed = {one["id"]: one for one in tocsin("key", "list", "--json").json["keys"]}
    assert (listed["operator"]["kept_in"], listed["operator"]["role"]) == ("log", "engineer")
    assert not list(path.parent.rglob("rotating/*.json"))
    told = tocsin("audit", "verify", "--lane", "station", "--json").json["audit"]
    assert (told["sound"], told["lanes"][0]["signatures"]["elsewhere"]) == (True, {})


def test_a_rotation_broken_off_leaves_a_key_that_can_be_used(chief: Bureau, tocsin: Terminal) -> None:
    """Wherever it ends, the old secret or the new one is there, and the same again finishes it."""
    path = chief.folder.keys / "operator.json"
    before = path.read_bytes()
    chief.end()
    # Nobody answers, so nobody knows whether the station will take it.
    doubt = tocsin("key", "rotate", "operator", "--grace", "0", "--timeout", "0.3")
    assert doubt.code == 7
    waiting = waiting_path(path)
    assert (path.read_bytes(), waiting.stat().st_mode & 0o777) == (before, 0o600)
    new = load_key(waiting.parent, "operator")
    chief.start()
    eventually(lambda: "key.rotated" in {event.type for event in chief.events()}, "the station took it")
    # What the old one signs is refused now; the new one waits, and no command is needed.
    again = tocsin("key", "rotate", "operator", "--json")
    assert (again.code, again.json["command"]) == (0, None)
    assert (load_key(path.parent, "operator").secret, waiting.exists()) == (new.secret, False)
    assert tocsin("key", "create", "alice", "--role", "operator").code == 0
    # Broken off before the old file was out of the way: that is no rotation any more.
    keep_in_file(waiting, new)
    assert tocsin("key", "rotate", "operator").code == 0
    assert load_key(path.parent, "operator").secret != new.secret
    refused = tocsin("key", "rotate", "operator", TOCSIN_KEYS_SIGN_WITH="alice")
    assert (refused.code, waiting.exists()) == (4, False)


def test_a_revocation_is_known_to_ingest_within_a_second(chief: Bureau, tocsin: Terminal) -> None:
    """From the moment the revoker is told, no lane's owner takes the key's commands for more than 1 s."""
    tocsin("key", "create", "alice", "--role", "operator")
    alice = own_key(chief.settings, "alice")
    with ingesting(chief.folder) as node:
        assert node.do(by(alice, node)).reason == "unknown_source"
        revoke = chief.command("key.revoke", "station", params={"id": "alice"})
        assert chief.do(revoke).outcome == "completed"
        told = last = time.monotonic()
        while time.monotonic() - told < 1.5:
            if node.do(by(alice, node)).reason == "unknown_source":
                last = time.monotonic()
        assert node.do(by(alice, node)).reason == "unknown_key"
    assert last - told < 1.0


def test_in_its_own_lane_a_revocation_holds_at_once(chief: Bureau, tocsin: Terminal) -> None:
    """Of commands put in together, what stands behind the revocation in the lane is refused, all of it."""
    tocsin("key", "create", "deputy", "--role", "engineer")
    deputy = own_key(chief.settings, "deputy")
    chief.end()
    revoke = chief.command("key.revoke", "station", params={"id": "deputy"})
    asked = {"episode": 1, "rule": "silence", "subject": "mic"}
    seen = [chief.command("condition.acknowledge", "station", params=asked).command for _ in range(4)]
    seen = [msgspec.structs.replace(one, key="deputy") for one in seen]
    one, two, *later = [signed(each, deputy) for each in seen]
    chief.submitter.accept_all([one, two, revoke, *later], timeout=5)
    chief.start()
    answers = [chief.do(each).reason for each in (one, two, revoke, *later)]
    assert answers == [None, None, None, "unknown_key", "unknown_key"]


def test_a_process_that_starts_later_knows_what_was_revoked(chief: Bureau, tocsin: Terminal) -> None:
    """The file of a key that was revoked stays where it is, and whoever reads it knows better."""
    assert tocsin("key", "create", "deputy", "--role", "engineer").code == 0
    assert tocsin("key", "revoke", "operator", TOCSIN_KEYS_SIGN_WITH="deputy").code == 0
    told = {one["part"]: one for one in tocsin("doctor", "--json").json["doctor"]["findings"] if one["next"]}
    assert "revoked by deputy" in told["key"]["told"]
    chief.end()
    chief.start()
    assert tocsin("key", "create", "eve", "--role", "viewer").code == 4
    with ingesting(chief.folder) as node:
        assert node.do(by(chief.key, node)).reason == "unknown_key"


def test_no_secret_is_left_where_the_station_refused(chief: Bureau, tocsin: Terminal) -> None:
    """A key that was not accepted leaves no file behind, and a bad name is told before anything is made."""
    tocsin("key", "create", "alice", "--role", "operator")
    refused = tocsin("key", "create", "bob", "--role", "operator", TOCSIN_KEYS_SIGN_WITH="alice")
    assert refused.code == 4
    assert not own_path(chief.settings, "bob").exists()
    for wrong in (("Bob", "--role", "operator"), ("bob", "--role", "operator", "--source", "[a-z]")):
        assert tocsin("key", "create", *wrong).code == 2


def test_a_token_is_shown_once_and_a_keyring_keeps(chief: Bureau, tocsin: Terminal, tmp_path: Path) -> None:
    """With --token the secret stands on the terminal alone; with --keyring it signs from there."""
    shown = tocsin("key", "create", "web", "--role", "operator", "--token")
    assert shown.code == 0, shown.err
    token = shown.out.splitlines()[-1]
    assert token.startswith("tocsin_web_")
    assert not own_path(chief.settings, "web").exists()
    assert [path for path in chief.folder.path.rglob("*") if path.is_file() and token in _text(path)] == []
    env = {
        "PYTHON_KEYRING_BACKEND": "tests.programs.keyring_in_file.KeyringInFile",
        "TEST_KEYRING": str(tmp_path / "keyring.json"),
    }
    kept = tocsin("key", "create", "carol", "--role", "engineer", "--keyring", **env)
    assert kept.code == 0, kept.err
    assert not own_path(chief.settings, "carol").exists()
    assert tocsin("key", "revoke", "web", TOCSIN_KEYS_SIGN_WITH="carol", **env).code == 0
    without: Ran = tocsin("key", "revoke", "web", TOCSIN_KEYS_SIGN_WITH="carol")
    assert without.code == 2


def test_a_machine_without_a_keyring_says_so(chief: Bureau, tocsin: Terminal) -> None:
    """Where the OS has none, nothing is made and the way out is named."""
    env = {"PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"}
    refused = tocsin("key", "create", "dan", "--role", "viewer", "--keyring", "--json", **env)
    assert (refused.code, "file" in refused.json["error"]["next"]) == (2, True)
    assert "dan" not in {one["id"] for one in tocsin("key", "list", "--json").json["keys"]}


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")


def test_the_settings_name_the_key_that_signs(station_folder: Folder) -> None:
    """Without a key of one's own it is the one in the folder of keys."""
    assert own_key(load(station_folder.settings)).id == "operator"
