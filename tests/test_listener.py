"""Listening to audio: what is heard becomes facts, with the times at which it was heard."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from ingest import listener as module
from ingest.listener import Listener, Noted, mono
from ingest.weekly_test import RATE, burst, header, silence, weekly_test
from streams.alerts import AlertBurst, AlertEnded, AlertReceived
from streams.messages import now

AT = datetime(2026, 11, 24, 13, 5, tzinfo=UTC)
TEST = weekly_test(AT)


def listened(samples: np.ndarray, *, live: bool = False, offset: float = 0.0) -> list[Noted]:
    """What is noted of the samples, given in blocks of a tenth of a second."""
    noted: list[Noted] = []
    listener = Listener("s", RATE, offset=offset, live=live, tell=noted.append)
    for begin in range(0, len(samples), RATE // 10):
        listener.add(samples[begin : begin + RATE // 10, np.newaxis])
    listener.finish()
    assert listener.decoded == pytest.approx(offset + len(samples) / RATE)
    return noted


def test_a_weekly_test_is_received_once_and_ends() -> None:
    """Three bursts, one message with what its header says, and its end, which names it and its tone."""
    facts = [noted.fact for noted in listened(TEST)]
    bursts = [fact for fact in facts if isinstance(fact, AlertBurst)]
    assert [one.text for one in bursts if one.text != "NNNN"] == [header(AT)] * 3
    (alert,) = [fact for fact in facts if isinstance(fact, AlertReceived)]
    assert (alert.header, alert.event, alert.confirmed, alert.problems) == (header(AT), "RWT", True, ())
    assert (alert.event_name, alert.places) == ("Required Weekly Test", ("Leavenworth County, KS",))
    (ended,) = [fact for fact in facts if isinstance(fact, AlertEnded)]
    assert (ended.hearing, ended.header) == (alert.hearing, alert.header)
    assert ended.issued_at == alert.issued_at
    assert facts.index(alert) < facts.index(ended)
    assert ended.end < len(TEST) / RATE


def test_seconds_count_from_the_start_of_the_source() -> None:
    """What a source heard before it was opened again counts along, as its levels count it."""
    first, later = (
        next(noted.fact for noted in listened(TEST, offset=offset) if isinstance(noted.fact, AlertReceived))
        for offset in (0.0, 100.0)
    )
    assert later.start == pytest.approx(first.start + 100.0)
    assert first.start == pytest.approx(1.0, abs=0.05)
    assert later.hearing != first.hearing


def test_each_fact_has_the_time_at_which_it_was_heard() -> None:
    """Live audio: the end of the deciding burst, not the moment at which it was understood."""
    began = now()
    noted = listened(TEST, live=True)
    ended = next(one for one in noted if isinstance(one.fact, AlertEnded))
    (alert,) = [one for one in noted if isinstance(one.fact, AlertReceived)]
    assert alert.at < ended.at
    # All of it was read in a moment here: what was heard last lies in the past by what followed it.
    assert began - timedelta(seconds=10) < ended.at < now()
    fast = next(one for one in listened(TEST) if isinstance(one.fact, AlertEnded))
    assert began <= fast.at <= now()


def test_an_end_without_a_header_is_told_alone() -> None:
    """A source that was started in the middle of an alert hears its end, and nobody knows of what."""
    ends = [
        noted.fact
        for noted in listened(np.concatenate([silence(1.0), *[burst("NNNN"), silence(1.0)] * 3]))
        if isinstance(noted.fact, AlertEnded)
    ]
    assert [(one.hearing, one.header) for one in ends] == [(None, None)]


def test_a_decoder_that_fails_harms_nobody_and_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is broken nothing is decoded and nothing is raised; ten seconds later there is a new one."""
    real, made = module.Decoder, []

    class Broken(real):  # type: ignore[valid-type, misc]
        def feed(self, samples: np.ndarray) -> list[object]:
            raise ZeroDivisionError("a bug")

    def make(rate: int) -> object:
        made.append(rate)
        return Broken(rate) if len(made) == 1 else real(rate)

    monkeypatch.setattr(module, "Decoder", make)
    noted: list[Noted] = []
    listener = Listener("s", RATE, offset=0.0, live=False, tell=noted.append)
    block = silence(0.1)[:, np.newaxis]
    for _ in range(99):
        listener.add(block)
    assert (listener.decoded, len(made)) == (0.0, 1)
    for _ in range(8):
        listener.add(block)
    assert listener.decoded > 0
    assert len(made) == 2
    for begin in range(0, len(TEST), RATE // 10):
        listener.add(TEST[begin : begin + RATE // 10, np.newaxis])
    (alert,) = [one.fact for one in noted if isinstance(one.fact, AlertReceived)]
    assert alert.start == pytest.approx(10.7 + 1.0, abs=0.1)


def test_channels_are_mixed_and_what_is_no_sample_is_silence() -> None:
    """Two channels count as their mean; files of floats may hold anything."""
    assert mono(np.array([[1.0, 0.0], [0.5, 0.5]], np.float32)).tolist() == [0.5, 0.5]
    strange = mono(np.array([[np.nan, 0.0], [np.inf, 0.0]], np.float32))
    assert strange.tolist() == [0.0, 1.0]
    assert strange.dtype == np.float32


def test_audio_that_cannot_carry_an_alert_is_not_listened_to() -> None:
    """Of too few samples a second nothing is decoded, and that is what is told."""
    listener = Listener("s", 4000, offset=0.0, live=True, tell=lambda noted: None)
    for _ in range(300):
        listener.add(np.zeros((400, 1), np.float32))
    listener.finish()
    assert listener.decoded == 0.0
