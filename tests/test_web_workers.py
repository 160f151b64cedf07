"""Several web processes on one port: all serve, none is missed, and none is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from control import workers
from control.station.folder import Folder, with_value
from control.station.ports import free_port
from control.workers import WorkersFailed, keep_workers
from projections.database import open_engine
from projections.schema import migrate
from streams.connection import connect
from streams.library import load_library
from streams.settings import PostgresSection, RedisSection, load
from tests.fix_cli import made_folder
from tests.fix_projections import Yard
from tests.fix_servers import eventually
from tests.fix_web import Web, running_web


@pytest.fixture
def folder(tmp_path: Path, valkey: RedisSection, postgres: PostgresSection) -> Folder:
    """A station's folder that asks for three web workers."""
    made = made_folder(tmp_path / "station", valkey, postgres.url, free_port())
    text = made.settings.read_text("utf-8")
    made.settings.write_text(with_value(text, "web", "workers", "3"), "utf-8")
    settings = load(made.settings)
    engine = open_engine(settings.postgres, name="test")
    migrate(engine)
    engine.dispose()
    link = connect(settings.redis, "test")
    load_library(link)
    link.close()
    return made


def serving(web: Web) -> list[psutil.Process]:
    """The workers that listen on the port now."""
    port = httpx.URL(web.url).port
    return [
        child
        for child in psutil.Process(web.process.pid).children()
        if any(one.laddr.port == port and one.status == "LISTEN" for one in child.net_connections("tcp"))
    ]


def test_all_serve_one_is_replaced_and_none_is_left(folder: Folder) -> None:
    """Three listen on one port; one that is killed is replaced while the others answer; SIGTERM ends all."""
    with running_web(folder) as web:
        eventually(lambda: len(serving(web)) == 3, "three workers")
        victim, *others = serving(web)
        victim.kill()
        eventually(lambda: len(serving(web)) == 3, "the killed one replaced")
        assert set(others) <= set(serving(web))
        assert httpx.get(f"{web.url}/healthz", trust_env=False).status_code == 200
        family = psutil.Process(web.process.pid).children(recursive=True)
    assert not [process for process in family if process.is_running()]


def test_they_end_when_the_process_that_keeps_them_is_gone(folder: Folder) -> None:
    """SIGKILL of the keeper leaves no worker behind that would go on serving unseen."""
    with running_web(folder) as web:
        eventually(lambda: len(serving(web)) == 3, "three workers")
        family = serving(web)
        web.process.kill()
        web.process.wait()
        eventually(lambda: not any(process.is_running() for process in family), "no worker left")


def test_whichever_worker_is_asked_the_numbers_are_the_same(folder: Folder) -> None:
    """A scrape counts what the station did, not what the worker saw that happened to answer."""
    settings = load(folder.settings)
    yard = Yard(settings)
    scribe = yard.scribe()
    scribe.add("mic")
    for number in range(5):
        scribe.settle(f"c-{number}", "mic")
    with running_web(folder) as web, yard.projections():
        eventually(lambda: len(serving(web)) == 3, "three workers")

        def counted() -> set[str]:
            # A connection each, so that the kernel deals them out.
            texts = [httpx.get(f"{web.url}/metrics", trust_env=False).text for _ in range(12)]
            wanted = 'tocsin_commands_total{outcome="completed",type="source.start"}'
            return {line for text in texts for line in text.splitlines() if line.startswith(wanted)}

        eventually(lambda: {line.rpartition(" ")[2] for line in counted()} == {"5.0"}, "five, by all of them")
    yard.close()


def test_several_web_workers_start_no_source(folder: Folder) -> None:
    """The failure it is named for: nine decoders ran where two belonged, one set for each web worker."""
    settings = load(folder.settings)
    yard = Yard(settings)
    yard.scribe().add("mic", running=True)
    with running_web(folder) as web, yard.projections():
        eventually(lambda: len(serving(web)) == 3, "three workers")
        eventually(lambda: web.client.get("/api/audio/sources").json().get("data"), "the source is shown")
        assert not yard.link.call("EXISTS", yard.keys.node(settings.ingest.node))
        assert not yard.link.call("EXISTS", yard.keys.lane("node.local").lease)
        assert yard.link.call("XLEN", yard.keys.lane("node.local").events) == 3, "nobody wrote an event"
    yard.close()


def test_a_port_that_is_taken_is_refused(folder: Folder) -> None:
    """Workers share their port with others that are willing to; so it is looked at before they start."""
    settings = load(folder.settings)
    with running_web(folder) as web:
        second = subprocess.run(
            [sys.executable, "-m", "control.composition", "run", "web", "--station", str(folder.path)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert second.returncode != 0
        assert str(settings.web.port) in second.stderr + second.stdout
        assert web.answers()


@contextmanager
def marks(tmp_path: Path, script: str) -> Iterator[tuple[str, ...]]:
    """A stand-in for a web worker that runs `script` with its number as `me`."""
    program = tmp_path / "worker.py"
    program.write_text(
        f"import sys, time, os\nme = int(sys.argv[-1])\nfolder = {str(tmp_path)!r}\n{script}\n"
    )
    yield (sys.executable, str(program))


def test_when_every_worker_ends_at_once_it_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another start does not mend is said, instead of starting for ever."""
    monkeypatch.setattr(workers, "LONGEST_PAUSE", 0.05)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with marks(tmp_path, "sys.exit(3)") as command, pytest.raises(WorkersFailed, match="see above"):
            keep_workers(command, 2, port=free_port())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_one_that_cannot_start_does_not_end_its_healthy_siblings(tmp_path: Path) -> None:
    """One worker ends again and again while the other serves on; SIGTERM then ends both."""
    script = (
        "open(f'{folder}/{me}-{time.time_ns()}', 'w').close()\nsys.exit(3) if me == 1 else time.sleep(60)"
    )
    with marks(tmp_path, script) as command:
        keeper = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from control import workers\n"
                "workers.LONGEST_PAUSE = 0.05\n"
                f"workers.keep_workers({command!r}, 2, port={free_port()})",
            ],
            env=dict(os.environ),
        )
        eventually(lambda: len(list(tmp_path.glob("1-*"))) >= 6, "several starts of the first")
        assert len(list(tmp_path.glob("2-*"))) == 1
        assert keeper.poll() is None
        keeper.terminate()
        assert keeper.wait(10) == 0
