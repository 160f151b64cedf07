"""Meters: what a level in dBFS is, for any signal and any number of channels."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ingest.meters import Block, Meters, decibels, drift, stated
from streams.alerts import MeasuredKind
from streams.messages import Level, canonical, decode_level, now
from streams.readings import Readings
from streams.sound import MetersSection

RATE = 48_000
shapes = st.tuples(st.integers(1, 200), st.integers(1, 9))
signals = shapes.flatmap(
    lambda shape: arrays.arrays(
        np.float32, shape, elements=st.floats(-1.0, 1.0, width=32, allow_subnormal=False)
    )
)


def levels(*blocks: Block, rate: int = RATE, **thresholds: float) -> list[Level]:
    """The levels of some blocks that come together in one round."""
    return told(*blocks, rate=rate, **thresholds)[0]


def told(
    *blocks: Block, rate: int = RATE, **thresholds: float
) -> tuple[list[Level], list[Mapping[MeasuredKind, str]]]:
    """The levels, one for each block, and the conditions whenever they changed."""
    meters, found, watched = (
        Meters(MetersSection(**thresholds)),
        list[Level](),
        list[Mapping[MeasuredKind, str]](),
    )
    channels = 1 if blocks[0].ndim == 1 else blocks[0].shape[1]
    gauge = meters.gauge("s", rate, channels, put=found.append, watch=watched.append)
    for block in blocks:
        gauge.add(block)
        meters.step()
    gauge.finish()
    meters.step()
    return found, watched


def measured(*blocks: Block) -> tuple[float | None, float | None]:
    """RMS and peak of some blocks, shorter than a tenth of a second together."""
    level = levels(np.concatenate(blocks))[-1]
    return level.rms_dbfs, level.peak_dbfs


def sine(amplitude: float = 1.0, hertz: float = 997.0, seconds: float = 1.0, rate: int = RATE) -> Block:
    """A mono sine."""
    times = np.arange(round(rate * seconds)) / rate
    return (amplitude * np.sin(2 * np.pi * hertz * times)).astype(np.float32)[:, np.newaxis]


def readings(level: Level) -> Readings:
    """What the level says beside RMS and peak."""
    assert level.readings is not None
    return level.readings


def test_a_full_scale_sine() -> None:
    """A full-scale sine has an RMS level of −3.01 dBFS and a peak of 0 dBFS."""
    assert measured(sine(hertz=1000.0, seconds=0.1)) == (-3.01, 0.0)


def test_a_full_scale_square_wave_has_an_rms_level_of_full_scale() -> None:
    """0 dBFS is a sample of ±1.0, not the RMS of a sine."""
    assert measured(np.sign(sine(hertz=750.0, seconds=0.1) + 1e-9)) == (0.0, 0.0)


@given(shape=shapes)
def test_digital_silence_is_minus_infinity(shape: tuple[int, int]) -> None:
    """Zeros in any number of channels have no level at all, of any kind."""
    level = levels(np.zeros(shape, np.float32))[-1]
    assert (level.rms_dbfs, level.peak_dbfs) == (None, None)
    found = readings(level)
    assert (found.true_peak_dbtp, found.momentary_lufs, found.integrated_lufs) == (None, None, None)
    assert (found.flatness, found.dc_offset, found.clipped) == (None, 0.0, 0)


@given(signal=signals.filter(lambda block: bool(np.any(block))), decibel=st.floats(-40.0, 0.0))
def test_gain_moves_both_levels_by_itself(signal: Block, decibel: float) -> None:
    """A signal turned down by some decibels has levels that are lower by as many."""
    loud, quiet = measured(signal), measured(signal * np.float32(10 ** (decibel / 20)))
    for before, after in zip(loud, quiet, strict=True):
        assert before is not None
        assert after is not None
        assert after == pytest.approx(before + decibel, abs=0.02)


@given(signal=signals)
def test_levels_are_those_of_all_samples(signal: Block) -> None:
    """RMS and peak are what the definition says, whatever the number of channels and samples."""
    exact = signal.astype(np.float64)
    rms, peak = math.sqrt(float((exact**2).mean())), float(np.abs(exact).max())
    for found, wanted in zip(measured(signal), (decibels(rms), decibels(peak)), strict=True):
        assert (-math.inf if found is None else found) == pytest.approx(wanted, abs=0.01)


def test_channels_are_measured_as_one_signal() -> None:
    """A tone in one of two channels has half the power and the same peak."""
    left = sine(hertz=1000.0, seconds=0.1)
    assert measured(np.concatenate([left, np.zeros_like(left)], axis=1)) == (-6.02, 0.0)


@pytest.mark.parametrize(("odd", "peak"), [(np.nan, -20.0), (np.inf, 0.0), (-np.inf, 0.0)])
def test_what_is_no_number_counts_as_silence_and_infinity_as_full_scale(odd: float, peak: float) -> None:
    """A file of floats may hold anything; its levels stay levels, and so do those of what follows."""
    block = np.full((480, 1), 0.1, np.float32)
    block[7] = odd
    first, second = levels(np.tile(block, (10, 1)), np.full((4800, 1), 0.1, np.float32))
    assert first.peak_dbfs == peak
    assert second.rms_dbfs == second.peak_dbfs == -20.0
    assert decode_level(canonical(first)) == first


def test_a_float_beyond_all_bounds_is_a_level_and_spoils_nothing() -> None:
    """A sample of 1e30 has its peak, and the seconds after it have theirs."""
    block = np.full((4800, 1), 1e30, np.float32)
    found = levels(block, *[sine(0.1, seconds=0.1)] * 50)
    assert found[0].peak_dbfs == 600.0
    assert found[-1].peak_dbfs == -20.0
    assert all(math.isfinite(readings(level).momentary_lufs or 0.0) for level in found)


def test_a_level_survives_json_with_minus_infinity() -> None:
    """−∞ is null in the bytes, and comes back as what it was; so do all readings."""
    level = levels(np.zeros((4800, 1), np.float32))[-1]
    raw = canonical(level)
    assert json.loads(raw)["rms_dbfs"] is None
    assert decode_level(raw) == level


def test_a_level_of_an_older_version_is_understood() -> None:
    """A level without readings, as nodes wrote them before, has none."""
    old = {"source": "s", "at": now(), "rms_dbfs": -20.0, "peak_dbfs": None, "seconds": 1.0}
    assert decode_level(canonical(old)).readings is None


def test_stated_levels_have_two_decimals() -> None:
    """Levels leave the process with two decimals, −∞ as None."""
    assert [stated(level) for level in (-math.inf, -20.456, 0.0)] == [None, -20.46, 0.0]


def test_clipping_is_samples_at_full_scale_in_a_row() -> None:
    """A flat top counts, of any channel and sign; a single sample at full scale does not."""
    clipped = np.clip(sine(1.2, hertz=100.0, seconds=0.1), -1.0, 1.0)
    assert readings(levels(clipped)[-1]).clipped > 500
    assert readings(levels(sine(1.0, hertz=12_000.0, seconds=0.1))[-1]).clipped == 0


def test_an_offset_is_told_with_its_sign() -> None:
    """A tone that stands 0.05 below zero has that offset, after a few seconds."""
    found = levels(*[sine(0.1, seconds=0.1) - np.float32(0.05)] * 60)
    assert readings(found[-1]).dc_offset == pytest.approx(-0.05, abs=0.001)


def test_sources_of_all_rates_and_channels_are_measured_together() -> None:
    """Thirty sources of different rates, levels and channels have each their own levels."""
    meters, found = Meters(), dict[str, Level]()
    rates = (6000, 8000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
    for number in range(30):
        rate, amplitude, channels = rates[number % 10], 0.9 - number / 60, 1 + number % 3
        put = lambda level: found.__setitem__(level.source, level)  # noqa: E731
        gauge = meters.gauge(str(number), rate, channels, put=put)
        gauge.add(np.repeat(sine(amplitude, 400.0, 1.0, rate), channels, axis=1))
    meters.step()
    for number in range(30):
        level, amplitude, channels = found[str(number)], 0.9 - number / 60, 1 + number % 3
        assert level.rms_dbfs == pytest.approx(decibels(amplitude) - 3.01, abs=0.1)
        assert readings(level).true_peak_dbtp == pytest.approx(decibels(amplitude), abs=0.25)
        # 400 Hz lies where the weighting is −0.65 dB or so.
        loudness = decibels(amplitude) - 3.01 - 0.65 + 10 * math.log10(channels)
        assert readings(level).integrated_lufs == pytest.approx(loudness, abs=0.25)


def test_audio_that_comes_while_it_is_measured_is_left_to_the_next_round() -> None:
    """Sources that are as fast as their meters do not keep the others from being measured."""
    meters, found = Meters(), list[str]()

    def again(level: Level) -> None:
        found.append(level.source)
        gauges[level.source].add(chunk)

    chunk = sine(0.1, seconds=0.1)
    # More than a bank has places for.
    gauges = {str(number): meters.gauge(str(number), RATE, 1, put=again) for number in range(70)}
    for gauge in gauges.values():
        gauge.add(chunk)
    meters.step()
    assert sorted(found) == sorted(gauges)
    meters.step()
    assert sorted(found) == sorted([*gauges, *gauges])


def test_a_place_that_was_given_up_is_used_anew() -> None:
    """A source that takes another's place has nothing of it: neither loudness nor offset nor conditions."""
    meters, first, second = Meters(), list[Level](), list[Level]()
    gauge = meters.gauge("a", RATE, 1, put=first.append)
    gauge.add(sine(0.9, seconds=4.0))
    gauge.finish()
    meters.step()
    meters.gauge("b", RATE, 1, put=second.append).add(np.zeros((4800, 1), np.float32))
    meters.step()
    assert readings(first[-1]).integrated_lufs is not None
    assert readings(second[-1]).integrated_lufs is None


