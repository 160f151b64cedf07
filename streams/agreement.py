"""Whether two copies of a lane's history are the same, found while one of them is being read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from streams.history import Entry


class Agreement:
    """Passes entries on and looks whether a second copy of them is the same.

    `compared` is how many were; `differs` the seq of the first that is another in the second copy.
    """

    def __init__(self, copies: Iterable[Entry], begin: int) -> None:
        self._copies = iter(copies)
        self._begin = begin
        self.compared = 0
        self.differs: int | None = None

    def passing(self, entries: Iterable[tuple[bytes, bytes]], first: int) -> Iterator[tuple[bytes, bytes]]:
        """`entries`, which begin at seq `first`, up to where the second copy, from seq `begin` on, differs.

        Where it ends, nothing is compared any more.
        """
        ended = False
        for seq, (raw, stated) in enumerate(entries, first):
            # Whoever finds a fault in the entry itself does not come back for more.
            yield raw, stated
            if ended or seq < self._begin:
                continue
            copy = next(self._copies, None)
            if copy is None:
                ended = True
            elif copy[0] != raw or copy[1].encode() != stated:
                self.differs = seq
                return
            else:
                self.compared += 1
