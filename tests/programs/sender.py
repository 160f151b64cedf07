"""A process that sends to the first target of the settings on its standard input, until it is killed."""

from __future__ import annotations

import sys
import threading

import msgspec

from projections.database import open_engine
from projections.notify.sender import Sender
from streams.settings import Settings


def main() -> None:
    """Send, with patience: the receiver decides when the answer comes."""
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=Settings)
    engine = open_engine(settings.postgres, name="sender")
    Sender(engine, settings.station.id, settings.notify.targets[0], threading.Event()).run()


if __name__ == "__main__":
    main()
