"""The projections' verbs for the `tocsin` command.

Options and the station's place belong to the command's root, which keeps them in click's `meta`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from projections.mending import What
    from projections.projection import Projection
    from projections.rebuilds import Rebuild
    from projections.status import Status
    from streams.settings import Settings

OPTIONS = "tocsin.options"
"""Where the root keeps the options that every verb understands, by name."""
STATION = "tocsin.station"
"""Where it keeps what says the settings of the station that is meant."""
FAILED, REJECTED, NO_ANSWER_YET, UNREACHABLE = 3, 4, 7, 8
"""Exit codes."""
LOOK = 0.3
"""Seconds between two looks at how far a rebuild is."""


class Cannot(Exception):
    """Raised when a verb cannot do what was asked; ends the command with exit code `code`."""

    def __init__(self, what: str, *, why: str = "", next: str = "", code: int = REJECTED) -> None:
        super().__init__(what)
        self.why = why
        self.next = next
        self.code = code


@click.command("projections")
@click.option(
    "--station", "folder", type=click.Path(file_okay=False, path_type=Path), help="Folder with station.toml."
)
def run_projections(folder: Path | None) -> None:
    """Fold events into the read models, until told to stop."""
    # Imported here: SQLAlchemy takes half a second, which --help must not cost.
    from projections.service import serve
    from streams.breaker import Breakers
    from streams.breaker_notes import noted
    from streams.settings import load

    settings = load(folder / "station.toml" if folder else None).as_role("projections")
    breakers = Breakers(settings.breaker)
    with noted(breakers, folder, "projections"):
        serve(settings, breakers)


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None:
        ctx.meta.setdefault(OPTIONS, {})[param.name] = value


def reading(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb --station and --json, behind it too."""
    verb = click.option(
        "--json",
        is_flag=True,
        default=None,
        expose_value=False,
        callback=_keep,
        help="Print one JSON object instead of text.",
    )(verb)
    return click.option(
        "--station",
        metavar="DIR",
        expose_value=False,
        callback=_keep,
        help="Which station (else TOCSIN_STATION, else your own).",
    )(verb)


@click.group("projection")
def projection() -> None:
    """The read models: how far they are, and rebuilding them from the archive."""


@projection.command("status")
@click.option("--lanes", is_flag=True, help="Each lane by itself.")
@reading
def show_status(lanes: bool) -> None:
    """Show each projection: how far behind, what it lacks, its rebuild."""
    with _engine() as (settings, engine):
        found = _status(settings, engine)
    if _as_json():
        import msgspec

        click.echo(json.dumps({"projections": msgspec.to_builtins(found)}, ensure_ascii=False))
        return
    _print(found, lanes=lanes)


@projection.command("rebuild")
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All projections.")
@click.option("--no-wait", is_flag=True, help="Ask for it, and do not wait until it is done.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=86400.0, help="Seconds to wait.")
@reading
def rebuild(names: tuple[str, ...], everything: bool, no_wait: bool, timeout: float) -> int:
    """Fold NAMES again from the archive, into new tables; readers go on meanwhile."""
    from projections import rebuilds

    with _engine() as (_, engine):
        wanted = _named(names, everything=everything)
        with engine.begin() as connection:
            for one in wanted:
                rebuilds.want(connection, one, again=True)
        if not no_wait:
            _await_rebuilds(engine, [one.name for one in wanted], timeout)
        with engine.connect() as connection:
            asked = {one.name for one in wanted}
            found = [one for one in rebuilds.listed(connection) if one.projection in asked]
    return _tell_rebuilds(found)


@projection.command("wait")
@click.argument("names", nargs=-1)
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=60.0, show_default=True)
@reading
def wait(names: tuple[str, ...], timeout: float) -> None:
    """Wait until NAMES (else all) have folded all that the log has now, and no rebuild is pending.

    Exit code 7 where that takes longer than --timeout seconds.
    """
    deadline = time.monotonic() + timeout
    with _engine() as (settings, engine):
        wanted = [one.name for one in _named(names, everything=not names)]
        heads = _heads(settings, engine)
        _await_rebuilds(engine, wanted, timeout)
        while True:
            found = [one for one in _status(settings, engine, heads) if one.projection in wanted]
            behind = [one for one in found if one.lag or one.state in ("troubled", "rebuilding")]
            if not behind:
                break
            if time.monotonic() > deadline:
                told = ", ".join(f"{one.projection} ({one.state}, lag {one.lag})" for one in behind)
                raise Cannot(
                    f"not yet: {told}",
                    next="tocsin projection status --lanes says where",
                    code=NO_ANSWER_YET,
                )
            time.sleep(LOOK)
    if _as_json():
        click.echo(json.dumps({"projections": [{"projection": one, "state": "following"} for one in wanted]}))
    else:
        click.echo("All is folded.")


