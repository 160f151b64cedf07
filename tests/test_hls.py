"""HLS: segments in order, live from the present, encrypted ones decrypted, byte ranges cut out."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from ingest.decoding.nursery import Nursery
from ingest.inputs import Inputs
from streams.inputs import FetchSection
from tests.fix_radio import HERE, RATE, Radio
from tests.test_stream_source import heard, pitch, tuned, until_it_fails, why_not


def segment(hertz: float, seconds: float = 1.0) -> bytes:
    """A tone as AAC in an MPEG transport stream."""
    written = io.BytesIO()
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)
    with av.open(written, "w", format="mpegts") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[np.newaxis], format="fltp", layout="mono")
        frame.sample_rate = RATE
        for some in (frame, None):
            container.mux(stream.encode(some))
    return written.getvalue()


def playlist(*lines: str, first: int = 0, ends: bool = True) -> str:
    """A media playlist of segments of a second."""
    head = ["#EXTM3U", "#EXT-X-VERSION:4", "#EXT-X-TARGETDURATION:1", f"#EXT-X-MEDIA-SEQUENCE:{first}"]
    return "\n".join([*head, *lines, *(["#EXT-X-ENDLIST"] if ends else []), ""])


def test_what_is_recorded_is_heard_in_order(inputs: Inputs, radio: Radio) -> None:
    """By a master playlist, whose variant with sound alone is taken; it ends where its list ends."""
    radio.has("/a.ts", segment(500))
    radio.has("/b.ts", segment(900))
    radio.has("/sound.m3u8", playlist("#EXTINF:1,", "a.ts", "#EXTINF:1,", "b.ts"))
    master = radio.has(
        "/master.m3u8",
        '#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=900000,CODECS="avc1.4d401f,mp4a.40.2"\nvideo.m3u8\n'
        '#EXT-X-STREAM-INF:BANDWIDTH=64000,CODECS="mp4a.40.2"\nsound.m3u8\n',
    )
    with tuned(inputs, master) as source:
        samples = heard(source, 1.9)
        assert pitch(samples[4000:20000], RATE) == pytest.approx(500, abs=4)
        assert pitch(samples[30000:44000], RATE) == pytest.approx(900, abs=4)
        assert until_it_fails(source)[1].endswith("the stream has ended")
    assert [path for path, _ in radio.asked] == ["/master.m3u8", "/sound.m3u8", "/a.ts", "/b.ts"]


def test_what_is_live_begins_near_its_end(nursery: Nursery, radio: Radio) -> None:
    """Of a live list only the last three segments are fetched, then each new one once."""
    # Its second reading has nothing new: that takes as long as others would have to be given up.
    inputs = Inputs(FetchSection(private=HERE, give_up_after=5.0), nursery=nursery)
    for number in range(12):
        radio.has(f"/{number}.ts", segment(500))
    begins = iter([0, 0, 1, 3, 4, 5])

    def live(request: object) -> None:
        first = next(begins, 6)
        lines = [line for n in range(first, first + 6) for line in ("#EXTINF:1,", f"{n}.ts")]
        request.whole(playlist(*lines, first=first, ends=False).encode())  # type: ignore[attr-defined]

    radio.at["/live.m3u8"] = live
    with tuned(inputs, radio.url("/live.m3u8")) as source:
        heard(source, 7.0)
    fetched = [path for path, _ in radio.asked if path.endswith(".ts")]
    assert fetched[:7] == [f"/{number}.ts" for number in range(3, 10)]


def test_a_live_list_that_stands_still(inputs: Inputs, radio: Radio) -> None:
    """A list in which nothing new appears is given up."""
    radio.has("/a.ts", segment(500))
    url = radio.has("/live.m3u8", playlist("#EXTINF:1,", "a.ts", ends=False))
    assert why_not(inputs, url).endswith(("no new segment for 1.5 s", "no audio for 1.5 s"))


def test_encrypted_segments(inputs: Inputs, radio: Radio) -> None:
    """AES-128 with the number of the segment as its vector; another method is told."""
    key, padder = bytes(range(16)), PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(key), modes.CBC((7).to_bytes(16, "big"))).encryptor()
    plain = padder.update(segment(700)) + padder.finalize()
    radio.has("/a.ts", encryptor.update(plain) + encryptor.finalize())
    radio.has("/key", key)
    lines = ('#EXT-X-KEY:METHOD=AES-128,URI="key"', "#EXTINF:1,", "a.ts")
    with tuned(inputs, radio.has("/a.m3u8", playlist(*lines, first=7))) as source:
        assert pitch(heard(source, 0.9), RATE) == pytest.approx(700, abs=4)
    other = ('#EXT-X-KEY:METHOD=SAMPLE-AES,URI="key"', "#EXTINF:1,", "a.ts")
    assert "encrypted by SAMPLE-AES" in why_not(inputs, radio.has("/b.m3u8", playlist(*other)))


def test_segments_that_are_parts_of_one_file(inputs: Inputs, radio: Radio) -> None:
    """Byte ranges, of which the second goes on where the first ended, also from a server without ranges."""
    first, second = segment(500), segment(900)
    radio.has("/all.ts", first + second)
    lines = (
        f"#EXT-X-BYTERANGE:{len(first)}@0", "#EXTINF:1,", "all.ts",
        f"#EXT-X-BYTERANGE:{len(second)}", "#EXTINF:1,", "all.ts",
    )  # fmt: skip
    with tuned(inputs, radio.has("/a.m3u8", playlist(*lines))) as source:
        samples = heard(source, 1.9)
    assert pitch(samples[30000:44000], RATE) == pytest.approx(900, abs=4)
    assert [h["Range"] for _, h in radio.asked if "Range" in h][1] == (
        f"bytes={len(first)}-{len(first) + len(second) - 1}"
    )
