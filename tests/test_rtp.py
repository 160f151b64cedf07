"""RTP by SDP: received as described, and only at an address that the node allows."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Container, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from control.station.ports import free_port
from ingest.decoding.gaps import Gaps
from ingest.decoding.nursery import Nursery
from ingest.file_source import SourceFailed
from ingest.inputs import Inputs
from ingest.net.sdp import parsed
from ingest.stream_source import StreamSource
from streams.inputs import FetchSection
from streams.vocabulary import StreamSettings
from tests.fix_radio import HERE, Radio
from tests.test_stream_source import heard, pitch, tuned, until_it_fails

SDP = (
    "v=0\r\no=- 1 1 IN IP4 {address}\r\ns=Studio\r\nc=IN IP4 {address}\r\nt=0 0\r\n"
    "m=audio {port} RTP/AVP 11\r\n"
)
RATE, PACKET = 44_100, 441


@contextmanager
def sending(port: int, lost: Container[int] = ()) -> Iterator[None]:
    """A tone of 700 Hz as L16 (payload 11) meanwhile, 100 packets a second but those `lost`."""
    stop = threading.Event()
    wave = (0.5 * np.sin(2 * np.pi * 700 * np.arange(RATE) / RATE) * 32767).astype(">i2")

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
            number = 0
            while not stop.wait(0.01):
                samples = wave[number * PACKET % RATE :][:PACKET].tobytes()
                header = struct.pack(">BBHII", 0x80, 11, number & 0xFFFF, number * PACKET, 7)
                if number not in lost:
                    wire.sendto(header + samples, ("127.0.0.1", port))
                number += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(5)


@pytest.mark.parametrize("how", ["settings", "fetched"])
def test_rtp_is_heard(inputs: Inputs, radio: Radio, how: str) -> None:
    """By an SDP in the settings, or by one that is fetched from an address."""
    port = free_port() // 2 * 2
    text = SDP.format(address="127.0.0.1", port=port)
    settings = {"sdp": text} if how == "settings" else {"url": radio.has("/studio.sdp", text)}
    with sending(port):
        source = inputs.open(StreamSettings(channel="mix", **settings))
        assert isinstance(source, StreamSource)
        try:
            samples = heard(source, 1.0)
        finally:
            source.close()
    assert source.pace == "live"
    assert pitch(samples, source.rate) == pytest.approx(700, abs=3)


def test_what_is_lost_on_its_way_counts_as_dropped(inputs: Inputs) -> None:
    """Three packets of ten milliseconds in a row, in each second; who listens is told."""
    port = free_port() // 2 * 2
    lost = [second + packet for second in range(0, 10_000, 100) for packet in (50, 51, 52)]
    with sending(port, lost):
        source = inputs.open(StreamSettings(sdp=SDP.format(address="127.0.0.1", port=port)))
        assert isinstance(source, StreamSource)
        try:
            heard(source, 2.5)
            dropped = source.waiting.dropped
        finally:
            source.close()
    # FFmpeg may not have been there yet when the first three were missing.
    assert round(dropped, 3) in (0.06, 0.09)


def test_a_sender_that_begins_anew_has_lost_nothing() -> None:
    """Only a step forward is a loss, of half a frame at least and a minute at most."""
    gaps = Gaps()
    found = [gaps.seen(at, 0.02) for at in (5.0, 5.02, 5.045, 0.0, 0.02, 4000.0, 4000.12)]
    assert found == [False] * 6 + [True]
    assert gaps.seconds == pytest.approx(0.1)


def test_an_address_behind_the_fence_is_not_received_at(nursery: Nursery, radio: Radio) -> None:
    """An SDP with a private, multicast or named address is refused; so is RTP where it is not listed."""
    inputs = Inputs(FetchSection(private=HERE), nursery=nursery)
    for address, told in (
        ("10.0.0.7", "not public"),
        ("239.1.2.3", "not public"),
        ("x.example", "no IP address"),
    ):
        with tuned(inputs, radio.has("/a.sdp", SDP.format(address=address, port=5004))) as source:
            assert told in until_it_fails(source)[1]
    only_web = Inputs(FetchSection(private=HERE, schemes=("http",)), nursery=nursery)
    with tuned(only_web, radio.has("/a.sdp", SDP.format(address="127.0.0.1", port=5004))) as source:
        assert "scheme 'rtp'" in until_it_fails(source)[1]


def test_only_what_was_checked_is_given_on() -> None:
    """Of an SDP the first sound is taken with its own lines, and nothing else."""
    text = SDP.format(address="127.0.0.1", port=5004).replace("AVP 11", "AVP 96")
    text += "a=rtpmap:96 opus/48000/2\r\na=fmtp:96 stereo=1\r\na=control:file:///etc/passwd\r\n"
    text += "m=video 5006 RTP/AVP 97\r\n"
    described = parsed(text)
    assert (described.address, described.port) == ("127.0.0.1", 5004)
    assert described.text.splitlines() == [
        "v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=-", "c=IN IP4 127.0.0.1", "t=0 0", "m=audio 5004 RTP/AVP 96",
        "a=rtpmap:96 opus/48000/2", "a=fmtp:96 stereo=1",
    ]  # fmt: skip
    for wrong, told in (("v=0\r\n", "no sound"), (text.replace("5004", "22"), "port 22")):
        with pytest.raises(SourceFailed, match=told):
            parsed(wrong)
