"""Streams from a real server: what is heard of them, and what is told of those that fail."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import BinaryIO

import numpy as np
import pytest
import soundfile
from av.audio.frame import AudioFrame

from ingest.capture import Capture
from ingest.decoding.decoder import Sink, decode
from ingest.decoding.nursery import WAIT
from ingest.decoding.wire import AUDIO, FAILED, FORMAT, HEAD, Task
from ingest.file_source import SourceFailed
from ingest.inputs import Inputs
from ingest.meters import Block
from ingest.stream_source import StreamSource
from streams.vocabulary import StreamSettings
from tests.fix_ingest import Heard, equipment, unrecorded
from tests.fix_radio import RATE, Radio, tone
from tests.fix_servers import eventually


@contextmanager
def tuned(inputs: Inputs, url: str, **settings: object) -> Iterator[StreamSource]:
    """The stream, opened."""
    source = inputs.open(StreamSettings(url=url, **settings))  # type: ignore[arg-type]
    assert isinstance(source, StreamSource)
    try:
        yield source
    finally:
        source.close()


def heard(source: StreamSource, seconds: float) -> Block:
    """So much of its sound, mixed."""
    found: list[Block] = []
    frames = 0
    for block in source.blocks():
        found.append(block)
        frames += len(block)
        if source.rate and frames >= seconds * source.rate:
            break
    return np.concatenate([block.mean(axis=1) for block in found])


def pitch(samples: Block, rate: int) -> float:
    """The strongest frequency in Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))


def rms(samples: Block) -> float:
    """How strong it is: 1 is a square wave of full scale."""
    return float(np.sqrt(np.mean(samples**2)))


def until_it_fails(source: StreamSource) -> tuple[list[int], str]:
    """The lengths of its blocks, and why there were no more."""
    lengths: list[int] = []
    with pytest.raises(SourceFailed) as failure:
        lengths.extend(len(block) for block in source.blocks())
    return lengths, str(failure.value)


def why_not(inputs: Inputs, url: str) -> str:
    """Why the stream fails, in the end."""
    with tuned(inputs, url) as source:
        return until_it_fails(source)[1]


@pytest.mark.parametrize("format", ["MP3", "OGG", "FLAC"])
def test_a_stream_is_heard(inputs: Inputs, radio: Radio, format: str) -> None:
    """Real MP3, Ogg Vorbis and FLAC come out as the tone they are, at their own rate."""
    url = radio.plays("/live", tone(1000, format))
    with tuned(inputs, url) as source:
        samples = heard(source, 1.5)
        assert (source.rate, source.channels) == (RATE, 1)
    assert pitch(samples, RATE) == pytest.approx(1000, abs=2)
    assert rms(samples[2000:]) == pytest.approx(0.5 / 2**0.5, rel=0.1)


def test_its_settings_are_obeyed(inputs: Inputs, radio: Radio) -> None:
    """Rate, mix and gain are those asked for, where it is decoded."""
    url = radio.plays("/live", tone(1000, "OGG", channels=2))
    with tuned(inputs, url, rate=16_000, channel="mix", gain_db=-6.0) as source:
        samples = heard(source, 1.5)
        assert (source.rate, source.channels) == (16_000, 1)
    assert pitch(samples, 16_000) == pytest.approx(1000, abs=2)
    assert rms(samples[2000:]) == pytest.approx(0.25 / 2**0.5, rel=0.1)


def test_redirects_and_playlists_lead_to_it(inputs: Inputs, radio: Radio) -> None:
    """A redirect to a PLS whose first entry is dead and whose second is an M3U ends at the sound."""
    radio.plays("/sound.mp3", tone(700))
    radio.has("/list.m3u", "#EXTM3U\n#EXTINF:-1,Name\nsound.mp3\n", Content_Type="audio/x-mpegurl")
    dead = radio.url("/dead")
    radio.has("/list.pls", f"[playlist]\nNumberOfEntries=2\nFile1={dead}\nFile2={radio.url('/list.m3u')}\n")
    url = radio.sends("/begin", 302, Location="/list.pls")
    with tuned(inputs, url) as source:
        assert pitch(heard(source, 1.0), RATE) == pytest.approx(700, abs=2)
    assert [path for path, _ in radio.asked] == ["/begin", "/list.pls", "/dead", "/list.m3u", "/sound.mp3"]


def test_an_m3u_without_its_mark(inputs: Inputs, radio: Radio) -> None:
    """A list of addresses and nothing else is told by its name."""
    radio.plays("/sound.mp3", tone(700))
    with tuned(inputs, radio.has("/list.m3u", f"{radio.url('/sound.mp3')}\r\n")) as source:
        assert pitch(heard(source, 1.0), RATE) == pytest.approx(700, abs=2)


