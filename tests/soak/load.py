"""Gives a station commands until it is told to end: `python -m tests.soak.load FOLDER`."""

from __future__ import annotations

import signal
import sys
import threading
from collections import Counter
from pathlib import Path

from control.desk import Desk, Wish
from streams.connection import Unreachable
from streams.settings import load
from streams.submit import InDoubt, NoAnswer, Refused

EVERY = 0.05


def main() -> None:
    """One after the other: start, stop and rename the demo, and a word to each lane that moves."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    folder, told, count = Path(sys.argv[1]), Counter[str](), 0
    desk = Desk(load(folder / "station.toml").as_role("submitter"), folder)
    while not stop.wait(EVERY):
        count += 1
        kind = ("source.update", "source.stop", "source.start")[count % 3]
        params = {"name": f"demo {count}"} if kind == "source.update" else {}
        try:
            if count % 4:
                answer = desk.submit(Wish(type="source.stop", source=f"nobody-{count % 8}"), f"p{count % 8}")
            else:
                answer = desk.address(Wish(type=kind, source="demo", params=params))
            told[answer.outcome] += 1
        except (InDoubt, NoAnswer, Unreachable, Refused) as error:
            told[type(error).__name__] += 1
    desk.close()
    print(" ".join(f"{outcome}={number}" for outcome, number in sorted(told.items())), flush=True)


if __name__ == "__main__":
    main()
