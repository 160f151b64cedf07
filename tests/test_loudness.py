"""Loudness against the minimum requirements of EBU Tech 3341 and 3342, pyloudnorm and FFmpeg's ebur128.

The signals are made here as the two documents describe them. Their cases 7 and 8 (3341) and 5 and 6 (3342)
are recordings of real programmes, which cannot be made; all others are here.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ingest.bank import Bank, Measured, Outside
from ingest.kweighting import Shape, biquads
from streams.sound import MetersSection

RATE = 48_000
Signal = np.ndarray[tuple[int, int], np.dtype[np.float32]]


def tone(
    *parts: tuple[float, float],
    rate: int = RATE,
    channels: int = 2,
    hertz: float = 1000.0,
    dtype: type = np.float32,
) -> Signal:
    """A sine whose peaks are at so many dBFS (−∞: silence) for so many seconds, one part after another."""
    amplitude = np.concatenate([np.full(round(s * rate), 10 ** (db / 20)) for db, s in parts])
    mono = amplitude * np.sin(2 * np.pi * hertz * np.arange(len(amplitude)) / rate)
    return np.tile(mono[:, np.newaxis], channels).astype(dtype)


def chunks(signal: Signal, rate: int = RATE) -> list[Measured]:
    """What each tenth of a second of a signal measures, the last filled up."""
    bank = Bank(rate, signal.shape[1], MetersSection())
    nothing = Outside(np.array([False]), np.zeros(1), np.full(1, math.nan))
    row, found = np.array([0]), []
    for start in range(0, len(signal), bank.chunk):
        part = signal[start : start + bank.chunk]
        audio = np.zeros((1, signal.shape[1], bank.chunk), np.float32)
        audio[0, :, : len(part)] = part.T
        found.append(bank.measure(row, audio, np.array([float(len(part))]), nothing, []))
    return found


def integrated(signal: Signal, rate: int = RATE) -> float:
    return float(chunks(signal, rate)[-1].integrated[0])


def momentary(found: list[Measured]) -> list[float]:
    return [float(one.momentary[0]) for one in found]


def short_term(found: list[Measured]) -> list[float]:
    return [float(one.short_term[0]) for one in found]


@pytest.mark.parametrize("level", [-23.0, -33.0])
def test_3341_cases_1_and_2_a_steady_tone(level: float) -> None:
    """A stereo tone of −23 or −33 dBFS has that momentary, short-term and integrated loudness, ±0.1 LU."""
    found = chunks(tone((level, 20.0)))
    assert momentary(found)[5:] == pytest.approx([level] * 195, abs=0.1)
    assert short_term(found)[30:] == pytest.approx([level] * 170, abs=0.1)
    assert found[-1].integrated[0] == pytest.approx(level, abs=0.1)


@pytest.mark.parametrize(
    "parts",
    [
        [(-36.0, 10.0), (-23.0, 60.0), (-36.0, 10.0)],
        [(-72.0, 10.0), (-36.0, 10.0), (-23.0, 60.0), (-36.0, 10.0), (-72.0, 10.0)],
        [(-26.0, 20.0), (-20.0, 20.1), (-26.0, 20.0)],
    ],
)
def test_3341_cases_3_to_5_the_gates(parts: list[tuple[float, float]]) -> None:
    """What is quiet is left out by the gates: integrated −23 LUFS, ±0.1 LU."""
    assert integrated(tone(*parts)) == pytest.approx(-23.0, abs=0.1)


def test_3341_case_6_five_channels() -> None:
    """The channels of 5.0 count as they should: integrated −23 LUFS, ±0.1 LU."""
    levels = (-28.0, -28.0, -24.0, -30.0, -30.0)
    signal = np.concatenate([tone((level, 20.0), channels=1) for level in levels], axis=1)
    assert integrated(signal) == pytest.approx(-23.0, abs=0.1)


def test_3341_case_9_short_term_is_of_three_seconds() -> None:
    """Levels that change within its window give −23 LUFS at any moment after 3 s, ±0.1 LU."""
    found = short_term(chunks(tone(*[(-20.0, 1.34), (-30.0, 1.66)] * 5)))
    assert found[30:] == pytest.approx([-23.0] * (len(found) - 30), abs=0.1)


def test_3341_case_10_the_highest_short_term_loudness() -> None:
    """Tones of 3 s that begin anywhere reach −23 LUFS, ±0.1 LU, each file by itself."""
    for number in range(20):
        signal = tone((-math.inf, 0.15 * number), (-23.0, 3.0), (-math.inf, 1.0))
        assert max(short_term(chunks(signal))) == pytest.approx(-23.0, abs=0.1), number


def test_3341_case_11_the_highest_short_term_loudness_live() -> None:
    """The same in one signal, each tone a decibel louder: −38 to −19 LUFS, ±0.1 LU."""
    parts = [
        ((-math.inf, 0.15 * n), (-38.0 + n, 3.0), (-math.inf, 3.0 - 0.15 * n)) for n in range(20)
    ]  # fmt: skip
    found = short_term(chunks(tone(*[one for part in parts for one in part])))
    highest = [max(found[60 * n : 60 * n + 60]) for n in range(20)]
    assert highest == pytest.approx([-38.0 + n for n in range(20)], abs=0.1)


def test_3341_case_12_momentary_is_of_400_ms() -> None:
    """Levels that change within its window give −23 LUFS at any moment after 1 s, ±0.1 LU."""
    found = momentary(chunks(tone(*[(-20.0, 0.18), (-30.0, 0.22)] * 25)))
    assert found[10:] == pytest.approx([-23.0] * (len(found) - 10), abs=0.1)


def test_3341_case_13_the_highest_momentary_loudness() -> None:
    """Tones of 400 ms that begin anywhere reach −23 LUFS, ±0.1 LU, each file by itself."""
    for number in range(20):
        signal = tone((-math.inf, 0.02 * number), (-23.0, 0.4), (-math.inf, 1.0))
        assert max(momentary(chunks(signal))) == pytest.approx(-23.0, abs=0.1), number


def test_3341_case_14_the_highest_momentary_loudness_live() -> None:
    """The same in one signal, each tone a decibel louder: −38 to −19 LUFS, ±0.1 LU."""
    parts = [((-math.inf, 0.02 * n), (-38.0 + n, 0.4), (-math.inf, 0.4 - 0.02 * n)) for n in range(20)]
    found = momentary(chunks(tone(*[one for part in parts for one in part])))
    highest = [max(found[8 * n : 8 * n + 8]) for n in range(20)]
    assert highest == pytest.approx([-38.0 + n for n in range(20)], abs=0.1)


def highest(signal: Signal, rate: int = RATE) -> float:
    """The true peak of a signal, in dBTP."""
    return 20 * math.log10(max(float(one.true_peak[0]) for one in chunks(signal, rate)))


@pytest.mark.parametrize(
    ("part", "degrees", "amplitude", "wanted"),
    [
        (4, 0.0, 0.50, -6.0),
        (4, 45.0, 0.50, -6.0),
        (6, 60.0, 0.50, -6.0),
        (8, 67.5, 0.50, -6.0),
        (4, 45.0, 1.41, 3.0),
    ],
)
def test_3341_cases_15_to_19_true_peak(part: int, degrees: float, amplitude: float, wanted: float) -> None:
    """Tones whose peaks lie between the samples have the true peak they should, +0.2 to −0.4 dB."""
    phase = 2 * np.pi * np.arange(RATE) / part + math.radians(degrees)
    # As the document has it, fading in and out.
    fade = np.minimum(1.0, np.minimum(np.arange(RATE), np.arange(RATE)[::-1]) / 4800)
    mono = amplitude * np.sin(phase) * fade
    assert wanted - 0.4 <= highest(np.tile(mono[:, np.newaxis], 2).astype(np.float32)) <= wanted + 0.2


@pytest.mark.parametrize("offset", [0, 1, 2, 3])
def test_3341_cases_20_to_23_true_peak_of_a_burst(offset: int) -> None:
    """A burst in a quieter tone, sampled from four times the rate at each offset: 0 dBTP, +0.2 to −0.4."""
    fine = 4 * RATE
    length = fine // 2
    times = np.arange(length) / fine
    envelope = np.full(length, 0.5)
    middle = slice(length // 2 - fine // 12, length // 2 + fine // 12)
    envelope[middle] += 0.5 * np.hanning(fine // 12 * 2)
    mono = envelope * np.sin(2 * np.pi * RATE / 6 * times)
    sampled = mono[offset::4]
    signal = np.tile(sampled[:, np.newaxis], 2).astype(np.float32)
    assert -0.4 <= highest(signal) <= 0.2


@pytest.mark.parametrize(
    ("levels", "wanted"),
    [
        ((-20.0, -30.0), 10.0),
        ((-20.0, -15.0), 5.0),
        ((-40.0, -20.0), 20.0),
        ((-50.0, -35.0, -20.0, -35.0, -50.0), 15.0),
    ],
)
def test_3342_cases_1_to_4_the_range(levels: tuple[float, ...], wanted: float) -> None:
    """Tones of 20 s each have the loudness range they should, ±1 LU."""
    found = chunks(tone(*[(level, 20.0) for level in levels]))
    assert found[-1].range[0] == pytest.approx(wanted, abs=1.0)


def programme(rate: int, channels: int, seconds: float = 30.0) -> Signal:
    """Something like speech over music: noise bands and tones that come and go, with pauses."""
    generator = np.random.default_rng(rate + channels)
    count = round(rate * seconds)
    times = np.arange(count) / rate
    sound = np.cumsum(generator.normal(0, 1, (count, channels)), axis=0)
    sound = np.diff(sound, axis=0, prepend=0) * 0.05
    sound += (
        0.1 * np.sin(2 * np.pi * 180 * times)[:, np.newaxis]
        + 0.05 * np.sin(2 * np.pi * 2500 * times)[:, np.newaxis]
    )
    syllables = 0.5 + 0.5 * np.sin(2 * np.pi * 3.1 * times) * np.sin(2 * np.pi * 0.21 * times)
    gate = (np.sin(2 * np.pi * 0.11 * times) > -0.6).astype(float)
    return (sound * (syllables * gate)[:, np.newaxis]).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 24_000, 32_000, 44_100, 96_000])
def test_the_weighting_is_the_same_at_any_rate(rate: int) -> None:
    """Tones have the weight that the standard's filter at 48 kHz gives them, up to an eighth of the rate."""
    (b1, a1), (b2, a2) = biquads(RATE)

    def standard(hertz: float) -> float:
        z = np.exp(-2j * np.pi * hertz / RATE * np.arange(3))
        return float(20 * np.log10(abs((b1 @ z) / (a1 @ z) * (b2 @ z) / (a2 @ z))))

    for hertz in (50.0, 400.0, min(rate / 8, 4000.0)):
        wanted = -20.0 - 3.01 - 0.691 + standard(hertz)
        found = integrated(tone((-20.0, 3.0), rate=rate, channels=1, hertz=hertz), rate)
        assert found == pytest.approx(wanted, abs=0.25), hertz


