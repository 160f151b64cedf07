"""`tocsin access …`: the Redis users of a station, for servers that it does not start itself."""

from __future__ import annotations

from pathlib import Path

import click

from control.cli import options, session, show
from control.cli.trouble import Trouble
from control.outcomes import WRONG_USAGE
from control.station.users import Users, make_passwords, users_of
from streams.access import ROLES, WORK, password_file, user_name
from streams.connection import connect
from streams.library import load_library, version
from streams.server_check import check_server


@click.group()
def access() -> None:
    """Make the Redis users of a station and look at them."""


@access.command("list")
@options.reading
def list_roles() -> None:
    """List the roles: the user of each, the file with its password, and its work."""
    station = session.place().settings().station.id
    if options.wants_json():
        told = [
            {"role": role, "user": user_name(station, role), "work": WORK[role], "file": password_file(role)}
            for role in ROLES
        ]
        show.as_json({"access": told})
        return
    show.table(
        ("USER", "PASSWORD IN", "WORK"),
        ((user_name(station, role), password_file(role), WORK[role]) for role in ROLES),
    )


@access.command("create")
@options.reading
def create() -> None:
    """Make a password for each role that has none, in the folder that redis.password_directory names."""
    made = make_passwords(_directory())
    if options.wants_json():
        show.as_json({"access": {"made": [str(path) for path in made]}})
    else:
        click.echo("\n".join(map(str, made)) or "every role has one already")


@access.command("acl")
@click.option("--sentinel", is_flag=True, help="That of the Sentinels (else of the servers).")
@options.reading
def acl(sentinel: bool) -> None:
    """Print the ACL file (hashes, no passwords) that `aclfile` in the servers' configuration names."""
    users = _users()
    text = users.of_sentinels() if sentinel else users.of_servers()
    if options.wants_json():
        show.as_json({"access": {"acl": text}})
    else:
        click.echo(text, nl=False)


@access.command("load")
@options.reading
def load() -> None:
    """Load the server-side functions, as the user `admin`: nobody else may. Do so after each upgrade.

    A server whose settings would break a promise is refused, with what to change.
    """
    link = connect(session.place().settings().as_role("admin").redis, "access")
    try:
        for primary in link.primaries():
            check_server(primary)
        load_library(link)
    finally:
        link.close()
    if options.wants_json():
        show.as_json({"access": {"functions": version()}})
    else:
        click.echo(f"the functions are there, version {version()}")


def _directory() -> Path:
    named = session.place().settings().redis.password_directory
    if not named:
        raise Trouble(
            "this station has one Redis user for all",
            next="name a folder for their passwords: redis.password_directory in station.toml",
            code=WRONG_USAGE,
        )
    return Path(named)


def _users() -> Users:
    try:
        return users_of(session.place().settings().station.id, _directory())
    except OSError as error:
        raise Trouble(
            f"{error.filename} cannot be read",
            why=error.strerror or "",
            next="tocsin access create makes what is missing",
            code=WRONG_USAGE,
        ) from None
