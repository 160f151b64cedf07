"""The demo: a generated weekly test, and the commands that play it."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile

from control import demo
from control.station.folder import Folder
from ingest.weekly_test import BAUD, MARK, RATE, SPACE, burst, header, weekly_test, write_weekly_test
from streams.settings import load
from tests.fix_cli import Obedient

AT = datetime(2026, 11, 24, 13, 5, tzinfo=UTC)


def bits_of(samples: np.ndarray) -> list[int]:
    """Which tone is the stronger one in each bit's time."""
    heard = []
    for index in range(round(len(samples) * BAUD / RATE)):
        part = samples[int(index * RATE / BAUD) : int((index + 1) * RATE / BAUD)]
        times = np.arange(len(part)) / RATE
        mark, space = (abs(np.sum(part * np.exp(-2j * np.pi * hertz * times))) for hertz in (MARK, SPACE))
        heard.append(int(mark > space))
    return heard


def test_a_burst_carries_the_header() -> None:
    """The tones of a burst, bit by bit, spell sixteen preamble bytes and the header."""
    bits = bits_of(burst(header(AT)))
    octets = bytes(np.packbits(bits, bitorder="little"))
    assert octets == b"\xab" * 16 + b"ZCZC-WXR-RWT-020103+0015-3281305-TOCSIN  -"


def test_the_recording_is_a_weekly_test_of_half_a_minute(tmp_path: Path) -> None:
    """The file is mono PCM of 20 to 40 s, with sound in it and silence at its end, and never clips."""
    path = tmp_path / "weekly-test.wav"
    write_weekly_test(path)
    samples, rate = soundfile.read(path)
    assert rate == RATE
    assert samples.ndim == 1
    assert 20 < len(samples) / rate < 40
    assert 0.4 < np.max(np.abs(samples)) < 0.6
    assert not samples[-rate:].any()
    assert len(weekly_test(AT)) == len(samples)


def test_another_decoder_understands_it() -> None:
    """multimon-ng makes the header of the bursts, and hears the end of message three times."""
    if shutil.which("multimon-ng") is None:
        pytest.skip("real part missing: multimon-ng")
    samples = (weekly_test(AT) * 32767).astype("<i2").tobytes()
    heard = subprocess.run(
        ["multimon-ng", "-q", "-t", "raw", "-a", "EAS", "-"], input=samples, capture_output=True, check=True
    ).stdout.decode()
    assert heard.splitlines() == [f"EAS: {header(AT)}", *["EAS: NNNN"] * 3]


def test_the_demo_source_is_added_and_started(station_folder: Folder, obedient: Obedient) -> None:
    """The demo records its file once, adds its source and starts it; doing it again changes nothing."""
    settings = load(station_folder.settings)
    for _ in range(2):
        demo.play(settings, station_folder.path, write_weekly_test)
    add, start = (task.command for task in obedient.executed[:2])
    assert (add.type, start.type) == ("source.add", "source.start")
    path = Path(add.params["settings"]["path"])
    assert path.parent == station_folder.media
    assert path.exists()
    assert obedient.executed[2].command.params == add.params
