"""What the documents show exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import msgspec
import pytest

from control.composition import PROCESSES, tocsin
from streams.checkpoint import checkpoint
from streams.messages import digest, now
from streams.settings import Settings
from streams.signing import create_key
from streams.tail import Position

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SH = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#]+)")
KNOWN = {"tocsin", "make", "source"}


def shown(document: Path) -> list[str]:
    """The command lines of its ```sh blocks."""
    blocks = SH.findall(document.read_text("utf-8"))
    return [line for block in blocks for line in block.splitlines() if line and not line.startswith("#")]


LINES = sorted({line for document in DOCUMENTS for line in shown(document)})


@pytest.mark.parametrize("line", LINES)
def test_every_command_line_shown_exists(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each `tocsin` line parses with its verb's own options, each `make` line names a target."""
    words = shlex.split(line)
    monkeypatch.chdir(tmp_path)
    auditor = create_key(tmp_path, "auditor", "auditor", "ed25519")
    made = checkpoint("station", {"p0": Position(1, digest(b"event"))}, now(), auditor)
    for word in words:
        if re.fullmatch(r"[a-z]+\.(backup|jsonl|txt|toml)", word):
            Path(word).write_text(str(made.text))
    assert words[0] in KNOWN, f"{words[0]} is nothing that this test knows"
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        assert words[1] in targets
    elif words[0] == "tocsin":
        _parse(words[1:])


def _parse(words: list[str]) -> None:
    """Parse as the command line does, verb by verb, and run nothing. Raises click.UsageError."""
    command: click.Command = tocsin
    context = command.make_context("tocsin", words, resilient_parsing=False)
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        assert rest, f"{context.command_path} needs a verb"
        found = command.get_command(context, rest[0])
        assert found is not None, f"{context.command_path} has no verb {rest[0]!r}"
        command, context = found, found.make_context(rest[0], rest[1:], parent=context)


@pytest.mark.parametrize("section", Settings.__struct_fields__)
def test_every_settings_key_is_documented_with_its_default(section: str) -> None:
    """docs/configuration.md has a row for each key; the default stated is the default."""
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    kind = type(getattr(Settings(), section))
    if kind is dict:
        assert f"| `{section}` | `{{}}` |" in text
        return
    for field in msgspec.structs.fields(kind):
        row = re.search(rf"^\| `{section}\.{field.name}` \| (.*?) \| .+ \|$", text, re.MULTILINE)
        assert row, f"{section}.{field.name} is not documented"
        if field.default is not None and (section, field.name) != ("station", "durability"):
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            assert row[1] == f"`{msgspec.json.encode(default).decode()}`"


def test_no_key_is_documented_that_does_not_exist() -> None:
    """Each row of docs/configuration.md names a key that the settings have."""
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    settings = Settings()
    for section, key in re.findall(r"^\| `([a-z]+)\.([a-z_]+)`", text, re.MULTILINE):
        assert key in type(getattr(settings, section)).__struct_fields__


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    """Each relative link in a document names a file or folder that is there."""
    for target in LINK.findall(document.read_text("utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{target} is not there"


def test_every_verb_is_named_in_the_operators_guide() -> None:
    """docs/operate.md, README.md or docs/configuration.md shows each verb that `tocsin` has."""
    text = "\n".join(LINES) + (ROOT / "docs" / "operate.md").read_text("utf-8")
    context = click.Context(tocsin)
    for name in tocsin.list_commands(context):
        found = tocsin.get_command(context, name)
        members = PROCESSES if name == "run" else getattr(found, "commands", {})
        paths = [f"tocsin {name} {member}" for member in members] or [f"tocsin {name}"]
        for path in paths:
            assert path in text, f"{path} is not shown"
