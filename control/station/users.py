"""Who logs in to a station's own servers: a user per role, each with a password of its own."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from control.station.ask import Login
from streams.access import ROLES, Role, acl_file, password_file, sentinel_acl_file, user_name


@dataclass(frozen=True)
class Users:
    """The users of one station's servers and Sentinels, and their passwords."""

    station: str
    passwords: Mapping[Role, str]

    def login(self, role: Role) -> tuple[str, str]:
        """User and password of the role."""
        return user_name(self.station, role), self.passwords[role]

    def of_servers(self) -> str:
        """The servers' ACL file."""
        return acl_file(self.station, self.passwords)

    def of_sentinels(self) -> str:
        """The Sentinels' ACL file."""
        return sentinel_acl_file(self.station, self.passwords)

    def __repr__(self) -> str:
        return f"Users(station={self.station!r})"


def make_passwords(directory: Path) -> list[Path]:
    """Make a password for each role that has none in the folder (files of mode 0600); those made.

    The folder is made with mode 0700 where it is missing.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = [directory / password_file(role) for role in ROLES]
    made = [path for path in made if not path.exists()]
    for path in made:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    return made


def users_of(station: str, directory: Path) -> Users:
    """The users with the passwords in the folder. Raises OSError where one is missing."""
    read = {role: (directory / password_file(role)).read_text("utf-8").strip() for role in ROLES}
    return Users(station, read)


Access = str | Users
"""How one gets in: one password for all, or a user per role."""


def admin(access: Access) -> Login:
    """As whom to do whatever must be done."""
    return access.login("admin") if isinstance(access, Users) else access
