"""What a lane's log says of its sources, in memory, kept in step with what is being logged."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec
import structlog

from ingest.decide import Fact
from ingest.entered import FIELD, Entered, stands, with_id
from ingest.spool import Spooled
from ingest.state import Source, fold
from streams.drafts import Draft, Post, foreseen
from streams.handler import Summary
from streams.messages import Logged, canonical, now
from streams.vocabulary import ForeignSettings, plain, settings_of


class Void(Exception):
    """Raised where a command was begun on top of a log that is not the lane's any more."""


class Ledger:
    """Folds what is logged in the step in which it is posted, so that memory and log have one order.

    Not thread-safe: its owner's lock is held around every call, and none of them waits.
    """

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}
        self.entered: Entered = {}
        """The facts of spools that stand in the log."""
        self.term = 0
        """Counts the logs that this one stood on; what was begun in an earlier term is void."""
        self._post: Post | None = None

    @property
    def open(self) -> bool:
        """Whether anything is logged now."""
        return self._post is not None

    def close(self) -> None:
        """Log nothing from here to `reopen`."""
        self._post = None
        self.term += 1

    def reopen(self, post: Post) -> None:
        """Log by `post` from here on."""
        self._post = post

    def check(self, term: int) -> None:
        """Raises Void unless `term` is the present one."""
        if self.term != term:
            raise Void

    def tell(self, fact: Fact, id: str, command: str | None = None, at: datetime | None = None) -> None:
        """Log what is new, and only that."""
        if self._post is None:
            return
        draft = draft_of(fact, id, command, at)
        if self._after(draft) != self.sources.get(id):
            self._post(draft)
            self.fold(draft)

    def note(self, fact: Fact, id: str, at: datetime | None = None) -> None:
        """Log what happened, whether or not it changes what is so."""
        if self._post is not None:
            draft = draft_of(fact, id, at=at)
            self._post(draft)
            if id in self.sources:
                self.fold(draft)

    def enter(self, spooled: Spooled) -> bool:
        """Log what was spooled, unless it is there already; whether it is there now."""
        if not stands(self.entered, spooled.id):
            if self._post is None:
                return False
            draft = spooled.draft()
            self._post(draft)
            self.take_note(draft)
        return True

    def take_note(self, draft: Draft) -> None:
        """Fold what came out of a spool, also of a source that is gone."""
        self.entered = with_id(self.entered, draft.data.get(FIELD))
        if draft.source in self.sources:
            self.fold(draft)

    def fold(self, draft: Draft) -> None:
        """Fold what is being logged, as a reader of the log will."""
        after = self._after(draft)
        if after is not None:
            self.sources[draft.source] = after
        else:
            self.sources.pop(draft.source, None)

    def _after(self, draft: Draft) -> Source | None:
        return fold(self.sources.get(draft.source), foreseen(draft))


def draft_of(fact: Fact, id: str, command: str | None = None, at: datetime | None = None) -> Draft:
    """The event that says `fact` of a source; without `at` it happens now.

    Never left open: the log would put in a later time than the one that memory folds.
    """
    return Draft(type=fact.type, source=id, data=plain(fact.data), command=command, at=at or now())


class Past(msgspec.Struct, frozen=True):
    """What a lane's log says: its sources, and which facts of spools are in it."""

    sources: dict[str, Source]
    entered: Entered


def sources_of(events: Iterable[Logged], known: bytes = b"") -> dict[str, Source]:
    """The sources by a lane's log, from its beginning or from what is `known` of it."""
    return past_of(events, known).sources


def past_of(events: Iterable[Logged], known: bytes = b"") -> Past:
    """The past by a lane's log, from its beginning or from what is `known` of it.

    An event that cannot be understood is said and changes nothing.
    """
    past = _remembered(known) if known else Past({}, {})
    sources, entered = past.sources, past.entered
    for logged in events:
        event = logged.event
        if FIELD in event.data:
            entered = with_id(entered, event.data[FIELD])
        try:
            after = fold(sources.get(event.source), event)
        except msgspec.ValidationError as error:
            structlog.get_logger(__name__).error("event not understood", seq=event.seq, detail=str(error))
            continue
        if after is not None:
            sources[event.source] = after
        else:
            sources.pop(event.source, None)
    return Past(sources, entered)


def _known(known: bytes, events: Iterable[Logged]) -> bytes:
    past = past_of(events, known)
    rows = {id: _row(source) for id, source in past.sources.items()}
    return canonical({"sources": rows, "entered": past.entered})


def _row(source: Source) -> dict[str, Any]:
    # Settings as they stand in the log, so that a newer version understands what this one did not.
    settings = source.settings
    table = settings.table if isinstance(settings, ForeignSettings) else msgspec.to_builtins(settings)
    return {**msgspec.structs.asdict(source), "settings": table}


class _Kept(msgspec.Struct, frozen=True):
    sources: dict[str, dict[str, Any]]
    entered: dict[str, tuple[tuple[int, int], ...]]


def _remembered(known: bytes) -> Past:
    kept = msgspec.json.decode(known, type=_Kept)
    fields = [field for field in msgspec.structs.fields(Source) if field.name != "settings"]
    sources = {
        id: Source(
            settings=settings_of(row["settings"]),
            **{field.name: msgspec.convert(row[field.name], field.type) for field in fields},
        )
        for id, row in kept.sources.items()
    }
    return Past(sources, kept.entered)


SUMMARY = Summary("sources/3", _known)
"""How the past of a lane of sources is kept: its sources as they are, and what is entered of spools."""
