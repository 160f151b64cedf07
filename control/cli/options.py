"""Options that every verb understands, before the verb and after it: `tocsin --json source list` too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import click

Durability = Literal["memory", "replica", "disk", "archive"]
Decorated = TypeVar("Decorated", bound=Callable[..., Any])

KEPT = "tocsin.options"
SUBMIT_TIMEOUT = 10.0
UNITS = {"s": 1, "m": 60, "h": 3600}


class Seconds(click.ParamType[float]):
    """A span of time: seconds, or a number with a unit (`90`, `90s`, `5m`, `2h`)."""

    name = "span"

    def __init__(self, *, zero: bool = False) -> None:
        self._zero = zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value)
        factor = UNITS.get(text[-1:], 0)
        try:
            seconds = float(text[:-1]) * factor if factor else float(text)
        except ValueError:
            self.fail(f"{text!r} is no span of time; write 90, 90s, 5m or 2h", param, ctx)
        if not 0 < seconds <= 86400 and not (self._zero and seconds == 0):
            self.fail(f"{text!r} is not between 0 and 24 h", param, ctx)
        return seconds


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None:
        ctx.meta.setdefault(KEPT, {})[param.name] = value


def _option(*names: str, **kwargs: Any) -> Callable[[Decorated], Decorated]:
    return click.option(*names, expose_value=False, callback=_keep, default=None, **kwargs)


_READING = (
    _option("--station", metavar="DIR|URL", help="Which station (else TOCSIN_STATION, else your own)."),
    _option("--json", "json", is_flag=True, help="Print one JSON object instead of text."),
)
_SUBMITTING = (
    _option("--timeout", type=Seconds(), help="How long to wait for the outcome (default 10s)."),
    _option(
        "--durability",
        type=click.Choice(["memory", "replica", "disk", "archive"]),
        help="When the command counts as accepted (default: the station's).",
    ),
    _option("--id", "command_id", help="The command's id: give the same one again to ask again, safely."),
    _option(
        "--expires", "--expires-in", type=Seconds(), help="How long the command stays valid (default 60s)."
    ),
    _option(
        "--if-sequence",
        type=click.IntRange(min=0),
        help="Only if the source's last command had this sequence (`command list --source` shows it).",
    ),
    _option(
        "--dry-run", is_flag=True, help="Submit nothing: show the command, and what is known against it."
    ),
)


def reading(function: Decorated) -> Decorated:
    """Give a verb the options of one that reads: --station and --json."""
    for option in reversed(_READING):
        function = option(function)
    return function


def submitting(function: Decorated) -> Decorated:
    """Give a verb the options of one that submits a command, those of reading among them."""
    for option in reversed(_SUBMITTING):
        function = option(function)
    return reading(function)


def given() -> Mapping[str, Any]:
    """What was given of these options on this command line, by name."""
    kept: Mapping[str, Any] = click.get_current_context().meta.get(KEPT, {})
    return kept


def wants_json() -> bool:
    """Whether --json was given."""
    return bool(given().get("json"))


def timeout() -> float:
    """How long to wait for an outcome, in seconds."""
    return float(given().get("timeout", SUBMIT_TIMEOUT))


def dry_run() -> bool:
    """Whether --dry-run was given."""
    return bool(given().get("dry_run"))
