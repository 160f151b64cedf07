"""`tocsin apply` and `tocsin export` on a whole station, and the source verbs for many on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fix_cli import Prompt
from tests.fix_whole import Whole

pytestmark = [pytest.mark.slow]


def test_a_station_becomes_what_a_file_says(demo_station: Whole, demo_prompt: Prompt, tmp_path: Path) -> None:
    """The way round: export differs in nothing; edited it is shown, applied, and differs in nothing again."""
    was, file = tmp_path / "was.toml", tmp_path / "station.toml"
    recording = demo_station.source("demo")["settings"]["path"]

    # Given a file that the station was written to, applying it changes nothing.
    assert demo_prompt("export", "-o", str(was)).code == 0
    unchanged = demo_prompt("apply", str(was), "--prune")
    assert (unchanged.code, unchanged.out) == (0, "Nothing differs.\n")

    # When I add a source and rename another, the difference is shown, and nobody is asked without a terminal.
    file.write_text(
        was.read_text().replace("Generated weekly test", "Renamed")
        + f'\n[sources.hall]\nwanted = "running"\nsettings = {{kind = "file", path = "{recording}"}}\n'
    )
    asked = demo_prompt("apply", str(file))
    assert asked.code == 2
    assert '    name: "Generated weekly test" → "Renamed"' in asked.out
    assert "+ hall: add" in asked.out
    assert "--yes" in asked.err
    checked = demo_prompt("apply", str(file), "--check", "--json")
    assert checked.code == checked.json["apply"]["exit_code"] == 3
    rehearsed = demo_prompt("apply", str(file), "--dry-run", "--json")
    assert [one["type"] for one in rehearsed.json["commands"]] == [
        "source.update",
        "source.add",
        "source.start",
    ]
    assert demo_station.source("hall") == {}

    # Confirmed, it is done, and a second time there is nothing to do, at once.
    done = demo_prompt("apply", str(file), "--yes", "--json")
    assert done.code == 0, done.err
    assert {one["outcome"] for one in done.json["apply"]["commands"]} == {"completed"}
    again = demo_prompt("apply", str(file), "--yes", "--json").json["apply"]
    assert (again["changes"], again["commands"]) == ([], [])
    assert (demo_station.source("hall")["state"], demo_station.source("demo")["name"]) == (
        "running",
        "Renamed",
    )

    # What the file does not name stays, and goes with --prune; the station is as it was.
    kept = demo_prompt("apply", str(was), "--yes")
    assert kept.code == 0
    assert "left as they are (--prune removes them): hall" in kept.out
    pruned = demo_prompt("apply", str(was), "--yes", "--prune", "--json").json["apply"]
    assert [(one["source"], one["action"]) for one in pruned["changes"]] == [("hall", "remove")]
    assert demo_prompt("export").out == was.read_text()


def test_groups_are_declared_and_started_as_one(
    demo_station: Whole, demo_prompt: Prompt, tmp_path: Path
) -> None:
    """A group goes through export and apply as sources do, and `--group` means its members."""
    was, file = tmp_path / "was.toml", tmp_path / "station.toml"
    assert demo_prompt("export", "-o", str(was)).code == 0
    recording = demo_station.source("demo")["settings"]["path"]

    # Given a file with two sources and a group of them, one of which is to run.
    settings = f'settings = {{kind = "file", path = "{recording}"}}'
    group = '[groups.west]\nmembers = ["west-1", "west-2"]\nname = "West"\n'
    file.write_text(
        was.read_text()
        + f'[sources.west-1]\nwanted = "running"\n{settings}\n[sources.west-2]\n{settings}\n{group}'
    )
    done = demo_prompt("apply", str(file), "--yes", "--json")
    assert done.code == 0, done.err
    assert [one["type"] for one in done.json["apply"]["commands"]][-1] == "group.create"
    assert demo_prompt("apply", str(file), "--check").code == 0
    exported = demo_prompt("export").out
    assert '[groups.west]\nmembers = [\n    "west-1",\n    "west-2",\n]\nname = "West"\n' in exported

    # Its members are started and stopped as one, and each is told of.
    for verb, state in (("start", "running"), ("stop", "stopped")):
        ran = demo_prompt("source", verb, "--group", "west", "--json")
        assert ran.code == 0, ran.err
        told = [(one["source"], one["state"]) for one in ran.json["commands"]]
        assert sorted(told) == [("west-1", state), ("west-2", state)]
    none = demo_prompt("source", "start", "--group", "east", "--json")
    assert (none.code, "no group 'east'" in none.err) == (4, True)

    # Another order is another group: made anew, and what it was is shown. Pruned, all of it is gone.
    file.write_text(file.read_text().replace('["west-1", "west-2"]', '["west-2", "west-1"]'))
    turned = demo_prompt("apply", str(file), "--yes", "--json").json["apply"]
    assert [(one.get("group"), one["action"]) for one in turned["changes"] if "group" in one] == [
        ("west", "replace")
    ]
    assert demo_prompt("group", "show", "west", "--json").json["group"]["members"] == ["west-2", "west-1"]
    pruned = demo_prompt("apply", str(was), "--yes", "--prune")
    assert pruned.code == 0, pruned.err
    assert demo_prompt("export").out == was.read_text()


def test_a_change_that_fails_is_told_and_the_rest_is_done(demo_prompt: Prompt, tmp_path: Path) -> None:
    """A source that fails to start is told; others are done, and the exit code is the worst."""
    file = tmp_path / "station.toml"
    absent = f'settings = {{kind = "file", path = "{tmp_path}/absent.wav"}}'
    file.write_text(f'[sources.bad]\nwanted = "running"\n{absent}\n[sources.idle]\n{absent}\n')
    try:
        ran = demo_prompt("apply", str(file), "--yes", "--json")
        assert ran.code == ran.json["apply"]["exit_code"] == 3
        outcomes = {(one["source"], one["type"]): one["outcome"] for one in ran.json["apply"]["commands"]}
        assert outcomes == {
            ("bad", "source.add"): "completed",
            ("bad", "source.start"): "failed",
            ("idle", "source.add"): "completed",
        }
    finally:
        file.write_text("[sources.demo]\nsettings = {}\n")
        for id in ("bad", "idle"):
            demo_prompt("source", "remove", id)


def test_a_file_that_cannot_be_meant_submits_nothing(demo_prompt: Prompt, tmp_path: Path) -> None:
    """A wrong word in a file ends with exit code 2 and its place."""
    file = tmp_path / "station.toml"
    file.write_text('[sources.lobby]\nsettings = {kind = "file", pathh = "/a.wav"}\n')
    ran = demo_prompt("apply", str(file), "--yes", "--json")
    assert (ran.code, ran.json["error"]["field"]) == (2, "sources.lobby.settings")
    assert "pathh" in ran.err
