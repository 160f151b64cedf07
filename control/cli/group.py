"""`tocsin group …`: sources that stand in for one another."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from control.cli import answers, options, session, show
from control.readapi import Away, NotFound, ReadApi
from streams.group_messages import GroupCreate, GroupParams, GroupRemove
from streams.names import STATION_LANE, source_id
from streams.vocabulary import plain

GROUPS = "/api/audio/groups"


@click.group()
def group() -> None:
    """Groups of sources: the first that is well counts, and the next where it is silent or down."""


@group.command("create")
@click.argument("id")
@click.argument("members", nargs=-1, required=True, metavar="SOURCE…")
@click.option("--name", default="", help="What people call it.")
@click.option(
    "--fallback-after", type=float, default=20.0, show_default=True,
    help="Seconds that a member is silent or down before the next takes over.",
)  # fmt: skip
@click.option(
    "--back-after", type=float, default=60.0, show_default=True,
    help="Seconds that one before it has been heard again before it takes its place back.",
)  # fmt: skip
@options.submitting
def create_group(
    id: str, members: tuple[str, ...], name: str, fallback_after: float, back_after: float
) -> None:
    """Make a group of sources, in the order of their priority."""
    wanted: dict[str, Any] = {"group": source_id(id), "members": members, "name": name}
    wanted |= {"fallback_after": fallback_after, "back_after": back_after}
    try:
        asked = msgspec.convert(wanted, GroupCreate)
    except msgspec.ValidationError as error:
        raise click.UsageError(str(error)) from None
    _submit("group.create", id, asked)


@group.command("remove")
@click.argument("id")
@options.submitting
def remove_group(id: str) -> None:
    """Forget a group; its sources go on."""
    _submit("group.remove", id, GroupRemove(group=source_id(id)))


@group.command("list")
@options.reading
def list_groups() -> None:
    """List all groups, with the member that counts."""
    with session.readapi() as api:
        envelope = api.get(GROUPS)
    if options.wants_json():
        show.as_json({"groups": envelope.pop("data"), **envelope})
        return
    show.table(
        ("GROUP", "COUNTS", "SINCE", "MEMBERS", "NAME", "REASON"),
        (_row(one) for one in envelope["data"]),
        empty="No groups. Make one: tocsin group create ID SOURCE SOURCE",
    )
    show.staleness(envelope)


@group.command("show")
@click.argument("id")
@options.reading
def show_group(id: str) -> None:
    """Show one group."""
    with session.readapi() as api:
        envelope = api.get(GROUPS)
    found = next((one for one in envelope["data"] if one["id"] == id), None)
    if found is None:
        raise NotFound(f"the station knows no group {id!r}", "unknown_group", fresh=True)
    if options.wants_json():
        show.as_json({"group": found, "stale": envelope["stale"], "age_seconds": envelope["age_seconds"]})
        return
    show.facts((name, value) for name, value in found.items())
    show.staleness(envelope)


def roles(api: ReadApi) -> dict[str, str]:
    """What each source is to its groups: the group's id, with a star where it is the one that counts."""
    try:
        groups = api.get(GROUPS)["data"]
    except Away:
        return {}  # sources can be told of without them
    found: dict[str, list[str]] = {}
    for one in groups:
        for member in one["members"]:
            found.setdefault(member, []).append(f"{one['id']}*" if member == one["active"] else one["id"])
    return {member: " ".join(named) for member, named in found.items()}


def _submit(type: str, id: str, asked: GroupParams) -> None:
    with session.desk() as desk:
        wish = session.wish(type, "", plain(asked), id=options.given().get("command_id"))
        answers.tell(type, id, desk.submit(wish, STATION_LANE, timeout=options.timeout()))


def _row(one: dict[str, Any]) -> tuple[Any, ...]:
    since = one["since"][:19].replace("T", " ") if one["active"] else ""
    return one["id"], one["active"] or "none yet", since, " ".join(one["members"]), one["name"], one["reason"]
