"""The HTTP API against its own description: what it takes, what it answers, and never a fault of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from tests.fix_projections import Yard
from tests.fix_servers import eventually
from tests.fix_web import Web

EXAMPLES = 12
"""Of each kind for each route: the whole has to stay quick."""
ENDLESS = "/api/audio/live"
NOT_ASKED = ("not_a_server_error", "positive_data_acceptance", "unsupported_method", "ignored_auth")
"""Judged here by itself: 504 is honest for a wait of 0 s, 422 for a source that does not exist."""
load_all_checks()
EXCLUDED = [check for check in CHECKS.get_all() if check.__name__ in NOT_ASKED]

Operation = Any
"""schemathesis' classes are not typed all through."""


@pytest.fixture
def told(web: Web, web_yard: Yard) -> Iterator[Web]:
    """A running web process; its station has sources, results, an alert and projections that follow."""
    scribe = web_yard.scribe()
    scribe.add("mic", running=True)
    scribe.add("tower")
    scribe.settle("c-1", "mic", "completed", state="running")
    scribe.settle("c-2", "tower", "failed", reason="unreadable", detail="no such file")
    scribe.write("alert.received", "mic", header="ZCZC-WXR-RWT-012345+0030-1211200-KTOCSIN -", event="RWT")
    web_yard.beat()
    with web_yard.projections():
        eventually(lambda: web.client.get("/api/commands/c-2").status_code == 200, "the results are folded")
        eventually(lambda: web.client.get("/api/audio/sources").json()["source"] == "snapshot", "snapshots")
        eventually(lambda: web.client.get("/api/audio/alerts").json()["data"] != [], "the alert is archived")
        yield web


def operations(web: Web, method: str) -> list[Operation]:
    described = schemathesis.openapi.from_url(f"{web.url}/api/openapi.json")
    found = [result.ok() for result in described.get_all_operations()]
    return [one for one in found if one.method.upper() == method and one.path != ENDLESS]


def ask_much(operation: Operation, mode: GenerationMode, headers: dict[str, str]) -> set[int]:
    """Ask the operation many things and hold every answer against the description; the statuses seen."""
    seen: set[int] = set()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Case) -> None:
        seen.add(answered(case, headers))

    ask()
    return seen


def answered(case: Case, headers: dict[str, str]) -> int:
    """The status that the case gets, once its answer is found to be as described."""
    query = case.query or {}
    waits = "after" in query and not case.path.startswith("/api/events")
    if waits:
        case.query = {**query, "wait": 0}
    response = case.call(headers=headers)
    case.validate_response(response, excluded_checks=EXCLUDED)
    told = f"{case.method} {response.request.url} answered {response.status_code}: {response.text[:300]}"
    assert response.status_code < 500 or (waits and response.status_code == 504), told
    return int(response.status_code)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_read_answers_as_described(told: Web, web_yard: Yard, mode: GenerationMode) -> None:
    """Whatever is asked, right or wrong: no fault of ours, and an answer of the shape that was promised."""
    reads = operations(told, "GET")
    assert len(reads) >= 12
    for operation in reads:
        web_yard.beat()
        if mode is GenerationMode.NEGATIVE and not list(operation.iter_parameters()):
            continue  # nothing about it can be wrong
        ask_much(operation, mode, {})


def test_reads_of_what_there_is_answer_as_described(told: Web, web_yard: Yard) -> None:
    """Real sources, results and events come in the shape that was promised too."""
    by_path = {operation.path: operation for operation in operations(told, "GET")}
    real: list[tuple[str, dict[str, str], dict[str, str]]] = [
        ("/api/audio/sources", {}, {"after": "node.local:1"}),
        ("/api/audio/sources/{id}", {"id": "mic"}, {}),
        ("/api/commands", {}, {"source": "mic", "limit": "1"}),
        ("/api/commands/{id}", {"id": "c-2"}, {"after": "node.local:2"}),
        ("/api/events", {}, {"lane": "node.local", "type": "source."}),
        ("/api/audio/alerts", {}, {"source": "mic"}),
        ("/api/audio/health/dashboard", {}, {}),
        ("/api/audio/health/metrics", {}, {}),
    ]
    web_yard.beat()
    for path, names, query in real:
        case = by_path[path].Case(path_parameters=names, query=query)
        assert answered(case, {}) == 200, path


WRITES = ("POST", "PATCH", "DELETE")
OPEN = {"/api/commands", "/api/session"}
"""What needs no token: a signature says who asks, and whoever logs in has none yet."""
AWAITED = {"/api/audio/episodes/{episode}/acknowledge"}
"""What the owner of the station's lane answers, whom nobody runs here: each would be waited for in vain."""


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_write_answers_as_described(told: Web, mode: GenerationMode) -> None:
    """With the token and without: refused as described, and nothing is done for who has none."""
    seen = {}
    for operation in [one for method in WRITES for one in operations(told, method)]:
        if mode is GenerationMode.NEGATIVE and not [*operation.iter_parameters(), *operation.body]:
            continue  # nothing about it can be wrong
        if operation.path not in OPEN:
            assert ask_much(operation, mode, {}) <= {401, 404, 405, 413}
        if operation.path in AWAITED:
            continue
        with_token = {"Authorization": f"Bearer {told.token}"}
        # 503 and 429 are for what is too much at once, and 202 is an answer that is still to come.
        seen[operation.method, operation.path] = ask_much(operation, mode, with_token)
    allowed = {200, 202, 401, 403, 404, 405, 409, 413, 422, 429}
    assert all(statuses <= allowed for statuses in seen.values()), seen
    assert {"/api/audio/sources", "/api/audio/sources/{id}", "/api/commands", "/api/session"} <= {
        path for _, path in seen
    }


def test_the_description_is_openapi_3_1_and_loads_nothing(web: Web) -> None:
    """It names every route with its answers, and there is no page that would load scripts from elsewhere."""
    described = web.client.get("/api/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    assert described["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], f"{method} {path} does not say what it is"
    for path in ("/api", "/schema", "/api/swagger", "/api/redoc"):
        assert "<script" not in web.client.get(path).text
