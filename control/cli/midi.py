"""`tocsin midi …`: a control surface as the operator's desk."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import click

from control import outcomes
from control.cli import acknowledge, options, session, show
from control.cli.trouble import Trouble
from control.desk import Wish
from control.midi.decoder import Decoder
from control.midi.mapping import Mapping, Unmappable, parse
from control.midi.ports import NoMidi, Ports, ports
from streams.messages import Answer
from streams.names import STATION_LANE

LISTEN = 0.1
"""Seconds for which a port is listened to at a time."""

api_option = click.option(
    "--api", type=click.Choice(["alsa", "jack"]), help="Which MIDI system (else the first that works)."
)


@click.group()
def midi() -> None:
    """A MIDI control surface: list ports, learn its controls, run it."""


@midi.command("ports")
@api_option
@options.reading
def list_ports(api: Any) -> None:
    """List the ports there are now."""
    with _ports(api) as found:
        inputs, outputs = found.inputs(), found.outputs()
    if options.wants_json():
        show.as_json({"ports": {"inputs": inputs, "outputs": outputs}})
        return
    rows = [("listened to", name) for name in inputs] + [("sent to", name) for name in outputs]
    show.table(("CAN BE", "PORT"), rows, empty="No port is there: is the surface plugged in?")


@midi.command("learn")
@click.argument("port")
@click.option("--count", type=click.IntRange(min=1), help="End after so many controls (else by Ctrl-C).")
@click.option("--seconds", type=click.FloatRange(min=0.1), help="End after so long.")
@api_option
@options.reading
def learn(port: str, count: int | None, seconds: float | None, api: Any) -> None:
    """Print how a mapping names each control that is touched; PORT is part of the port's name."""
    until = time.monotonic() + seconds if seconds else None
    decoder, told = Decoder(), list[dict[str, Any]]()
    with _ports(api) as found, _ended() as stop:
        cable = found.open(port)
        if cable is None:
            raise Trouble(
                f"no port's name has {port!r}",
                why=f"there are: {', '.join(found.inputs()) or 'none'}",
                next="plug the surface in; tocsin midi ports lists them",
                code=outcomes.EXIT_CODES["failed"],
            )
        known = set()
        while not stop.is_set() and (until is None or time.monotonic() < until):
            for heard in decoder.feed(cable.read(LISTEN)):
                control = heard.control
                if control in known:
                    continue
                known.add(control)
                told.append({control.kind: control.number, "channel": control.channel, "value": heard.value})
                if not options.wants_json():
                    click.echo(f"{control.kind} = {control.number}\nchannel = {control.channel}\n")
            if count is not None and len(told) >= count:
                break
        cable.close()
    if options.wants_json():
        show.as_json({"controls": told})


@midi.command("run")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@api_option
@options.submitting
def run(file: Path, api: Any) -> None:
    """Have the surface that FILE maps give commands and show states, until Ctrl-C."""
    from control.midi.operator import Operator
    from control.midi.run import Watching, serve

    if options.dry_run():
        raise click.UsageError("--dry-run: tocsin midi learn shows what a surface says, and submits nothing")
    mapping = _mapping(file)
    timeout, usual = options.timeout(), session.wish("", "")
    with _ports(api) as found, session.readapi() as api_of_reads, session.desk() as desk, _ended() as stop:

        def submit(wish: Wish) -> Answer:
            if wish.source:
                return desk.address(_as_asked(wish, usual), timeout=timeout)
            return desk.submit(_as_asked(wish, usual), STATION_LANE, timeout=timeout)

        def settings_of(source: str) -> dict[str, Any]:
            settings: dict[str, Any] = api_of_reads.get(f"/api/audio/sources/{source}")["data"]["settings"]
            return settings

        operator = Operator(submit, settings_of, _say)
        watching = Watching(api_of_reads, acknowledge.EPISODES, operator.knows)
        try:
            serve(mapping, found, watching, operator, _say, stop)
        finally:
            operator.close()


def _as_asked(wish: Wish, usual: Wish) -> Wish:
    import msgspec

    return msgspec.structs.replace(wish, durability=usual.durability)


def _mapping(file: Path) -> Mapping:
    try:
        return parse(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, Unmappable) as error:
        raise Trouble(
            f"{file} cannot be used as a mapping",
            why=str(error),
            next="docs/midi.md has a whole one; tocsin midi learn names the controls",
            code=outcomes.WRONG_USAGE,
            field=getattr(error, "field", ""),
        ) from None


@contextmanager
def _ports(api: Any) -> Iterator[Ports]:
    try:
        with ports(api) as found:
            yield found
    except NoMidi as error:
        raise Trouble(
            "there is no MIDI here",
            why=str(error),
            next="load ALSA's sequencer (modprobe snd-seq), or start JACK",
            code=outcomes.EXIT_CODES["failed"],
        ) from None


@contextmanager
def _ended() -> Iterator[Event]:
    """Set by SIGINT or SIGTERM: what is under way ends in order."""
    stop = Event()
    before: dict[int, Any] = {}

    def end(*_: object) -> None:
        stop.set()

    sign: int
    for sign in (signal.SIGINT, signal.SIGTERM):
        before[sign] = signal.signal(sign, end)
    try:
        yield stop
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _say(line: str) -> None:
    click.echo(line)
