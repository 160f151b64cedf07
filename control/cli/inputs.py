"""Options by which `tocsin source add` and `update` say what is listened to, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from streams.vocabulary import SourceSettings

WHAT = {"file": "path", "stream": "url", "sdp": "sdp", "pipe": "pipe", "device": "device"}
"""Options that say what is listened to, and the field of the settings that each is."""
KINDS = {"sdp": "stream"}
"""Kinds of source that are not called as their option is."""


class Channel(click.ParamType[Any]):
    """The number of a channel, or `mix`."""

    name = "N|mix"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "mix" or isinstance(value, int):
            return value
        if not str(value).isdecimal():
            self.fail(f"{value!r} is neither the number of a channel nor mix", param, ctx)
        return int(value)


def choosing(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options, for a verb that takes them as `**given`."""
    for option in reversed(
        (
            click.option("--file", type=click.Path(dir_okay=False, path_type=Path), help="A recording."),
            click.option("--stream", metavar="URL", help="Icecast, Shoutcast, HLS, or a playlist of them."),
            click.option("--sdp", type=click.Path(dir_okay=False, path_type=Path), help="A stream by RTP."),
            click.option("--pipe", metavar="NAME", help="A program, by its name in the node's [pipes.NAME]."),
            click.option("--device", metavar="NAME", help="A sound card (tocsin source device list)."),
            click.option("--loop/--no-loop", default=None, help="Start a recording again at its end."),
            click.option(
                "--pace", type=click.Choice(["realtime", "fast"]), help="How fast a recording plays."
            ),
            click.option("--capture-rate", type=int, help="Samples per second asked of a device."),
            click.option("--capture-channels", type=int, help="Channels asked of a device."),
            click.option("--gain", "gain_db", type=float, help="Make it louder by so many dB."),
            click.option("--channel", type=Channel(), help="Take one channel (the first is 1), or the mix."),
            click.option("--rate", type=int, help="Resample to so many Hz."),
        )
    ):
        command = option(command)
    return command


def changes(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of settings that were given. Raises click.UsageError where they contradict one another."""
    what = [name for name in WHAT if given[name] is not None]
    if len(what) > 1:
        raise click.UsageError(f"--{what[0]} and --{what[1]} are two sources: give one of them")
    fields = {name: value for name, value in given.items() if name not in WHAT and value is not None}
    for name in what:
        value = given[name]
        if name == "file":
            value = str(value.expanduser().absolute())
        elif name == "sdp":
            value = _read(value)
        fields |= {"kind": KINDS.get(name, name), WHAT[name]: value}
    return fields


def settings_of(given: Mapping[str, Any]) -> SourceSettings:
    """Settings of what was given. Raises click.UsageError naming the field that is wrong."""
    fields = changes(given)
    if "kind" not in fields:
        raise click.UsageError("say what to listen to: one of --file, --stream, --sdp, --pipe, --device")
    return _converted(fields)


def changed(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with what was given in its place. Raises click.UsageError."""
    fields = changes(given)
    kind = fields.get("kind", settings.get("kind"))
    if kind == settings.get("kind"):
        fields = {**settings, **fields}
        if given["stream"] or given["sdp"]:
            # One takes the place of the other.
            fields["sdp" if given["stream"] else "url"] = ""
        return fields
    common = ("gain_db", "channel", "rate")
    return {**{name: settings[name] for name in common if name in settings}, **fields}


def _converted(fields: dict[str, Any]) -> SourceSettings:
    try:
        found: SourceSettings = msgspec.convert(fields, SourceSettings)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$.")
        field = where.rstrip("`")
        value = f"; got {str(fields.get(field))[:80]!r}" if field else ""
        raise click.UsageError(f"{field or fields['kind']}: {message}{value}") from None
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--sdp {str(path)!r} cannot be read: {error}") from None
