"""Exports, and the two who check them: ours and docs/verify.py, which knows none of our code."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.checkpoint import checkpoint, differences
from streams.export import Checked, Unsound, check, write
from streams.messages import GENESIS, canonical, digest
from streams.signing import InvalidKey, Key, sign
from streams.tail import Position
from tests.fix_audit import ALICE, AUDITOR, BOB, EPOCH, KEYRING, Entry, Lane, a_key, flipped, lanes

VERIFIER = Path(__file__).parent.parent / "docs" / "verify.py"
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def stranger() -> ModuleType:
    """docs/verify.py as a module."""
    spec = importlib.util.spec_from_file_location("verify_export", VERIFIER)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def exported(path: Path, found: dict[str, list[Entry]], key: Key = AUDITOR) -> bytes:
    """What an export of these lanes holds."""
    write(path, found, station="station", keyring=KEYRING, key=key)
    return path.read_bytes()


def stranger_says(stranger: ModuleType, path: Path) -> tuple[int, int, int] | int:
    """The bad line, or the counts: events, signatures checked, and those that cannot be."""
    try:
        _, counts, _ = stranger.check(path, {})
    except stranger.Bad as bad:
        return int(bad.line)
    return counts["events"], counts["checked"], counts["elsewhere"]


def we_say(path: Path, **more: Any) -> tuple[int, int, int] | int:
    """The same, of ours."""
    return summed(check(path, **more))


def summed(found: Checked) -> tuple[int, int, int] | int:
    if found.fault:
        return found.fault.line
    return found.events, found.signatures.checked, sum(found.signatures.elsewhere.values())


def small() -> dict[str, list[Entry]]:
    """Two lanes with a few events of each sort."""
    first, second = Lane("node.a"), Lane("station")
    first.fact()
    first.result("c1")
    first.result("c2", BOB)
    first.result("c3", outcome="rejected", signature="", reason="unsigned")
    second.fact("lane.acquired")
    return {"node.a": first.entries, "station": second.entries}


@in_one_folder
@given(lanes(least=0))
def test_a_good_export_is_sound_for_both(
    tmp_path: Path, stranger: ModuleType, found: dict[str, list[Entry]]
) -> None:
    """Both count the same events and signatures; what HMAC signed is not checkable without the secret."""
    path = tmp_path / "good.jsonl"
    exported(path, found)
    kinds = [
        msgspec.json.decode(msgspec.json.decode(raw)["data"]["request"])["key"]
        for entries in found.values()
        for raw, _ in entries
        if b"command.completed" in raw
    ]
    total = sum(map(len, found.values()))
    assert we_say(path) == (total, kinds.count("alice"), kinds.count("bob"))
    assert stranger_says(stranger, path) == we_say(path)
    assert we_say(path, station="station", keyring=KEYRING) == (total, len(kinds), 0)


def test_every_changed_byte_is_caught_by_both(tmp_path: Path, stranger: ModuleType) -> None:
    """Whichever byte of a small export is changed, both say so, and of the same line."""
    path = tmp_path / "small.jsonl"
    content = exported(path, small())
    assert we_say(path) == (5, 1, 1)
    for changed in flipped(content):
        path.write_bytes(changed)
        ours = we_say(path)
        assert isinstance(ours, int)
        assert stranger_says(stranger, path) == ours


@in_one_folder
@given(lanes(), st.data())
def test_whatever_is_done_to_the_bytes_is_caught_by_both(
    tmp_path: Path, stranger: ModuleType, found: dict[str, list[Entry]], data: st.DataObject
) -> None:
    """Any other value of a byte, bytes left out or put in, lines dropped, doubled or swapped, a cut end."""
    path = tmp_path / "damaged.jsonl"
    content = exported(path, found)
    lines = content.splitlines(keepends=True)
    at = data.draw(st.integers(0, len(content) - 1))
    line = data.draw(st.integers(0, len(lines) - 1))
    other = data.draw(st.integers(0, len(lines) - 1))
    match data.draw(st.sampled_from(["byte", "cut out", "put in", "end", "drop", "double", "swap"])):
        case "byte":
            changed = content[:at] + data.draw(st.binary(min_size=1, max_size=1)) + content[at + 1 :]
        case "cut out":
            changed = content[:at] + content[at + data.draw(st.integers(1, 9)) :]
        case "put in":
            changed = content[:at] + data.draw(st.binary(min_size=1, max_size=9)) + content[at:]
        case "end":
            changed = content[:at]
        case "drop":
            changed = b"".join(lines[:line] + lines[line + 1 :])
        case "double":
            changed = b"".join(lines[: line + 1] + lines[line:])
        case _:
            lines[line], lines[other] = lines[other], lines[line]
            changed = b"".join(lines)
    path.write_bytes(changed)
    ours = we_say(path)
    assert isinstance(ours, int) == (changed != content)
    assert stranger_says(stranger, path) == ours


def forged(lane: Lane) -> bytes:
    """An export of an unsound lane by somebody who has an auditor's key, and does not verify it."""
    body = b"".join(
        b'{"lane":"%b","hash":"%b","event":%b}\n' % (lane.name.encode(), stated, raw)
        for raw, stated in lane.entries
    )
    head = {"lane": lane.name, "seq": len(lane.entries), "hash": lane.entries[-1][1].decode()}
    made = {
        "format": "tocsin export 1", "station": "station", "at": "2026-05-01T12:00:00.000000Z",
        "events": len(lane.entries), "lanes": [head], "root": GENESIS,
        "sha256": digest(body), "keys": {"alice": ALICE.public}, "key": "auditor", "public": AUDITOR.public,
    }  # fmt: skip
    raw = canonical(made)
    return body + b'{"manifest":%b,"signature":"%b"}\n' % (raw, sign(raw, AUDITOR).encode())


