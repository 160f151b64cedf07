"""Three Redis servers as a deployment has them: each started by a guard beside it, and three Sentinels."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from control.guard import rules
from control.guard.rules import Standing
from control.station import sentinel, valkey
from control.station.ports import LOOPBACK, free_port
from control.station.process import Launch, signal_group, spawn
from tests.fix_servers import Trio, eventually


class GuardedTrio(Trio):
    """A trio whose servers each live and die by their guard, in a process and a folder of its own."""

    def start(self) -> None:
        """Start all for the first time: three guards, three Sentinels that watch redis-1."""
        taken: list[int] = []
        for name in (*self.NAMES, *self.SENTINELS):
            taken.append(free_port(taken))
            folder = self._folder / name
            self._servers[name] = valkey.Server(name, folder, self._folder / f"{name}.log", taken[-1])
        self.switch_on()

    def switch_on(self, *names: str) -> None:
        """Start these and all Sentinels, everything at once; without names, all."""
        for name in names or self.NAMES:
            if name not in self._running:
                self.start_guard(name)
        for name in self.SENTINELS:
            if name not in self._running:
                server = self._servers[name]
                self._start(server, sentinel.launch(server, self.password, self.port(self.NAMES[0])))

    def start_guard(self, name: str) -> None:
        """Start the guard beside the named server; what it does then is its own affair."""
        server = self._servers[name]
        argv = valkey.launch(server, self.password, replicas=2).argv
        peers = [f"--peer={LOOPBACK}:{self.port(other)}" for other in self.NAMES if other != name]
        guard = (
            *(sys.executable, "-m", "control.composition", "run", "guard"),
            *(f"--server={LOOPBACK}:{server.port}", *peers, "--", *argv),
        )
        env = {
            **os.environ,
            "TOCSIN_REDIS_SENTINELS": ",".join(self.redis.sentinels),
            "TOCSIN_REDIS_REPLICAS": "2",
            "TOCSIN_REDIS_PASSWORD": self.password,
        }
        launch = Launch(name, guard, server.log, env=env)
        self._running[name] = spawn(launch), launch

    def switch_off(self) -> None:
        """The power of all hosts goes at once."""
        for process, _ in self._running.values():
            signal_group(process, 9)
        for name in list(self._running):
            self.kill(name)
        eventually(lambda: not any(map(self.standing, self.NAMES)), "no server left")

    def tell_sentinels(self, *command: str | int) -> None:
        """Run a `SENTINEL` command at each of them."""
        for name in self.SENTINELS:
            self.ask(name, "SENTINEL", *command)

    def crash(self, name: str) -> None:
        """SIGKILL the named server alone: its guard goes on."""
        self.server_process(name).kill()

    def pause(self, name: str) -> None:
        """SIGSTOP the named server; its guard goes on."""
        self.server_process(name).suspend() if name in self.NAMES else super().pause(name)

    def resume(self, name: str) -> None:
        """SIGCONT the named server."""
        self.server_process(name).resume() if name in self.NAMES else super().resume(name)

    def restart(self, name: str) -> None:
        """Start the named one again; a server's guard decides how."""
        if name in self.NAMES:
            self.start_guard(name)
        else:
            super().restart(name)

    def server_process(self, name: str) -> psutil.Process:
        """The process of the named server, which its guard started."""
        guard = psutil.Process(self._running[name][0].pid)
        eventually(guard.children, f"{name} started by its guard")
        (process,) = guard.children()
        return process

    def runs(self, name: str) -> bool:
        """Whether the guard has its server running."""
        return bool(psutil.Process(self._running[name][0].pid).children())

    def aof(self, name: str) -> Path:
        """The named server's append-only file, the part that grows."""
        (path,) = (self._folder / name / "appendonlydir").glob("*.incr.aof")
        return path

    def guarded_log(self, name: str) -> str:
        """What guard and server said."""
        return self._servers[name].log.read_text()

    def wait_until_led(self, by: str | None = None) -> str:
        """Wait until one (`by`) leads, the others follow it in sync, and all may be promoted; its name."""

        def led() -> bool:
            named = self._named()
            if named is None or by not in (None, named):
                return False
            said = {name: self.standing(name) for name in self.NAMES}
            return all(
                one is not None
                and one.priority == rules.PROMOTABLE
                and (one.role == "master" if name == named else one.linked and self.follows(one, named))
                for name, one in said.items()
            )

        eventually(led, f"a primary ({by or 'any'}) with two replicas in sync", 40)
        return self.primary()

    def follows(self, one: Standing, name: str) -> bool:
        """Whether `one` follows the named server."""
        return one.follows == (LOOPBACK, self.port(name))


@contextmanager
def running_guarded_trio(folder: Path) -> Iterator[GuardedTrio]:
    """Three guarded servers and three Sentinels, one of them leading, their data in `folder`."""
    trio = GuardedTrio(folder)
    try:
        trio.start()
        # Only patience: Sentinels look for replicas every ten seconds, rest for twenty between failovers,
        # and set a former primary right after eight.
        trio.tell_sentinels("DEBUG", "INFO-PERIOD", 1000)
        trio.tell_sentinels("DEBUG", "PUBLISH-PERIOD", 500)
        trio.tell_sentinels("SET", sentinel.SERVICE, "failover-timeout", 2000)
        trio.wait_until_led()
        trio.wait_until_whole()
        yield trio
    finally:
        trio.stop()


@pytest.fixture(scope="module")
def guarded_trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedTrio]:
    """Three guarded servers and three Sentinels for a module's tests, which leave them whole."""
    with running_guarded_trio(tmp_path_factory.mktemp("guarded")) as trio:
        yield trio
