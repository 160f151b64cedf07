"""`tocsin audit verify`: whether the log is whole, in Redis and in the archive, and was not rewritten."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import click
import msgspec

from control import outcomes
from control.cli import log, options, session, show
from control.cli.log import Log
from control.cli.progress import counted
from control.cli.trouble import Trouble
from control.place import FolderNeeded, NoStation
from streams import export
from streams.agreement import Agreement
from streams.audit import Fault, Verdict, verify
from streams.authorship import Authors, Signatures
from streams.checkpoint import Checkpoint, InvalidCheckpoint, differences, parse
from streams.history import ArchiveAway
from streams.settings import InvalidSettings
from streams.sieve import SpillFailed
from streams.signing import InvalidKey, Key, Keyring, halves, load_keyring
from streams.tail import Position


class Checkpointed(click.ParamType[Checkpoint]):
    """A file with a checkpoint."""

    name = "file"

    def convert(
        self, value: str | Checkpoint, param: click.Parameter | None, ctx: click.Context | None
    ) -> Checkpoint:
        if isinstance(value, Checkpoint):
            return value
        try:
            return parse(Path(value).read_text("utf-8"))
        except OSError as error:
            self.fail(f"{value} cannot be read: {error.strerror}", param, ctx)
        except (UnicodeDecodeError, InvalidCheckpoint) as error:
            self.fail(f"{value}: {error}", param, ctx)


@click.command("verify")
@click.option("--lane", help="Only this lane (else all).")
@click.option("--from", "first", type=click.IntRange(1), default=1, help="Begin with this seq (with --lane).")
@click.option("--to", "last", type=click.IntRange(1), help="End with this seq (with --lane).")
@click.option(
    "--since-checkpoint",
    "kept",
    type=Checkpointed(),
    multiple=True,
    metavar="FILE",
    help="Also show that the history is the one that was signed then; may be repeated.",
)
@click.option(
    "--export",
    "exported",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Check this export in place of the log.",
)
@click.option("--no-signatures", is_flag=True, help="Leave the signatures of the commands alone (faster).")
@options.reading
def verify_log(
    lane: str | None,
    first: int,
    last: int | None,
    kept: tuple[Checkpoint, ...],
    exported: Path | None,
    no_signatures: bool,
) -> int:
    """Check every event: bytes, hash, place, token, one result per command, signatures; in Redis and the
    archive. Names the first bad event of each lane (exit code 3).
    """
    if lane is None and (first > 1 or last is not None):
        raise click.UsageError("--from and --to are places in one lane: name it with --lane")
    if last is not None and last < first:
        raise click.UsageError("--to comes before --from")
    with _room_for_results():
        if exported is not None:
            return _verify_export(exported, kept)
        with log.opened() as found:
            _check_keys(found.settings.station.id, found.keyring, kept)
            verdicts = []
            signed = {one for made in kept for one in made.lanes} if lane is None else set()
            lanes = found.lanes(lane)
            # A lane that was signed and is nowhere now is missed too.
            for one in [*lanes, *sorted(signed - set(lanes))]:
                authors = None if no_signatures else Authors(found.keyring)
                marks = [at.lanes[one].seq for at in kept if one in at.lanes]
                verdicts.append(_verify_lane(found, one, first, last, authors, marks))
    verdicts = _compared(verdicts, kept, whole=first == 1 and last is None)
    bad = [verdict for verdict in verdicts if verdict.fault]
    if options.wants_json():
        told = {"sound": not bad, "lanes": [_plain(verdict) for verdict in verdicts]}
        show.as_json({"audit": told | _kept_as_json(kept)})
    else:
        show.table(("LANE", "EVENTS", "LAST HASH", "VERDICT"), (_row(verdict) for verdict in verdicts))
        _say_signatures([verdict.signatures for verdict in verdicts if verdict.signatures])
        if not bad:
            _say_kept(kept)
    return outcomes.EXIT_CODES["failed"] if bad else 0


def _verify_lane(
    found: Log, lane: str, first: int, last: int | None, authors: Authors | None, marks: Sequence[int]
) -> Verdict:
    head = found.head(lane)
    end = head if last is None or last >= head.seq else Position(last, "")
    agreement = _agreement(found, lane, first, last)
    read = found.entries(lane, first - 1, last)
    entries = counted(f"verifying {lane}", agreement.passing(read, first), max(end.seq - first + 1, 0))
    # The hash before a range is not looked at: it begins from what its first event states.
    after = Position(0, "0" * 64) if first == 1 else Position(first - 1, "")
    with closing(entries):
        verdict = verify(lane, entries, end, after=after, authors=authors, marks=marks)
    differs = agreement.differs
    if differs is None or (verdict.fault and verdict.fault.seq < differs):
        return verdict
    problem = "the archive holds another event here than the log in Redis"
    return msgspec.structs.replace(verdict, fault=Fault(lane=lane, seq=differs, problem=problem))


def _agreement(found: Log, lane: str, first: int, last: int | None) -> Agreement:
    """What compares the log in Redis with the archive, as far as both have it."""
    begin = found.first_in_redis(lane)
    if found.archive is None or begin is None:
        return Agreement((), first)
    begin = max(begin, first)
    try:
        archived = found.archive.head(lane)
    except ArchiveAway as error:
        click.echo(f"Note: {error}; lane {lane} is verified as Redis has it.", err=True)
        return Agreement((), first)
    upto = archived.seq if archived else 0
    if last is not None:
        upto = min(upto, last)
    return Agreement(found.archive.after(lane, begin - 1, upto) if upto >= begin else (), begin)


def _check_keys(station: str, keyring: Keyring, kept: Sequence[Checkpoint]) -> None:
    """Raise Trouble where a checkpoint is another station's, or signed with another key of the same name."""
    for made in kept:
        if made.station != station:
            raise Trouble(
                f"the checkpoint of {made.at} is of station {made.station!r}, this is {station!r}",
                next="name the station: --station DIR",
                code=outcomes.WRONG_USAGE,
            )
        known = keyring.get(made.key)
        if known is not None and made.public not in halves(known):
            raise Trouble(
                f"the checkpoint of {made.at} is not signed by the key {made.key!r} that is here",
                why="one of the two was exchanged: a checkpoint that was kept safe is to be believed",
                next="compare its line `key` with the key that you were told when it was made",
                code=outcomes.EXIT_CODES["failed"],
            )


