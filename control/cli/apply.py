"""`tocsin apply` and `tocsin export`: a station as a file says it should be."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import click
import msgspec

from control import outcomes
from control.cli import bulk, inventory, options, rehearsed, session, show
from control.cli.trouble import Trouble
from control.deadline import within
from control.declared import Declared, Undeclarable, parse, write
from control.desk import Desk, Wish
from control.errands import Outcome, run
from control.plan import Change, Lanes, Plan, declared_of, plan
from control.readapi import ReadApi
from control.rehearsal import Rehearsal, Rehearsed
from streams.messages import Answer
from streams.names import STATION_LANE
from streams.submit import Refused

DIFFERS = 3
"""Exit code of --check where the station is not as the file says: what was checked is not so."""
SIGNS = {"add": "+", "change": "~", "replace": "±", "remove": "−"}
AGAIN = 0.2
"""Seconds between two tries: to read what is stale, or to add what was just removed (its id is free once the
removal is in the log)."""


@click.command("apply")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--yes", "-y", is_flag=True, help="Do not ask whether to submit the commands.")
@click.option("--prune", is_flag=True, help="Remove sources that the file does not name.")
@click.option("--check", is_flag=True, help="Only show what differs; exit code 3 where something does.")
@options.submitting
def apply(file: str, yes: bool, prune: bool, check: bool) -> int:
    """Show what differs between FILE and the station and, confirmed, submit the commands that close it.

    FILE is TOML as `tocsin export` writes it; "-" is standard input. What it leaves out stays as it is.
    """
    if options.given().get("command_id") or options.given().get("if_sequence") is not None:
        raise click.UsageError("apply submits several commands: --id and --if-sequence cannot be given")
    declared = _declared(file)
    with session.desk() as desk, session.readapi() as api:
        made = _plan(declared, desk, api, prune=prune)
        if not options.wants_json():
            _show(made)
        if not made.all:
            return _nothing(made)
        if check:
            return _told(made, [], DIFFERS)
        if isinstance(desk, Rehearsal):
            commands = [one for change in made.all for one in _rehearsed(desk, change)]
            rehearsed.tell(commands, several=True)
            return rehearsed.exit_code(commands)
        _confirm(made, yes=yes, file=file)
        found: list[Outcome] = []
        submit = _submitter(desk, made)
        done = _recorded(
            # Groups last: what they name is there by then.
            chain.from_iterable(
                run([one.errand for one in some], submit) for some in (made.changes, made.groups)
            ),
            found,
        )
        code = bulk.worst(done) if options.wants_json() else bulk.tell(done)
        _await_folded(api, found)
    return _told(made, found, code)


@click.command("export")
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Into this file.")
@options.reading
def export(output: Path | None) -> None:
    """Write the station's sources and groups as the file that `tocsin apply` reads."""
    place = session.place()
    with session.readapi() as api, nullcontext() if place.url else session.desk() as desk:
        station = place.url or place.settings().station.id
        declared = declared_of(inventory.sources(api, desk), inventory.groups(api, desk))
    if options.wants_json():
        show.as_json({"export": msgspec.to_builtins(declared)})
        return
    text = write(station, declared)
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, "utf-8")
        click.echo(
            f"{len(declared.sources or {})} sources, {len(declared.groups or {})} groups: {output}", err=True
        )


def _declared(file: str) -> Declared:
    try:
        with click.open_file(file, encoding="utf-8") as opened:
            return parse(opened.read())
    except (Undeclarable, UnicodeDecodeError, OSError) as error:
        raise _undeclarable(file, error) from None


def _undeclarable(name: str, error: Exception) -> Trouble:
    return Trouble(
        f"{name} does not say what the station should be",
        why=str(error),
        next="tocsin export shows what such a file looks like; nothing was submitted",
        code=outcomes.WRONG_USAGE,
        field=getattr(error, "field", ""),
    )


def _plan(declared: Declared, desk: Desk, api: ReadApi, *, prune: bool) -> Plan:
    lanes = Lanes(desk.settings.ingest.node, desk.settings.station.lanes)
    # The sequences first: what was commanded since then is noticed, rather than overwritten.
    claimed = desk.sources()
    homes = {
        id: claimed.get(id) or lanes.of(id, str(source.settings.get("kind")), source.node)
        for id, source in (declared.sources or {}).items()
    }
    sequences = desk.sequences({**homes, **claimed})
    found = {
        id: msgspec.structs.replace(one, sequence=sequences.get(id, 0))
        for id, one in inventory.sources(api, desk).items()
    }
    try:
        groups = inventory.groups(api, desk)
        return plan(declared, found, lanes, prune=prune, sequences=sequences, groups=groups)
    except Undeclarable as error:
        raise _undeclarable("the file", error) from None


