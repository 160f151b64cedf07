"""The signal path: no click at the borders of blocks, the channel that was asked for, the gain in dB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st

from ingest.inputs import Inputs
from ingest.meters import Block
from ingest.signal_path import QUALITY, SignalPath
from streams.vocabulary import FileSettings


def through(samples: Block, given_rate: int, cuts: list[int] | None = None, **wanted: object) -> Block:
    """The samples after a signal path, fed in blocks of these lengths (else tenths of a second)."""
    path = SignalPath(FileSettings(path="/a", **wanted))  # type: ignore[arg-type]
    found, at = [], 0
    lengths = iter(cuts or [])
    while at < len(samples):
        step = next(lengths, given_rate // 10)
        found.append(path.feed(samples[at : at + step], given_rate))
        at += step
    return np.concatenate([*found, path.flush()])


def sine(hertz: float, rate: int, seconds: float = 1.0) -> Block:
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)
    return wave.astype(np.float32)[:, np.newaxis]


@given(
    cuts=st.lists(st.integers(1, 5000), min_size=1, max_size=40),
    rates=st.sampled_from([(44_100, 24_000), (48_000, 24_000), (8_000, 24_000), (22_050, 16_000)]),
)
def test_blocks_leave_no_trace(cuts: list[int], rates: tuple[int, int]) -> None:
    """However the audio is cut into blocks, it comes out as if it had been resampled in one piece."""
    rate, target = rates
    whole = soxr.resample(sine(997, rate), rate, target, quality=QUALITY)
    parts = through(sine(997, rate), rate, cuts, rate=target)
    assert abs(len(parts) - len(whole)) <= 1
    length = min(len(parts), len(whole))
    # Rounding only: a click would be a thousand times that.
    assert float(np.abs(parts[:length] - whole[:length]).max()) < 1e-5


def test_nothing_but_the_tone_comes_out() -> None:
    """A tone resampled block by block has no distortion above −90 dB of it."""
    out = through(sine(1000, 44_100, 4.0), 44_100, rate=24_000)[:, 0][12_000:-12_000]
    spectrum = np.abs(np.fft.rfft(out * np.blackman(len(out))))
    near = np.argmax(spectrum)
    other = np.concatenate([spectrum[: near - 10], spectrum[near + 10 :]])
    assert 20 * np.log10(other.max() / spectrum[near]) < -90


@pytest.mark.parametrize(("channel", "expected"), [(1, 0.1), (2, 0.3), ("mix", 0.2), (5, 0.3)])
def test_channels(channel: int | str, expected: float) -> None:
    """One channel, the mean of all, or the last where there are fewer."""
    stereo = np.tile(np.array([0.1, 0.3], np.float32), (100, 1))
    assert through(stereo, 8000, channel=channel) == pytest.approx(np.full((100, 1), expected))


def test_gain() -> None:
    """+6.02 dB are twice as much; nothing is clipped."""
    assert through(np.full((10, 2), 0.8, np.float32), 8000, gain_db=6.0206)[0, 0] == pytest.approx(
        1.6, rel=1e-4
    )


def test_a_format_that_changes_is_fitted() -> None:
    """Rate and channels stay those of the first block, whatever comes later."""
    path = SignalPath(FileSettings(path="/a"))
    first = path.feed(np.full((2400, 1), 0.25, np.float32), 24_000)
    later = np.concatenate([path.feed(np.full((4410, 2), 0.25, np.float32), 44_100) for _ in range(10)])
    assert first.shape == (2400, 1)
    assert later.shape[1] == 1
    assert len(later) == pytest.approx(24_000, abs=500)
    assert float(np.median(later)) == pytest.approx(0.25, abs=1e-3)
    back = path.feed(np.full((2400, 1), 0.25, np.float32), 24_000)
    assert len(later) + len(back) == pytest.approx(24_000 + 2400, abs=2)


def test_what_is_no_number_stays_where_it_is() -> None:
    """One sample that is no number does not spread over what is resampled."""
    samples = sine(100, 48_000)
    samples[10_000] = np.nan
    assert np.isfinite(through(samples, 48_000, rate=24_000)).all()


def test_recordings_are_shaped_too(tmp_path: Path, record: object) -> None:
    """The settings hold for a file: its blocks come at the rate and with the channels asked for."""
    path = record(1.0, channels=2)  # type: ignore[operator]
    audio = Inputs().open(FileSettings(path=str(path), rate=16_000, channel="mix", gain_db=-6.0206))
    blocks = np.concatenate(list(audio.blocks()))
    audio.close()
    assert (audio.rate, audio.channels, len(blocks)) == (16_000, 1, 16_000)
    assert float(np.abs(blocks[2000:-2000]).max()) == pytest.approx(0.25, abs=0.002)
