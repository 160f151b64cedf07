"""A control surface on real ports, at a whole station."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from control.midi.decoder import Control
from control.midi.ports import NoMidi, ports
from tests.fix_cli import Prompt
from tests.fix_midi import Surface
from tests.fix_servers import eventually
from tests.fix_whole import Whole

pytestmark = [pytest.mark.slow]

START, STOP, FADER = Control("note", 1, 36), Control("note", 1, 37), Control("controller", 1, 7)
HIGH = 12.0
"""The gain of a fader that is all the way up, in dB."""
MAPPING = """
port = "{port}"
hold_seconds = 0.6
bind = [
    {{note = 36, do = "start", source = "demo"}},
    {{note = 37, do = "stop", source = "demo"}},
    {{controller = 7, do = "gain", source = "demo"}},
]
"""


def gains(station: Whole) -> list[float]:
    """Those that the log says the demo source was given, one after another."""
    updated = [one.event.data for one in station.log() if one.event.type == "source.updated"]
    return [data["settings"]["gain_db"] for data in updated if "gain_db" in data.get("settings", {})]


@pytest.fixture
def said(demo_station: Whole, surface: Surface, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """`tocsin midi run` with that surface, at the demo station; what it has said so far. It ends in order."""
    mapping, output = tmp_path / "desk.toml", tmp_path / "output"
    mapping.write_text(MAPPING.format(port=surface.name))
    env = {**os.environ, "TOCSIN_STATION": str(demo_station.folder.path), "PYTHONUNBUFFERED": "1"}
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "control.composition", "midi", "run", str(mapping), "--api", "jack"],
            stdout=file,
            stderr=file,
            env=env,
        )
    eventually(lambda: "listening to" in output.read_text(), "it listens")
    yield output.read_text
    assert process.poll() is None, output.read_text()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0, output.read_text()


def test_a_surface_runs_the_station(demo_station: Whole, surface: Surface, said: Callable[[], str]) -> None:
    """Buttons start and stop, a stop only when held; lights show what is so; a sweep is a few updates."""

    def state(wanted: str) -> None:
        eventually(lambda: demo_station.source("demo")["state"] == wanted, f"the demo is {wanted}")

    # Given a source that runs, its start button is lit.
    eventually(lambda: surface.shown.get(START) == 127, f"start is lit: {surface.shown}")
    assert surface.shown.get(STOP) == 0

    # When stop is touched nothing happens; held, the source stops, and the lights change over.
    surface.tap(STOP)
    time.sleep(0.8)
    assert "stop" not in said()
    surface.say(STOP, 100)
    eventually(lambda: "demo: stop completed" in said(), "it stopped")
    surface.say(STOP, 0)
    eventually(lambda: (surface.shown[START], surface.shown[STOP]) == (0, 127), "the lights say so")
    state("stopped")

    # A touch of start starts it.
    surface.tap(START)
    eventually(lambda: "demo: start completed" in said(), "it started")
    eventually(lambda: surface.shown[START] == 127, "the light says so")

    # A sweep over the whole fader, 300 moves in more than a second, is a few updates in the log; the last
    # is where the hand ended, and the fader shows it.
    before = len(gains(demo_station))
    for move in range(300):
        surface.say(FADER, move * 127 // 299)
        time.sleep(0.004)
    eventually(lambda: gains(demo_station)[before:][-1:] == [HIGH], "the gain is where the hand ended")
    assert len(gains(demo_station)) - before <= 12, said()
    assert "demo: gain completed" in said()
    eventually(lambda: surface.shown.get(FADER) == 127, "the fader shows it")
    assert demo_station.source("demo")["settings"]["gain_db"] == HIGH
    demo_station.tocsin("source", "update", "demo", "--gain", "0")


def test_a_flood_and_a_lost_desk_harm_nothing(
    demo_station: Whole, surface: Surface, said: Callable[[], str]
) -> None:
    """Thousands of messages make a few commands; unplugged and back, the surface is lit as it should be."""
    eventually(lambda: surface.shown.get(START) == 127, "start is lit")
    commands = len(demo_station.json("command", "list", "--source", "demo", "--limit", "500")["commands"])
    for round in range(40):
        for note in range(100):
            surface.raw(bytes((0x90, note, 100)))
            surface.raw(bytes((0xB0, note, round)))
        time.sleep(0.01)
    surface.unplug()
    eventually(lambda: "is gone" in said(), "it noticed")
    surface.plug()
    eventually(lambda: said().count("listening to") == 2, "it listens again")
    eventually(lambda: surface.shown.get(STOP) == 0 and START in surface.shown, "it is lit again")
    after = len(demo_station.json("command", "list", "--source", "demo", "--limit", "500")["commands"])
    assert after - commands <= 12
    assert demo_station.source("demo")["desired"] == "running", "nothing was held"
    surface.tap(START)
    eventually(lambda: surface.shown.get(START) == 127, "it works as before")


def test_ports_are_listed_and_controls_learned(surface: Surface, demo_prompt: Prompt) -> None:
    """`midi ports` names the surface; `midi learn` prints how a mapping names what is touched."""
    listed = demo_prompt("midi", "ports", "--api", "jack", "--json").json["ports"]
    assert any(surface.name in port for port in listed["inputs"])
    assert any(surface.name in port for port in listed["outputs"])

    learn = ("midi", "learn", surface.name, "--api", "jack", "--count", "2", "--seconds", "30")
    learning = subprocess.Popen(
        [sys.executable, "-m", "control.composition", *learn], stdout=subprocess.PIPE, text=True
    )
    while learning.poll() is None:
        surface.say(Control("note", 3, 41), 100)
        surface.say(FADER, 9)
        time.sleep(0.2)
    assert learning.communicate()[0] == "note = 41\nchannel = 3\n\ncontroller = 7\nchannel = 1\n\n"
    nobody = demo_prompt("midi", "learn", "elsewhere", "--api", "jack")
    assert nobody.code == 3
    assert "tocsin midi ports" in nobody.err


def test_alsa_where_there_is_a_sequencer() -> None:
    """A port of ALSA's sequencer is seen and heard like any other."""
    rtmidi = pytest.importorskip("rtmidi", reason="real part missing: python-rtmidi")
    if not Path("/dev/snd/seq").exists():
        pytest.skip("real part missing: ALSA's sequencer")
    out = rtmidi.MidiOut(rtmidi.API_LINUX_ALSA, name="nanoalsa")
    out.open_virtual_port("keys")
    try:
        with ports("alsa") as found:
            cable = found.open("nanoalsa")
            assert cable is not None
            out.send_message((0x90, 36, 100))
            assert cable.read(5) == bytes((0x90, 36, 100))
            cable.close()
    finally:
        out.close_port()
        out.delete()


def test_no_midi_is_said() -> None:
    """Where neither system works, that is told with what to do, and nothing is dumped."""
    if Path("/dev/snd/seq").exists():
        pytest.skip("real part missing: a machine without ALSA's sequencer")
    pytest.importorskip("rtmidi", reason="real part missing: python-rtmidi")
    with pytest.raises(NoMidi, match="alsa"), ports("alsa"):
        pass
