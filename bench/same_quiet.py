"""Hours that hold no alert: speech, music, hiss, tones, random AFSK, silence: what is heard is invented."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench.same_air import AMPLITUDE, RATE, Rng, Samples, speech
from ingest.same.decoder import Decoder
from ingest.same.heard import BurstHeard, EndHeard, MessageHeard
from ingest.same.line import BAUD

MINUTES = 2.0
"""Length of a piece."""


def talk(rng: Rng, count: int) -> Samples:
    """Speech, at another speed and pitch in each piece."""
    words = speech()
    at = (rng.integers(len(words)) + np.arange(count) * rng.uniform(0.7, 1.4)) % (len(words) - 1)
    whole = at.astype(int)
    share = (at - whole).astype(np.float32)
    return (words[whole] * (1 - share) + words[whole + 1] * share) * np.float32(rng.uniform(0.05, 1))


def music(rng: Rng, count: int) -> Samples:
    """Chords of plucked strings over a beat."""
    out = np.zeros(count, dtype=np.float32)
    pace = int(RATE * rng.uniform(0.08, 0.35))
    decay = np.exp(-np.arange(pace * 4) / RATE * rng.uniform(2, 8))
    time_of = np.arange(pace * 4) / RATE
    for begin in range(0, count, pace):
        notes = 110 * 2 ** (rng.choice((0, 3, 5, 7, 10, 12, 15, 24, 36), 3) / 12)
        sound = sum(
            np.sin(2 * np.pi * note * harmonic * time_of) / harmonic
            for note in notes
            for harmonic in range(1, 7)
        )
        end = min(begin + pace * 4, count)
        out[begin:end] += (0.1 * decay * sound)[: end - begin].astype(np.float32)
    return out + hiss(rng, count) * np.float32(0.05)


def hiss(rng: Rng, count: int) -> Samples:
    """White noise."""
    return rng.normal(0, rng.uniform(0.001, 0.4), count).astype(np.float32)


def tones(rng: Rng, count: int) -> Samples:
    """Steady, paired, swept and chirping tones, also those of SAME alone."""
    out, at = np.zeros(count, dtype=np.float32), 0
    while at < count:
        length = min(int(RATE * rng.uniform(0.05, 4)), count - at)
        time_of = np.arange(length) / RATE
        first, second = rng.choice((853, 960, 1050, 1562.5, 2083.3, 440, 697, 1209, 2600, 1800), 2)
        swept = first + (second - first) * time_of / time_of[-1] * 0.5 if rng.random() < 0.3 else first
        wave = np.sin(2 * np.pi * swept * time_of) + np.sin(2 * np.pi * second * time_of) * (
            rng.random() < 0.5
        )
        if rng.random() < 0.3:
            wave = wave * (np.sin(2 * np.pi * rng.uniform(2, 600) * time_of) > 0)
        out[at : at + length] = 0.3 * wave
        at += length
    return out


def afsk(rng: Rng, count: int) -> Samples:
    """Random bits at SAME's own tones and pace, or at others'."""
    baud, mark, space = [(BAUD, 4, 3), (BAUD, 4, 3), (300, 4.23, 3.56), (1200, 1, 11 / 6)][rng.integers(4)]
    at = np.arange(count) * baud / RATE
    tone = np.where(rng.integers(0, 2, int(at[-1]) + 1)[at.astype(int)], mark, space)
    return (AMPLITUDE * np.sin(2 * np.pi * np.cumsum(tone * baud / RATE))).astype(np.float32)


def silence(rng: Rng, count: int) -> Samples:
    """Nothing at all, or the last bit of a converter."""
    return (rng.integers(-1, 2, count) / 32768 * (rng.random() < 0.5)).astype(np.float32)


KINDS: dict[str, Callable[[Rng, int], Samples]] = {
    "speech": talk,
    "music": music,
    "hiss": hiss,
    "tones": tones,
    "afsk": afsk,
    "silence": silence,
}


def pieces(seed: int, hours: float) -> Iterator[tuple[str, Samples]]:
    """Pieces of every kind in turn, together so many hours."""
    for number in range(round(hours * 60 / MINUTES)):
        yield piece(seed, number)


def piece(seed: int, number: int) -> tuple[str, Samples]:
    """One of them."""
    kind = list(KINDS)[number % len(KINDS)]
    return kind, KINDS[kind](np.random.default_rng((seed, number)), int(MINUTES * 60 * RATE))


def run(seed: int, hours: float, jobs: int) -> dict[str, dict[str, Any]]:
    """What was heard where nothing was, by kind of audio."""
    found = {kind: {"hours": 0.0, "messages": 0, "bursts": 0, "ends": 0, "cpu": 0.0} for kind in KINDS}
    with multiprocessing.Pool(jobs) as pool:
        work = [(seed, number) for number in range(round(hours * 60 / MINUTES))]
        for kind, counts in pool.imap_unordered(_hear, work):
            for name, count in counts.items():
                found[kind][name] = round(found[kind][name] + count, 6)
    return found


def _hear(job: tuple[int, int]) -> tuple[str, dict[str, float]]:
    kind, samples = piece(*job)
    decoder, began = Decoder(RATE), time.process_time()
    heard = [*decoder.feed(samples), *decoder.finish()]
    counts = {
        name: float(sum(isinstance(one, what) for one in heard))
        for name, what in (("messages", MessageHeard), ("bursts", BurstHeard), ("ends", EndHeard))
    }
    return kind, {**counts, "hours": len(samples) / RATE / 3600, "cpu": time.process_time() - began}
