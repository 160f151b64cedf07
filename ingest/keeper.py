"""Looking after the folder of recordings: what an earlier run left unfinished, and what is too old."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from ingest.recorder import Recorder
from ingest.shelf import outlived, salvaged
from streams.messages import now
from streams.recordings import RecordingFact
from streams.sound import RecordingsSection

EVERY = 60.0
"""Seconds between two looks."""

log = structlog.get_logger(__name__)


class Keeper:
    """Looks after one node's recordings. `run` is the body of a thread.

    `tell` takes the lane, the source and what became of its recording; `told` says whether the end of a
    lane's recording stands in the spool already.
    """

    def __init__(
        self,
        recorder: Recorder,
        section: RecordingsSection,
        tell: Callable[[str, str, RecordingFact], None],
        told: Callable[[str, str], bool],
    ) -> None:
        self._folder, self._section, self._tell, self._told = recorder.folder, section, tell, told

    def salvage(self) -> None:
        """Finish what an earlier run has left; to be called before anything is recorded."""
        for one, fact in salvaged(self._folder):
            if self._told(one.lane, one.recording):
                continue
            log.warning("a recording was left unfinished", recording=one.recording, source=one.source)
            self._tell(one.lane, one.source, fact)

    def run(self, stop: threading.Event) -> None:
        """Delete what is too old, and too much, until `stop` is set."""
        while not stop.is_set():
            try:
                for one, fact in outlived(self._folder, self._section, now()):
                    log.info("a recording was deleted", recording=one.recording, reason=fact.reason)
                    self._tell(one.lane, one.source, fact)
            except OSError as error:
                log.warning("recordings cannot be looked after", detail=str(error))
            stop.wait(EVERY)
