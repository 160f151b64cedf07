"""The SAME decoder: what it hears of a signal on a bad way, when it says so, and what it never says."""

from __future__ import annotations

import gc
import tracemalloc
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.same_air import RATE, Condition, Samples, Sent, burst, header, noise, send
from bench.same_bound import applies, ideal
from bench.same_conditions import CONDITIONS
from bench.same_quiet import KINDS
from ingest.same.decoder import Decoder
from ingest.same.heard import BurstHeard, EndHeard, Heard, MessageHeard, ToneHeard
from ingest.same.line import BAUD

TEXT = "ZCZC-WXR-TOR-048201-048157+0045-1231415-KHGX/NWS-"
LATEST = 0.3
"""Seconds after the end of the deciding burst."""


def listened(sent: Sent, piece: float = 0.05) -> list[tuple[Heard, float]]:
    """All that is heard, with the second of audio at which it was said."""
    decoder, step = Decoder(sent.rate), max(int(piece * sent.rate), 1)
    heard = []
    for begin in range(0, len(sent.samples), step):
        part = sent.samples[begin : begin + step]
        heard += [(one, (begin + len(part)) / sent.rate) for one in decoder.feed(part)]
    return heard + [(one, len(sent.samples) / sent.rate) for one in decoder.finish()]


def messages(heard: list[tuple[Heard, float]]) -> list[MessageHeard]:
    return [one for one, _ in heard if isinstance(one, MessageHeard)]


def on_air(*parts: object, rate: int = RATE, snr: float = 20) -> Sent:
    """Bursts (text) and pauses (seconds), with noise."""
    pieces = [
        burst(part.encode("latin-1"), rate, 0, 0.3, 0.2)
        if isinstance(part, str)
        else np.zeros(int(float(str(part)) * rate), np.float32)
        for part in (0.7, *parts, 1.0)
    ]
    samples = np.concatenate(pieces)
    return Sent(samples + noise(np.random.default_rng(5), len(samples), rate, 0.2, snr), rate, ())


@cache
def reference() -> Sent:
    """Two messages back to back, and an end."""
    other = TEXT.replace("TOR", "SVR").replace("1231415", "1231420")
    return on_air(*[TEXT, 1.0] * 3, *[other, 1.0] * 3, *["NNNN", 1.0] * 3, snr=6)


@pytest.mark.parametrize(
    "name",
    [
        "0 dB",
        "-4.5 dB",
        "clock -3 %",
        "clock +3 %",
        "8 kHz mu-law",
        "hum 60 Hz +12 dB",
        "one burst lost",
        "20 bytes damaged",
        "-70 dBFS",
        "tilt -12 dB",
        "tilt +12 dB",
        "fading 3 Hz, 20 dB",
        "dropouts 3 x 10 ms",
        "5 ms lost",
        "echo 20 ms",
        "8 kHz",
        "11.025 kHz",
        "16 kHz",
        "44.1 kHz",
        "48 kHz",
        "96 kHz",
        "end cut off",
        "clipping",
        "DC steps",
        "back to back",
    ],
)
def test_a_message_is_heard_under_every_condition(name: str) -> None:
    """What was sent, once each, confirmed, in time; and its end once, where there was one."""
    condition = next(one for one in CONDITIONS if one.name == name)
    sent = send(condition, 99, 0)
    heard = listened(sent)
    found = messages(heard)
    assert [one.header for one in found] == list(sent.headers)
    assert all(one.confirmed for one in found)
    for one, at in heard:
        if isinstance(one, MessageHeard):
            assert at - one.end < LATEST
    assert sum(isinstance(one, EndHeard) for one, _ in heard) == condition.ends


def test_the_longest_header_is_heard() -> None:
    """31 locations: four seconds for each burst."""
    sent = send(Condition(name="long", places=(31, 31), ends=False, snr=0), 1, 1)
    (found,) = messages(listened(sent))
    assert (found.header, found.confirmed) == (sent.headers[0], True)
    assert len(found.header) == 35 + 7 * 31


