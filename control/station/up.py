"""`tocsin up` and `tocsin down`: a whole station on this machine, from its start to its end."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from control.place import find
from control.station import folder as place
from control.station import instance, postgres, rooms
from control.station.account import NoAccount
from control.station.folder import Folder
from control.station.process import Launch, PortTaken, Process
from control.station.redis_set import RedisSet
from control.station.rooms import COMMANDS, Command
from control.station.supervisor import Child, Processes, Say, Supervisor, Warden
from streams.server_check import WrongServer
from streams.settings import Settings, load

NEW_PORTS = 3
"""How often a start is tried with other ports, where one was taken meanwhile."""
DEMO = 5.0
"""Seconds that the operator waits for the demo before reading where the dashboard is."""
WORRY = 30.0
"""Seconds after which an unfinished start is explained, and again after each such span."""
FATAL = (NoAccount, WrongServer, FileNotFoundError)
"""What no second try can mend."""

Ready = Callable[[Settings], bool]
Demo = Callable[[Settings], None]


class UpFailed(Exception):
    """Raised when the station cannot be started and trying again would not help."""


class StillRunning(Exception):
    """Raised by `down` when the station has not ended in time."""


def print_line(line: str) -> None:
    """Tell the operator at once, also through a pipe; where nobody listens any more, go on all the same."""
    with contextlib.suppress(OSError):
        print(line, flush=True)  # noqa: T201


def up(
    path: Path,
    *,
    demo: Demo | None = None,
    commands: Mapping[str, Command] = COMMANDS,
    ready: Ready = rooms.web_is_ready,
    say: Say = print_line,
) -> None:
    """Run the station in the folder `path` until SIGINT, SIGTERM or SIGHUP; a second one hurries.

    `commands` are started beside the servers; `ready` is asked with the settings until it is true;
    `demo` is called once after that. Must be called in the main thread.
    Raises AlreadyRunning, UpFailed, InvalidSettings.
    """
    folder = place.prepare(path)
    with instance.only_one(folder) as lock:
        for name in instance.end_leftovers(folder):
            say(f"{name} of an earlier station still ran and was ended")
        for _ in range(NEW_PORTS):
            try:
                _Station(folder, lock, commands, ready, say).run(demo)
            except PortTaken as error:
                say(f"{error}; other ports are tried")
                place.forget_ports(folder)
            else:
                return
        raise UpFailed(f"{NEW_PORTS} times another process took a port while the station was starting")


def down(path: Path, *, timeout: float = 40.0) -> bool:
    """Ask the station that runs in the folder `path` to stop, and wait; whether there was one.

    Raises StillRunning after `timeout` seconds.
    """
    folder = Folder(path.absolute())
    running = instance.read(folder)
    if running is None or not instance.is_alive(running.pid, running.started):
        return False
    os.kill(running.pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout
    while instance.is_alive(running.pid, running.started) or instance.is_held(folder):
        if time.monotonic() > deadline:
            raise StillRunning(f"the station in {folder.path} (pid {running.pid}) has not ended yet")
        time.sleep(0.05)
    return True


class _Station:
    """One run of a station."""

    def __init__(
        self, folder: Folder, lock: int, commands: Mapping[str, Command], ready: Ready, say: Say
    ) -> None:
        self._folder = folder
        self._commands = commands
        self._ready = ready
        self._say = say
        self._began = time.monotonic()
        self._settings, ports = _configure(folder)
        self._warden = Warden(lock, folder.log("warden"))
        self._supervisor = Supervisor(self._warden, say, self._tell)
        self._redis = RedisSet(folder, folder.users(self._settings.station.id), ports, self._supervisor, say)
        self._database = postgres.Database(
            folder.path / "postgres", folder.log("postgres"), ports[place.POSTGRES]
        )
        self._stop = threading.Event()

    def run(self, demo: Demo | None) -> None:
        """Start, tell, wait for the end, stop."""
        with self._signals():
            try:
                self._say(f"Starting the station in {self._folder.path}")
                self._start()
                if self._await_ready():
                    self._run_demo(demo)
                    self._welcome()
                self._stop.wait()
            finally:
                self._end()

    def _start(self) -> None:
        supervisor = self._supervisor
        for child in self._redis.children():
            supervisor.keep(child)
        supervisor.keep(Child(place.POSTGRES, self._postgres, self._database.port))
        for name, command in self._commands.items():
            port = self._settings.web.port if name == place.WEB else None
            supervisor.keep(Child(name, partial(rooms.launch, name, command, self._folder), port))
        threading.Thread(target=self._redis.run, name="redis-set", daemon=True).start()

    def _postgres(self) -> Launch:
        postgres.create(self._database, self._folder.secret("postgres.password"))
        postgres.forget_dead(self._database)
        return postgres.launch(self._database)

    def _await_ready(self) -> bool:
        """Wait until all is ready, saying what is; False when asked to stop first."""
        stages: dict[str, Callable[[], bool]] = {
            "Redis: a primary, two replicas in sync, three Sentinels": self._redis.ready,
            "PostgreSQL": self._database_ready,
            # Asked last: questions that nobody could answer yet would open the rooms' breakers.
            f"{', '.join(self._commands)}": lambda: len(stages) == 1 and self._ready(self._settings),
        }
        worry = WORRY
        while stages:
            if self._stop.wait(0.05):
                return False
            self._raise_fatal()
            for stage in [stage for stage, ready in stages.items() if ready()]:
                del stages[stage]
                self._say(f"  {self._elapsed():4.1f} s  {stage}")
            if self._elapsed() > worry:
                worry += WORRY
                self._explain(stages)
        return True

    def _run_demo(self, demo: Demo | None) -> None:
        def run() -> None:
            try:
                if demo is not None:
                    demo(self._settings)
            except Exception as error:  # the station runs without it
                self._say(f"the demo could not be set up: {error}")

        thread = threading.Thread(target=run, name="demo", daemon=True)
        thread.start()
        deadline = time.monotonic() + DEMO
        while thread.is_alive() and not self._stop.is_set() and time.monotonic() < deadline:
            thread.join(0.05)
        if thread.is_alive() and not self._stop.is_set():
            self._say("the demo is still being set up")

    def _database_ready(self) -> bool:
        process: Process | None = self._supervisor.process(place.POSTGRES)
        return process is not None and postgres.ready(self._database, process)

    def _raise_fatal(self) -> None:
        faults = [fault for _, fault in self._supervisor.faults().values()]
        if self._redis.fault is not None:
            faults.append(self._redis.fault)
        for fault in faults:
            if isinstance(fault, PortTaken):
                raise fault
            if isinstance(fault, FATAL):
                raise UpFailed(str(fault)) from fault

    def _explain(self, stages: Mapping[str, object]) -> None:
        self._say(f"  {self._elapsed():4.1f} s  still waiting for: {'; '.join(stages)}")
        for name, (failures, fault) in self._supervisor.faults().items():
            self._say(f"          {name} failed {failures} times: {fault}")
        self._say(f"          the logs are in {self._folder.logs}")

    def _welcome(self) -> None:
        tocsin = shlex.quote(_command())
        ours = find(None, os.environ).directory == self._folder.path
        station = "" if ours else f" --station {shlex.quote(str(self._folder.path))}"
        if self._stop.is_set():
            return
        self._say(f"Ready after {self._elapsed():.1f} s.\n")
        self._say(f"  Dashboard   {rooms.address(self._settings)}")
        self._say(f"  Folder      {self._folder.path}   (settings, keys, data, logs)")
        self._say("  Try next    " + f"{tocsin} source list{station}")
        self._say("              " + f"{tocsin} source add my-file --file RECORDING.wav --start{station}")
        self._say("              " + f"{tocsin} event tail{station}")
        self._say("              " + f"{tocsin} dashboard{station}   (a link that may start and stop, too)")
        self._say("  Stop        Ctrl-C here, or " + f"{tocsin} down{station}\n")

    def _end(self) -> None:
        self._say("Stopping the station (again Ctrl-C: at once)")
        rooms = list(self._commands)
        self._supervisor.stop([rooms, *self._redis.order_of_stop(), [place.POSTGRES]])
        self._warden.close()
        instance.forget(self._folder)
        self._say("Stopped. The data are kept.")

    def _tell(self, processes: Processes) -> None:
        try:
            instance.tell(self._folder, rooms.address(self._settings), processes)
        except OSError as error:
            self._say(f"{self._folder.state} cannot be written: {error.strerror}")

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def asked(number: int, frame: object) -> None:
            if self._stop.is_set():
                self._supervisor.hurry.set()
            self._stop.set()

        signs = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        former = {sign: signal.signal(sign, asked) for sign in signs}
        try:
            yield
        finally:
            for sign, handler in former.items():
                signal.signal(sign, handler)


def _configure(folder: Folder) -> tuple[Settings, dict[str, int]]:
    """Choose the ports, put the addresses into station.toml and read the settings."""
    env = rooms.environment()
    settings = load(folder.settings, env)
    if settings.redis.url:
        raise UpFailed(
            f"{folder.settings} names a Redis of its own (redis.url), and `up` starts servers itself: "
            "remove that line, or start the processes alone with `tocsin run ingest|control|projections|web`"
        )
    try:
        ports = place.choose_ports(folder, settings.web.port)
    except place.WebPortTaken as error:
        raise UpFailed(str(error)) from None
    database = postgres.Database(folder.path, folder.path, ports[place.POSTGRES])
    place.write_addresses(folder, ports, database.url)
    return load(folder.settings, env), ports


def _command() -> str:
    """How this very `tocsin` is called: by name where that finds it, else by its path."""
    beside = Path(sys.executable).with_name("tocsin")
    found = shutil.which("tocsin")
    if found and Path(found).resolve() == beside.resolve():
        return "tocsin"
    return str(beside)
