"""A real icecast2, fed by an encoder: heard, with its metadata, and found again when the encoder returns."""

from __future__ import annotations

import pytest

from ingest.capture import Capture
from ingest.inputs import Inputs
from ingest.stream_source import StreamSource
from streams.vocabulary import StreamSettings
from tests.fix_icecast import Icecast
from tests.fix_ingest import Heard, equipment, unrecorded
from tests.fix_radio import RATE, tone
from tests.fix_servers import eventually
from tests.test_stream_source import heard, pitch, tuned


@pytest.mark.parametrize(("format", "kind"), [("MP3", "audio/mpeg"), ("OGG", "application/ogg")])
def test_a_real_server_is_heard(inputs: Inputs, icecast: Icecast, format: str, kind: str) -> None:
    """MP3 and Ogg from icecast2, and what it says is being played."""
    data = tone(800, format, seconds=4.0)
    with icecast.fed("/live", data, 4.0, kind), tuned(inputs, icecast.url("/live")) as source:
        assert pitch(heard(source, 2.0), RATE) == pytest.approx(800, abs=2)
        if format == "MP3":
            eventually(lambda: played(source, icecast) == "Wetter – heiter", "the title")


def played(source: StreamSource, icecast: Icecast) -> str | None:
    """What is being played, by the stream's own word, a second after the server was told."""
    icecast.title("/live", "Wetter – heiter")
    heard(source, 1.0)
    return source.title


def test_an_encoder_that_goes_and_returns(
    inputs: Inputs, icecast: Icecast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its encoder the stream ends and the server answers 404; with it the source runs again."""
    monkeypatch.setattr("ingest.capture.FIRST_PAUSE", 0.1)
    told, data = Heard(), tone(800, seconds=4.0)
    capture = Capture(
        "s", StreamSettings(url=icecast.url("/live")),
        report=told.report, hear=told.hear, watch=told.watch, telemetry=told, inputs=inputs,
        equipment=equipment(), evidence=unrecorded(),
    )  # fmt: skip
    try:
        with icecast.fed("/live", data, 4.0, "audio/mpeg"):
            capture.start()
            eventually(lambda: told.states()[-1:] == ["running"], "to be heard")
        eventually(lambda: "404" in str(told.reports[-1].fact.reason), "the mount to be gone")
        with icecast.fed("/live", data, 4.0, "audio/mpeg"):
            eventually(lambda: told.states()[-1] == "running", "to be heard again")
    finally:
        capture.stop()
