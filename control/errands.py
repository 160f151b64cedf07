"""Commands for many sources: one after the other for each source, sources beside one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed

import msgspec

from control.desk import Wish
from streams.messages import Answer

AT_ONCE = 8
"""Sources that are worked on at a time: a slow start holds up few others, and the station is not flooded."""


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done with one source: each wish only once the one before it was completed."""

    source: str
    wishes: tuple[Wish, ...]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one wish: its answer, or the error that submitting it raised."""

    wish: Wish
    came: Answer | Exception

    @property
    def completed(self) -> bool:
        """Whether it was done."""
        return isinstance(self.came, Answer) and self.came.outcome == "completed"


def run(errands: Sequence[Errand], submit: Callable[[Wish], Answer]) -> Iterator[Outcome]:
    """Do them all; what became of each wish, source by source as they are done.

    `submit` is called from several threads. An interrupt leaves undone what was not begun.
    """

    def do(errand: Errand) -> list[Outcome]:
        found: list[Outcome] = []
        for wish in errand.wishes:
            try:
                found.append(Outcome(wish=wish, came=submit(wish)))
            except Exception as error:  # told by whoever asked, beside the outcomes of the others
                found.append(Outcome(wish=wish, came=error))
            if not found[-1].completed:
                break
        return found

    pool = ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="errand")
    try:
        going: list[Future[list[Outcome]]] = [pool.submit(do, errand) for errand in errands]
        for done in as_completed(going):
            yield from done.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
