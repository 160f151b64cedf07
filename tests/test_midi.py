"""The logic of a MIDI control surface: decoder, mapping, sweeps, latches, lights; with the time given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.midi.coalesce import AT_MOST_EVERY, SETTLED, Coalescer
from control.midi.decoder import Control, Decoder, Heard, encoded
from control.midi.mapping import Unmappable, parse
from control.midi.surface import HAND, NOTHING_KNOWN, Intent, Logic, SourceNow, View, to_db, to_value

ROOT = Path(__file__).parent.parent
START, STOP, OTHER, FADER, ARM = (
    Control("note", 1, 36),
    Control("note", 1, 37),
    Control("note", 1, 38),
    Control("controller", 1, 7),
    Control("note", 1, 46),
)
MAPPING = """
port = "nano"
[[bind]]
note = 36
do = "start"
source = "lobby"
[[bind]]
note = 37
do = "stop"
source = "lobby"
[[bind]]
note = 38
do = "acknowledge"
source = "*"
[[bind]]
controller = 7
do = "gain"
source = "lobby"
"""
TWO = 'latch = "two"\narm = {note = 46}\n' + MAPPING
SEVEN = st.integers(0, 127)
CONTROLS = st.builds(Control, st.sampled_from(["note", "controller", "program"]), st.integers(1, 16), SEVEN)
HEARD = st.builds(Heard, CONTROLS, SEVEN).map(
    lambda heard: Heard(heard.control, 127) if heard.control.kind == "program" else heard
)


def pieces(raw: bytes, cuts: Sequence[int]) -> list[bytes]:
    """The bytes cut at these places."""
    at = sorted({cut % (len(raw) + 1) for cut in cuts})
    return [raw[begin:end] for begin, end in zip([0, *at], [*at, len(raw)], strict=True)]


@given(st.lists(HEARD, max_size=30), st.lists(st.integers(0, 10_000), max_size=20), st.data())
def test_running_status_and_real_time_bytes(heard: list[Heard], cuts: list[int], data: st.DataObject) -> None:
    """What is sent with a status left out where it repeats, clocks in between, in any pieces, is heard."""
    raw, status = bytearray(), -1
    for one in heard:
        message = encoded(one.control, one.value)
        raw += message[1:] if message[0] == status else message
        status = message[0]
    noisy = bytearray()
    for byte in raw:
        noisy += bytes(data.draw(st.lists(st.integers(0xF8, 0xFF), max_size=1))) + bytes((byte,))
    decoder = Decoder()
    assert [one for piece in pieces(bytes(noisy), cuts) for one in decoder.feed(piece)] == heard


@given(st.binary(max_size=400), HEARD)
def test_garbage_harms_nothing(garbage: bytes, heard: Heard) -> None:
    """Any bytes decode to messages within their ranges, and the next whole message is heard as it is."""
    decoder = Decoder()
    found = decoder.feed(garbage)
    assert all(0 <= one.value < 128 and 0 <= one.control.number < 128 for one in found)
    assert all(1 <= one.control.channel <= 16 for one in found)
    assert decoder.feed(encoded(heard.control, heard.value))[-1:] == [heard]


def test_a_note_off_is_a_release_however_it_is_said() -> None:
    """Note off, and note on with velocity 0, both give the value 0; exclusive messages are passed over."""
    decoder = Decoder()
    raw = bytes((0xF0, 0x42, 36, 100, 0xF7, 0x80, 36, 64, 0x90, 36, 0, 36, 9))
    assert [one.value for one in decoder.feed(raw)] == [0, 0, 9]


@given(st.lists(st.tuples(st.floats(0.0, 0.3), SEVEN), min_size=1, max_size=400))
def test_a_sweep_is_a_few_commands_and_ends_where_the_hand_did(moves: list[tuple[float, int]]) -> None:
    """However fast a fader moves, positions come at most two a second, and the last is the last one."""
    faders: Coalescer[str] = Coalescer()
    at, due = 100.0, list[tuple[float, int]]()

    def until(then: float) -> None:
        nonlocal at
        while at < then:
            at = min(at + 0.02, then)
            due.extend((at, value) for _, value in faders.due(at))

    for pause, value in moves:
        until(at + pause)
        faders.move("f", value, at)
    until(at + SETTLED + AT_MOST_EVERY + 0.1)
    assert due[-1][1] == moves[-1][1]
    assert not list(faders.due(at + 60)), "a position of it is still held"
    swept = sum(pause for pause, _ in moves[1:])
    rests = sum(pause > SETTLED for pause, _ in moves[1:])
    assert len(due) <= swept / AT_MOST_EVERY + rests + 2


@given(st.lists(st.tuples(HEARD, st.floats(0, 0.4)), max_size=200))
def test_any_flood_of_messages_is_bounded(heard: list[tuple[Heard, float]]) -> None:
    """Whatever is heard, intents are those of the mapping, and no button acts twice within its pause."""
    logic, at, acted = Logic(parse(MAPPING)), 0.0, dict[str, float]()
    for one, pause in heard:
        at += pause
        for intent in logic.hear(one, at) + logic.tick(at):
            assert intent.do in ("start", "stop", "acknowledge", "gain")
            if intent.do != "gain":
                assert at - acted.get(intent.do, -1.0) >= 0.2
                acted[intent.do] = at


def hold(logic: Logic, control: Control, seconds: float, at: float = 10.0) -> list[Intent]:
    """What comes of holding a button for so long."""
    found = logic.hear(Heard(control, 100), at) + logic.tick(at + seconds)
    return found + logic.hear(Heard(control, 0), at + seconds) + logic.tick(at + seconds + 5)


def test_what_takes_a_source_off_the_air_must_be_held() -> None:
    """A stop acts after a second of holding, once; a touch does nothing; a start acts at once."""
    logic = Logic(parse(MAPPING))
    assert hold(logic, START, 0.05) == [Intent("start", "lobby")]
    assert hold(logic, STOP, 0.9, at=20) == []
    assert hold(logic, STOP, 1.1, at=30) == [Intent("stop", "lobby")]
    logic.hear(Heard(STOP, 100), 50)
    assert [*logic.tick(52), *logic.tick(54)] == [Intent("stop", "lobby")]


def test_an_elbow_is_no_finger() -> None:
    """With any other button down, or pressed again and again without a release, nothing counts as held."""
    logic = Logic(parse(MAPPING))
    logic.hear(Heard(Control("note", 9, 99), 100), 10)
    assert hold(logic, STOP, 3, at=11) == []
    logic = Logic(parse(MAPPING))
    logic.hear(Heard(STOP, 100), 20)
    logic.hear(Heard(START, 100), 20.5)
    assert logic.tick(30) == []
    logic = Logic(parse(MAPPING))
    for again in range(50):
        logic.hear(Heard(STOP, 100), 40 + again / 2)
        assert logic.tick(40 + again / 2 + 0.4) == []


def test_or_needs_two_buttons() -> None:
    """With two buttons as latch a stop acts only while the other is down."""
    logic = Logic(parse(TWO))
    assert hold(logic, STOP, 3) == []
    logic.hear(Heard(ARM, 100), 20)
    assert logic.hear(Heard(STOP, 100), 21) == [Intent("stop", "lobby")]
    logic.hear(Heard(STOP, 0), 22)
    logic.hear(Heard(ARM, 0), 23)
    assert logic.hear(Heard(STOP, 100), 24) == []


def test_a_desk_that_is_lost_holds_nothing() -> None:
    """A button that was down, an arm, and a fader that moved are forgotten with the surface."""
    for mapping in (MAPPING, TWO):
        logic = Logic(parse(mapping))
        for control in (ARM, STOP, FADER):
            logic.hear(Heard(control, 100), 10)
        logic.tick(10.01)
        logic.forget()
        assert logic.tick(20) == []


def view(state: str = "running", gain: float | None = 0.0, **open: str) -> View:
    return View(
        known=True,
        sources={"lobby": SourceNow(state=state, gain_db=gain)},
        open={int(id[1:]): source for id, source in open.items()},
    )


def shown(logic: Logic, seen: View, at: float = 0.0) -> dict[Control, int]:
    decoder = Decoder()
    return {one.control: one.value for raw in logic.lights(seen, at) for one in decoder.feed(raw)}


def test_lights_show_what_is_so_and_only_what_changed() -> None:
    """Start is lit as the source's state is, stop when it is stopped, acknowledge when something is open."""
    logic = Logic(parse(MAPPING))
    bound = parse(MAPPING).bound[FADER]
    assert shown(logic, view(e1="lobby")) == {START: 127, STOP: 0, OTHER: 127, FADER: to_value(0.0, bound)}
    assert shown(logic, view(e1="lobby")) == {}
    assert shown(logic, view("stopped")) == {START: 0, STOP: 127, OTHER: 0}
    assert shown(logic, view("failed")) == {START: 1, STOP: 0}