def test_a_meter_that_does_not_keep_up_takes_no_memory() -> None:
    """Of audio that waits, thirty seconds are kept; what is more is counted and not measured."""
    gauge = Meters().gauge("s", 8000, 1, put=lambda level: None)
    for _ in range(600):
        gauge.add(np.zeros((800, 1), np.float32))
    assert gauge.unmetered == pytest.approx(30 * 8000, abs=1600)


def test_a_spectrum_is_told_only_while_somebody_looks() -> None:
    """A tone stands out of its band at its level, and nothing is told of sources nobody looks at."""
    meters, found = Meters(), list[Level]()
    gauges = [meters.gauge(name, RATE, 1, put=found.append) for name in "ab"]
    meters.look_at({"b"})
    for gauge in gauges:
        gauge.add(sine(0.5, hertz=6000.0, seconds=0.1))
    meters.step()
    a, b = found
    assert a.spectrum is None
    assert b.spectrum is not None
    assert len(b.spectrum) == 128
    assert b.spectrum.index(max(b.spectrum)) == round(6000 / 24_000 * 128) - 1
    assert max(b.spectrum) == pytest.approx(-6, abs=1)


def test_a_clock_that_is_fast_is_told_after_five_minutes() -> None:
    """Audio that comes in uneven pieces, 1,000 ppm too fast, is told to be within 20 ppm; not before."""
    generator = np.random.default_rng(1)
    clock = [(at + generator.uniform(0, 0.2), at * 1.001) for at in np.arange(0.0, 900.0, 5.0)]
    assert drift(clock[:50]) is None
    assert drift(clock) == pytest.approx(1000, abs=20)


