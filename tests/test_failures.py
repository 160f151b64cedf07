"""Named for what went wrong in stations like this one: each is provoked on real processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from projections.reads import Reads
from streams.settings import PostgresSection
from streams.submit import NoAnswer
from tests.fix_ingest_process import Ingest
from tests.fix_projections import Chain, Yard
from tests.fix_servers import eventually
from tests.fix_streams import Hall, Scripted, working


@contextmanager
def projected(ingest: Ingest, postgres: PostgresSection) -> Iterator[Reads]:
    """The ingest process's station with its projections, and somebody who reads it."""
    settings = msgspec.structs.replace(ingest.hall.settings, postgres=postgres)
    with closing(Yard(settings)) as yard:
        yard.prepare()
        with yard.projections(), closing(Reads(settings)) as reads:
            yield reads


def test_a_dead_ingest_node_is_seen_within_15_s(ingest: Ingest, postgres: PostgresSection) -> None:
    """SIGKILL, and no later than 15 s afterwards health and sources say so; nothing looks stopped."""
    ingest.start()
    ingest.add("tone", Path("/not/there.wav"), loop=True)
    with projected(ingest, postgres) as reads:
        eventually(lambda: [view.id for view in reads.sources().data] == ["tone"], "the source is shown")
        eventually(lambda: reads.health().status == "healthy", "the node is heard")
        ingest.do("source.start", "tone")  # it fails, and is to run nevertheless
        eventually(lambda: reads.source("tone").data.desired == "running", "the wish is shown")
        assert reads.source("tone").data.trouble is None
        ingest.running.kill()
        killed = time.monotonic()
        eventually(lambda: reads.health().status == "stale", "the dead node is seen")
        assert time.monotonic() - killed < 16.0
        eventually(lambda: reads.source("tone").data.trouble, "its source is in doubt")
        assert time.monotonic() - killed < 18.0
        one = reads.source("tone")
        assert one.stale
        assert one.data.state != "stopped"


def test_a_command_timeout_is_handled(hall: Hall) -> None:
    """Nobody executes: after its timeout the submitter is told so with the id; later the outcome stands."""
    submitter, command = hall.submitter(), hall.command()
    began = time.monotonic()
    with pytest.raises(NoAnswer) as told:
        submitter.submit(command, timeout=0.5)
    assert 0.4 < time.monotonic() - began < 5
    assert command.command.id in str(told.value)
    with working(hall, Scripted()):
        assert submitter.submit(command, timeout=20).outcome == "completed"
    assert hall.results() == {command.command.id: ["completed"]}


def test_a_projection_survives_every_disconnect(hall: Hall, postgres: PostgresSection) -> None:
    """A subscriber's thread died at a disconnect and never came back; here all are cut off, three times."""
    settings = msgspec.structs.replace(hall.settings, postgres=postgres)
    with closing(Yard(settings)) as yard:
        yard.prepare()
        chain = Chain()
        with yard.projections() as service, closing(Reads(settings)) as reads:
            for number in range(1, 4):
                hall.link.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                yard.scribe("p0", chain).add(f"source-{number}")
                eventually(lambda n=number: len(reads.sources().data) == n, f"source {number} is shown")
            assert service.runners["p0"].trouble is None


def test_the_health_page_never_fails_over_a_heartbeat(hall: Hall, postgres: PostgresSection) -> None:
    """Whatever stands where a heartbeat should, the answer is a judgement and no error."""
    settings = msgspec.structs.replace(hall.settings, postgres=postgres)
    with closing(Yard(settings)) as yard, closing(Reads(settings)) as reads:
        yard.prepare()
        yard.link.call("HSET", yard.keys.sources, "mic", "node.local")
        for nonsense in ("yesterday", "", "nan", "-1", "0"):
            yard.beat(time=nonsense)
            assert reads.service().status == "down", nonsense
            assert reads.service().age_seconds is None, nonsense
