"""The air between an encoder and a receiver, seeded: messages, and what befalls them on the way.

Signal-to-noise is AFSK power over the power of white noise between 0 and 11,025 Hz; at other rates the
density of the noise is the same. Everything follows from (condition, seed, number): nothing is stored.
"""

from __future__ import annotations

import subprocess
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np
import numpy.typing as npt
import soundfile

from ingest.same.line import BAUD, PREAMBLE, bits
from ingest.same.names import tables

Samples = npt.NDArray[np.float32]
Rng = np.random.Generator

RATE = 22_050
AMPLITUDE = 0.2
NOISE_BAND = 11_025.0
ORIGINATORS = ("EAS", "CIV", "WXR", "WXR", "PEP")
STATION = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/ "
SAYINGS = (
    "The National Weather Service has issued a severe thunderstorm warning for the following counties.",
    "Good evening, here are the headlines at nine. Prices rose again in October, the statistics office said.",
    "Winds from the northwest at fifteen to twenty five knots, seas four to six feet, visibility one mile.",
    "She sells sea shells by the shore, and sixty six thick thistle sticks besides.",
    "Call five five five, zero one nine nine, extension four two, between eight and half past six.",
    "This is a test. This is only a test. Had this been an actual emergency, you would have been told more.",
)


class Sent(msgspec.Struct, frozen=True):
    """What came out of the receiver, and which headers went into the air."""

    samples: Samples
    rate: int
    headers: tuple[str, ...]
    begins: tuple[float, ...] = ()
    """The sample at which each burst of a header begins, also between two samples."""


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """What befalls a message.

    `samedec` and `bound` are what samedec 0.6 and an ideal receiver made of twenty messages of another
    corpus, measured before this one was written; "w" counts wrong headers.
    """

    name: str
    rate: int = RATE
    snr: float | None = 30.0
    clock: float = 0.0
    level: float = AMPLITUDE
    places: tuple[int, int] = (1, 6)
    messages: int = 1
    ends: bool = True
    lost: bool = False
    text: Callable[[Rng, bytes, int], bytes] | None = None
    burst: Callable[[Rng, Samples, int], Samples] | None = None
    channel: Callable[[Rng, Samples, int], Samples] | None = None
    after: Callable[[Rng, Samples, int], Samples] | None = None
    """What comes behind the noise: a codec."""
    samedec: str = ""
    bound: str = ""
    target: float = 1.0
    """The share of exact messages that is asked for."""


def header(rng: Rng, places: tuple[int, int]) -> str:
    """Any header that the rules allow, of as many locations."""
    known = tables()
    events = sorted(code for code in known.events if len(code) == 3 and code.isalpha())
    codes = sorted(code for code in known.places if len(code) == 5 and code.isdigit() and code != "00000")
    count = int(rng.integers(places[0], places[1] + 1))
    where = "-".join(f"{rng.choice((0, 0, 0, *range(10)))}{code}" for code in rng.choice(codes, count, False))
    minutes = int(rng.choice((15, 30, 45, 60, 90, 120, 180, 240, 360, 720)))
    station = "".join(rng.choice(list(STATION), 8)).strip().ljust(8)
    return (
        f"ZCZC-{rng.choice(ORIGINATORS)}-{rng.choice(events)}-{where}+{minutes // 60:02}{minutes % 60:02}-"
        f"{rng.integers(1, 367):03}{rng.integers(24):02}{rng.integers(60):02}-{station}-"
    )


def burst(octets: bytes, rate: float, clock: float, begin: float, level: float) -> Samples:
    """A burst, without a break in phase; it begins `begin` samples after the first."""
    wave = bits(PREAMBLE + octets)
    at = np.arange(int(len(wave) * rate / (BAUD * (1 + clock))) + 1) - begin
    cycles = at * BAUD * (1 + clock) / rate
    index = np.floor(cycles).astype(int)
    inside = (index >= 0) & (index < len(wave))
    tone = np.where(wave[np.clip(index, 0, len(wave) - 1)], 4, 3)
    return np.where(inside, level * np.sin(2 * np.pi * tone * (cycles - index)), 0).astype(np.float32)


