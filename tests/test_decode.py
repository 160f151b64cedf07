"""`tocsin decode`: the alerts in recordings, without a station."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from ingest.weekly_test import RATE, header, weekly_test

AT = datetime(2026, 11, 24, 13, 5, tzinfo=UTC)
TEST = weekly_test(AT)


def decode(*arguments: str | Path, input: bytes = b"") -> tuple[int, str, str]:
    """Run `tocsin decode ARGUMENTS`: the exit code and what it printed."""
    ran = subprocess.run(
        [sys.executable, "-m", "control.composition", "decode", *map(str, arguments)],
        input=input,
        capture_output=True,
        timeout=120,
        check=False,
    )
    return ran.returncode, ran.stdout.decode(), ran.stderr.decode()


def decoded(*arguments: str | Path, input: bytes = b"") -> list[dict[str, Any]]:
    """The messages that it finds."""
    code, out, err = decode("--json", *arguments, input=input)
    assert code == 0, err
    messages: list[dict[str, Any]] = json.loads(out)["messages"]
    return messages


def as_aac(path: Path) -> None:
    """The weekly test as FFmpeg alone can read it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(TEST[np.newaxis, :], format="flt", layout="mono")
        frame.rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "weekly.wav"
    soundfile.write(path, TEST, RATE)
    return path


def test_a_recording_says_what_it_holds(wav: Path) -> None:
    """One message, with what its header says, and where in the recording it was heard."""
    (message,) = decoded(wav)
    assert (message["file"], message["header"]) == (str(wav), header(AT))
    assert (message["event"], message["event_name"]) == ("RWT", "Required Weekly Test")
    assert (message["locations"], message["places"]) == (["020103"], ["Leavenworth County, KS"])
    assert (message["confirmed"], message["problems"], message["valid_minutes"]) == (True, [], 15)
    assert message["bursts"] >= 2
    assert message["start"] == pytest.approx(1.0, abs=0.1)
    assert message["start"] < message["end"] < message["ended"] < len(TEST) / RATE
    assert 0 < message["confidence"] <= 1


@pytest.mark.parametrize("name", ["weekly.flac", "weekly.ogg", "weekly.mp3", "weekly.m4a"])
def test_any_kind_of_recording_is_read(tmp_path: Path, name: str) -> None:
    """What libsndfile reads, of two channels too, and what only FFmpeg does."""
    path = tmp_path / name
    if path.suffix == ".m4a":
        as_aac(path)
    else:
        soundfile.write(path, np.stack([TEST, TEST], axis=1), RATE)
    assert [message["header"] for message in decoded(path)] == [header(AT)]


def test_raw_samples_come_on_standard_input() -> None:
    """16-bit PCM at the rate that is told; without one, or with one too many, it is wrong usage."""
    samples = (TEST * 32767).astype("<i2").tobytes()
    (message,) = decoded("-", "--rate", str(RATE), input=samples)
    assert (message["file"], message["header"]) == ("-", header(AT))
    assert decode("-", input=samples)[0] == 2
    assert decode("a.wav", "--rate", "22050")[0] == 2
    assert decode("-", "-", "--rate", "22050")[0] == 2


def test_people_read_it_as_text(wav: Path, tmp_path: Path) -> None:
    """Without --json: the event, the places and the reception in words; also that nothing was heard."""
    code, out, _ = decode(wav)
    assert code == 0
    assert "Required Weekly Test (RWT) from National Weather Service (WXR)" in out
    assert "020103 Leavenworth County, KS" in out
    assert "confirmed" in out
    quiet = tmp_path / "quiet.wav"
    soundfile.write(quiet, np.zeros(RATE, np.float32), RATE)
    assert decode(quiet)[:2] == (0, "No message was heard.\n")
    assert json.loads(decode("--json", quiet)[1]) == {"messages": []}


def test_json_can_be_asked_for_before_the_verb(wav: Path) -> None:
    """As with every other verb: `tocsin --json decode`."""
    ran = subprocess.run(
        [sys.executable, "-m", "control.composition", "--json", "decode", str(wav)],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert len(json.loads(ran.stdout)["messages"]) == 1


def test_a_terminal_sees_how_far_a_long_recording_is(tmp_path: Path) -> None:
    """A bar on standard error while it is read, and nothing else on standard output."""
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(8000 * 61, np.float32), 8000)
    reader, writer = os.openpty()
    with os.fdopen(reader, "rb", buffering=0) as terminal:
        words = [sys.executable, "-m", "control.composition", "decode", "--json", str(path)]
        ran = subprocess.run(words, stdout=subprocess.PIPE, stderr=writer, timeout=60, check=True)
        os.close(writer)
        shown = terminal.read(10_000)
    assert json.loads(ran.stdout) == {"messages": []}
    assert b"###" in shown


def test_what_cannot_be_read_is_told_and_the_others_are_decoded(wav: Path, tmp_path: Path) -> None:
    """Exit code 3 with the reason for each, and the messages of those that could be read."""
    text = tmp_path / "notes.txt"
    text.write_text("no audio at all")
    code, out, err = decode("--json", text, tmp_path / "gone.wav", wav)
    assert code == 3
    told = json.loads(out)
    assert [message["file"] for message in told["messages"]] == [str(wav)]
    assert [(error["file"], error["what"]) for error in told["errors"]] == [
        (str(text), f"{text} is no audio that libsndfile or FFmpeg can read"),
        (str(tmp_path / "gone.wav"), f"{tmp_path / 'gone.wav'}: No such file or directory"),
    ]
    assert str(text) in err


def test_a_recording_that_breaks_off_is_decoded_as_far_as_it_goes(tmp_path: Path) -> None:
    """What was heard before the break is told, and so is the break; its end was not heard."""
    cut = tmp_path / "cut.flac"
    soundfile.write(cut, TEST, RATE)
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    code, out, err = decode("--json", cut)
    assert code == 3
    (message,) = json.loads(out)["messages"]
    assert (message["header"], message["ended"]) == (header(AT), None)
    assert str(cut) in err


def test_a_rate_that_cannot_carry_an_alert_is_refused(tmp_path: Path) -> None:
    """Too few samples per second for the tones: it is told instead of nothing being found."""
    path = tmp_path / "slow.wav"
    soundfile.write(path, np.zeros(4000, np.float32), 4000)
    code, _, err = decode(path)
    assert code == 3
    assert "4000 Hz cannot carry an alert" in err


def test_an_end_of_one_message_belongs_to_it_alone(tmp_path: Path) -> None:
    """Two messages in one recording: two, in their order, each with its own end."""
    path = tmp_path / "two.wav"
    other = weekly_test(AT.replace(hour=14))
    soundfile.write(path, np.concatenate([TEST, other]), RATE)
    first, second = decoded(path)
    assert [first["header"], second["header"]] == [header(AT), header(AT.replace(hour=14))]
    assert first["ended"] < second["start"] < second["ended"]