@given(cuts=st.lists(st.integers(1, 40_000), min_size=1, max_size=12))
@settings(max_examples=8, deadline=None)
def test_how_audio_is_cut_into_pieces_makes_no_difference(cuts: list[int]) -> None:
    """The same is heard of the same samples, whatever the lengths in which they come."""
    samples = reference().samples

    def heard(lengths: list[int]) -> list[Heard]:
        decoder, out, at, turn = Decoder(RATE), list[Heard](), 0, 0
        while at < len(samples):
            length = lengths[turn % len(lengths)]
            out += decoder.feed(samples[at : at + length])
            at, turn = at + length, turn + 1
        return out + decoder.finish()

    whole = heard([len(samples)])
    assert len([one for one in whole if isinstance(one, MessageHeard)]) == 2
    cut = heard([max(each, 200) for each in cuts])
    assert [_rounded(one) for one in cut] == [_rounded(one) for one in whole]


def _rounded(heard: Heard) -> tuple[object, ...]:
    values = (getattr(heard, name) for name in heard.__struct_fields__)
    return (type(heard), *(round(each, 3) if isinstance(each, float) else each for each in values))


def test_each_burst_is_told_as_it_is_heard_and_the_message_with_the_second() -> None:
    """A burst, a burst and the message, a burst; no second message for the third."""
    heard = listened(on_air(TEXT, 1.0, TEXT, 1.0, TEXT, 1.0, "NNNN", 1.0, "NNNN", 1.0, "NNNN"))
    assert [type(one) for one, _ in heard] == [BurstHeard, BurstHeard, MessageHeard, BurstHeard, EndHeard]
    for one, at in heard:
        end = one.until if isinstance(one, BurstHeard) else one.end if isinstance(one, MessageHeard) else at
        assert 0 <= at - end < LATEST


def test_a_lone_burst_is_heard_but_not_confirmed() -> None:
    """However clear it was: nothing says that it was not made up on the way."""
    heard = listened(on_air(TEXT, 6.0))
    assert [one.text for one, _ in heard if isinstance(one, BurstHeard)] == [TEXT]
    (found,) = messages(heard)
    assert (found.header, found.bursts, found.confirmed) == (TEXT, 1, False)


def test_bursts_that_each_lack_something_make_a_message_together() -> None:
    """No burst is right by itself; what they say together is, and is said to be their combination."""
    broken = [TEXT[:at] + "\x15\x7f\x02\x60\x1b" + TEXT[at + 5 :] for at in (7, 20, 38)]
    (found,) = messages(listened(on_air(broken[0], 1.0, broken[1], 1.0, broken[2], 1.0)))
    assert (found.header, found.confirmed, found.voted) == (TEXT, True, True)


def test_a_message_ends_where_its_text_does_though_the_last_burst_is_damaged_there() -> None:
    """Twenty damaged characters at its end made a burst seem shorter, and its message late."""
    condition = next(one for one in CONDITIONS if one.name == "20 bytes damaged")
    sent = send(condition, 7, 5)
    ((found, at),) = [(one, at) for one, at in listened(sent) if isinstance(one, MessageHeard)]
    seconds = (16 + len(found.header)) * 8 / BAUD
    assert found.header in sent.headers
    assert found.end - found.start == pytest.approx(3 * seconds + 2, abs=0.01)
    assert 0 <= at - found.end < LATEST


@pytest.mark.parametrize(("number", "least", "most"), [(30, 0.0, LATEST), (32, 2.0, 2.3)])
def test_of_two_faint_bursts_it_is_told_as_soon_as_no_third_can_help(
    number: int, least: float, most: float
) -> None:
    """At once where the second of three was lost; where it may have been the last, once that did not come."""
    sent = send(Condition(name="middle lost", places=(1, 3), lost=True, snr=-4), 3, number)
    ((found, at),) = [(one, at) for one, at in listened(sent) if isinstance(one, MessageHeard)]
    assert (found.header, found.bursts, found.confirmed) == (sent.headers[0], 2, True)
    assert least <= at - found.end < most


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("0045", "0020"),
        TEXT.replace("WXR", "XYZ"),
        TEXT.replace("TOR", "ZQX"),
        TEXT.replace("1231415", "4009999"),
        TEXT.replace("048201", "04820A"),
        TEXT.replace("KHGX/NWS", "khgx.nws"),
        TEXT.replace("KHGX/NWS", "KHGX"),
        TEXT.replace("-048157", "-48157"),
        TEXT.replace("+0045", ""),
    ],
)
def test_a_header_that_breaks_the_rules_is_told_as_it_was_heard(text: str) -> None:
    """Words that nobody knows, characters that do not belong there, parts that are missing."""
    (found,) = messages(listened(on_air(text, 1.0, text, 1.0, text, 1.0)))
    assert (found.header, found.confirmed) == (text, True)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_clear_burst_with_another_character_makes_no_second_message(place: int) -> None:
    """A codec may do that: of three bursts one says another county; they once were three messages, or two."""
    bursts = [TEXT.replace("048157", "048151") if index == place else TEXT for index in range(3)]
    (found,) = messages(listened(on_air(bursts[0], 1.0, bursts[1], 1.0, bursts[2], 6.0)))
    assert (found.header, found.confirmed) == (TEXT, True)