def test_metadata_is_told_and_not_heard(inputs: Inputs, radio: Radio) -> None:
    """What Icecast weaves into the sound is taken out of it: the tone has no click, the title is known."""
    data, every = tone(1000, seconds=4.0), 1000
    title = "StreamTitle='Weather – Röyksopp';".encode()
    title += bytes(-len(title) % 16)
    woven = b"".join(
        data[at : at + every] + (bytes([len(title) // 16]) + title if at == 0 else b"\0")
        for at in range(0, len(data) - every, every)
    )
    url = radio.plays(
        "/live", *(woven[at : at + 700] for at in range(0, len(woven), 700)), icy_metaint="1000"
    )
    with tuned(inputs, url) as source:
        samples = heard(source, 2.0)
        assert source.title == "Weather – Röyksopp"
    assert radio.asked[0][1]["Icy-MetaData"] == "1"
    assert float(np.abs(np.diff(samples[4000:])).max()) < 0.2


def named(hertz: float, **comments: str) -> bytes:
    """A second of a tone in Ogg, with comments."""
    written = io.BytesIO()
    with soundfile.SoundFile(written, "w", RATE, 1, format="OGG", subtype="VORBIS") as file:
        for name, text in comments.items():
            setattr(file, name, text)
        samples, _ = soundfile.read(io.BytesIO(tone(hertz, "FLAC", seconds=1.5)))
        file.write(samples)
    return written.getvalue()


def test_titles_within_the_audio_are_in_its_levels(inputs: Inputs, radio: Radio) -> None:
    """Ogg says with each piece what it is: its levels name it, without what does not belong on a screen."""
    told = Heard()
    pieces = named(500, title="Flood\x1b[2J watch", artist="NWS"), named(700, title="Rain"), named(900)
    capture = Capture(
        "s", StreamSettings(url=radio.plays("/live", *pieces)),
        report=told.report, hear=told.hear, watch=told.watch, telemetry=told, inputs=inputs,
        equipment=equipment(), evidence=unrecorded(),
    )  # fmt: skip
    capture.start()
    try:
        eventually(lambda: told.levels and told.levels[-1].seconds > 4.0, "all of it to be heard")
    finally:
        capture.stop()
    titles = list(dict.fromkeys(level.title for level in told.levels))
    assert titles == ["NWS - Flood[2J watch", "Rain", None]


def test_what_nobody_reads_waits(inputs: Inputs, radio: Radio) -> None:
    """What was decoded and is not read is told, up to what the pipe holds, and nothing of it is lost."""
    with tuned(inputs, radio.plays("/live", tone(500, seconds=30.0))) as source:
        before = heard_seconds(source, 0.5)
        most = source.waiting.most
        eventually(lambda: source.waiting.seconds > most / 2, "the pipe to fill")
        assert source.waiting.dropped == 0.0
        assert before + heard_seconds(source, 25.0) == pytest.approx(25.5, abs=0.3)


def heard_seconds(source: StreamSource, seconds: float) -> float:
    """How much was heard, until so much was."""
    return len(heard(source, seconds)) / RATE


def test_shoutcasts_first_version(inputs: Inputs, radio: Radio) -> None:
    """A server that greets with ICY instead of HTTP is understood."""

    def greet(request: object) -> None:
        write = request.wfile.write  # type: ignore[attr-defined]
        write(b"ICY 200 OK\r\nicy-name: Old\r\ncontent-type: audio/mpeg\r\n\r\n" + tone(900))
        request.hang()  # type: ignore[attr-defined]

    radio.at["/old"] = greet
    with tuned(inputs, radio.url("/old")) as source:
        assert pitch(heard(source, 1.0), RATE) == pytest.approx(900, abs=2)


def test_a_codec_that_changes_in_mid_stream(inputs: Inputs, radio: Radio) -> None:
    """MP3, then Ogg, then MP3 in one answer: all of it is heard, at the rate of the first."""
    url = radio.plays("/live", tone(500), tone(1000, "OGG"), tone(1500), tone(2000, "OGG"))
    with tuned(inputs, url) as source:
        samples = heard(source, 7.5)
        assert source.rate == RATE
    pitches = [pitch(samples[int(at * RATE) :][:RATE], RATE) for at in (0.5, 2.5, 4.6, 6.6)]
    assert pitches == pytest.approx([500, 1000, 1500, 2000], abs=3)


@pytest.mark.parametrize(
    ("status", "told"),
    [(404, "HTTP 404 Not Found"), (401, "credentials_directory"), (503, "HTTP 503 Service Unavailable")],
)
def test_what_a_server_refuses_is_told(inputs: Inputs, radio: Radio, status: int, told: str) -> None:
    """The status, in words, with what to do about it; what stands behind a question mark is not told."""
    why = why_not(inputs, radio.sends("/x?token=secret", status))
    assert told in why
    assert radio.url("/x") in why
    assert "secret" not in why


def test_one_that_accepts_and_says_nothing(inputs: Inputs, mute: int) -> None:
    """It is told apart from one that is not there."""
    begun = time.monotonic()
    why = why_not(inputs, f"http://127.0.0.1:{mute}/live")
    assert why == f"http://127.0.0.1:{mute}/live: connected, but there was no answer for 1.5 s"
    assert time.monotonic() - begun < 5


def test_one_that_is_not_there(inputs: Inputs, mute: int) -> None:
    """Nobody listens at the port: the address and the reason."""
    assert why_not(inputs, "http://127.0.0.1:1/live").endswith("127.0.0.1:1: Connection refused")


def test_a_stall_is_waited_for_and_then_given_up(inputs: Inputs, radio: Radio) -> None:
    """Nothing more comes: empty blocks say so, then the source fails with how long it was."""
    with tuned(inputs, radio.plays("/live", tone(500))) as source:
        lengths, why = until_it_fails(source)
    assert why.endswith("connected, but nothing came for 1.5 s")
    assert lengths.count(0) >= round(1.5 / WAIT) - 1
    assert sum(lengths) > RATE


def test_a_stream_that_ends_has_failed(inputs: Inputs, radio: Radio) -> None:
    """All that came is heard, then it is told that the server ended it."""
    with tuned(inputs, radio.plays("/live", tone(500), then="end")) as source:
        lengths, why = until_it_fails(source)
    assert why.endswith("the stream has ended")
    assert sum(lengths) / RATE == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("body", [b"<html>no sound</html>" * 50, bytes(range(256)) * 100])
def test_what_is_no_audio_is_told(inputs: Inputs, radio: Radio, body: bytes) -> None:
    """A page in the place of a stream, or noise, is refused by what it is."""
    assert "no audio format was recognised" in why_not(inputs, radio.plays("/live", body, then="end"))


def test_closing_ends_a_wait_at_once(inputs: Inputs, mute: int) -> None:
    """Where a server says nothing, a stop does not wait for its time."""
    with tuned(inputs, f"http://127.0.0.1:{mute}/live") as source:
        next(source.blocks())
        begun = time.monotonic()
    assert time.monotonic() - begun < 0.5
    assert not source._thread.is_alive()


def test_frames_that_count_time_otherwise_are_heard_like_others() -> None:
    """Where one container follows another, frames alike but for their time base are all there, in order."""
    ours, theirs = os.pipe()
    sink = Sink(theirs, Task())
    for number, base in enumerate((Fraction(1, 90_000), Fraction(1, 90_000), Fraction(1, RATE))):
        frame = AudioFrame.from_ndarray(np.full((1, 100), number, np.float32), format="flt", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = RATE, base, number
        sink.put(frame, "mp3", "mp3")
    sink.finish()
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        heard = b"".join(body for kind, body in told(pipe) if kind == AUDIO)
    assert np.frombuffer(heard, np.float32).tolist() == [0.0] * 100 + [1.0] * 100 + [2.0] * 100


def told(pipe: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """What a decoding process said: kind and body of each message."""
    while head := pipe.read(HEAD.size):
        kind, length = HEAD.unpack(head)
        yield kind, pipe.read(length)


def test_what_was_heard_before_nonsense_is_given_before_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Less than is given away by itself, and then megabytes that are no audio."""
    monkeypatch.setattr("ingest.decoding.decoder.limit", lambda: None)  # of this process
    recording = io.BytesIO()
    soundfile.write(recording, np.full(RATE * 2 // 5, 0.25, np.float32), RATE, format="OGG")
    with (
        os.fdopen(os.memfd_create("heard"), "w+b") as heard,
        os.fdopen(os.memfd_create("told"), "w+b") as said,
    ):
        heard.write(recording.getvalue() + bytes(3 << 20))
        heard.seek(0)
        assert decode(heard.fileno(), said.fileno(), Task()) == 1
        said.seek(0)
        messages = list(told(said))
    assert [kind for kind, _ in messages] == [FORMAT, AUDIO, FAILED]
    assert len(messages[1][1]) / 4 / RATE > 0.3
    assert b"no audio" in messages[2][1]
