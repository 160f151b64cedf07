"""What differs between a file and a station: the plan closes it, and what was exported differs in nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.declared import Declared, DeclaredGroup, DeclaredSource, Undeclarable, completed, parse, write
from control.desk import Wish
from control.plan import Found, Lanes, Plan, declared_of, plan

LANES = Lanes("local", 8)
TEXT = st.text(max_size=20).filter(lambda text: "\r" not in text)
IDS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,8}", fullmatch=True)
SETTINGS = st.fixed_dictionaries(
    {"kind": st.just("file"), "path": TEXT.map(lambda text: f"/{text}")},
    optional={"loop": st.booleans(), "pace": st.sampled_from(["realtime", "fast"])},
)
DECLARED = st.dictionaries(
    IDS,
    st.builds(
        DeclaredSource,
        name=st.none() | TEXT,
        wanted=st.sampled_from([None, "running", "stopped"]),
        node=st.sampled_from([None, "local", "west"]),
        settings=SETTINGS,
    ),
    max_size=6,
)
FOUND = st.dictionaries(
    IDS,
    st.builds(
        Found,
        lane=st.sampled_from(["node.local", "node.west"]),
        name=TEXT,
        wanted=st.sampled_from(["running", "stopped"]),
        settings=SETTINGS.map(lambda settings: completed("x", settings)),
        sequence=st.integers(1, 9),
    ),
    max_size=6,
)

GROUPS = st.dictionaries(
    IDS,
    st.builds(
        DeclaredGroup,
        members=st.lists(IDS, min_size=1, max_size=4),
        name=TEXT,
        fallback_after=st.floats(1, 100),
        back_after=st.floats(1, 100),
    ),
    max_size=4,
)


def carried_out(made: Plan, found: dict[str, Found]) -> dict[str, Found]:
    """The station after the plan's commands, as a station executes them; each must hold by its sequence."""
    after = dict(found)
    for change in made.changes:
        for wish in change.errand.wishes:
            _execute(wish, after, change.lane)
    return after


def _execute(wish: Wish, sources: dict[str, Found], lane: str) -> None:
    now = sources.get(wish.source)
    if wish.type == "source.add":
        assert now is None
        sources[wish.source] = Found(lane=lane, wanted="stopped", **wish.params, sequence=1)
        return
    assert now is not None
    if wish.if_sequence is not None:
        assert wish.if_sequence == now.sequence
    if wish.type == "source.remove":
        del sources[wish.source]
        return
    changed: dict[str, Any] = dict(wish.params)
    if wish.type == "source.update":
        assert changed, "an update that changes nothing"
        assert now.wanted == "running" or "wanted" not in changed
    changed |= {"source.start": {"wanted": "running"}, "source.stop": {"wanted": "stopped"}}.get(
        wish.type, {}
    )
    sources[wish.source] = msgspec.structs.replace(now, **changed, sequence=now.sequence + 1)


@given(FOUND, GROUPS)
def test_what_was_exported_differs_in_nothing(
    found: dict[str, Found], groups: dict[str, DeclaredGroup]
) -> None:
    """A file that was written of a station, read again, makes a plan without changes, pruned or not."""
    declared = parse(write("station", declared_of(found, groups)))
    for prune in (False, True):
        assert plan(declared, found, LANES, prune=prune, groups=groups) == Plan(changes=())


@given(DECLARED, FOUND, st.booleans())
def test_a_plan_closes_the_difference(
    declared: dict[str, DeclaredSource], found: dict[str, Found], prune: bool
) -> None:
    """After the commands of a plan nothing differs any more; what the file does not name is as it was."""
    wanted = Declared(sources=declared)
    made = plan(wanted, found, LANES, prune=prune)
    after = carried_out(made, found)
    assert plan(wanted, after, LANES, prune=prune).changes == ()
    assert {id for id in found if id not in declared} == set(made.left) or prune
    assert all(after[id] == found[id] for id in made.left)
    assert set(after) == set(declared) | set(made.left)


