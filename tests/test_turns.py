"""Whose turn it is to compute, and how much audio each source takes at a time."""

from __future__ import annotations

import threading
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ingest.chain import Chain
from ingest.decoding.nursery import WAIT, Nursery
from ingest.decoding.wire import Task
from ingest.file_source import FileSource
from ingest.inputs import Inputs
from ingest.listener import Noted
from ingest.meters import TURNS, Meters
from ingest.stream_source import patience
from ingest.turns import LATEST, SOONEST, TURN, FairLock, gathering
from ingest.weekly_test import RATE, weekly_test
from streams.messages import Level, now
from streams.vocabulary import FileSettings
from tests.fix_ingest import unrecorded
from tests.fix_servers import eventually


def test_who_has_just_had_a_turn_waits_for_whoever_waited() -> None:
    """One thread that wants it again and again does not starve another."""
    turn, had = FairLock(), list[str]()

    def other() -> None:
        with turn:
            had.append("other")

    with turn:
        waiting = threading.Thread(target=other)
        waiting.start()
        eventually(turn._next.locked, "the other waits")
    with turn:
        had.append("again")
    waiting.join()
    assert had == ["other", "again"]


def test_nobody_is_told_during_a_turn() -> None:
    """Who is told of an alert may wait for a disk: all other sources are listened to meanwhile."""
    free, told = list[bool](), list[Noted]()

    def take() -> None:
        with TURN:
            pass

    def tell(noted: Noted) -> None:
        taker = threading.Thread(target=take, daemon=True)
        taker.start()
        taker.join(5)
        free.append(not taker.is_alive())
        told.append(noted)

    chain = Chain("s", RATE, 1, offset=0.0, live=False, evidence=unrecorded(), gauge=None, tell=tell)
    samples = weekly_test(now())[:, np.newaxis]
    for begin in range(0, len(samples), RATE // 2):
        chain.add(samples[begin : begin + RATE // 2])
    chain.finish()
    assert len(told) > 4
    assert all(free)


@pytest.mark.parametrize(("sources", "seconds"), [(0, SOONEST), (1, SOONEST), (100, 0.25), (1000, LATEST)])
def test_the_more_sources_the_longer_the_pieces(sources: int, seconds: float) -> None:
    """From a twentieth of a second to half a one."""
    assert gathering(sources) == seconds


@pytest.mark.parametrize(("gathered", "seconds"), [(SOONEST, WAIT), (LATEST, 1.2 * LATEST)])
def test_nobody_looks_for_what_still_gathers(gathered: float, seconds: float) -> None:
    """Who waits for a stream waits longer than its bytes gather, or would wake twice for each piece."""
    nursery = Nursery()
    decoder = nursery.start(Task())
    try:
        begun = time.monotonic()
        block = next(decoder.blocks(lambda: patience(gathered)))
        assert len(block) == 0
        assert seconds - 0.01 <= time.monotonic() - begun < seconds + 5
    finally:
        decoder.close()
        nursery.close()


def test_closed_sources_count_no_more(tmp_path: Path) -> None:
    """A paced file gives longer blocks while there are many sources, and tenths again afterwards."""
    soundfile.write(tmp_path / "a.wav", np.zeros(80_000), 8000)
    inputs = Inputs()
    first, *others = [inputs.open(FileSettings(path=str(tmp_path / "a.wav"))) for _ in range(100)]
    blocks = first.blocks()
    assert len(next(blocks)) == 2000
    for one in others:
        one.close()
        inputs.closed(one)
    assert len(next(blocks)) == 800
    first.close()


def test_a_short_loop_goes_on_without_a_gap_in_blocks_of_any_length(tmp_path: Path) -> None:
    """Shorter than the longest block there may be, and longer than the next."""
    samples = (np.arange(2400) % 200 / 256).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")
    lengths = iter([0.1, 0.5, 0.25, 0.1, 0.5, 0.5])
    audio = FileSource(FileSettings(path=str(tmp_path / "a.wav"), loop=True), length=lambda: next(lengths))
    heard = [block[:, 0] for block in islice(audio.blocks(), 6)]
    audio.close()
    assert [len(block) for block in heard] == [800, 4000, 2000, 800, 4000, 4000]
    assert np.array_equal(np.concatenate(heard), np.resize(samples, 15_600))


def test_a_bunch_of_audio_does_not_hold_up_the_sources_of_another_bank() -> None:
    """What came of one source is measured two seconds at a time, and in between what came of the others."""
    meters, found = Meters(), list[Level]()
    first, other = (
        meters.gauge(name, rate, 1, put=found.append) for name, rate in (("a", 8000), ("b", 16_000))
    )
    first.add(np.zeros((800 * (2 * TURNS + 5), 1), np.float32))
    other.add(np.zeros((1600 * 3, 1), np.float32))
    meters.step()
    assert [one.source for one in found] == ["a"] * TURNS + ["b"] * 3 + ["a"] * (TURNS + 5)
    assert first.dropped == 0.0
