"""The shape of the house: what stands at the top, how long files are, what they must not say."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOP = {
    ".ci",
    ".dockerignore",
    ".gitignore",
    "CHANGELOG.md",
    "Dockerfile",
    "LICENSE",
    "Makefile",
    "README.md",
    "bench",
    "control",
    "deploy",
    "docker-compose.sentinel.yml",
    "docs",
    "ingest",
    "projections",
    "pyproject.toml",
    "requirements.lock",
    "streams",
    "tests",
}
PACKAGES = ("control", "ingest", "projections", "streams")
SAYS_NOTHING = {"utils", "util", "helpers", "helper", "manager", "managers", "base", "common", "misc"}
LONGEST = 430
LONGEST_TEST = 500
# A download address in the lock would tie it to one registry; a machine's path is nobody else's.
FORBIDDEN = re.compile(r"/home/|/root/|files\.python|pypi\.|" + r"index-url|find-links\b|--hash=.*https?:")
MAY_NAME_OPTIONS = {"Makefile", "tests/test_layout.py"}


def tracked() -> list[Path]:
    """The files under version control (all files where this is no checkout)."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_the_top_level_holds_only_what_belongs_there() -> None:
    """Nothing new stands at the top without being added here on purpose."""
    assert {path.relative_to(ROOT).parts[0] for path in tracked()} <= TOP


def test_modules_are_nouns_of_their_own() -> None:
    """No module or folder has a name that says nothing."""
    names = {part for path in tracked() for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not names & SAYS_NOTHING


def test_no_file_of_code_is_longer_than_one_thing() -> None:
    """No file of code has more than 400 lines, no file of tests more than 500."""
    kinds = {".py", ".lua", ".js", ".css", ".html"}
    long = {
        str(path.relative_to(ROOT)): lines
        for path in tracked()
        if path.suffix in kinds and (lines := len(path.read_text("utf-8").splitlines())) > _longest(path)
    }
    assert long == {}


def _longest(path: Path) -> int:
    return LONGEST_TEST if path.is_relative_to(ROOT / "tests") else LONGEST


def test_no_tracked_file_names_a_machine_or_a_registry() -> None:
    """No path of somebody's machine, and no address of a registry, stands in a file under version control."""
    found = []
    for path in tracked():
        name = str(path.relative_to(ROOT))
        if name in MAY_NAME_OPTIONS:
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{name}: {hit[0]}" for hit in FORBIDDEN.finditer(text)]
    assert found == []


def test_every_module_says_what_it_is() -> None:
    """Every module has a docstring."""
    silent = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.suffix == ".py"
        and path.relative_to(ROOT).parts[0] in PACKAGES
        and not path.read_text("utf-8").lstrip().startswith('"""')
    ]
    assert silent == []


def test_the_lock_has_hashes_and_no_addresses() -> None:
    """Each pin of requirements.lock stands with at least one hash, and no line names a place."""
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    pins = re.findall(r"^[a-z0-9][^=\s]*==.*$", lock, re.MULTILINE)
    assert len(pins) > 50
    assert all(pin.endswith("\\") for pin in pins), "a pin without a hash"
    assert "://" not in lock