def send(condition: Condition, seed: int, number: int) -> Sent:
    """Message `number` of `seed` under a condition."""
    rng = np.random.default_rng((seed, number, zlib.crc32(condition.name.encode())))
    rate, parts, headers, begins = condition.rate, [], [], []

    def quiet(seconds: float) -> None:
        parts.append(np.zeros(int(seconds * rate), dtype=np.float32))

    quiet(rng.uniform(0.8, 1.6))
    for _ in range(condition.messages):
        text = header(rng, condition.places)
        headers.append(text)
        missing = int(rng.integers(3)) if condition.lost else -1
        for index in range(3):
            octets = text.encode()
            if condition.text is not None:
                octets = condition.text(rng, octets, index)
            begin = rng.random()
            wave = burst(octets, rate, condition.clock, begin, condition.level)
            if index != missing:
                begins.append(begin + sum(map(len, parts)))
            if condition.burst is not None:
                wave = condition.burst(rng, wave, rate)
            parts.append(wave * (index != missing))
            quiet(1.0)
    if condition.ends:
        quiet(rng.uniform(0.5, 2.0))
        for _ in range(3):
            parts.append(burst(b"NNNN", rate, condition.clock, rng.random(), condition.level))
            quiet(1.0)
    quiet(1.5)
    samples = np.concatenate(parts)
    if condition.channel is not None:
        samples = condition.channel(rng, samples, rate)
    if condition.snr is not None:
        samples = samples + noise(rng, len(samples), rate, condition.level, condition.snr)
    if condition.after is not None:
        samples = condition.after(rng, samples, rate)
    # Every receiver gets what a sound card would give.
    coarse = np.clip(np.rint(samples * 32767), -32768, 32767) / 32768
    return Sent(coarse.astype(np.float32), rate, tuple(headers), tuple(begins))


def noise(rng: Rng, count: int, rate: int, level: float, snr: float) -> Samples:
    """White noise as much below a tone of amplitude `level`."""
    return rng.normal(0, deviation(rate, level, snr), count).astype(np.float32)


def deviation(rate: int, level: float, snr: float) -> float:
    """The standard deviation of that noise."""
    power = level**2 / 2 / 10 ** (snr / 10) * (rate / 2) / NOISE_BAND
    return float(np.sqrt(power))


def shaped(samples: Samples, rate: int, gain: Callable[[npt.NDArray[np.float64]], Any]) -> Samples:
    """Samples whose spectrum is multiplied by `gain` of the frequency in Hz."""
    length = 1 << (len(samples) - 1).bit_length()
    spectrum = np.fft.rfft(samples, length) * gain(np.fft.rfftfreq(length, 1 / rate))
    return np.fft.irfft(spectrum, length)[: len(samples)].astype(np.float32)


def phone(_: Rng, samples: Samples, rate: int) -> Samples:
    """What a telephone lets through: 300 to 3400 Hz."""
    return shaped(samples, rate, lambda hertz: (hertz > 300) & (hertz < 3400))


def mu_law(_: Rng, samples: Samples, rate: int) -> Samples:
    """G.711 and back."""
    folded = np.sign(samples) * np.log1p(255 * np.abs(samples)) / np.log(256)
    coarse = np.rint(folded * 127) / 127
    return (np.sign(coarse) * np.expm1(np.abs(coarse) * np.log(256)) / 255).astype(np.float32)


def codec(name: str, kilobits: int, **options: str) -> Callable[[Rng, Samples, int], Samples]:
    """Through a codec of FFmpeg and back, mono."""

    def through(_: Rng, samples: Samples, rate: int) -> Samples:
        inside = 48_000 if name == "libopus" else rate
        with tempfile.NamedTemporaryFile(suffix=".ogg" if name == "libopus" else ".mp3") as file:
            with av.open(file.name, "w") as box:
                stream: Any = box.add_stream(name, rate=inside, layout="mono", options=options)
                stream.bit_rate = kilobits * 1000
                for frame in _frames(samples, rate, inside, stream):
                    box.mux(stream.encode(frame))
                box.mux(stream.encode(None))
            with av.open(file.name) as box:
                change = av.AudioResampler(format="flt", layout="mono", rate=rate)
                frames = [out for frame in box.decode(audio=0) for out in change.resample(frame)]
                frames += change.resample(None)
        return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float32)

    return through


def _frames(samples: Samples, rate: int, inside: int, stream: Any) -> list[Any]:
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[np.newaxis]), format="flt", layout="mono")
    frame.rate = rate
    context = stream.codec_context
    change = av.AudioResampler(
        format=context.format, layout="mono", rate=inside, frame_size=context.frame_size or 1024
    )
    return [*change.resample(frame), *change.resample(None)]