def _submitter(desk: Desk, made: Plan) -> Any:
    """What submits a wish of the plan: one that adds claims its id first."""
    timeout = options.timeout()
    usual = session.wish("", "")
    changes = {change.source: change for change in made.changes}

    def submit(wish: Wish) -> Answer:
        wish = msgspec.structs.replace(wish, validity=usual.validity, durability=usual.durability)
        if not wish.source:
            return desk.submit(wish, STATION_LANE, timeout=timeout)
        if wish.type != "source.add":
            return desk.address(wish, timeout=timeout)
        change = changes[wish.source]
        node = change.lane.removeprefix("node.") if change.lane.startswith("node.") else None
        until = time.monotonic() + timeout
        with within(timeout) as left:
            while True:
                try:
                    return desk.add(wish, kind=wish.params["settings"]["kind"], node=node, timeout=left())
                except Refused as error:
                    freeing = error.reason == "exists" and change.action == "replace"
                    if not freeing or time.monotonic() > until:
                        raise
                time.sleep(AGAIN)

    return submit


def _rehearsed(desk: Rehearsal, change: Change) -> Iterable[Rehearsed]:
    """The commands of a change; those behind the first depend on it, so nothing is known against them."""
    first, *rest = (desk.sign(wish, change.lane) for wish in change.errand.wishes)
    yield desk.rehearse(first)
    yield from (Rehearsed(command=one.command) for one in rest)


def _recorded(outcomes: Iterable[Outcome], into: list[Outcome]) -> Iterable[Outcome]:
    for one in outcomes:
        into.append(one)
        yield one


def _await_folded(api: ReadApi, found: Sequence[Outcome]) -> None:
    """Return once the read model shows what was done, so that applying once more finds no difference."""
    last: dict[str, int] = {}
    for one in found:
        if isinstance(one.came, Answer):
            last[one.came.lane] = max(one.came.seq, last.get(one.came.lane, 0))
    for lane, seq in last.items():
        api.await_folded(
            bulk.GROUPS if lane == STATION_LANE else inventory.SOURCES, lane, seq, inventory.FOLDED
        )


def _confirm(made: Plan, *, yes: bool, file: str) -> None:
    if yes:
        return
    if not sys.stdin.isatty() or options.wants_json() or file == "-":
        raise click.UsageError("nobody can be asked here: --yes submits them, --check only shows them")
    count = sum(len(change.errand.wishes) for change in made.all)
    click.confirm(f"Submit {count} command{'' if count == 1 else 's'}?", abort=True)


def _show(made: Plan) -> None:
    for change in made.all:
        subject = f"group {change.group}" if change.group else change.source
        click.echo(f"{SIGNS[change.action]} {subject}: {change.action}{_where(change)}")
        for one in change.differences:
            before = "" if change.action == "add" else f"{_value(one.before)} → "
            click.echo(f"    {one.field}: {before}{_value(one.after)}")
    if made.left:
        some = ", ".join(made.left[:5]) + (f" and {len(made.left) - 5} more" if len(made.left) > 5 else "")
        click.echo(f"Not in the file, and left as they are (--prune removes them): {some}")


def _where(change: Change) -> str:
    moves = change.action == "replace" and not change.group
    return f" (from lane {change.differences[-1].before})" if moves else ""


def _value(value: Any) -> str:
    return "(none)" if value is None else json.dumps(value, ensure_ascii=False)


def _nothing(made: Plan) -> int:
    if not options.wants_json():
        click.echo("Nothing differs.")
    return _told(made, [], 0)


def _told(made: Plan, found: Sequence[Outcome], code: int) -> int:
    if options.wants_json():
        changes = [
            {
                **({"group": change.group} if change.group else {"source": change.source}),
                "action": change.action,
                "lane": change.lane,
                "differences": [
                    {"field": one.field, "before": one.before, "after": one.after}
                    for one in change.differences
                ],
                "commands": [wish.type for wish in change.errand.wishes],
            }
            for change in made.all
        ]
        told = {"changes": changes, "left": list(made.left), "exit_code": code}
        show.as_json({"apply": {**told, "commands": [bulk.plain(one) for one in found]}})
    return code
