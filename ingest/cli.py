"""Ingest's verb for the `tocsin` command: decoding recordings, without a station."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ingest.recording import Recording
    from ingest.same.offline import Message

FAILED = 3
"""Exit code: a recording could not be read, or not to its end."""
STANDARD_INPUT = "-"
LONG = 60.0
"""Seconds of audio from which on a terminal shows how far it is."""
RATES = click.IntRange(6_000, 768_000)


@click.command("decode")
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--rate", type=RATES, help="Samples per second of the raw PCM on standard input.")
def decode(files: tuple[str, ...], as_json: bool, rate: int | None) -> int:
    """Decode the alerts in recordings: any kind that libsndfile or FFmpeg reads.

    "-" is raw PCM on standard input: mono, 16 bits, signed, little-endian, at the rate that --rate gives.
    """
    if (STANDARD_INPUT in files) != (rate is not None):
        raise click.UsageError("--rate belongs to raw PCM on standard input: tocsin decode - --rate 22050")
    if files.count(STANDARD_INPUT) > 1:
        raise click.UsageError("standard input can be read only once")
    # Only here: numpy and libsndfile are not to be waited for by --help.
    from ingest.file_source import SourceFailed

    found: list[dict[str, Any]] = []
    errors: list[dict[str, str]] = []
    for file in files:
        try:
            for message in _messages(file, rate):
                if as_json:
                    found.append({"file": file, **_plain(message)})
                else:
                    _tell(file, message)
                    found.append({})
        except SourceFailed as error:
            named = str(error) if file in str(error) else f"{file}: {error}"
            errors.append({"file": file, "what": named})
            click.echo(f"tocsin: {named}", err=True)
    if as_json:
        from msgspec import json

        told: dict[str, Any] = {"messages": found}
        click.echo(json.encode(told | {"errors": errors} if errors else told).decode())
    elif not found and not errors:
        click.echo("No message was heard.")
    return FAILED if errors else 0


def _messages(file: str, rate: int | None) -> Iterator[Message]:
    from ingest.same.offline import messages
    from streams.messages import now

    recording = _opened(file, rate)
    with _progress(file, recording.seconds) as tick:
        yield from messages(recording, now(), tick)


def _opened(file: str, rate: int | None) -> Recording:
    from ingest.recording import opened, raw

    if file == STANDARD_INPUT and rate is not None:
        return raw(sys.stdin.buffer, rate)
    return opened(file)


@contextmanager
def _progress(file: str, seconds: float | None) -> Iterator[Callable[[float], None]]:
    """How far a long recording is, on a terminal and nowhere else."""
    if not sys.stderr.isatty() or seconds is None or seconds < LONG:
        yield lambda step: None
        return
    done = 0.0
    with click.progressbar(length=int(seconds), label=file, file=sys.stderr) as bar:

        def tick(step: float) -> None:
            nonlocal done
            before, done = int(done), done + step
            bar.update(int(done) - before)

        yield tick


def _plain(message: Message) -> dict[str, Any]:
    from msgspec import to_builtins

    plain: dict[str, Any] = to_builtins(message)
    return plain


def _tell(file: str, message: Message) -> None:
    event = message.event_name or "unknown event" if message.event else "unreadable event"
    by = message.originator_name or "unknown originator"
    lines = [
        f"{file}: {event} ({message.event or '?'}) from {by} ({message.originator or '?'})",
        f"  header     {message.header}",
        f"  heard      {_span(message)}",
        f"  reception  {_reception(message)}",
        f"  station    {message.station or 'unreadable'}",
        f"  issued     {message.issued_at:%Y-%m-%d %H:%M} UTC" if message.issued_at else "",
        f"  expires    {message.expires_at:%Y-%m-%d %H:%M} UTC" if message.expires_at else "",
    ]
    for code, name in zip(message.locations, message.places, strict=True):
        lines.append(f"  place      {code} {name or 'unknown'}")
    lines += [f"  problem    {problem}" for problem in message.problems]
    click.echo("\n".join(line for line in lines if line))


def _span(message: Message) -> str:
    ended = "its end was not heard" if message.ended is None else f"ended at {message.ended:.2f} s"
    tones = "".join(f", {tone.kind} tone for {tone.seconds:.1f} s" for tone in message.tones)
    return f"{message.start:.2f} s to {message.end:.2f} s{tones}, {ended}"


def _reception(message: Message) -> str:
    bursts = "1 burst" if message.bursts == 1 else f"{message.bursts} bursts"
    sure = "confirmed" if message.confirmed else "unconfirmed"
    return f"{sure}, {bursts}, confidence {message.confidence:.2f}{', voted' if message.voted else ''}"
