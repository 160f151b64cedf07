"""What a lane's log says of its sources, in memory, kept in step with what is being logged."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec
import structlog

from ingest.decide import Fact
from ingest.state import Source, fold
from streams.drafts import Draft, Post
from streams.messages import GENESIS, SCHEMA, Event, Logged, now
from streams.vocabulary import plain


class Void(Exception):
    """Raised where a command was begun on top of a log that is not the lane's any more."""


class Ledger:
    """Folds what is logged in the step in which it is posted, so that memory and log have one order.

    Not thread-safe: its owner's lock is held around every call, and none of them waits.
    """

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}
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

    def fold(self, draft: Draft) -> None:
        """Fold what is being logged, as a reader of the log will."""
        after = self._after(draft)
        if after is not None:
            self.sources[draft.source] = after
        else:
            self.sources.pop(draft.source, None)

    def _after(self, draft: Draft) -> Source | None:
        event = Event(
            seq=0, prev=GENESIS, token=0, at=now(), logged_at=now(), node="", type=draft.type,
            data=draft.data, schema=SCHEMA, source=draft.source,
        )  # fmt: skip
        return fold(self.sources.get(draft.source), event)


def draft_of(fact: Fact, id: str, command: str | None = None, at: datetime | None = None) -> Draft:
    """The event that says `fact` of a source."""
    return Draft(type=fact.type, source=id, data=plain(fact.data), command=command, at=at)


def sources_of(events: Iterable[Logged]) -> dict[str, Source]:
    """The sources by a lane's log; an event that cannot be understood is said and changes nothing."""
    sources: dict[str, Source] = {}
    for logged in events:
        event = logged.event
        try:
            after = fold(sources.get(event.source), event)
        except msgspec.ValidationError as error:
            structlog.get_logger(__name__).error("event not understood", seq=event.seq, detail=str(error))
            continue
        if after is not None:
            sources[event.source] = after
        else:
            sources.pop(event.source, None)
    return sources