def test_messages_that_differ_little_are_two() -> None:
    """Back to back, another event and another time: neither swallows the other."""
    found = messages(listened(reference()))
    assert [(one.header[9:12], one.bursts, one.confirmed) for one in found] == [
        ("TOR", 2, True),
        ("SVR", 2, True),
    ]


def test_a_message_sent_again_after_its_end_is_another() -> None:
    """Within a message nothing is told twice; after its end the same header is news again."""
    once = [TEXT, 1.0, TEXT, 1.0, TEXT, 1.0, "NNNN", 1.0, "NNNN", 1.0, "NNNN", 2.0]
    heard = listened(on_air(*once, *once))
    assert [one.header for one in messages(heard)] == [TEXT, TEXT]
    assert sum(isinstance(one, EndHeard) for one, _ in heard) == 2


@pytest.mark.parametrize(("kind", "tones"), [("attention", (853, 960)), ("1050", (1050,))])
def test_attention_signals_are_told_with_their_length(kind: str, tones: tuple[float, ...]) -> None:
    """Both kinds; what is shorter than two seconds is none."""
    at = np.arange(int(8.5 * RATE)) / RATE
    signal = np.sum([0.2 * np.sin(2 * np.pi * tone * at) for tone in tones], axis=0).astype(np.float32)
    quiet = np.zeros(2 * RATE, np.float32)
    samples = np.concatenate((quiet, signal, quiet, signal[:RATE], quiet))
    samples += noise(np.random.default_rng(1), len(samples), RATE, 0.2, 15)
    (found,) = [one for one, _ in listened(Sent(samples, RATE, ())) if isinstance(one, ToneHeard)]
    assert found.kind == kind
    assert found.at == pytest.approx(2.0, abs=0.05)
    assert found.seconds == pytest.approx(8.5, abs=0.1)


@pytest.mark.parametrize("kind", [name for name in KINDS if name != "speech"])
def test_nothing_is_invented(kind: str) -> None:
    """Twenty seconds of each that hold no alert; hours of it are for `bench same --quiet`."""
    samples: Samples = KINDS[kind](np.random.default_rng(4), 20 * RATE)
    heard = [one for one, _ in listened(Sent(samples, RATE, ()), 1.0)]
    assert [one for one in heard if not isinstance(one, ToneHeard)] == []


def test_memory_does_not_grow_with_what_is_heard() -> None:
    """After a minute of alerts one after the other, a decoder holds as much as after a quarter of it."""
    sent = reference()
    decoder, held = Decoder(RATE), []
    tracemalloc.start()
    try:
        for _ in range(4):
            for begin in range(0, len(sent.samples), RATE):
                decoder.feed(sent.samples[begin : begin + RATE])
            gc.collect()
            taken = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/ingest/same/*")])
            held.append(sum(trace.size for trace in taken.traces))
    finally:
        tracemalloc.stop()
    assert held[-1] < held[0] * 1.05 + 50_000


def test_the_bound_is_told_where_the_bursts_are() -> None:
    """An ideal receiver reads what is sent in noise, at another rate, clock and with a burst missing."""
    for condition in (
        Condition(name="faint", snr=-6),
        Condition(name="fast", snr=-3, rate=48_000, clock=0.03),
        Condition(name="missing", snr=-3, lost=True),
    ):
        sent = send(condition, 4, 0)
        assert applies(condition)
        assert [ideal(condition, sent)] == list(sent.headers)


def test_the_generator_is_seeded() -> None:
    """The same condition, seed and number give the same samples; another number others."""
    first, again, other = (send(CONDITIONS[0], 1, number) for number in (1, 1, 2))
    assert np.array_equal(first.samples, again.samples)
    assert first.headers == again.headers != other.headers
    assert header(np.random.default_rng(1), (2, 2)).count("-") == 7
