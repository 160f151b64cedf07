"""What is known at the end of a run: what people were told, what log, archive and rows say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Told:
    """What a submitter was told of a command, and when (seconds of this machine's monotonic clock)."""

    who: str
    id: str
    source: str
    lane: str
    type: str
    outcome: str
    seq: int
    sequence: int
    began: float
    at: float
    by: str | None = None


@dataclass(frozen=True)
class Fact:
    """An event as it stands."""

    seq: int
    hash: str
    prev: str
    type: str
    source: str | None
    command: str | None
    data: Mapping[str, Any]


@dataclass
class History:
    """One run, as the checker gets it.

    `log` and `archive` are lane → events: those that Redis let go of are the archive's in both, `trimmed`
    says how many. `rows` are command → (lane, seq, outcome) in the read model, and `rebuilt` the same after
    all was folded afresh; `tables` says which tables differ then. `hearings` is how often the rows say that
    each alert (source and header) was heard. `verified` is what an audit found wrong, `spooled` the ids of
    facts that lay in a node's spool meanwhile, `waiting` the commands without a result by lane, `troubles`
    whatever would have needed a person.
    """

    told: list[Told] = field(default_factory=list)
    log: dict[str, list[Fact]] = field(default_factory=dict)
    archive: dict[str, list[Fact]] = field(default_factory=dict)
    rows: dict[str, tuple[str, int, str]] = field(default_factory=dict)
    rebuilt: dict[str, tuple[str, int, str]] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    hearings: dict[str, int] = field(default_factory=dict)
    verified: list[str] = field(default_factory=list)
    spooled: list[str] = field(default_factory=list)
    trimmed: int = 0
    waiting: dict[str, int] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)


def write_lines(path: Path, records: Iterable[Any]) -> None:
    """Append records as JSON lines: dataclasses or dicts."""
    with path.open("a", encoding="utf-8") as file:
        for one in records:
            plain = one if isinstance(one, dict) else asdict(one)
            file.write(json.dumps(plain, ensure_ascii=False, default=str) + "\n")


class Lines:
    """Files of JSON lines that grow, read on from where they were; a line cut short is left for later."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._at = dict.fromkeys(paths, 0)

    def more(self) -> Iterator[dict[str, Any]]:
        """The records that came since the last time."""
        for path, at in self._at.items():
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(at)
                for line in file:
                    if line.endswith(b"\n"):
                        self._at[path] += len(line)
                        yield json.loads(line)