def test_lights_are_right_after_a_reconnect() -> None:
    """A surface that comes back shows everything again, also what did not change meanwhile."""
    logic = Logic(parse(MAPPING))
    first = shown(logic, view())
    logic.forget()
    assert shown(logic, view()) == first


def test_lights_do_not_claim_what_nobody_knows() -> None:
    """While the read model cannot be read, no button is lit as if its source ran; faders stay."""
    logic = Logic(parse(MAPPING))
    shown(logic, view())
    assert shown(logic, NOTHING_KNOWN) == {START: 0}
    assert shown(logic, view()) == {START: 127}


def test_a_motor_fader_leaves_the_hand_alone() -> None:
    """While a hand moves it, it is not driven; afterwards it shows the gain that came of it."""
    logic = Logic(parse(MAPPING))
    shown(logic, view())
    logic.hear(Heard(FADER, 20), 10)
    assert FADER not in shown(logic, view(gain=-3.0), 10.2)
    assert shown(logic, view(gain=-3.0), 10 + HAND) == {FADER: to_value(-3.0, parse(MAPPING).bound[FADER])}


@given(SEVEN)
def test_a_fader_and_its_gain_are_one(value: int) -> None:
    """The gain that a position means is shown at that position."""
    bound = parse(MAPPING).bound[FADER]
    assert to_value(to_db(value, bound), bound) == value
    assert bound.low_db <= to_db(value, bound) <= bound.high_db


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ("port = 'x'", "", "bind"),
        ("port = 'x'\nbind = [{do = 'start', source = 'a'}]", "bind[0]", "note, controller and program"),
        ("port = 'x'\nbind = [{note = 1, do = 'explode', source = 'a'}]", "bind[0].do", "explode"),
        ("port = 'x'\nbind = [{note = 200, do = 'start', source = 'a'}]", "bind[0].note", "127"),
        ("port = 'x'\nbind = [{note = 1, do = 'gain', source = 'a'}]", "bind[0].do", "controller"),
        ("port = 'x'\nbind = [{program = 1, do = 'stop', source = 'a'}]", "bind[0].latch", "held"),
        ("port = 'x'\nlatch = 'two'\nbind = [{note = 1, do = 'stop', source = 'a'}]", "arm", "arm ="),
        (MAPPING + "[[bind]]\nnote = 36\ndo = 'stop'\nsource = 'b'\n", "bind[4]", "bound already"),
        ("port = ", "", "no TOML"),
    ],
)
def test_what_is_wrong_with_a_mapping_is_named(text: str, field: str, says: str) -> None:
    """A mapping that makes no sense is refused with the place and the word."""
    with pytest.raises(Unmappable, match=says.replace("[", r"\[")) as told:
        parse(text)
    assert told.value.field == field


def test_the_example_in_the_documents_works() -> None:
    """The complete mapping that docs/midi.md shows is one."""
    text = (ROOT / "docs" / "midi.md").read_text("utf-8")
    example = text.split("```toml\n")[1].split("```")[0]
    done = {bound.do for bound in parse(example).bound.values()}
    assert done == {"start", "stop", "restart", "acknowledge", "gain"}