@given(GROUPS, GROUPS, st.booleans())
def test_a_plan_makes_groups_as_the_file_says(
    wanted: dict[str, DeclaredGroup], found: dict[str, DeclaredGroup], prune: bool
) -> None:
    """Groups are made, made anew, and with --prune removed; a second plan has nothing to do."""
    declared = Declared(sources={}, groups=wanted)
    made = plan(declared, {}, LANES, prune=prune, groups=found)
    after = dict(found)
    for change in made.groups:
        for wish in change.errand.wishes:
            params = dict(wish.params)
            id = params.pop("group")
            if wish.type == "group.remove":
                del after[id]
            else:
                assert id not in after
                after[id] = DeclaredGroup(**params)
    assert after == (wanted if prune else {**found, **wanted})
    assert plan(declared, {}, LANES, prune=prune, groups=after).all == ()
    assert set(made.left) == (set() if prune else {f"group {id}" for id in found.keys() - wanted.keys()})


@given(DECLARED)
def test_what_is_written_is_read_again(declared: dict[str, DeclaredSource]) -> None:
    """Any names and paths survive the file: quotes, line breaks, signs of any alphabet."""
    assert parse(write("station", Declared(sources=declared))).sources == declared


def test_a_source_is_stopped_before_and_started_after_it_is_changed() -> None:
    """A change that goes with a stop restarts nothing, and one that goes with a start starts the new."""
    was = {"kind": "file", "path": "/a.wav", "loop": False, "pace": "realtime"}
    found = {
        "a": Found(lane="node.local", name="", wanted="running", settings=was, sequence=4),
        "b": Found(lane="node.local", name="", wanted="stopped", settings=was, sequence=2),
    }
    to = {"kind": "file", "path": "/b.wav"}
    wanted = {
        "a": DeclaredSource(wanted="stopped", settings=to),
        "b": DeclaredSource(wanted="running", settings=to),
    }
    made = plan(Declared(sources=wanted), found, LANES)
    assert [[(wish.type, wish.if_sequence) for wish in change.errand.wishes] for change in made.changes] == [
        [("source.stop", 4), ("source.update", 5)],
        [("source.update", 2), ("source.start", 3)],
    ]


def test_another_node_is_another_lane() -> None:
    """A source that is to be on another machine is removed there and added here, and the plan says so."""
    settings = {"kind": "file", "path": "/a.wav"}
    found = {"a": Found(lane="node.west", name="A", wanted="running", settings=settings, sequence=4)}
    made = plan(Declared(sources={"a": DeclaredSource(node="local", settings=settings)}), found, LANES)
    (change,) = made.changes
    assert (change.action, change.lane) == ("replace", "node.local")
    assert [wish.type for wish in change.errand.wishes] == ["source.remove", "source.add", "source.start"]
    assert change.errand.wishes[1].params["name"] == "A"


def test_settings_that_only_a_newer_version_knows_are_left_alone() -> None:
    """What was exported of a kind that is unknown here differs in nothing; changed it is refused."""
    settings = {"kind": "hologram", "depth": 3}
    found = {"a": Found(lane="node.local", name="", wanted="stopped", settings=settings)}
    declared = parse(write("station", declared_of(found)))
    assert plan(declared, found, LANES).changes == ()
    other = Declared(sources={"a": DeclaredSource(settings={**settings, "depth": 4})})
    with pytest.raises(Undeclarable, match=r"sources\.a\.settings"):
        plan(other, found, LANES)


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ("[sources.a]\nnmae = 'x'\nsettings = {}", "sources.a", "nmae"),
        ("[sources.A]\nsettings = {}", "sources.A", "not a valid name"),
        ("[sources.a]\nwanted = 'maybe'\nsettings = {}", "sources.a.wanted", "maybe"),
        ("[source.a]\n", "", "source"),
        ("[sources.a", "", "no TOML"),
        ("[sources.a]\nname = 'x'", "sources.a", "settings"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(text: str, field: str, says: str) -> None:
    """A file that cannot be meant is refused with the place and the word."""
    with pytest.raises(Undeclarable, match=says) as told:
        parse(text)
    assert told.value.field.startswith(field)


def test_pruning_by_a_file_that_names_no_sources_is_refused() -> None:
    """An empty file removes nothing by accident; [sources] alone says that there are to be none."""
    found = {
        "a": Found(lane="node.local", name="", wanted="stopped", settings={"kind": "file", "path": "/a"})
    }
    with pytest.raises(Undeclarable, match="names no sources"):
        plan(parse(""), found, LANES, prune=True)
    assert [one.action for one in plan(parse("[sources]"), found, LANES, prune=True).changes] == ["remove"]