def _compared(verdicts: list[Verdict], kept: Sequence[Checkpoint], *, whole: bool) -> list[Verdict]:
    """The verdicts, with what differs from a checkpoint as the fault of lanes that had none."""
    faults: dict[str, Fault] = {}
    for made in kept:
        marks: Mapping[str, Mapping[int, str]] = {
            verdict.lane: verdict.marks
            for verdict in verdicts
            # Where a part was read, only that part can be compared.
            if whole or made.lanes.get(verdict.lane, Position(0, "")).seq in verdict.marks
        }
        for lane, seq, problem in differences(made, marks):
            faults.setdefault(lane, Fault(lane=lane, seq=seq, problem=problem))
    return [
        verdict if verdict.fault else msgspec.structs.replace(verdict, fault=faults.get(verdict.lane))
        for verdict in verdicts
    ]


def _verify_export(path: Path, kept: Sequence[Checkpoint]) -> int:
    station = ""
    keyring: dict[str, Key] = {}
    try:
        settings = session.place().settings()
        station, keyring = settings.station.id, dict(load_keyring(Path(settings.keys.directory)))
    except (FolderNeeded, NoStation, InvalidSettings, InvalidKey) as error:
        click.echo(f"Note: checked without a station's own keys ({error}).", err=True)
    marks: dict[str, set[int]] = {}
    for made in kept:
        for lane, at in made.lanes.items():
            marks.setdefault(lane, set()).add(at.seq)
    found = export.check(
        path,
        station=station,
        keyring=keyring,
        marks=marks,
        passing=lambda lines, total: counted(f"checking {path.name}", lines, total),
    )
    fault, manifest = found.fault, found.manifest
    if fault is None and manifest is not None:
        for made in kept:
            if made.station != manifest.station or made.public != manifest.public:
                problem = "it is of another station or signed by another key than the checkpoint"
                fault = fault or export.BadLine(line=0, problem=problem)
            for lane, seq, problem in differences(
                made, {one: found.marks.get(one, {}) for one in made.lanes}
            ):
                fault = fault or export.BadLine(line=0, problem=f"lane {lane}: event {seq}: {problem}")
    if options.wants_json():
        told = {
            "sound": fault is None,
            "events": found.events,
            "manifest": manifest and msgspec.to_builtins(manifest),
            "signatures": msgspec.to_builtins(found.signatures),
            "fault": fault and msgspec.to_builtins(fault),
        }
        show.as_json({"audit": told | _kept_as_json(kept)})
        return outcomes.EXIT_CODES["failed"] if fault else 0
    if fault:
        click.echo(f"BAD: {f'line {fault.line}: ' if fault.line else ''}{fault.problem}")
        return outcomes.EXIT_CODES["failed"]
    if manifest is not None:
        known = manifest.key in keyring and manifest.station == station
        click.echo(
            f"sound: station {manifest.station}, {found.events} events in {len(manifest.lanes)} lanes, "
            f"exported {manifest.at}\nsigned by {manifest.key} {manifest.public}"
            f" ({'as here' if known else 'compare this key with what you were told'})"
        )
    _say_signatures([found.signatures])
    _say_kept(kept)
    return 0


@contextmanager
def _room_for_results() -> Iterator[None]:
    """Say what to do where the temporary file has no room."""
    try:
        yield
    except SpillFailed as error:
        raise Trouble(
            "it could not be verified",
            why=str(error),
            next="name a folder on a disk with room, about 150 bytes for each command: TMPDIR=DIR",
        ) from error


def _say_signatures(found: Sequence[Signatures]) -> None:
    checked = sum(one.checked for one in found)
    elsewhere: dict[str, int] = {}
    for one in found:
        for key, count in one.elsewhere.items():
            elsewhere[key] = elsewhere.get(key, 0) + count
    if not found:
        return
    click.echo(f"Signatures of commands: {checked} checked, {sum(elsewhere.values())} not checkable here.")
    for key, count in sorted(elsewhere.items())[:10]:
        click.echo(f"  {count} by {key!r}: that key is not here, or only without its shared secret")


def _say_kept(kept: Sequence[Checkpoint]) -> None:
    for made in kept:
        click.echo(f"The history that was signed at {made.at} by {made.key} {made.public} is part of it.")


def _kept_as_json(kept: Sequence[Checkpoint]) -> dict[str, object]:
    if not kept:
        return {}
    return {
        "checkpoints": [{"at": at.at, "root": at.root, "key": at.key, "public": at.public} for at in kept]
    }


def _plain(verdict: Verdict) -> dict[str, object]:
    told: dict[str, object] = msgspec.to_builtins(verdict)
    del told["marks"]
    return told


def _row(verdict: Verdict) -> tuple[object, ...]:
    told = f"BAD at seq {verdict.fault.seq}: {verdict.fault.problem}" if verdict.fault else "sound"
    return verdict.lane, verdict.events, verdict.hash[:12] if verdict.events else "", told
