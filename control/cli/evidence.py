"""`tocsin audit checkpoint|export`: what is signed with the auditor's key, to be kept or handed on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from control import outcomes
from control.auditor import AUDITOR, auditor_key
from control.cli import log, options, show
from control.cli.progress import counted
from control.cli.trouble import Trouble
from control.station.folder import write_whole
from streams import export
from streams.checkpoint import InvalidCheckpoint, checkpoint
from streams.export import Unsound
from streams.messages import now
from streams.settings import KeysSection
from streams.signing import Key
from streams.tail import Position

signing = click.option(
    "--key",
    default=AUDITOR,
    show_default=True,
    help="The ed25519 key to sign with; `auditor` is made if missing.",
)


@click.command("checkpoint")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Also write it here."
)
@signing
@options.reading
def make_checkpoint(out: Path | None, key: str) -> None:
    """Sign the last archived event of every lane: a few lines, to be printed or kept where nobody who runs
    the station can change them. `audit verify --since-checkpoint FILE` compares the log with it.
    """
    with log.opened() as found:
        if found.archive is None:
            raise Trouble(
                "there is nothing to sign",
                why="only archived events are signed, and this station has no archive (postgres.url)",
                code=outcomes.EXIT_CODES["rejected"],
            )
        heads: dict[str, Position] = {}
        for lane in found.lanes():
            heads[lane] = at = found.archived(lane)
            here = found.hash_at(lane, at.seq) if at.seq else None
            if here is not None and here != at.hash:
                raise Trouble(
                    f"lane {lane} is not signed: event {at.seq} is another in the archive than in Redis",
                    next=f"tocsin audit verify --lane {lane}",
                    code=outcomes.EXIT_CODES["failed"],
                )
        try:
            made = checkpoint(found.settings.station.id, heads, now(), _key(found.settings.keys, key))
        except InvalidCheckpoint as error:
            raise Trouble(
                "there is nothing to sign", why=str(error), code=outcomes.EXIT_CODES["rejected"]
            ) from None
    if out is not None:
        write_whole(out, made.text)
    if options.wants_json():
        lanes = {lane: at.seq for lane, at in made.lanes.items()}
        told = {"at": made.at, "station": made.station, "lanes": lanes, "root": made.root}
        show.as_json({"checkpoint": told | {"key": made.key, "public": made.public, "text": made.text}})
    else:
        click.echo(made.text, nl=False)


@click.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--lane", multiple=True, help="Only this lane (else all); may be repeated.")
@signing
@options.reading
def make_export(file: Path, lane: tuple[str, ...], key: str) -> None:
    """Write all durable events to FILE as JSON lines, with a signed manifest as the last one; all or nothing.

    docs/verify.py checks it without any code of ours; `audit verify --export FILE` does too.
    """
    with log.opened() as found:
        signer = _key(found.settings.keys, key)
        lanes = {one: _entries(found, one) for one in (lane or found.lanes())}
        try:
            made = export.write(
                file, lanes, station=found.settings.station.id, keyring=found.keyring, key=signer
            )
        except Unsound as error:
            raise Trouble(
                "nothing was exported: the log is not sound",
                why=str(error),
                next="tocsin audit verify says more",
                code=outcomes.EXIT_CODES["failed"],
            ) from error
        except OSError as error:
            raise Trouble(f"{file} cannot be written", why=error.strerror or str(error)) from error
    if options.wants_json():
        show.as_json({"export": {"file": str(file), **msgspec.to_builtins(made)}})
        return
    click.echo(
        f"{made.events} events of {len(made.lanes)} lanes in {file}, signed by {made.key} {made.public}"
    )


def _entries(found: log.Log, lane: str) -> Iterator[tuple[bytes, bytes]]:
    """The lane's durable events, counted on a terminal."""
    last = found.durable(lane)
    yield from counted(f"exporting {lane}", found.entries(lane, upto=last) if last else (), last)


def _key(keys: KeysSection, id: str) -> Key:
    key, made = auditor_key(keys, id)
    if made:
        click.echo(
            f"Made the key {key.id!r} in {keys.directory} (readable by you alone).\n"
            f"Its public half, for those who are to check what it signs: {key.public}",
            err=True,
        )
    return key
