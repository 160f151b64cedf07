"""A primary of a cluster is cut off together with its owner and its submitters: they are told nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from control.station.ask import NoAnswer, Refused, ask_all
from streams.durability import Prover
from tests.fix_cluster_island import ISLAND, running_split
from tests.fix_load import Load, check_told
from tests.fix_servers import eventually
from tests.fix_streams import Hall, Scripted, working

OPERATORS = 2


@pytest.mark.slow
def test_a_primary_cut_off_with_its_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its replica leads outside; on the island nothing is confirmed, and all go on once it is mended.

    A client that trusts the server's word alone is told OK there, and has lost it afterwards.
    """
    monkeypatch.setattr("streams.worker.IDLE", 0.2)
    with running_split(tmp_path / "cluster") as cluster:
        monkeypatch.setattr("streams.connection.dial", cluster.dial)
        # Given a lane whose primary is on the island, with its owner and its operators,
        lane = cluster.lanes("any")[ISLAND]
        hall = Hall(cluster.redis, tmp_path, lane=lane)
        prover = Prover(cluster.island)
        load = Load(hall, prover, operators=OPERATORS, redis=cluster.island)
        with working(hall, Scripted(), redis=cluster.island, prover=prover), load.at_work():
            load.flows(20)
            # if the island is cut off until its replica leads outside,
            cluster.border.cut()
            told = len(load.answers)
            naive = hall.keys.head + ":naive"
            answered = ask_all(cluster.port(ISLAND), cluster.password, ("SET", naive, 1), timeout=3)
            new = cluster.wait_for_other_primary(hall.keys.head, ISLAND)
            # I expect no more answers than were on their way,
            assert len(load.answers) <= told + OPERATORS
            # the island to take no writes by now,
            eventually(lambda: refuses(cluster.port(ISLAND), cluster.password, naive), "no writes taken")
            cluster.border.mend()
            # and everybody to go on by themselves.
            load.flows(20)
        cluster.wait_until_whole()
        assert cluster.primary_of(hall.keys.head) == new
        assert answered == ["OK"]
        hall.link.close()
        assert hall.link.call("EXISTS", naive) == 0
        check_told(hall, load)
        hall.close()


def refuses(port: int, password: str, key: str) -> bool:
    """Whether the server takes no write."""
    try:
        ask_all(port, password, ("SET", key, 2), timeout=3)
    except (Refused, NoAnswer):
        return True
    return False
