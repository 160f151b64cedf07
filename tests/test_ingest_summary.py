"""What a lane of sources keeps of its past where the log is trimmed."""

from __future__ import annotations

from ingest.ledger import SUMMARY, sources_of
from tests.fix_projections import Chain


def test_what_is_kept_of_the_past_says_what_the_past_says() -> None:
    """Wherever a log is cut, what is kept of its beginning and the rest of it give the same sources.

    Also of a source whose settings only a newer version understands.
    """
    chain = Chain()
    for name, settings in (
        ("mic", {"kind": "file", "path": "/media/mic.wav", "loop": True}),
        ("future", {"kind": "crystal", "ball": [1, 2]}),
    ):
        chain.event("source.added", name, settings=settings, name=name, desired="stopped")
        chain.event("source.starting", name, desired="running")
        chain.event("source.running", name, rate=48000, channels=2)
    chain.event("source.stopped", "mic", desired="stopped")
    whole = sources_of(chain.events)
    assert sorted(whole) == ["future", "mic"]
    for cut in range(len(chain.events) + 1):
        known = SUMMARY.fold(b"", iter(chain.events[:cut]))
        assert sources_of(chain.events[cut:], known) == whole
