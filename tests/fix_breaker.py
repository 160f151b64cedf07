"""A web process whose ways to Redis and to Postgres can be cut, or led to a server that never answers."""

from __future__ import annotations

import itertools
import re
import socket
import time
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from control.station.folder import Folder
from control.station.ports import free_port
from projections.database import open_engine
from projections.schema import migrate
from streams.connection import connect
from streams.library import load_library
from streams.names import StationKeys
from streams.settings import PostgresSection, RedisSection, load
from tests.fix_cli import made_folder
from tests.fix_servers import eventually
from tests.fix_streams import Wire
from tests.fix_web import Web, running_web

LANE = "node.local"
_counter = itertools.count(1)


class Road(Wire):
    """A way to any server, which can also lead to one that takes connections and never says a word."""

    def __init__(self, port: int) -> None:
        self._mute = socket.create_server(("127.0.0.1", 0), backlog=256)
        super().__init__(RedisSection(url=f"redis://127.0.0.1:{port}/0"))
        self._real = self._server

    @property
    def port(self) -> int:
        return int(self.redis.url.rsplit(":", 1)[1].split("/")[0])

    def mislead(self) -> None:
        """Break all connections; who connects from now on is taken in and never answered."""
        self._server = self._mute.getsockname()
        self.cut()
        super().mend()

    def mend(self) -> None:
        """Break what was led astray, and lead to the server again."""
        self._server = self._real
        self.cut()
        super().mend()

    def close(self) -> None:
        super().close()
        self._mute.close()


class Stage:
    """The web process of a station, and the ways by which it reaches its servers."""

    def __init__(self, web: Web, folder: Folder, redis: Road, postgres: Road, valkey: RedisSection) -> None:
        self.web = web
        self.folder = folder
        self.redis = redis
        self.postgres = postgres
        self.valkey = valkey
        self.keys = StationKeys(load(folder.settings).station.id)

    def start_demo(self, **body: object) -> tuple[httpx.Response, float]:
        """Start the source `demo` over HTTP; the answer, and how many seconds it took."""
        began = time.monotonic()
        response = self.web.post("/api/audio/sources/demo/start", dict(body))
        return response, time.monotonic() - began

    def standing(self, dependency: str) -> str:
        """How the web process' breaker stands."""
        told = self.web.client.get("/api/audio/health/breakers").json()
        return str(told["web"][dependency]["state"])

    def wait_until(self, dependency: str, state: str, timeout: float = 45.0) -> None:
        eventually(lambda: self.standing(dependency) == state, f"{dependency} breaker {state}", timeout)

    def submitted(self) -> int:
        """How many commands ever came into the lane's stream, whatever became of them."""
        link = connect(self.valkey, "test")
        try:
            added: bytes = link.call("XINFO", "STREAM", self.keys.lane(LANE).commands)
        except Exception:
            return 0
        finally:
            link.close()
        facts = dict(zip(added[::2], added[1::2], strict=True))
        return int(facts[b"entries-added"])  # type: ignore[call-overload]

    def reset(self) -> None:
        """Everything reachable, the breakers closed, the source `demo` there."""
        self.redis.mend()
        self.postgres.mend()
        link = connect(self.valkey, "test")
        load_library(link)
        link.call("HSET", self.keys.sources, "demo", LANE)
        link.close()
        self.wait_until("redis", "closed")
        self.wait_until("postgres", "closed")


@pytest.fixture(scope="module")
def only_stage(
    tmp_path_factory: pytest.TempPathFactory, valkey_server: RedisSection, postgres_server: PostgresSection
) -> Iterator[Stage]:
    """One web process for the tests of a module."""
    name = f"breaker_{next(_counter)}"
    with psycopg.connect(postgres_server.url, password=postgres_server.password, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        redis, postgres = (Road(port_of(section.url)) for section in (valkey_server, postgres_server))
        url = re.sub(r":\d+/\w+$", f":{postgres.port}/{name}", postgres_server.url)
        folder = made_folder(tmp_path_factory.mktemp("breaker") / "station", redis.redis, url, free_port())
        engine = open_engine(load(folder.settings).postgres, name="test")
        migrate(engine)
        engine.dispose()
        with running_web(folder) as web:
            yield Stage(web, folder, redis, postgres, valkey_server)
        redis.close()
        postgres.close()
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def stage(only_stage: Stage, valkey: RedisSection) -> Iterator[Stage]:
    """The web process with everything well, at the test's begin and at its end."""
    only_stage.reset()
    yield only_stage
    only_stage.reset()


def port_of(url: str) -> int:
    """The port that a URL names."""
    found = re.search(r":(\d+)/", url.partition("@")[2] or url)
    assert found
    return int(found[1])