def hum(rng: Rng, samples: Samples, rate: int) -> Samples:
    """60 Hz, 12 dB above the signal."""
    cycles = np.arange(len(samples)) * 60 / rate + rng.random()
    return samples + (AMPLITUDE * 10 ** (12 / 20) * np.sin(2 * np.pi * cycles)).astype(np.float32)


def tilt(decibels: float) -> Callable[[Rng, Samples, int], Samples]:
    """Mark above space by so much."""

    def slope(hertz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        share = np.clip((hertz - 1562.5) / (2083.33 - 1562.5), -0.5, 1.5) - 0.5
        gain: npt.NDArray[np.float64] = 10 ** (decibels * share / 20)
        return gain

    return lambda _, samples, rate: shaped(samples, rate, slope)


def fading(rng: Rng, samples: Samples, rate: int) -> Samples:
    """Three times a second 20 dB down."""
    swing = np.sin(2 * np.pi * (3 * np.arange(len(samples)) / rate + rng.random()))
    return samples * (10 ** (-10 * (1 + swing) / 20)).astype(np.float32)


def echo(milliseconds: float) -> Callable[[Rng, Samples, int], Samples]:
    """A second path, 6 dB weaker."""

    def with_echo(_: Rng, samples: Samples, rate: int) -> Samples:
        late = int(milliseconds * rate / 1000)
        out = samples.copy()
        out[late:] += 0.5 * samples[:-late]
        return out

    return with_echo


def clipped(_: Rng, samples: Samples, rate: int) -> Samples:
    """Twenty decibels too loud for what follows."""
    return np.clip(samples * 10 / AMPLITUDE, -1, 1) * np.float32(0.9)


def steps(rng: Rng, samples: Samples, rate: int) -> Samples:
    """The mean jumps four times a second, by more than the signal."""
    held = int(rate / 4)
    jumps = rng.uniform(-0.5, 0.5, len(samples) // held + 1).astype(np.float32)
    return samples + np.repeat(jumps, held)[: len(samples)]


def speech_over(decibels: float) -> Callable[[Rng, Samples, int], Samples]:
    """Somebody talks meanwhile, so much above the signal."""

    def talk(rng: Rng, samples: Samples, rate: int) -> Samples:
        words = speech()
        begin = int(rng.integers(len(words)))
        over = np.take(words, np.arange(begin, begin + len(samples)), mode="wrap")
        gain = AMPLITUDE / np.sqrt(2) * 10 ** (decibels / 20) / np.sqrt(np.mean(over**2))
        return samples + over * np.float32(gain)

    return talk


def damage(count: int) -> Callable[[Rng, bytes, int], bytes]:
    """So many bytes in a row become others, in each burst elsewhere."""

    def damaged(rng: Rng, octets: bytes, index: int) -> bytes:
        third = len(octets) // 3
        begin = index * third + int(rng.integers(third - count + 1))
        return octets[:begin] + rng.bytes(count) + octets[begin + count :]

    return damaged


def dropouts(milliseconds: float) -> Callable[[Rng, Samples, int], Samples]:
    """Three times in a burst there is nothing."""

    def holes(rng: Rng, wave: Samples, rate: int) -> Samples:
        out, length = wave.copy(), int(milliseconds * rate / 1000)
        for begin in rng.integers(0, len(wave) - length, 3):
            out[begin : begin + length] = 0
        return out

    return holes


def slip(rng: Rng, wave: Samples, rate: int) -> Samples:
    """Five milliseconds of samples are lost."""
    length = int(0.005 * rate)
    begin = int(rng.integers(int(0.25 * rate), len(wave) - length))
    return np.concatenate((wave[:begin], wave[begin + length :]))


@cache
def speech() -> Samples:
    """Half a minute of espeak-ng; raises FileNotFoundError where there is none."""
    said = []
    with tempfile.TemporaryDirectory() as folder:
        for index, text in enumerate(SAYINGS):
            path = Path(folder) / f"{index}.wav"
            voice = ("en-us", "en-gb", "en-us+f3")[index % 3]
            subprocess.run(("espeak-ng", "-v", voice, "-w", path, text), check=True, capture_output=True)
            samples, rate = soundfile.read(path, dtype="float32")
            assert rate == RATE
            said.append(samples)
    return np.concatenate(said)
