"""The pure part of a lane of sources: the fold of its log, and what commands and comparisons ask for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.decide import Decision, Rejection, Seen, begun, decide, mend
from ingest.ledger import Ledger, Void, draft_of, sources_of
from ingest.state import Source, fold
from streams.drafts import Draft
from streams.messages import GENESIS, SCHEMA, Command, Event, Logged, new_command, now
from streams.vocabulary import Desired, FileSettings, SourceState

NEWS = FileSettings(path="/media/news.wav")
MUSIC = FileSettings(path="/media/music.flac", loop=True)

some_settings = st.sampled_from([NEWS, MUSIC])
states: st.SearchStrategy[SourceState] = st.sampled_from(
    ["stopped", "starting", "running", "stalled", "failed"]
)
wishes: st.SearchStrategy[Desired] = st.sampled_from(["running", "stopped"])
sources = st.none() | st.builds(
    Source,
    settings=some_settings,
    name=st.sampled_from(["", "News"]),
    desired=wishes,
    state=states,
    reason=st.none() | st.just("why"),
)
captures = st.none() | st.builds(
    Seen, settings=some_settings, state=st.none() | states, reason=st.none() | st.just("why")
)
params = {
    "source.add": st.fixed_dictionaries(
        {"settings": some_settings.map(msgspec.to_builtins), "name": st.just("")}
    ),
    "source.update": st.fixed_dictionaries(
        {},
        optional={
            "settings": some_settings.map(msgspec.to_builtins),
            "name": st.sampled_from(["", "News", "Other"]),
        },
    ),
}
commands = st.sampled_from(
    ["source.add", "source.update", "source.remove", "source.start", "source.stop", "source.restart"]
).flatmap(lambda verb: params.get(verb, st.just({})).map(lambda given: command(verb, given)))


def command(
    type: str, params: dict[str, Any] | None = None, source: str = "news", lane: str = "node.here"
) -> Command:
    return new_command(station="s", lane=lane, source=source, type=type, params=params or {}, key="k")


def logged(draft: Draft, seq: int = 0) -> Logged:
    """A draft as the log would hold it."""
    event = Event(
        seq=seq, prev=GENESIS, token=1, at=now(), logged_at=now(), node="here", type=draft.type,
        data=draft.data, schema=SCHEMA, source=draft.source,
    )  # fmt: skip
    return Logged(event, b"", "")


def add(settings: FileSettings = NEWS, name: str = "") -> Command:
    return command("source.add", {"settings": msgspec.to_builtins(settings), "name": name})


def rejected(source: Source | None, one: Command) -> Rejection:
    decision = decide(source, one)
    assert isinstance(decision, Rejection)
    return decision


def decided(source: Source | None, one: Command) -> Decision:
    decision = decide(source, one)
    assert isinstance(decision, Decision)
    return decision


@given(source=sources, one=commands)
def test_what_is_logged_is_what_was_decided(source: Source | None, one: Command) -> None:
    """Whoever folds the events of a decision comes to the state that the decision promised."""
    decision = decide(source, one)
    if isinstance(decision, Rejection):
        return
    after = source
    for fact in decision.facts:
        after = fold(after, logged(draft_of(fact, one.source)).event)
    if after is not None:  # since when it is wanted is told by the event's time, which nobody decides
        before = source.wanted_since if source else None
        after = msgspec.structs.replace(after, wanted_since=before)
    assert after == decision.after


@given(source=sources, one=commands)
def test_a_command_done_twice_is_done_once(source: Source | None, one: Command) -> None:
    """Execution is at least once: a command that has had its effect asks for no other the second time."""
    first = decide(source, one)
    if isinstance(first, Rejection) or first.after is None:
        return
    second = decided(first.after, one)
    assert second.after == first.after


@given(events=st.lists(commands, max_size=12), data=st.data())
def test_any_split_of_the_log_folds_alike(events: list[Command], data: st.DataObject) -> None:
    """Folding a log in one go, or in two with the state of the first kept, gives the same sources."""
    log: list[Logged] = []
    told: dict[str, Source] = {}
    for number, one in enumerate(events):
        id = f"s{number % 3}"
        decision = decide(told.get(id), one)
        for fact in decision.facts if isinstance(decision, Decision) else ():
            log.append(logged(draft_of(fact, id), len(log) + 1))
            after = fold(told.get(id), log[-1].event)
            told = {**told, id: after} if after else {key: value for key, value in told.items() if key != id}
    cut = data.draw(st.integers(0, len(log)))
    half = sources_of(log[:cut])
    for entry in log[cut:]:
        after = fold(half.get(entry.event.source), entry.event)
        half = (
            {**half, entry.event.source: after}
            if after
            else {k: v for k, v in half.items() if k != entry.event.source}
        )
    assert sources_of(log) == half == told


def test_an_event_that_is_not_understood_costs_no_source() -> None:
    """An event of another version is passed over; the sources before and after it are there."""
    strange = Draft(type="source.added", source="odd", data={"settings": "telepathy"})
    unknown = Draft(type="source.levitating", source="news", data={})
    good = draft_of(decided(None, add()).facts[0], "news")
    assert sources_of([logged(strange), logged(good), logged(unknown)]) == {"news": Source(settings=NEWS)}


def test_adding() -> None:
    """A new source stays stopped until it is started; the same add again changes nothing."""
    source = decided(None, add(name="News")).after
    assert source == Source(settings=NEWS, name="News", desired="stopped", state="stopped")
    again = decided(source, add(name="News"))
    assert (again.action, again.facts, again.after) == ("nothing", (), source)
    other = rejected(source, add(MUSIC))
    assert (other.reason, other.field) == ("exists", "source")


@pytest.mark.parametrize("verb", ["update", "remove", "start", "stop", "restart"])
def test_a_source_that_is_not_there(verb: str) -> None:
    """Commands to nobody are rejected, naming the source."""
    rejection = rejected(None, command(f"source.{verb}"))
    assert (rejection.reason, rejection.field) == ("unknown_source", "source")
    assert "'news'" in rejection.detail


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({}, "params", "settings"),
        ({"settings": {"kind": "file"}}, "params.settings", "path"),
        ({"settings": {"kind": "telepathy", "path": "/a"}}, "params.settings.kind", "telepathy"),
        ({"settings": {"kind": "file", "path": 7}}, "params.settings.path", "7"),
        ({"settings": {"kind": "file", "path": "/a", "loop": "maybe"}}, "params.settings.loop", "maybe"),
        ({"settings": {"kind": "file", "path": "/a", "pace": "slow"}}, "params.settings.pace", "slow"),
        ({"settings": {"kind": "file", "path": "/a", "gain": 3}}, "params.settings", "gain"),
        ({"settings": {"kind": "file", "path": "media/a.wav"}}, "params.settings.path", "media/a.wav"),
        ({"settings": {"kind": "file", "path": "/a\0b"}}, "params.settings.path", "NUL"),
        ({"settings": {"kind": "file", "path": ""}}, "params.settings.path", "''"),
    ],
)
def test_parameters_that_cannot_be(given: dict[str, Any], field: str, value: str) -> None:
    """What is wrong with parameters is said by field and value."""
    rejection = rejected(None, command("source.add", given))
    assert (rejection.reason, rejection.field) == ("invalid_params", field)
    assert value in rejection.detail


def test_a_command_that_takes_no_parameters() -> None:
    """A start with parameters means something that we do not do."""
    assert rejected(Source(settings=NEWS), command("source.start", {"speed": 2})).reason == "invalid_params"


@pytest.mark.parametrize("id", ["", "Café", "a b", "-a", "a" * 65, "a\n"])
def test_an_id_that_is_none(id: str) -> None:
    """A source id that no key could hold is rejected before anything is made of it."""
    rejection = rejected(None, command("source.add", {"settings": msgspec.to_builtins(NEWS)}, source=id))
    assert rejection.field == "source"


def test_a_file_in_a_floating_lane() -> None:
    """A recording lies on one machine: a lane that moves between machines does not take it."""
    one = command("source.add", {"settings": msgspec.to_builtins(NEWS)}, lane="p3")
    assert (rejected(None, one).reason, rejected(None, one).field) == ("wrong_lane", "lane")


def test_updating() -> None:
    """New settings of a source that should run start it anew; a name, or the same settings, do not."""
    running = Source(settings=NEWS, desired="running", state="running")
    changed = decided(running, command("source.update", {"settings": msgspec.to_builtins(MUSIC)}))
    assert changed.starts
    assert [fact.type for fact in changed.facts] == ["source.updated", "source.starting"]
    named = decided(running, command("source.update", {"name": "News"}))
    assert (named.starts, named.after) == (False, msgspec.structs.replace(running, name="News"))
    assert not decided(running, command("source.update", {"settings": msgspec.to_builtins(NEWS)})).facts
    stopped = decided(
        Source(settings=NEWS), command("source.update", {"settings": msgspec.to_builtins(MUSIC)})
    )
    assert (stopped.starts, stopped.after) == (False, Source(settings=MUSIC))


@given(source=sources, capture=captures)
def test_mending_comes_to_an_end(source: Source | None, capture: Seen | None) -> None:
    """Once what a comparison asked for is done, the next one asks for nothing more."""
    asked = mend(source, capture)
    if asked == "start":
        assert source is not None
        source = msgspec.structs.replace(source, state="starting", reason="reconciled")
        capture = Seen(settings=source.settings)
    elif asked == "stop":
        capture = None
        source = source and msgspec.structs.replace(source, state="stopped", reason="reconciled")
    elif asked == "say":
        assert source is not None
        assert capture is not None
        source = msgspec.structs.replace(
            source,
            state=capture.state or "starting",
            reason=capture.reason if capture.state else "reconciled",
        )
    assert mend(source, capture) == "nothing"


@given(source=sources, capture=captures)
def test_what_runs_is_what_should(source: Source | None, capture: Seen | None) -> None:
    """Nothing runs that nobody wants, or by settings that are no longer its own; what is wanted does."""
    asked = mend(source, capture)
    wanted = source is not None and source.desired == "running"
    runs = {"start": True, "stop": False}.get(asked, capture is not None)
    assert runs == wanted
    if wanted and capture and asked != "start":
        assert source is not None
        assert capture.settings == source.settings


def test_a_start_that_is_under_way_is_not_begun_anew() -> None:
    """Starts that follow one another faster than a slow source begins let it begin."""
    starting = Source(settings=NEWS, desired="running", state="starting")
    assert begun(starting, Seen(settings=NEWS), NEWS) == "starting"
    running = Source(settings=NEWS, desired="running", state="running")
    assert begun(running, Seen(settings=NEWS, state="running"), NEWS) == "running"
    assert begun(running, Seen(settings=NEWS, state="running"), MUSIC) is None
    assert begun(running, Seen(settings=NEWS, state="failed"), NEWS) is None
    assert begun(None, None, NEWS) is None


def test_the_ledger_logs_only_news() -> None:
    """What memory says already is not logged again; once closed nothing is, and old orders are void."""
    ledger, posted = Ledger(), []
    ledger.reopen(posted.append)
    added = decided(None, add()).facts[0]
    ledger.tell(added, "news")
    ledger.tell(added, "news")
    assert [draft.type for draft in posted] == ["source.added"]
    term = ledger.term
    ledger.check(term)
    ledger.close()
    with pytest.raises(Void):
        ledger.check(term)
    ledger.tell(decided(Source(settings=NEWS), command("source.start")).facts[0], "news")
    assert len(posted) == 1
    assert ledger.sources == {"news": Source(settings=NEWS)}
