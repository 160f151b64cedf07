"""A local station run as an operator runs it: by `up` in a process of its own, with stand-in rooms."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from control.guard import replication, rules
from control.station import instance, sentinel
from control.station.ask import At, ask
from control.station.folder import SERVERS, Folder
from control.station.ports import LOOPBACK, is_free
from control.station.sentinel import SENTINELS
from tests.fix_servers import eventually

ROOT = Path(__file__).parent.parent

STAND_IN = '''
"""A stand-in for a room: it loads the settings and runs until it is told to stop."""
import http.server, os, signal, sys, time
from pathlib import Path
from streams.settings import load

room, folder = sys.argv[1], Path(sys.argv[2])
settings = load(folder / "station.toml")
if (folder / f"{room}.stubborn").exists():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if (folder / f"{room}.parent").exists():
    os.fork()

class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        started = folder / "postgres" / "data" / "postmaster.pid"
        with (folder / "asked").open("a") as asked:
            print(started.read_text().split()[-1] if started.exists() else "missing", file=asked)
        up = "away" if (folder / "away").exists() else "up"
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()
        self.wfile.write(f'{{"ready": true, "redis": "up", "postgres": "{up}"}}'.encode())
    def log_message(self, *words):
        pass

if room == "web":
    http.server.HTTPServer(("127.0.0.1", settings.web.port), Ready).serve_forever()
while True:
    time.sleep(1)
'''

RUN = '''
"""`tocsin up` with stand-in rooms."""
import sys
from pathlib import Path
from control.station import rooms, up

def stand_in(room):
    return lambda folder: (sys.executable, sys.argv[2], room, str(folder.path))

try:
    up.up(Path(sys.argv[1]), commands={room: stand_in(room) for room in rooms.ROOMS})
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
'''


class Station:
    """A station in `folder`, and what a test does to it."""

    def __init__(self, path: Path, *, prefix: Sequence[str] = ()) -> None:
        self.folder = Folder(path)
        self._prefix = prefix
        self._scripts = path.parent
        self._output = path.parent / f"{path.name}.output"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        """Start it and, unless told otherwise, wait until it says that it is ready."""
        for name, text in (("run.py", RUN), ("stand_in.py", STAND_IN)):
            (self._scripts / name).write_text(text)
        argv = (
            *self._prefix,
            sys.executable,
            str(self._scripts / "run.py"),
            str(self.folder.path),
            str(self._scripts / "stand_in.py"),
        )
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                argv, stdout=output, stderr=subprocess.STDOUT, env=env, start_new_session=True
            )
        if wait:
            self.wait_until_ready()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the station was not started"
        return self._process

    @property
    def said(self) -> str:
        """What it told the operator since its last start."""
        return self._output.read_text()

    @property
    def seconds(self) -> float:
        """After how many seconds it was ready, by its own words."""
        found = re.search(r"Ready after ([\d.]+) s", self.said)
        assert found, self.said
        return float(found[1])

    def wait_until_ready(self) -> None:
        eventually(
            lambda: "Ready after" in self.said or self.process.poll() is not None, "a ready station", 60
        )
        assert "Ready after" in self.said, self.said

    def stop(self, sign: int = signal.SIGINT) -> int:
        """Send `sign`, wait until it has ended, and return its exit code."""
        self.process.send_signal(sign)
        return self.process.wait(40)

    @property
    def state(self) -> instance.Running:
        state = instance.read(self.folder)
        assert state is not None, "run/station.json is missing"
        return state

    def pid(self, name: str) -> int:
        """The named child's pid; 0 while it has none."""
        child = self.state.children.get(name)
        return child.pid if child else 0

    def port(self, name: str) -> int:
        port = self.state.children[name].port
        assert port is not None
        return port

    def family(self) -> list[psutil.Process]:
        """All processes of the station."""
        me = psutil.Process(self.process.pid)
        return [me, *me.children(recursive=True)]

    def ports(self) -> list[int]:
        return [child.port for child in self.state.children.values() if child.port]

    @property
    def login(self) -> tuple[str, str]:
        """As whom a test asks the servers and Sentinels."""
        return self.folder.users("station").login("admin")

    def ask(self, name: str, *command: str | int) -> object:
        return ask(self.port(name), self.login, *command, timeout=2)

    def named(self) -> str | None:
        """The server that a majority of the Sentinels names."""
        children = self.state.children
        sentinels = [children[name].port or 0 if name in children else 0 for name in SENTINELS]
        port = sentinel.named_primary(sentinels, self.login)
        return next((name for name in SERVERS if name in children and self.port(name) == port), None)

    def standing(self, name: str) -> rules.Standing | None:
        if name not in self.state.children:
            return None
        return replication.standing(At(self.port(name), self.login))

    def is_whole(self) -> bool:
        """Whether one server leads, the others follow it in sync, and all may be promoted."""
        named = self.named()
        if named is None:
            return False
        said = {name: self.standing(name) for name in SERVERS}
        return (
            all(
                one is not None
                and one.priority == rules.PROMOTABLE
                and (
                    one.role == "master"
                    if name == named
                    else one.linked and one.follows == (LOOPBACK, self.port(named))
                )
                for name, one in said.items()
            )
            and replication.attached(At(self.port(named), self.login)) == 2
        )

    def wait_until_whole(self) -> None:
        eventually(self.is_whole, "a primary with two replicas in sync", 40)


def nothing_left(processes: Sequence[psutil.Process], ports: Sequence[int], timeout: float = 15) -> None:
    """Fail unless all these processes end and all these ports become free within `timeout` seconds."""

    def alive() -> list[psutil.Process]:
        return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]

    def gone() -> bool:
        try:
            return not alive()
        except psutil.NoSuchProcess:
            return False

    eventually(gone, "no process left of the station", timeout)
    assert [port for port in ports if not is_free(port)] == []


@pytest.fixture
def station_in() -> Iterator[Callable[..., Station]]:
    """Make stations in given folders; each that still runs at the test's end is stopped."""
    made: list[Station] = []

    def make(path: Path, **options: Sequence[str]) -> Station:
        made.append(Station(path, **options))
        return made[-1]

    yield make
    for station in made:
        _finish(station)


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    """One station for a module's tests, which leave it whole."""
    made = Station(tmp_path_factory.mktemp("station") / "station")
    try:
        made.start()
        yield made
    finally:
        _finish(made)


def _finish(station: Station) -> None:
    if station._process is None or station.process.poll() is not None:
        return
    family = station.family()
    station.process.send_signal(signal.SIGTERM)
    try:
        station.process.wait(20)
    except subprocess.TimeoutExpired:
        station.process.kill()
    psutil.wait_procs(family, 8)
