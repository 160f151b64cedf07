"""The eventsourcing library with its Postgres recorder: events per second that an application saves.

`python -m bench.peers.eventsourcing_peer COUNT`; the database comes in BENCH_POSTGRES_*.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event


class Source(Aggregate):
    """A source whose state is told by events."""

    @event("Ran")
    def run(self, rate: int) -> None:
        self.rate = rate


def main() -> None:
    count = int(sys.argv[1])
    env = {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        **{
            f"POSTGRES_{name}": os.environ[f"BENCH_POSTGRES_{name}"]
            for name in ("DBNAME", "HOST", "PORT", "USER", "PASSWORD")
        },
    }
    application: Application = Application(env)
    source = Source()
    application.save(source)
    started = time.perf_counter()
    for number in range(count):
        source.run(number)
        application.save(source)
    seconds = time.perf_counter() - started
    print(json.dumps({"per_second": count / seconds, "version": version("eventsourcing")}))
    application.close()


if __name__ == "__main__":
    main()