def _twice(lane: Lane) -> None:
    lane.result("c1", outcome="failed")


def _by_another_key(lane: Lane) -> None:
    lane.result("c2", a_key("alice", seed=9))


def _of_another_command(lane: Lane) -> None:
    lane.result("c2", stated={"id": "c3"})


def _of_another_lane(lane: Lane) -> None:
    lane.result("c2", stated={"lane": "p7"})


def _of_another_type(lane: Lane) -> None:
    lane.result("c2", stated={"type": "source.stop"})


def _of_no_command(lane: Lane) -> None:
    lane.fact("command.completed", command="c2")


def _gap(lane: Lane) -> None:
    lane.fact(seq=9)


def _falling_token(lane: Lane) -> None:
    lane.fact(token=0)


def _broken_chain(lane: Lane) -> None:
    lane.fact(prev=GENESIS)


FORGERIES = (
    _twice, _by_another_key, _of_another_command, _of_another_lane, _of_another_type, _of_no_command, _gap,
    _falling_token, _broken_chain,
)  # fmt: skip


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__.strip("_"))
def test_a_forgery_with_right_hashes_is_named_by_both(
    tmp_path: Path, stranger: ModuleType, forge: Any
) -> None:
    """Whoever writes an unsound log with right hashes and signs it is found out at the event in question."""
    lane = Lane("p0")
    lane.fact()
    lane.result("c1")
    forge(lane)
    path = tmp_path / "forged.jsonl"
    path.write_bytes(forged(lane))
    assert we_say(path) == stranger_says(stranger, path) == 3
    with pytest.raises(Unsound, match="event 3"):
        write(tmp_path / "new.jsonl", {"p0": lane.entries}, station="station", keyring=KEYRING, key=AUDITOR)
    assert [one.name for one in tmp_path.iterdir()] == ["forged.jsonl"]


def test_a_manifest_that_lies_is_found_by_both(tmp_path: Path, stranger: ModuleType) -> None:
    """Its root must be that of the lanes, however well it is signed."""
    lane = Lane("p0")
    lane.fact()
    path = tmp_path / "forged.jsonl"
    path.write_bytes(forged(lane))
    assert we_say(path) == stranger_says(stranger, path) == 2