def test_chunks_are_a_tenth_of_a_second() -> None:
    """At any rate a tenth of a second is a whole number of slices and blocks, nearly."""
    for rate in (*range(6000, 192_000, 475), 1000, 11_025, 22_050, 44_100, 768_000):
        shape = Shape(rate)
        assert shape.slice % shape.block == 0, rate
        assert shape.chunk == pytest.approx(rate / 10, rel=0.015 if rate > 6000 else 0.05), rate
        assert 8 <= shape.block <= 64 or rate < 6000, rate


@pytest.mark.parametrize(("rate", "channels"), [(44_100, 2), (48_000, 1), (24_000, 1)])
def test_pyloudnorm_says_the_same(rate: int, channels: int) -> None:
    """Integrated loudness of a programme is that of pyloudnorm, ±0.1 LU."""
    pyloudnorm = pytest.importorskip("pyloudnorm")
    signal = programme(rate, channels)
    wanted = pyloudnorm.Meter(rate, filter_class="DeMan").integrated_loudness(signal.astype(np.float64))
    assert integrated(signal, rate) == pytest.approx(wanted, abs=0.1)


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 2), (24_000, 1), (22_050, 1)])
def test_ffmpeg_says_the_same(rate: int, channels: int, tmp_path: Path) -> None:
    """Integrated loudness, range and true peak of a programme are those of FFmpeg's ebur128.

    Within 0.2 LU, 1 LU and 0.4 dB: it measures at 48 kHz what it has converted to that.
    """
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        pytest.skip("there is no ffmpeg")
    signal, path = programme(rate, channels), tmp_path / "programme.wav"
    soundfile.write(path, signal, rate, subtype="FLOAT")
    command = [ffmpeg, "-nostats", "-i", str(path), "-af", "ebur128=peak=true", "-f", "null", "-"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stderr
    summary = said[said.rindex("Summary:") :]
    loudness, range_, peak = (
        float(re.search(rf"{name}:\s+(-?[\d.]+)", summary)[1])  # type: ignore[index]
        for name in ("I", "LRA", "Peak")
    )
    found = chunks(signal, rate)
    assert found[-1].integrated[0] == pytest.approx(loudness, abs=0.2)
    assert found[-1].range[0] == pytest.approx(range_, abs=1.0)
    assert highest(signal, rate) == pytest.approx(peak, abs=0.4)