@projection.command("retry")
@click.argument("name")
@click.argument("event", metavar="LANE[:SEQ]")
@reading
def retry(name: str, event: str) -> int:
    """Fold a parked event anew, with what it held back. Without a SEQ: go on where NAME stopped."""
    lane, _, seq = event.partition(":")
    if seq:
        return _mend(name, lane, seq, "retry")
    from projections.mending import go_on

    with _engine() as (_, engine):
        if not go_on(engine, _one(name), lane):
            raise Cannot(f"{name} has not stopped before an event in {lane}", next=_STATUS)
    told = json.dumps({"projection": {"projection": name, "lane": lane}})
    click.echo(told if _as_json() else "It goes on.")
    return 0


@projection.command("drop")
@click.argument("name")
@click.argument("event", metavar="LANE:SEQ")
@reading
def drop(name: str, event: str) -> int:
    """Give a parked event up, and fold what it held back without it."""
    lane, _, seq = event.partition(":")
    return _mend(name, lane, seq, "drop")


_STATUS = "tocsin projection status shows how they stand"


def _mend(name: str, lane: str, seq: str, what: What) -> int:
    import msgspec

    from projections.mending import CannotMend, mend

    if not seq.isdigit():
        raise click.UsageError(f"{lane}:{seq} is not LANE:SEQ, as node.local:42 is")
    with _engine() as (_, engine):
        try:
            again = mend(engine, _one(name), lane, int(seq), what)
        except CannotMend as error:
            raise Cannot(str(error), next=_STATUS) from error
    if _as_json():
        told = {"projection": name, "lane": lane, "seq": int(seq), "parked": msgspec.to_builtins(again)}
        click.echo(json.dumps({"projection": told}, ensure_ascii=False))
    elif again:
        click.echo(f"Parked again: event {again[0].lane}:{again[0].seq}: {again[0].error}")
    else:
        click.echo("Folded." if what == "retry" else "Dropped; what it held back is folded.")
    return FAILED if again else 0


def _as_json() -> bool:
    return bool(click.get_current_context().meta.get(OPTIONS, {}).get("json"))


@contextmanager
def _engine() -> Iterator[tuple[Settings, Engine]]:
    """The station's settings and its Postgres. Raises Cannot where that is away."""
    from sqlalchemy.exc import SQLAlchemyError

    from projections.database import is_away, open_engine

    settings: Settings = click.get_current_context().meta[STATION]()
    engine = open_engine(settings.postgres, name="cli", connections=1)
    try:
        yield settings, engine
    except SQLAlchemyError as error:
        missing = getattr(getattr(error, "orig", None), "sqlstate", None) == "42P01"
        if not missing and not is_away(error):
            raise
        why = "its tables are not there yet" if missing else str(error).splitlines()[0]
        next = "tocsin doctor says what is down; tocsin up starts your own station"
        raise Cannot("the read models cannot be reached", why=why, next=next, code=UNREACHABLE) from error
    finally:
        engine.dispose()


def _named(names: tuple[str, ...], *, everything: bool) -> list[Projection]:
    from projections.projection import ALL

    if everything:
        return list(ALL)
    if not names:
        raise click.UsageError("name projections, or say --all")
    return [_one(name) for name in names]


def _one(name: str) -> Projection:
    from projections.projection import ALL

    for one in ALL:
        if one.name == name:
            return one
    raise Cannot(f"there is no projection {name!r}", next=f"there are {', '.join(one.name for one in ALL)}")


def _heads(settings: Settings, engine: Engine) -> dict[str, int]:
    """The last event of each lane: as Redis says, else as far as it is archived."""
    from redis.exceptions import ResponseError

    from projections.lanes import folded_lanes
    from projections.status import archived
    from streams.connection import Unreachable, connect
    from streams.names import StationKeys

    with engine.connect() as connection:
        lanes, kept = folded_lanes(connection), archived(connection)
    keys = StationKeys(settings.station.id)
    try:
        link = connect(settings.as_role("reader").redis, "projection-status")
        seqs = link.batch([("HGET", keys.lane(lane).head, "seq") for lane in lanes]) if lanes else []
        link.close()
    except (Unreachable, ResponseError):
        return kept
    found = {lane: int(seq) for lane, seq in zip(lanes, seqs, strict=True) if isinstance(seq, bytes)}
    return {**kept, **found}


