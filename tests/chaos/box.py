"""Becomes one container's command, in a network, root folder and mounts of its own, as its user.

`python -I -S box.py FILE`, where the JSON in FILE says what is in it. What a container runtime does, by the
same system calls (namespaces, bind mounts, pivot_root), so that the command finds its files where the
compose file puts them, and nothing else may be written. Needs root, if only in a user namespace.
"""

import ctypes
import json
import os
import sys
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWUSER = 0x00020000, 0x04000000, 0x10000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_NO_NEW_PRIVS = 38
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
OWN = ("/etc", "/run", "/tmp", "/srv", "/data")
"""Folders that the container has of its own; of the machine's own /etc it sees the files."""

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    """A function of libc that tells failure by -1."""
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}{arguments}: {os.strerror(number)}")


def mount(source, target, kind=None, flags=0, data=None):
    """mount(2)."""
    encoded = [None if text is None else str(text).encode() for text in (source, target, kind, data)]
    call("mount", encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])


def bind(source, target, *, read_only):
    """Show `source` at `target`, which is made."""
    if Path(target).is_symlink():
        Path(target).unlink()
    if Path(source).is_dir():
        Path(target).mkdir(parents=True, exist_ok=True)
    else:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        # What is there may lie in a folder that is only shown.
        if not Path(target).exists():
            Path(target).touch()
    mount(source, target, flags=MS_BIND | MS_REC)
    if read_only:
        try:
            mount(None, target, flags=MS_REMOUNT | MS_BIND | MS_RDONLY)
        except PermissionError:
            # What another namespace has locked may only keep its flags.
            mount(None, target, flags=MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def build(root, spec):
    """The container's root folder at `root`."""
    mount("box", root, "tmpfs", MS_NOSUID, "mode=755")
    hidden = {*OWN, *(path for path in spec["hide"])}
    for entry in sorted(Path("/").iterdir()):
        inside = root / entry.name
        if str(entry) in hidden or entry.name in ("lost+found",):
            continue
        if entry.is_symlink():
            inside.symlink_to(entry.readlink())
        elif entry.is_dir():
            bind(entry, inside, read_only=entry.name not in ("proc", "dev", "sys"))
    for own in OWN:
        (root / own[1:]).mkdir(exist_ok=True)
    bind("/etc", root / "run/etc", read_only=True)
    for entry in Path("/etc").iterdir():
        if entry.name not in ("hosts", "resolv.conf", "hostname"):
            (root / "etc" / entry.name).symlink_to(Path("/run/etc") / entry.name)
    (root / "etc/hosts").write_text(spec["hosts"])
    (root / "etc/resolv.conf").write_text(spec["resolv"])
    for scratch in spec["scratch"]:
        (root / scratch[1:]).mkdir(parents=True, exist_ok=True)
        mount("scratch", root / scratch[1:], "tmpfs", MS_NOSUID, "mode=1777,size=64m")
    for source, target, read_only in sorted(spec["mounts"], key=lambda one: one[1]):
        bind(source, root / target[1:], read_only=read_only)


def become(user, group):
    """Be that user, without any capability."""
    try:
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    except OSError:
        # Root in a user namespace is one of us outside, whose files these are: it appears as that user.
        call("unshare", CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} 0 1")
        Path("/proc/self/gid_map").write_text(f"{group} 0 1")


def main():
    """Enter, and become the command."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    network = os.open(spec["network"], os.O_RDONLY)
    call("setns", network, 0)
    os.close(network)
    call("unshare", CLONE_NEWNS | CLONE_NEWUTS)
    mount(None, "/", flags=MS_REC | MS_PRIVATE)
    call("sethostname", spec["name"].encode(), len(spec["name"]))
    root = Path(spec["root"])
    build(root, spec)
    os.chdir(root)
    Path("old").mkdir()
    if libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b"old") != 0:
        raise OSError(ctypes.get_errno(), "pivot_root")
    os.chdir("/")
    call("umount2", b"/old", MNT_DETACH)
    Path("/old").rmdir()
    mount(None, "/", flags=MS_REMOUNT | MS_BIND | MS_RDONLY)
    become(*spec["user"])
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.execvpe(spec["command"][0], spec["command"], spec["environment"])


if __name__ == "__main__":
    main()