def test_an_empty_file_is_no_export(tmp_path: Path, stranger: ModuleType) -> None:
    """Nothing at all is a fault in line 1, and no error."""
    path = tmp_path / "empty.jsonl"
    path.touch()
    assert we_say(path) == stranger_says(stranger, path) == 1


def test_a_key_that_is_another_here_is_a_fault(tmp_path: Path) -> None:
    """Where the export says to be of this station, its keys must be those that are here."""
    path = tmp_path / "small.jsonl"
    exported(path, small(), key=a_key("auditor", seed=8, role="auditor"))
    assert isinstance(we_say(path, station="station", keyring=KEYRING), int)
    assert we_say(path, station="elsewhere", keyring=KEYRING) == (5, 1, 1)


def test_only_an_ed25519_key_signs_an_export(tmp_path: Path) -> None:
    """A shared secret proves nothing to others."""
    with pytest.raises(InvalidKey):
        exported(tmp_path / "small.jsonl", small(), key=BOB)


def told(*arguments: object) -> subprocess.CompletedProcess[str]:
    """docs/verify.py run by a Python that cannot import our code."""
    return subprocess.run(
        [sys.executable, "-P", "-W", "error", str(VERIFIER), *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd="/", timeout=60,
    )  # fmt: skip


def test_a_stranger_runs_one_file(tmp_path: Path) -> None:
    """Its words and exit codes: sound with the key given, bad with another key or another history."""
    path, kept, other = tmp_path / "small.jsonl", tmp_path / "kept.txt", tmp_path / "other.txt"
    found = small()
    exported(path, found)
    heads = {lane: Position(len(entries), entries[-1][1].decode()) for lane, entries in found.items()}
    kept.write_text(checkpoint("station", heads, EPOCH, AUDITOR).text)
    other.write_text(checkpoint("station", heads | {"p9": Position(1, "a" * 64)}, EPOCH, AUDITOR).text)
    good = told(path, "--key", AUDITOR.public, "--checkpoint", kept)
    assert (good.returncode, good.stderr) == (0, "")
    assert "sound: station station, 5 events in 2 lanes" in good.stdout
    assert "1 signatures checked, 1 not checkable here" in good.stdout
    assert "is part of it" in good.stdout
    assert told(path, "--key", ALICE.public).returncode == 3
    bad = told(path, "--checkpoint", other)
    assert bad.returncode == 3
    assert "lane p9: event 1" in bad.stdout


def test_both_compare_with_a_checkpoint(tmp_path: Path, stranger: ModuleType) -> None:
    """An export made after history was rewritten is sound by itself, and told from the checkpoint by both."""
    found = small()
    heads = {lane: Position(len(entries), entries[-1][1].decode()) for lane, entries in found.items()}
    made = checkpoint("station", heads, EPOCH, AUDITOR)
    rewritten = Lane("node.a")
    for _ in range(5):
        rewritten.fact("source.stopped")
    path, kept = tmp_path / "rewritten.jsonl", tmp_path / "kept.txt"
    kept.write_text(made.text)
    for after, differs in ((found, False), (found | {"node.a": rewritten.entries}, True)):
        exported(path, after)
        wanted = {lane: {at.seq} for lane, at in made.lanes.items()}
        ours = check(path, marks=wanted)
        assert ours.fault is None
        assert bool(list(differences(made, ours.marks))) == differs
        _, _, marks = stranger.check(path, wanted)
        lanes_, match = stranger.read_checkpoint(kept)
        try:
            stranger.compare(lanes_, match, marks)
            said = False
        except stranger.Bad:
            said = True
        assert said == differs


def test_the_verifier_needs_no_code_of_ours() -> None:
    """It imports the standard library and `cryptography`, nothing else."""
    tree = ast.parse(VERIFIER.read_text("utf-8"))
    names = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in names}
    assert roots - set(sys.stdlib_module_names) == {"cryptography"}