def _status(settings: Settings, engine: Engine, heads: dict[str, int] | None = None) -> list[Status]:
    from projections.status import status

    heads = _heads(settings, engine) if heads is None else heads
    with engine.connect() as connection:
        return status(connection, heads)


def _await_rebuilds(engine: Engine, names: list[str], timeout: float) -> None:
    """Return once none is pending; a terminal is shown how far they are. Raises Cannot."""
    from projections import rebuilds

    def pending() -> list[Rebuild]:
        with engine.connect() as connection:
            found = rebuilds.pending(connection)
        return [one for name, one in found.items() if name in names]

    deadline = time.monotonic() + timeout
    with _progress() as shown:
        while left := pending():
            shown(left)
            if time.monotonic() > deadline:
                waiting = all(one.state == "wanted" for one in left)
                raise Cannot(
                    f"the rebuild of {', '.join(one.projection for one in left)} is not done yet",
                    why="no projections process has begun it" if waiting else "",
                    next="it goes on by itself: tocsin projection wait",
                    code=NO_ANSWER_YET,
                )
            time.sleep(LOOK)


@contextmanager
def _progress() -> Iterator[Callable[[list[Rebuild]], None]]:
    """Shows rebuilds on a terminal, one line each: how far, how fast, and the time left."""
    if not sys.stderr.isatty():
        yield lambda left: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    figures = TextColumn("{task.completed:,.0f} of {task.total:,.0f}{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(20), figures, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bars: dict[str, Any] = {}

        def show(left: list[Rebuild]) -> None:
            for one in left:
                rate = f", {one.per_second:,.0f}/s" if one.per_second else ""
                if one.projection not in bars:
                    bars[one.projection] = progress.add_task(one.projection, total=1, rate="")
                progress.update(
                    bars[one.projection], completed=one.done, total=max(one.total, one.done, 1), rate=rate
                )

        yield show


def _tell_rebuilds(found: list[Rebuild]) -> int:
    if _as_json():
        import msgspec

        click.echo(json.dumps({"rebuilds": msgspec.to_builtins(found)}, ensure_ascii=False))
    else:
        for one in found:
            click.echo(f"{one.projection}: {_rebuild(one)}")
    return FAILED if any(one.state == "failed" for one in found) else 0


def _rebuild(one: Rebuild | None) -> str:
    if one is None:
        return ""
    if one.state == "running":
        left = "" if one.seconds_left is None else f", {one.seconds_left:,.0f} s left"
        return f"running, {one.done:,} of {one.total:,}{left}"
    if one.state == "done" and one.finished_at and one.started_at:
        took = (one.finished_at - one.started_at).total_seconds()
        return f"done, {one.done:,} events in {took:,.1f} s"
    return f"{one.state}{f': {one.detail}' if one.detail else ''}"


def _print(found: list[Status], *, lanes: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console, grid = Console(highlight=False), Table(box=None, pad_edge=False, header_style="bold")
    for column in ("PROJECTION", *(("LANE", "SEQ") if lanes else ()), "STATE", "LAG", "GAP", "SKIPPED", ""):
        grid.add_column(column, justify="right" if column in ("SEQ", "LAG", "GAP", "SKIPPED") else "left")
    for one in found:
        if not lanes:
            told = _rebuild(one.rebuild) or next((lane.trouble for lane in one.lanes if lane.trouble), "")
            grid.add_row(
                one.projection, one.state, f"{one.lag:,}", _gap(one.gap_seconds), f"{one.skipped:,}", told
            )
        for lane in one.lanes if lanes else ():
            figures = (f"{lane.lag:,}", _gap(lane.gap_seconds), f"{lane.skipped:,}", lane.trouble or "")
            grid.add_row(one.projection, lane.lane, f"{lane.seq:,}", lane.failure or "following", *figures)
    console.print(grid)
    for parked in (parked for one in found for parked in one.parked):
        what = f"{parked.projection} {parked.lane}:{parked.seq}"
        click.echo(f"{parked.state}: {what} ({parked.type}), {parked.followers} held back: {parked.error}")


def _gap(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:,.1f} s"
