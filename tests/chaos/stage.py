"""A compose file played without an engine: each service a process in its own network, root folder and user.

Works in a namespace of its own (`namespace.enter`), so that nothing of it can be left behind.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.compose import Mount, Service
from tests.chaos.names import Names

ROOT = Path(__file__).parents[2]
BOX = Path(__file__).with_name("box.py")
DEBIANS_POSTGRES = Path("/usr/lib/postgresql")
SHARES = 1024
"""An engine's own `cpu_shares`."""
AGAIN = 0.5
"""Seconds before what ended is started again."""


class Missing(Exception):
    """Raised when a program that a container runs is not on this machine; says which."""


@dataclass
class Container:
    """One service, while it runs and while it does not."""

    service: Service
    addresses: dict[str, str]
    links: dict[str, str]
    extra: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    wanted: bool = False
    code: int | None = None
    starts: int = 0

    @property
    def name(self) -> str:
        return self.service.name

    def processes(self) -> list[psutil.Process]:
        """The command and all that it started."""
        if self.process is None or self.process.poll() is not None:
            return []
        try:
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


class Stage:
    """All services of a compose file on this machine, under `folder`."""

    def __init__(self, services: Mapping[str, Service], folder: Path) -> None:
        self.folder = folder
        self.containers: dict[str, Container] = {}
        self._networks = sorted({name for one in services.values() for name in one.networks})
        self._stopping = threading.Event()
        self._guard = threading.RLock()
        for number, (name, service) in enumerate(services.items(), start=10):
            addresses = {net: f"10.99.{self._networks.index(net)}.{number}" for net in service.networks}
            links = {net: f"v{number}n{self._networks.index(net)}" for net in service.networks}
            self.containers[name] = Container(service, addresses, links)
        self._names: list[Names] = []
        self._keeper = threading.Thread(target=self._keep, name="stage", daemon=True)

    def build(self) -> None:
        """Make the networks and say where each program is. Raises Missing."""
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        self._programs = _link_programs(self.folder / "programs")
        lines = ["link set lo up"]
        for number, _ in enumerate(self._networks):
            lines += [
                f"link add br{number} type bridge",
                f"link set br{number} up",
                f"addr add 10.99.{number}.1/24 dev br{number}",
            ]
        _ip(*lines)
        for one in self.containers.values():
            self._connect(one)
        self._names = [Names(f"10.99.{number}.1", self._found) for number in range(len(self._networks))]
        self._keeper.start()

    def start(self, *names: str) -> None:
        """Start these containers, as `docker compose up`."""
        for name in names:
            one = self.containers[name]
            with self._guard:
                one.wanted = True
                if not one.processes():
                    self._spawn(one)

    def stop(self, *names: str, within: float = 40) -> None:
        """End these in order, as `docker compose stop`, all at once; what does not is killed."""
        ending: list[tuple[Container, subprocess.Popen[bytes]]] = []
        for name in names:
            one = self.containers[name]
            one.wanted = False
            if one.process is not None and one.process.poll() is None:
                one.process.send_signal(getattr(signal, one.service.stop_signal))
                ending.append((one, one.process))
        until = time.monotonic() + within
        for one, process in ending:
            try:
                process.wait(max(until - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                self._signal(one, signal.SIGKILL)

    def kill(self, name: str, *, again: bool = True) -> None:
        """SIGKILL everything in the container; with `again` it is started again by itself."""
        with self._guard:
            self.containers[name].wanted = again
            self._signal(self.containers[name], signal.SIGKILL)

    def pause(self, name: str) -> None:
        """SIGSTOP everything in the container."""
        self._signal(self.containers[name], signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT everything in the container."""
        self._signal(self.containers[name], signal.SIGCONT)

    def restart(self, name: str) -> None:
        """End it in order and start it again."""
        self.stop(name)
        self.start(name)

    def execute(self, name: str, *command: str) -> str:
        """Run a command within the container, as `docker compose exec`; empty where it fails."""
        processes = self.containers[name].processes()
        if not processes:
            return ""
        user, group = self.containers[name].service.user
        where = ["nsenter", "--target", str(processes[0].pid), "--mount", "--net"]
        if Path(f"/proc/{processes[0].pid}/ns/user").readlink() != Path("/proc/self/ns/user").readlink():
            where += ["--user", "--preserve-credentials"]
        else:
            where += ["--setuid", str(user), "--setgid", str(group)]
        env = {"PATH": f"/run/programs:{os.environ['PATH']}", "HOME": "/tmp"}
        done = subprocess.run([*where, *command], env=env, capture_output=True, text=True, timeout=60)
        return done.stdout if done.returncode == 0 else ""

    def cut(self, here: Iterable[str], there: Iterable[str], *, both_ways: bool = True) -> None:
        """Nothing sent from `here` arrives `there`, nor back where `both_ways`; no connection breaks."""
        self._lose(here, there, lost=True, both_ways=both_ways)

    def mend(self, here: Iterable[str], there: Iterable[str]) -> None:
        """Undo `cut`."""
        self._lose(here, there, lost=False, both_ways=True)

    def slow(self, name: str, rate: str | None) -> None:
        """Let no more than `rate` (as `256kbit`) leave the container; None: as much as it will."""
        for network in self.containers[name].links:
            how = "replace" if rate else "del"
            shape = ["tbf", "rate", rate, "burst", "16k", "latency", "400ms"] if rate else []
            _run("ip", "netns", "exec", name, "tc", "qdisc", how, "dev", network, "root", *shape)

    def log(self, name: str) -> str:
        """What the container said."""
        path = self.folder / "logs" / f"{name}.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def running(self) -> list[str]:
        """The containers whose command runs."""
        return [name for name, one in self.containers.items() if one.processes()]

    def close(self) -> None:
        """End all, at once."""
        self._stopping.set()
        for one in self.containers.values():
            one.wanted = False
            self._signal(one, signal.SIGKILL)
        for names in self._names:
            names.close()

    def address(self, name: str) -> str:
        """Where this very process, which is on every network, finds the container."""
        return next(iter(self.containers[name].addresses.values()))

    def _found(self, whom: str, name: str) -> str | None:
        """Where the container at the address `whom` finds the one named; nowhere while that is off."""
        one = self.containers.get(name)
        asking = next((other for other in self.containers.values() if whom in other.addresses.values()), None)
        if one is None or asking is None or not one.processes():
            return None
        return next((one.addresses[net] for net in asking.addresses if net in one.addresses), None)

    def _keep(self) -> None:
        """Start again what ended, by its restart policy."""
        ended: dict[str, float] = {}
        while not self._stopping.wait(0.1):
            for name, one in self.containers.items():
                with self._guard:
                    if one.process is None or one.process.poll() is None:
                        ended.pop(name, None)
                        continue
                    one.code = one.process.returncode
                    if one.service.restart == "on-failure" and one.code == 0:
                        one.wanted = False
                    since = ended.setdefault(name, time.monotonic())
                    if one.wanted and time.monotonic() > since + AGAIN:
                        self._spawn(one)

    def _connect(self, one: Container) -> None:
        _run("ip", "netns", "add", one.name)
        lines = []
        for network, link in one.links.items():
            lines += [
                f"link add {link} type veth peer name {network} netns {one.name}",
                f"link set {link} master br{self._networks.index(network)} up",
            ]
        _ip(*lines)
        inside = ["link set lo up"]
        for network, address in one.addresses.items():
            inside += [f"addr add {address}/24 dev {network}", f"link set {network} up"]
        _ip(*inside, netns=one.name)

    def _spawn(self, one: Container) -> None:
        service = one.service
        mounts = [*service.mounts, Mount(self.folder / "programs", "/run/programs", read_only=True)]
        # The code and its Python may lie where only root comes: they are shown alone, at the same place.
        needed = {ROOT, Path(sys.prefix), Path(sys.base_prefix)} - {Path("/usr"), Path("/usr/local")}
        mounts += [Mount(one, str(one), read_only=True) for one in needed]
        spec = {
            "name": one.name,
            "network": f"/run/netns/{one.name}",
            "root": str(self.folder / "roots"),
            "hosts": self._hosts(one),
            # Like an engine's: on a network of its own.
            "resolv": f"nameserver 10.99.{self._networks.index(one.service.networks[0])}.1\n",
            "hide": [f"/{one.parts[1]}" for one in needed],
            "user": service.user,
            "scratch": list(service.scratch),
            "mounts": [(str(mount.source), mount.target, mount.read_only) for mount in mounts],
            "command": list(service.command),
            "environment": {
                "PATH": f"/run/programs:{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOSTNAME": one.name,
                "HOME": "/tmp",
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONPATH": str(ROOT),
                **service.environment,
                **one.extra,
            },
        }
        (self.folder / "roots").mkdir(exist_ok=True)
        path = self.folder / f"{one.name}.json"
        path.write_text(json.dumps(spec))
        with (self.folder / "logs" / f"{one.name}.log").open("ab") as log:
            one.process = subprocess.Popen(
                (sys.executable, "-I", "-S", str(BOX), str(path)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _share_processor(one.process.pid, service.raw.get("cpu_shares", SHARES))
        one.starts += 1

    def _hosts(self, one: Container) -> str:
        """Its own name, and those of whom it shares a network with."""
        lines = ["127.0.0.1 localhost"]
        for other in self.containers.values():
            shared = [net for net in one.addresses if net in other.addresses]
            if shared:
                lines.append(f"{other.addresses[shared[0]]} {other.name}")
        return "\n".join(lines) + "\n"

    def _signal(self, one: Container, number: int) -> None:
        found = one.processes()
        if number == signal.SIGKILL and one.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.process.pid, number)
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        if number == signal.SIGKILL and one.process is not None:
            one.process.wait()

    def _lose(self, here: Iterable[str], there: Iterable[str], *, lost: bool, both_ways: bool) -> None:
        """What one sends another goes to an Ethernet address that nobody has."""
        pairs = [(a, b) for a in here for b in there if a != b]
        lines: dict[str, list[str]] = {}
        for a, b in [*pairs, *((b, a) for a, b in pairs if both_ways)]:
            one, other = self.containers[a], self.containers[b]
            for network in one.addresses.keys() & other.addresses.keys():
                where = f"{other.addresses[network]} dev {network}"
                if lost:
                    lines.setdefault(a, []).append(
                        f"neigh replace {where} lladdr 02:00:00:00:00:ff nud permanent"
                    )
                else:
                    # Forgotten, so that it is asked for again.
                    lines.setdefault(a, []).append(f"neigh del {where}")
        for name, commands in lines.items():
            _ip(*commands, netns=name, strict=lost)


def _share_processor(pid: int, shares: int) -> None:
    """Weigh a container's session as an engine weighs its group: each nice value is a quarter (sched(7))."""
    if shares != SHARES:
        Path(f"/proc/{pid}/autogroup").write_text(str(round(math.log(SHARES / shares, 1.25))))


def _link_programs(folder: Path) -> Path:
    """The programs that the containers call, by the names that they have there. Raises Missing."""
    folder.mkdir(exist_ok=True)
    versions = sorted(DEBIANS_POSTGRES.glob("[0-9]*"), key=lambda path: int(path.name))
    found: dict[str, str | None] = {
        "valkey-server": shutil.which("redis-server"),
        "valkey-cli": shutil.which("redis-cli"),
        "haproxy": shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin"),
        "prometheus": shutil.which("prometheus"),
    }
    if not versions:
        raise Missing("postgresql")
    for program in (versions[-1] / "bin").iterdir():
        found[program.name] = str(program)
    for name, path in found.items():
        if path is None:
            raise Missing({"valkey-server": "redis-server", "valkey-cli": "redis-server"}.get(name, name))
        (folder / name).unlink(missing_ok=True)
        # A script and not a link: programs look for what is theirs beside themselves.
        (folder / name).write_text(f'#!/bin/sh\nexec {path} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


def _ip(*lines: str, netns: str | None = None, strict: bool = True) -> None:
    """Many commands of ip(8) at once."""
    where = ["-netns", netns] if netns else []
    force = [] if strict else ["-force"]
    done = subprocess.run(
        ["ip", *where, *force, "-batch", "-"], input="\n".join(lines), text=True, capture_output=True
    )
    if done.returncode and strict:
        raise OSError(f"ip: {done.stderr.strip()}")


def _run(*argv: Any) -> None:
    subprocess.run([str(word) for word in argv], check=True, capture_output=True)
