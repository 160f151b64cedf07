"""Meters: what a level in dBFS is, for any signal and any number of channels."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ingest.meters import Block, Meter, decibels, stated
from streams.messages import Level, canonical, now

RATE = 48_000
shapes = st.tuples(st.integers(1, 200), st.integers(1, 9))
signals = shapes.flatmap(
    lambda shape: arrays.arrays(
        np.float32, shape, elements=st.floats(-1.0, 1.0, width=32, allow_subnormal=False)
    )
)


def measured(*blocks: Block) -> tuple[float, float]:
    """RMS and peak of some blocks together."""
    meter = Meter()
    for block in blocks:
        meter.add(block)
    return meter.read()


def sine(amplitude: float = 1.0, hertz: float = 997.0, seconds: float = 1.0) -> Block:
    """A mono sine of whole periods."""
    times = np.arange(round(RATE * seconds)) / RATE
    return (amplitude * np.sin(2 * np.pi * hertz * times)).astype(np.float32)[:, np.newaxis]


def test_a_full_scale_sine() -> None:
    """A full-scale sine has an RMS level of −3.01 dBFS and a peak of 0 dBFS."""
    rms, peak = measured(sine())
    assert stated(rms) == -3.01
    assert stated(peak) == 0.0


def test_a_full_scale_square_wave_has_an_rms_level_of_full_scale() -> None:
    """0 dBFS is a sample of ±1.0, not the RMS of a sine."""
    assert measured(np.sign(sine(hertz=750.0) + 1e-9)) == (pytest.approx(0.0, abs=1e-9), 0.0)


@given(shape=shapes)
def test_digital_silence_is_minus_infinity(shape: tuple[int, int]) -> None:
    """Zeros in any number of channels have no level at all."""
    assert measured(np.zeros(shape, np.float32)) == (-math.inf, -math.inf)


@given(signal=signals.filter(lambda block: bool(np.any(block))), decibel=st.floats(-40.0, 0.0))
def test_gain_moves_both_levels_by_itself(signal: Block, decibel: float) -> None:
    """A signal turned down by some decibels has levels that are lower by as many."""
    rms, peak = measured(signal)
    quieter = signal.astype(np.float64) * 10 ** (decibel / 20)
    assert measured(quieter) == (
        pytest.approx(rms + decibel, abs=1e-6),
        pytest.approx(peak + decibel, abs=1e-6),
    )


@given(signal=signals)
def test_the_rms_level_is_never_above_the_peak(signal: Block) -> None:
    """No mean is above the greatest."""
    rms, peak = measured(signal)
    assert rms <= peak + 1e-9


@given(signal=signals)
def test_channels_count_alike(signal: Block) -> None:
    """Neither the order of channels nor another copy of all of them changes a level."""
    rms, peak = measured(signal)
    turned = np.hstack([signal[:, ::-1], signal])
    assert measured(turned) == (pytest.approx(rms), peak)


def test_one_loud_channel_of_two() -> None:
    """Sound in one channel of two: the peak is that channel's, the RMS half its power, 3.01 dB less."""
    both = np.hstack([sine(), np.zeros_like(sine())])
    rms, peak = measured(both)
    assert rms == pytest.approx(measured(sine())[0] - 10 * math.log10(2), abs=1e-6)
    assert stated(peak) == 0.0


@given(signal=signals, at=st.lists(st.integers(0, 200), max_size=4))
def test_however_a_signal_is_cut_into_blocks(signal: Block, at: list[int]) -> None:
    """A level is that of what was heard since the last reading, not that of the last block."""
    rms, peak = measured(signal)
    pieces = np.split(signal, sorted(at))
    assert measured(*pieces) == (pytest.approx(rms), peak)


def test_a_reading_begins_anew() -> None:
    """What was read once is not in the next reading."""
    meter = Meter()
    meter.add(sine())
    assert meter.measured == RATE
    meter.read()
    assert meter.measured == 0
    meter.add(sine(0.1))
    assert stated(meter.read()[1]) == -20.0
    assert meter.read() == (-math.inf, -math.inf)


@pytest.mark.parametrize("amplitude", [1e-30, 1e-10, 1e10, 1e30])
def test_neither_the_very_quiet_nor_the_absurdly_loud_is_lost(amplitude: float) -> None:
    """Squares beyond what 32 bits hold do not turn a level into silence or infinity."""
    rms, peak = measured(np.full((100, 2), amplitude, np.float32))
    assert rms == pytest.approx(20 * math.log10(amplitude), abs=1e-4)
    assert peak == pytest.approx(rms)


def test_samples_that_are_no_numbers_leave_a_level_a_number() -> None:
    """NaN counts as silence and infinity as full scale; what is beside them counts as it is."""
    block = np.array([[math.nan, 0.5], [math.inf, -math.inf]], np.float32)
    rms, peak = measured(block)
    assert peak == 0.0
    assert rms == pytest.approx(decibels(math.sqrt((0.25 + 1 + 1) / 4)))


def test_a_level_as_it_travels() -> None:
    """Two decimals, and null for silence: JSON has no infinity."""
    level = Level(
        source="s",
        at=now(),
        rms_dbfs=stated(-math.inf),
        peak_dbfs=stated(measured(sine(0.5))[1]),
        seconds=0.1,
    )
    told = json.loads(canonical(level))
    assert (told["rms_dbfs"], told["peak_dbfs"]) == (None, -6.02)
