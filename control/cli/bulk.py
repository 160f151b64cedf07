"""One verb for many sources: which are meant, and what became of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import click

from control import outcomes
from control.cli import answers, options, rehearsed, session, show
from control.cli.remote import by_http
from control.cli.trouble import Trouble, explain
from control.desk import Wish
from control.errands import Errand, Outcome, run
from control.readapi import NotFound
from control.rehearsal import NotSent
from streams.messages import Answer
from streams.names import source_id

GROUPS = "/api/audio/groups"
GLOB = set("*?[")
WORST = (0, 5, 7, 6, 4, 3, outcomes.WRONG_USAGE, outcomes.UNREACHABLE, outcomes.FAULT)
"""Exit codes, from the best to the worst that can be said of many commands."""


def is_bulk(ids: Sequence[str], *, everything: bool, group: str | None) -> bool:
    """Whether many sources are meant, though it may turn out to be one. Raises UsageError."""
    if everything and (ids or group):
        raise click.UsageError("--all means every source: give no ids and no --group with it")
    if not (ids or everything or group):
        raise click.UsageError("which sources? Give their ids, patterns such as 'west-*', --group or --all")
    return everything or group is not None or len(ids) > 1 or bool(GLOB & set(ids[0]))


def chosen(ids: Sequence[str], *, everything: bool, group: str | None) -> list[str]:
    """The sources meant, each once, in order of their ids. Raises Trouble where a word means none."""
    known: set[str] | None = None
    found: set[str] = set()
    for word in ids:
        if not GLOB & set(word):
            found.add(source_id(word))
            continue
        known = _known() if known is None else known
        matching = {id for id in known if fnmatchcase(id, word)}
        if not matching:
            raise _none(f"no source's id is like {word!r}")
        found |= matching
    if group is not None:
        found |= set(_members(group))
    if everything:
        found = _known()
        if not found:
            raise _none("there are no sources")
    return sorted(found)


def submit_to_each(type: str, ids: Iterable[str], *, named: Sequence[str]) -> int:
    """One command of this type for each source; each outcome is told; the worst of their exit codes.

    One that was not `named` itself, and is not there any more, was removed meanwhile: nothing is wrong.
    """
    if options.given().get("command_id"):
        raise click.UsageError("--id names one command: it cannot be given for several sources")
    errands = [Errand(source=id, wishes=(session.wish(type, id),)) for id in ids]
    with submitting() as submit:
        return tell(one for one in run(errands, submit) if one.wish.source in named or not _is_gone(one))


@contextmanager
def submitting() -> Iterator[Callable[[Wish], Answer]]:
    """What submits a wish to the lane of its source, by the folder's key or through the web process."""
    if session.place().url is not None:
        yield by_http()
        return
    timeout = options.timeout()
    with session.desk() as desk:
        yield lambda wish: desk.address(wish, timeout=timeout)


def tell(found: Iterable[Outcome]) -> int:
    """Tell the outcomes as they come (with --json all at the end); the worst of their exit codes."""
    codes, told, dry = [0], list[dict[str, Any]](), list[NotSent]()
    for one in found:
        if isinstance(one.came, NotSent):
            dry.append(one.came)
            continue
        line, plain, code = _told(one)
        codes.append(code)
        told.append(plain)
        if not options.wants_json():
            click.echo(line, err=code != 0)
    if dry:
        commands = [command for one in dry for command in one.commands]
        rehearsed.tell(commands, several=True)
        return rehearsed.exit_code(commands)
    code = _worst(codes)
    if options.wants_json():
        show.as_json({"commands": told, "exit_code": code})
    elif len(told) > 1:
        click.echo(f"{codes.count(0) - 1} of {len(told)} done")
    return code


def _is_gone(one: Outcome) -> bool:
    return getattr(one.came, "reason", None) == "unknown_source"


def worst(found: Iterable[Outcome]) -> int:
    """The worst exit code of the outcomes, and nothing told of them."""
    return _worst([0, *(_told(one)[2] for one in found)])


def plain(one: Outcome) -> dict[str, Any]:
    """An outcome as one object, for --json."""
    return _told(one)[1]


def _worst(codes: Sequence[int]) -> int:
    return max(codes, key=WORST.index)


def _told(one: Outcome) -> tuple[str, dict[str, Any], int]:
    type, source = one.wish.type, one.wish.source or str(one.wish.params.get("group", ""))
    if isinstance(one.came, Answer):
        command = answers.plain(type, source, one.came)
        if one.completed:
            return answers.done(type, source, one.came), command, 0
        trouble: Trouble = answers.NotCompleted(command)
        return _line(trouble), command, trouble.exit_code
    trouble = one.came if isinstance(one.came, Trouble) else explain(one.came)
    plain = {"type": type, "source": source, "outcome": None, **trouble.as_json()}
    return f"{source}: {_line(trouble)}", plain, trouble.exit_code


def _line(trouble: Trouble) -> str:
    """What went wrong with one of many, in a line: what, why, what next."""
    parts = [trouble.message, trouble.why, f"next: {trouble.next}" if trouble.next else ""]
    return "; ".join(part for part in parts if part)


def _known() -> set[str]:
    """All sources that there are: by their claims, or by address as the web process tells them."""
    if session.place().url is None:
        with session.desk() as desk:
            return set(desk.sources())
    with session.readapi() as api:
        envelope = api.get("/api/audio/sources")
    show.staleness(envelope)
    return {one["id"] for one in envelope["data"]}


def _members(group: str) -> list[str]:
    """The sources of a group, as the read model has it. Raises Trouble, Away."""
    try:
        with session.readapi() as api:
            envelope = api.get(GROUPS)
    except NotFound:
        raise _none(f"there is no group {group!r}: this station has no groups") from None
    show.staleness(envelope)
    found: list[str] | None = next((one["members"] for one in envelope["data"] if one["id"] == group), None)
    if found is None:
        raise _none(f"there is no group {group!r}")
    return found


def _none(what: str) -> Trouble:
    return Trouble(
        what,
        next="tocsin source list shows those there are; nothing was submitted",
        code=outcomes.EXIT_CODES["rejected"],
        reason="unknown_source",
    )
