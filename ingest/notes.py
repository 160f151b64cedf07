"""What is heard of a lane's sources: into the spool, into the log, and from other nodes' spools."""

from __future__ import annotations

import threading
from functools import partial

import msgspec

from ingest.decide import Fact
from ingest.entered import FIELD, stands
from ingest.equipment import Equipment
from ingest.evidence import Evidence
from ingest.file_source import SourceFailed
from ingest.injection import inject
from ingest.ledger import Ledger
from ingest.listener import Noted
from streams.admission import Task
from streams.alerts import ALERT_EVENTS
from streams.drafts import Draft
from streams.handler import LANE_LOST, Result
from streams.messages import now
from streams.recordings import RECORDING_EVENTS, RecordingFact
from streams.vocabulary import ForeignSettings, SourceReport, plain

_EVENTS: dict[type, str] = dict((*ALERT_EVENTS.items(), *RECORDING_EVENTS.items()))


class Notes:
    """The notes of one lane; `lock` is the lane's, and guards `ledger`. Called from any thread."""

    def __init__(self, lane: str, ledger: Ledger, lock: threading.Lock, equipment: Equipment) -> None:
        self._lane, self._ledger, self._lock, self._equipment = lane, ledger, lock, equipment

    def note(self, id: str, noted: Noted) -> None:
        """Put into the log what happened to a source: onto the disk first, where there is a spool."""
        fact = Fact(_EVENTS[type(noted.fact)], noted.fact)
        spool = self._equipment.spool
        if spool is None:
            with self._lock:
                self._ledger.note(fact, id, noted.at)
            return
        spooled = spool.keep(self._lane, id, fact.type, plain(fact.data), noted.at)
        with self._lock:
            self._ledger.enter(spooled)

    def enter(self) -> None:
        """Put into the log what the spool has of this lane and the log has not."""
        for spooled in self._equipment.spool.pending(self._lane) if self._equipment.spool else ():
            with self._lock:
                self._ledger.enter(spooled)

    def inject(self, task: Task) -> Result:
        """Play the recording beside the source's own audio, and say what was heard."""
        id, tell = task.command.source, partial(self.note, task.command.source)
        evidence = self.evidence(id, injected=True)
        with self._lock:
            source = self._ledger.sources.get(id)
        if source is None or isinstance(source.settings, ForeignSettings):
            return Result(outcome="failed", reason="not_played", detail="this version cannot run the source")
        try:
            headers = inject(id, task.command.params["path"], source.settings, evidence, tell, task.cancelled)
        except SourceFailed as error:
            return Result(outcome="failed", reason="not_played", detail=str(error))
        heard = "; ".join(headers) or "nothing"
        return Result(outcome="completed", state="injected", detail=f"heard as a test: {heard}")

    def report(self, task: Task) -> Result:
        """Log what another node has in its spool, as far as it is not logged yet."""
        facts = msgspec.convert(task.command.params, SourceReport).facts
        drafts: list[Draft] = []
        with self._lock:
            if not self._ledger.open:
                return LANE_LOST
            for fact in facts:
                if not stands(self._ledger.entered, fact.spool):
                    data = {**fact.data, FIELD: fact.spool}
                    draft = Draft(
                        type=fact.type, source=fact.source, data=data, at=fact.at, command=task.command.id
                    )
                    drafts.append(draft)
                    self._ledger.take_note(draft)
        return Result(outcome="completed", state="logged", drafts=tuple(drafts))

    def evidence(self, id: str, *, injected: bool = False) -> Evidence:
        def tell(fact: RecordingFact) -> None:
            self.note(id, Noted(fact, now()))

        parts = self._equipment
        on_air = None if injected else parts.on_air
        return Evidence(
            (self._lane, id), parts.recordings, parts.recorder, tell, injected=injected, on_air=on_air
        )
