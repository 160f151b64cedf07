"""A namespace for processes, mounts and networks: all of it is gone when its first process ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

INSIDE = "TOCSIN_CHAOS_INSIDE"


def command(*argv: str) -> list[str]:
    """`argv` within such a namespace; as root in it, also where we are somebody else outside."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    spaces = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return ["unshare", *user, *spaces, *argv]


def missing() -> str | None:
    """What this machine lacks for it, if anything."""
    for program in ("unshare", "ip", "tc"):
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            return "iproute2" if program != "unshare" else "util-linux"
    tried = "mount -t tmpfs box /run && ip link add br9 type bridge && ip netns add try"
    done = subprocess.run(command("sh", "-c", tried), capture_output=True)
    return "network namespaces" if done.returncode else None


def is_inside() -> bool:
    """Whether this process runs in one."""
    return os.environ.get(INSIDE) == "1"


def enter(module: str, *argv: str) -> int:
    """Run `python -m MODULE ARGV…` within one, and return its exit code."""
    env = {**os.environ, INSIDE: "1"}
    return subprocess.run(command(sys.executable, "-m", module, *argv), env=env).returncode


def settle() -> None:
    """Within: a /run of our own, where named networks may be kept, and shared memory.

    libfaketime names its part by the process id, which begins at 1 in each run: nothing may be left.
    """
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "box", "/run"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "box", "/dev/shm"], check=True)


def show_hosts(addresses: Mapping[str, str]) -> None:
    """Within: let this process, and those that it starts, find these names."""
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
    hosts = Path("/run/hosts")
    hosts.write_text("\n".join(lines) + "\n")
    subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)
