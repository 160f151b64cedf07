"""A real Prometheus scrapes a real station: the numbers are right, and rules and dashboard work on them."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import yaml

from streams.vocabulary import COMMANDS, STATION_COMMANDS
from tests.fix_prometheus import DEPLOY, Watched
from tests.fix_servers import eventually

pytestmark = pytest.mark.slow

DASHBOARD = json.loads((DEPLOY / "grafana" / "tocsin.json").read_text("utf-8"))
RULES = yaml.safe_load((DEPLOY / "prometheus" / "tocsin.rules.yml").read_text("utf-8"))["groups"]
EMPTY = {"Alerts firing"}
"""Panels with nothing to show on a station that is well and has no decoder."""


def total(watched: Watched, type: str) -> float:
    """How many commands of the type were completed, as Prometheus has it."""
    found = watched.prometheus.value(f'tocsin_commands_total{{type="source.{type}",outcome="completed"}}')
    return found or 0.0


def test_the_numbers_are_those_of_the_station(watched: Watched) -> None:
    """A stop and a start are counted once each; levels, heartbeat and servers are there."""
    prometheus = watched.prometheus
    starts, stops = total(watched, "start"), total(watched, "stop")
    watched.command("stop")
    eventually(lambda: prometheus.value('tocsin_source_state{source="demo",state="stopped"}') == 1, "stopped")
    watched.command("start")
    eventually(lambda: prometheus.value('tocsin_source_state{source="demo",state="running"}') == 1, "running")
    eventually(
        lambda: (total(watched, "start"), total(watched, "stop")) == (starts + 1, stops + 1), "counted once"
    )
    assert total(watched, "add") >= 1
    assert prometheus.value("sum(tocsin_command_duration_seconds_count)") == prometheus.value(
        "sum(tocsin_commands_total)"
    )
    mean = "sum(tocsin_command_duration_seconds_sum) / sum(tocsin_command_duration_seconds_count)"
    assert 0 < (prometheus.value(mean) or 0) < 20
    eventually(
        lambda: -60 < (prometheus.value('tocsin_source_level_dbfs{source="demo",kind="peak"}') or -99) <= 0,
        "the demo is heard",
    )
    assert (prometheus.value('tocsin_audio_service_heartbeat_age_seconds{node="local"}') or 0) < 15
    assert prometheus.value("min(tocsin_up)") == 1
    assert prometheus.value("max(tocsin_breaker_state)") == 0
    assert prometheus.value("tocsin_replicas_connected == tocsin_replicas_configured") == 2
    lanes = watched.settings.station.lanes + 2
    assert prometheus.value("count(tocsin_lane_owned == 1)") == lanes
    assert prometheus.value("max(tocsin_verify_failed)") == 0
    assert prometheus.value('tocsin_disk_size_bytes{node="local"}') == float(
        shutil.disk_usage(watched.folder.path).total
    )
    eventually(lambda: prometheus.value("sum(tocsin_projection_lag_events)") == 0, "everything folded")


def test_a_web_process_that_dies_takes_no_count_with_it(watched: Watched) -> None:
    """Another process goes on with the same numbers: no counter is ever seen to start again."""
    before = watched.prometheus.value("sum(tocsin_commands_total)") or 0
    watched.kill_web()
    watched.command("stop")
    watched.command("start")
    count = "sum(tocsin_commands_total)"
    eventually(lambda: (watched.prometheus.value(count) or 0) == before + 2, "two commands more")
    assert watched.prometheus.value("max(resets(tocsin_commands_total[10m]))") == 0
    assert watched.prometheus.value("max(resets(tocsin_command_duration_seconds_count[10m]))") == 0


def test_cardinality_is_that_of_the_station(watched: Watched) -> None:
    """However much is commanded, there are no more series: types, lanes, nodes and sources are the labels."""
    types = watched.prometheus.query("count by (type) (tocsin_commands_total)")
    assert {one["metric"]["type"] for one in types} == {*COMMANDS, *STATION_COMMANDS, "other"}
    before = watched.prometheus.value('count({__name__=~"tocsin_.+"})')
    watched.command("restart")
    eventually(lambda: total(watched, "restart") >= 1, "the restart counted")
    assert watched.prometheus.value('count({__name__=~"tocsin_.+"})') == before
    assert (before or 0) < 1000


def test_no_rule_fires_on_a_station_that_is_well(watched: Watched) -> None:
    """Prometheus evaluates all rules without a fault, and none is about to fire."""
    wanted = {rule["alert"] for group in RULES for rule in group["rules"]}

    def healthy() -> set[str]:
        groups = watched.prometheus.ask("/rules").get("groups", [])
        return {rule["name"] for group in groups for rule in group["rules"] if rule["health"] == "ok"}

    eventually(lambda: healthy() == wanted, "all rules evaluated")
    eventually(lambda: not watched.prometheus.active(), "no alert")


def test_a_source_that_fails_raises_its_alert(watched: Watched) -> None:
    """A source whose file is not there is about to alarm within seconds, and no longer once it is stopped."""
    watched.tocsin("source", "add", "gone", "--file", str(watched.folder.path / "not-there.wav"))
    watched.command("start", "gone")
    alarm = ("TocsinSourceFailed", "gone")
    eventually(lambda: alarm in watched.prometheus.active(), "the alert is about to fire")
    watched.tocsin("source", "remove", "gone")
    eventually(lambda: alarm not in watched.prometheus.active(), "the alert is gone")


def targets() -> list[Any]:
    """Every query of the dashboard."""
    return [
        pytest.param(panel, target["expr"], id=f"{panel['title']}-{target['refId']}")
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", [])
    ]


@pytest.mark.parametrize(("panel", "expression"), targets())
def test_every_query_of_the_dashboard_answers(
    watched: Watched, panel: dict[str, Any], expression: str
) -> None:
    """Each is understood, and gives something wherever there is something to show."""
    expression = expression.replace("$__rate_interval", "1m")
    assert "$" not in expression
    if panel["title"] in EMPTY:
        assert watched.prometheus.query(expression) == []
    else:
        eventually(lambda: watched.prometheus.query(expression), f"{panel['title']}: {expression}")


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    """Panels have ids and places of their own, and take their data from the one that is chosen above."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        squares = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not squares & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= squares
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["description"]
    assert [one["name"] for one in DASHBOARD["templating"]["list"]] == ["datasource"]
