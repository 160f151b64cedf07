"""Proofs of what nobody waits for: beside the lane's thread, and the rarer the more there is to prove."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from streams import proofs, steps
from streams.drafts import Draft
from streams.durability import Prover
from streams.log import LaneLog
from streams.settings import RedisSection
from tests.fix_servers import eventually
from tests.fix_streams import LANE, Functions, Hall, Scripted, working

LONG = 0.5


def watermark(hall: Hall) -> int:
    return int(hall.link.call("HGET", hall.keys.head, "wm_seq") or 0)


def test_a_proof_right_behind_another_proves_more(
    hall: Hall, functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first event is proven soon; those that follow wait for more, and one proof is enough for them."""
    passed: list[str] = []
    monkeypatch.setattr(steps, "watch", passed.append)
    monkeypatch.setattr(proofs, "BUSY", 60.0)
    monkeypatch.setattr(proofs, "BUSY_LINGER", LONG)
    redis = hall.settings.redis
    log = LaneLog(hall.new_link("log"), hall.station, LANE, "one", Prover(redis), "replica")
    assert log.take(functions.acquire())
    with closing(log):
        log.post(Draft(type="source.running", data={}))
        log.flush()
        eventually(lambda: watermark(hall) == 1, "the first event proven")
        began = time.monotonic()
        for _ in range(5):
            log.post(Draft(type="source.running", data={}))
            log.flush()
        assert time.monotonic() - began > LONG or watermark(hall) == 1
        eventually(lambda: watermark(hall) == 6, "all events proven")
        assert time.monotonic() - began > LONG
    assert passed.count("raised later") == 2


def test_the_first_proof_at_a_station_without_replicas_interrupts_nobody(
    valkey_server: RedisSection, tmp_path: Path
) -> None:
    """Where there is nobody to wait for, nothing goes over the link before the watermark is raised."""
    with closing(Hall(valkey_server, tmp_path, "replica")) as hall:
        with working(hall, Scripted()):
            eventually(lambda: watermark(hall) == hall.events()[-1].event.seq, "all proven")
        assert [logged.event.type for logged in hall.events()] == ["lane.acquired", "lane.released"]
        assert not hall.link.call("EXISTS", hall.keys.lease)