@pytest.mark.parametrize("clocked", [True, False])
def test_only_a_clock_that_is_not_ours_is_watched(clocked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What we pace by our own clock comes in longer blocks as sources are added, and drifts by that alone."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("ingest.meters.time", clock)
    gauge = Meters().gauge("s", 8_000, 1, clocked=clocked, put=lambda level: None)
    for _ in range(700):
        clock.now += 1.0
        gauge.add(np.zeros((8_008, 1), np.float32))
        gauge.fill(np.empty((1, 8_008), np.float32))
    assert gauge.drift == (pytest.approx(1000, abs=20) if clocked else None)


def silence(seconds: float) -> list[Block]:
    return [np.zeros((4800, 1), np.float32)] * round(seconds * 10)


def test_silence_lasts_before_it_is_a_condition() -> None:
    """Thirty seconds open it, once; a pause of 29 does not, nor two of them with a sound between."""
    sound = [sine(0.1, seconds=0.1)] * 20
    assert told(*silence(29), *sound, *silence(29))[1] == []
    (opened,) = told(*silence(70))[1]
    assert opened == {"silence": "below -60 dBFS for 30 s"}
    assert readings(levels(*silence(4))[-1]).silent_seconds == 4.0


def test_silence_ends_above_its_hysteresis_and_not_by_a_click() -> None:
    """A level between the two thresholds neither opens nor closes; a click does not close; sound does."""
    between, click = [sine(10 ** (-56 / 20), seconds=0.1)] * 100, [sine(0.1, seconds=0.1)] * 5
    assert told(*between, *silence(29), *between)[1] == []
    kept = {"silence_dbfs": -60.0, "silence_seconds": 2.0, "hysteresis_db": 6.0}
    changes = told(*silence(3), *between, *click, *between, *[sine(0.1, seconds=0.1)] * 25, **kept)[1]
    assert [set(change) for change in changes] == [{"silence"}, set()]


def test_hiss_is_noise_that_lasts_and_programme_is_none() -> None:
    """Noise opens the condition after its time; tones, and noise below its level, do not."""
    generator = np.random.default_rng(1)
    noise = [generator.normal(0, 0.05, (4800, 1)).astype(np.float32) for _ in range(230)]
    changes = told(*noise, *[sine(0.1, seconds=0.1)] * 80)[1]
    assert [set(change) for change in changes] == [{"hiss"}, set()]
    assert told(*[block * np.float32(0.002) for block in noise[:210]], silence_seconds=900.0)[1] == []
    chord = sum(sine(0.1, hertz, 23.0) for hertz in (220.0, 554.0, 1320.0, 3500.0))
    assert told(*np.split(np.asarray(chord), 230))[1] == []


def test_clipping_that_goes_on_is_a_condition() -> None:
    """A second of clipped audio opens it, ten without close it; one clipped tenth does not."""
    clipped, clean = np.clip(sine(1.3, seconds=0.1), -1, 1), sine(0.5, seconds=0.1)
    changes = told(*[clipped] * 12, *[clean] * 110)[1]
    assert [set(change) for change in changes] == [{"clipping"}, set()]
    assert told(clipped, *[clean] * 60, clipped)[1] == []


def test_a_second_that_was_thrown_away_is_a_condition() -> None:
    """Lost by the source or at the meters: a second in all is one, half of one is not."""
    for lost, opened in ((1.0, [{"buffer"}]), (0.5, [])):
        meters, watched = Meters(), list[Mapping[MeasuredKind, str]]()
        gauge = meters.gauge("s", 8000, 1, put=lambda level: None, watch=watched.append)
        gauge.buffer(0.2, 2.0, lost / 2)
        gauge.unmetered = round(lost / 2 * 8000)
        for _ in range(20):
            gauge.add(np.full((800, 1), 0.1, np.float32))
        meters.step()
        assert [set(change) for change in watched] == opened


def test_how_full_a_buffer_is_belongs_to_the_block_behind_which_it_was() -> None:
    """Ten blocks behind which most of it was used open the condition, however many are measured at once."""
    for full, opened in ((10, [{"buffer"}]), (9, [])):
        meters, watched = Meters(), list[Mapping[MeasuredKind, str]]()
        gauge = meters.gauge("s", 8000, 1, put=lambda level: None, watch=watched.append)
        for number in range(20):
            gauge.buffer(1.9 if number < full else 0.1, 2.0, 0.0)
            gauge.add(np.full((800, 1), 0.1, np.float32))
        meters.step()
        assert [set(change) for change in watched] == opened


def test_a_buffer_that_runs_over_is_a_condition() -> None:
    """A source that throws audio away, again and again, is told about; one that is half full is not."""
    meters, watched = Meters(), list[Mapping[MeasuredKind, str]]()
    gauge = meters.gauge("s", 8000, 1, put=lambda level: None, watch=watched.append)
    for dropped in range(20):
        gauge.buffer(1.0, 2.0, 0.1 * dropped)
        gauge.add(np.full((800, 1), 0.1, np.float32))
        meters.step()
    assert [set(change) for change in watched] == [{"buffer"}]
